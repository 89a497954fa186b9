"""`bench compare`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.numbers import ALPHA
from bench.commands.options import AS_JSON, RESULTS, print_json
from bench.commands.studies import named_study


@click.command("compare")
@click.argument("a")
@click.argument("b")
@RESULTS
@ALPHA
@AS_JSON
def compare_command(a: str, b: str, results: Path, alpha: float, as_json: bool) -> None:
    """Compare study B with study A: levels on shared seeds, outcomes, orders, and what changed.

    A and B are names of studies or folders; NAME@HASH takes the runs of that protocol, not of the latest one. Under
    different protocols only the orders of the optimizers are compared. --json prints a, b, differences (of the
    protocol), shared_seeds, entries (level, outcomes, changes, time_ratio, …), only_a, only_b, environment, orders.
    """
    from bench.comparison import compare_studies
    from bench.comparison_text import view
    from bench.terminal import screen

    found = compare_studies(named_study(a, results), named_study(b, results), alpha=alpha)
    if as_json:
        print_json(found.to_json())
    else:
        screen().print(view(found))
