"""`bench ablate`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.numbers import ALPHA
from bench.commands.options import (
    AS_JSON,
    EXIT_FAILED,
    OVERRIDES,
    SEEDS,
    optimizers_option,
    parse_overrides,
    print_json,
    study_options,
)
from bench.commands.watching import watching

if TYPE_CHECKING:
    from bench.runner import Plan
    from bench.study import Study


@click.command("ablate")
@optimizers_option("builtin")
@OVERRIDES
@study_options
@SEEDS
@click.option(
    "--lr",
    "rates",
    type=click.Choice(["default", "documents", "tuned"]),
    help="Whose settings, with and without; tuned: found for the protocol without.  [default: the protocol's]",
)
@ALPHA
@AS_JSON
def ablate_command(
    optimizers: Sequence[str], overrides: Sequence[str], techniques: Sequence[str], results: Path, alpha: float,
    as_json: bool, tracker_names: Sequence[str], **options: Any,
) -> None:  # fmt: skip
    """Run optimizers with and without a technique on the same seeds: does it change which one wins?

    Each --technique is looked at on its own; NAME+NAME turns several on together. Runs that are there already are not
    run again, those of `bench run` without the technique included.
    """
    from bench.ablation import ablation
    from bench.ablation_text import view
    from bench.errors import UsageError
    from bench.paths import without_folders
    from bench.runner import basis, make_plan, parse_seeds
    from bench.techniques.selection import with_techniques
    from bench.terminal import screen

    if not techniques:
        raise UsageError("--technique: none given; allowed are those of `bench list techniques`, as --technique queue")
    command = without_folders(shlex.join(["bench", *sys.argv[1:]]))
    seeds = options.pop("seeds")
    plain = basis(list(optimizers), results=results, command=command, overrides=parse_overrides(overrides), **options)
    variants = {text: with_techniques(plain.protocol, text.split("+")) for text in dict.fromkeys(techniques)}
    if same := next((text for text, each in variants.items() if each.hash == plain.protocol.hash), None):
        raise UsageError(f"--technique {same}: protocol {plain.protocol.name!r} has it already; allowed are others, or "
                         "a protocol without")  # fmt: skip
    counted = parse_seeds(str(plain.protocol.seeds if seeds is None else seeds))
    plans = [make_plan(replace(plain, protocol=each), counted) for each in (plain.protocol, *variants.values())]
    without, *changed = (_carried_out(plan, tracker_names) for plan in plans)
    plans[0].store.mark_used(plain.protocol)
    found = [ablation(text, without, study, alpha=alpha) for text, study in zip(variants, changed, strict=True)]
    if as_json:
        print_json([each.to_json() for each in found])
    else:
        screen().print(view(found))
    if failed := sum(r.outcome not in ("ok", "diverged") for study in (without, *changed) for r in study.records):
        click.echo(f"{failed} runs failed; their records say why; --retry-failed runs them again", err=True)
        sys.exit(EXIT_FAILED)


def _carried_out(plan: Plan, tracker_names: Sequence[str]) -> Study:
    """The runs of a plan, those that were missing carried out."""
    from bench.runner import carry_out
    from bench.terminal import say
    from bench.trackers.selection import trackers

    on = "+".join(plan.protocol.techniques.on) or "no technique"
    say(f"{plan.protocol.name} ({plan.protocol.hash}) with {on}: {len(plan.runs)} runs, {len(plan.missing)} to do",
        err=True)  # fmt: skip
    with watching(plan, plan.store.path, trackers(tracker_names, plan.store.path)) as watcher:
        study = carry_out(plan, watcher)
    planned = {run.run_id for run in plan.runs}
    return replace(study, records=tuple(r for r in study.records if r.run_id in planned))
