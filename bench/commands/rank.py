"""`bench rank` and `bench score`: verdicts on tables of scores and of times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands.numbers import ALPHA, FiniteRange
from bench.commands.options import AS_JSON, print_json


@click.command("rank")
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--lower-is-better", is_flag=True, help="The scores are losses or times.")
@ALPHA
@click.option("--reference", metavar="NAME", help="Compare with this entry alone: fewer tests, more power.")
@click.option(
    "--grain",
    type=FiniteRange(min=0),
    default=0.0,
    show_default=True,
    help="Step of the scores: 100/N for percent of N queries.",
)
@click.option("--chance", type=float, help="Score of a diverged run.  [default: the worst score of the table]")
@click.option(
    "--margin",
    type=FiniteRange(min=0, min_open=True),
    help="Test whether differences lie within this: only then is anything called equivalent.",
)
@AS_JSON
def rank_command(table: Path, as_json: bool, **options: Any) -> None:
    """Say what a table of scores supports: best set, rank intervals, pairs.

    TABLE is a CSV file: header seed,<name>,<name>,… and one row a seed; cells may be empty (missing: the seed is left
    out for all) or `diverged` (an outcome: last in its seed).
    """
    from bench.ranking import rank_table

    found = rank_table(table, **options)
    if as_json:
        print_json(found.to_json())
        return
    from bench import verdict_text
    from bench.terminal import screen

    screen().print(verdict_text.table(found, verdict_text.sentences(found)))


@click.command("score")
@click.argument("times", type=click.Path(path_type=Path))
@click.option("--r-max", type=float, default=4.0, show_default=True, help="Times over this × the best count as missed.")
@AS_JSON
def score_command(times: Path, r_max: float, as_json: bool) -> None:
    """Score times to a target over several workloads by performance profiles.

    TIMES is a JSON file: {submission: {workload: [[time of each trial] per study]}}, "inf" where a target was missed.
    """
    from bench.time_score import read_studies, score_studies, table

    found = score_studies(read_studies(times), r_max)
    if as_json:
        print_json(found.to_json())
        return
    from bench.terminal import screen

    screen().print(table(found))
