"""`bench tune`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.options import (
    AS_JSON,
    OVERRIDES,
    optimizers_option,
    parse_overrides,
    print_json,
    progress_console,
    study_options,
)

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
    rung_epochs: int | None, results: Path, as_json: bool, retry_failed: bool, **options: Any,
) -> None:  # fmt: skip
    """Search every optimizer's learning rate with the same points and the same budget.

    Trials are chosen by the validation split, on seeds that rank nothing. `bench run --lr tuned` then ranks the best.
    """
    from bench.search.tuning import Request

    request = Request(trials=trials, seeds=tuning_seeds, sampler=sampler, names=tuple(names.split(",")),
                      rung_epochs=rung_epochs)  # fmt: skip
    plans = carry_out_search(request, optimizers, overrides, results=results, retry_failed=retry_failed, **options)
    if as_json:
        print_json([json.loads(plan.model_dump_json()) for plan in plans])
        return
    from rich.console import Console

    from bench.search.view import table

    Console().print(table(plans))


def carry_out_search(
    request: Request, optimizers: Sequence[str], overrides: Sequence[str], *, retry_failed: bool, **options: Any
) -> list[SearchPlan]:
    """Search what the options ask for, with the live view; returns the searches with their outcome."""
    import shlex
    import sys

    from bench.display import display
    from bench.paths import without_folders
    from bench.runner import basis
    from bench.search.tuning import search_plans, source, tune
    from bench.search.view import BestSoFar

    command = without_folders(shlex.join(["bench", *sys.argv[1:]]))
    found = basis(list(optimizers), overrides=parse_overrides(overrides), command=command, **options)
    plans = search_plans(request, found)
    console = progress_console()
    runs = source(plans, found, BestSoFar(console, found.protocol.primary_metric), retry_failed=retry_failed)
    place = found.placement
    click.echo(
        f"protocol {found.protocol.name} ({found.protocol.hash}): {len(plans)} optimizers × {request.trials} trials × "
        f"{request.seeds} tuning seeds, {len(runs.missing)} runs to do; {place.workers} workers of {place.threads} "
        f"threads on {place.device}; records in {found.folder}",
        err=True,
    )
    with display(runs, console, each_run=False) as watcher:
        return tune(runs, found, watcher)
