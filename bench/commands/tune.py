"""`bench tune`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.options import (
    AS_JSON,
    EXIT_FAILED,
    OVERRIDES,
    optimizers_option,
    parse_overrides,
    print_json,
    progress_console,
    study_options,
)
from bench.commands.watching import watching

if TYPE_CHECKING:
    from bench.search.plan import SearchPlan
    from bench.search.tuning import Request


@click.command("tune")
@optimizers_option("all")
@OVERRIDES
@click.option("--trials", type=int, default=8, show_default=True, help="Settings tried of every optimizer.")
@click.option("--tuning-seeds", type=int, default=2, show_default=True, help="Runs of every trial; they rank nothing.")
@click.option(
    "--sampler",
    type=click.Choice(["sobol", "grid", "tpe", "gp", "cmaes"]),
    default="sobol",
    show_default=True,
    help="sobol and grid: the same points for all; the others adapt after half of the trials.",
)
@click.option(
    "--search", "names", default="lr", show_default=True, metavar="NAMES", help="Hyper-parameters, as lr,weight_decay."
)
@click.option(
    "--rung", "rung_epochs", type=int, metavar="EPOCHS", help="First all trials in so few epochs, then the better half."
)
@study_options
@AS_JSON
def tune_command(
    optimizers: Sequence[str], overrides: Sequence[str], trials: int, tuning_seeds: int, sampler: Any, names: str,
    rung_epochs: int | None, results: Path, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Search every optimizer's learning rate with the same points and the same budget.

    Trials are chosen by the validation split, on seeds that rank nothing. `bench run --lr tuned` then ranks the best.
    """
    from bench.search.tuning import Request

    searched = tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    request = Request(trials=trials, seeds=tuning_seeds, sampler=sampler, names=searched, rung_epochs=rung_epochs)
    plans, failed = carry_out_search(request, optimizers, overrides, results=results, **options)
    if as_json:
        print_json([json.loads(plan.model_dump_json()) for plan in plans])
    else:
        from bench.search.view import table
        from bench.terminal import screen

        screen().print(table(plans))
    if failed:
        click.echo(f"{failed} runs failed; their records say why; --retry-failed runs them again", err=True)
        sys.exit(EXIT_FAILED)


def carry_out_search(
    request: Request,
    optimizers: Sequence[str],
    overrides: Sequence[str],
    *,
    tracker_names: Sequence[str],
    **options: Any,
) -> tuple[list[SearchPlan], int]:
    """Search what the options ask for, with the live view; returns the searches with their outcome, and how many of
    their runs failed."""
    import shlex

    from bench.paths import without_folders
    from bench.protocols import default_protocol
    from bench.runner import basis
    from bench.search.tuning import replaced, search_plans, source, tune
    from bench.search.view import BestSoFar
    from bench.terminal import say
    from bench.trackers.selection import trackers

    reason = ""
    if options["protocol"] is None:
        options["protocol"], why = default_protocol()
        reason = f"; chosen because {why}"
    command = without_folders(shlex.join(["bench", *sys.argv[1:]]))
    found = basis(list(optimizers), overrides=parse_overrides(overrides), command=command, **options)
    tracking = trackers(tracker_names, found.folder)
    plans = search_plans(request, found)
    console = progress_console()
    warnings = found.warnings(found.data())
    runs = source(plans, found, BestSoFar(console, found.protocol.primary_metric))
    say(
        f"protocol {found.protocol.name} ({found.protocol.hash}){reason}: {len(plans)} optimizers × "
        f"{plans[0].request}, {len(runs.missing)} runs to do; {found.placement}; "
        f"records in {found.folder}",
        err=True,
    )
    for line in warnings:
        say(f"warning: {line}", err=True)
    if said := replaced(plans, found):
        say(f"note: {said}", err=True)
    with watching(runs, found.folder, tracking, each_run=False) as watcher:
        return tune(runs, found, watcher), runs.failed
