"""`bench run`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.options import (
    AS_JSON,
    EXIT_FAILED,
    EXIT_NOTHING_TO_DO,
    OVERRIDES,
    SEEDS,
    optimizers_option,
    parse_overrides,
    study_options,
    weights_options,
)
from bench.commands.watching import watching

if TYPE_CHECKING:
    from bench.protocol import Protocol
    from bench.runner import Plan
    from bench.study import Study


@click.command("run")
@optimizers_option("all")
@OVERRIDES
@study_options
@SEEDS
@click.option(
    "--lr",
    "rates",
    type=click.Choice(["default", "documents", "tuned", "search"]),
    help="Whose settings: published defaults, the documents' study, or the best of `bench tune`, searched first with "
    "`search`.  [default: the protocol's]",
)
@weights_options
@click.option("--race", is_flag=True, help="Stop optimizers that cannot be the best any more, after 3, 5, 7 seeds.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop. Real data is decoded into the cache before.")
@AS_JSON
def run_command(
    optimizers: Sequence[str],
    overrides: Sequence[str],
    results: Path,
    as_json: bool,
    dry_run: bool,
    race: bool,
    tracker_names: Sequence[str],
    **options: Any,
) -> None:
    """Run a study, or what is missing of it: optimizers × seeds under one protocol."""
    from bench.errors import UsageError
    from bench.paths import without_folders
    from bench.protocols import default_protocol
    from bench.runner import carry_out, prepare
    from bench.trackers.selection import trackers

    reason = "given"
    if options["protocol"] is None:
        options["protocol"], reason = default_protocol()
    options["overrides"] = parse_overrides(overrides)
    command = without_folders(shlex.join(["bench", *sys.argv[1:]]))
    if options["rates"] == "search":
        if dry_run:
            raise UsageError("--dry-run --lr search: the runs follow from the search's results; allowed is --lr tuned")
        _require_seeds(options["protocol"], options["seeds"], race)
        own = ("rates", "seeds", "overrides", "save_best", "save_last")
        shared = {key: value for key, value in options.items() if key not in own}
        _search(optimizers, overrides, results=results, tracker_names=tracker_names, **shared)
        options["rates"] = "tuned"
    plan = prepare(list(optimizers), results=results, command=command, **options)
    tracking = trackers(tracker_names, plan.store.path)
    announce(plan, reason)
    if dry_run:
        rows = [{"run_id": run.run_id, "optimizer": run.optimizer, "seed": run.seed} for run in plan.missing]
        click.echo(json.dumps(rows, indent=2) if as_json else "\n".join(str(row["run_id"]) for row in rows))
        return
    with watching(plan, plan.store.path, tracking) as watcher:
        study = carry_out(plan, watcher, race=race)
    asked = {(run.optimizer, run.configuration) for run in plan.runs}
    show(replace(study, records=tuple(r for r in study.records if (r.optimizer, r.configuration) in asked)), as_json)
    say_weights(plan)
    end(plan, study)


def say_weights(plan: Plan) -> None:
    """Where the weights are that were asked for, and how many runs have none."""
    from bench.terminal import say

    for kind, wanted in (("best", plan.placement.save_best), ("last", plan.placement.save_last)):
        kept = sum((plan.store.run_dir(run.run_id) / f"{kind}.pt").is_file() for run in plan.runs)
        without = len(plan.runs) - kept
        why = f"they are not ok, or were done without --save-{kind}, and another --study does them again"
        others = f"; {without} have none: {why}" if without else ""
        if wanted:
            say(f"{kind} weights of {kept} of {len(plan.runs)} runs: {plan.store.path}/runs/<run_id>/{kind}.pt{others}",
                err=True)  # fmt: skip


def end(plan: Plan, study: Study) -> None:
    """Leave with the exit code of a study: some run failed, or there was nothing to do."""
    planned = {run.run_id for run in plan.runs}
    failed = [r for r in study.records if r.run_id in planned and r.outcome not in ("ok", "diverged")]
    if failed:
        click.echo(f"{len(failed)} runs failed; their records say why; --retry-failed runs them again", err=True)
        sys.exit(EXIT_FAILED)
    if not plan.missing:
        click.echo("nothing to do: every run of this study has a record", err=True)
        sys.exit(EXIT_NOTHING_TO_DO)


def _require_seeds(protocol: Protocol | str, seeds: str | None, race: bool) -> None:
    """Raise `UsageError` for what would be found wrong only after the whole search."""
    from bench.protocols import load_protocol
    from bench.racing import looks_within
    from bench.runner import parse_seeds

    rules = load_protocol(protocol) if isinstance(protocol, str) else protocol
    found = parse_seeds(str(rules.seeds if seeds is None else seeds))
    if race:
        looks_within(len(found))


def _search(optimizers: Sequence[str], overrides: Sequence[str], **options: Any) -> None:
    """The search of `bench tune` with its defaults, or what is missing of it."""
    from bench.commands.tune import carry_out_search
    from bench.search.tuning import Request

    carry_out_search(Request(), optimizers, overrides, **options)


def announce(plan: Plan, reason: str) -> None:
    """The first lines: which protocol and why, and what will run."""
    from bench.terminal import say

    protocol, done = plan.protocol, len(plan.runs) - len(plan.missing)
    optimizers = list(dict.fromkeys(run.optimizer for run in plan.runs))
    title = f" — {protocol.title}" if protocol.title else ""
    chosen = f"; chosen because {reason}" if reason != "given" else ""
    say(f"protocol {protocol.name} ({protocol.hash}){title}{chosen}", err=True)
    say(
        f"{len(optimizers)} optimizers × {len(plan.runs) // len(optimizers)} seeds × {protocol.epochs} epochs = "
        f"{len(plan.runs)} runs, {done} done, {len(plan.missing)} to do; {plan.placement}; "
        f"records in {plan.store.path}",
        err=True,
    )
    for line in plan.warnings:
        say(f"warning: {line}", err=True)


def show(study: Study, as_json: bool) -> None:
    """The closing table of the settings that were asked for, or their records as JSON."""
    if as_json:
        click.echo(json.dumps([json.loads(r.model_dump_json()) for r in study.records], indent=2))
        return
    from bench.reporting.result_table import terminal_summary
    from bench.terminal import screen

    screen().print(terminal_summary(study))
