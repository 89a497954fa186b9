"""`bench power`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands.numbers import ALPHA, SHARE, FiniteRange
from bench.commands.options import AS_JSON, RESULTS, print_json
from bench.commands.studies import named_study


@click.command("power")
@click.argument("source", metavar="STUDY|FILE.csv")
@RESULTS
@click.option("--power", type=SHARE, default=0.8, show_default=True, help="Chance to find a true difference.")
@ALPHA
@click.option("--difference", type=FiniteRange(min=0, min_open=True), help="How many seeds find this difference?")
@click.option("--reference", metavar="NAME", help="Compare with this entry alone: fewer tests, fewer seeds.")
@AS_JSON
def power_command(source: str, results: Path, as_json: bool, **question: Any) -> None:
    """Say what differences so many seeds find, and how many more would tell entries apart.

    From the spread of paired differences in a study (a name, a folder, or NAME@HASH for a protocol that is not the
    latest) or in a CSV file of scores as `bench rank` reads it. --json prints n_seeds, median_sd, worst_sd, table (by
    number of seeds: median, worst, smallest_sign_flip_p, hours), seeds_for_difference, open_pairs, seconds_per_seed.
    """
    from bench.seed_planning import Question, plan_for_study, plan_for_table

    asked = Question(**question)
    if source.lower().endswith(".csv") or Path(source).is_file():
        plan = plan_for_table(Path(source), asked)
    else:
        plan = plan_for_study(named_study(source, results), asked)
    if as_json:
        print_json(plan.to_json())
        return
    from bench.seed_planning_text import view
    from bench.terminal import screen

    screen().print(view(plan))
