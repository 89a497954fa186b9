"""`bench continue`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench.commands.evaluate import usable_weights
from bench.commands.options import (
    AS_JSON,
    CODE_PROTOCOL,
    DATA_DIR,
    DEVICE,
    RESULTS,
    WEIGHTS,
    parse_setting,
    weights_options,
)
from bench.commands.run import end, say_weights, show
from bench.commands.watching import watching


@click.command("continue")
@click.argument("checkpoint", type=WEIGHTS)
@click.option("--epochs", type=int, required=True, help="How many more.")
@click.option("--override", "-O", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting, as lr=3e-4.")
@click.option("--optimizer", "-o", help="Another one, or the module:Class or file.py:Class it was.")
@click.option("--reset-optimizer", "reset", is_flag=True, help="Begin without the optimizer's state.")
@RESULTS
@click.option("--study", help="Folder under --results.  [default: the protocol's name and -continued]")
@DATA_DIR
@DEVICE
@click.option("--threads", type=int, help="Of the process.  [default: as many as the run had]")
@weights_options
@CODE_PROTOCOL
@AS_JSON
def continue_command(
    checkpoint: Path,
    epochs: int,
    overrides: Sequence[str],
    optimizer: str | None,
    reset: bool,
    results: Path,
    study: str | None,
    threads: int | None,
    protocol: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train on from stored weights: last.pt or best.pt of a run.

    It is a run of a protocol of its own, whose hash covers the file, so that it is never compared with runs from fresh
    weights. Batches, noise and dropout go on where those of the first run ended; the schedule begins anew. The
    optimizer keeps its state where it and its settings are the same.
    """
    from bench.continuing import continuation
    from bench.paths import without_folders
    from bench.placement import placed
    from bench.runner import carry_out
    from bench.terminal import say

    (weights,) = usable_weights([checkpoint], protocol)
    command = without_folders(shlex.join(["bench", *sys.argv[1:]]))
    placement = placed(threads=threads or weights.head.threads, workers=1, command=command, **options)
    found = continuation(
        weights, epochs=epochs, overrides=dict(parse_setting(text) for text in overrides), optimizer=optimizer,
        reset=reset, results=results, study=study, placement=placement,
    )  # fmt: skip
    head, plan = weights.head, found.plan
    say(f"{checkpoint}: {head.optimizer} seed {head.seed} after {head.epoch} epochs, {head.kind} weights, "
        f"{head.metric} {head.score:.2f} % on the validation split", err=True)  # fmt: skip
    state = "kept" if found.anew is None else f"begun anew: {found.anew}"
    say(f"protocol {plan.protocol.name} ({plan.protocol.hash}): {epochs} epochs more; optimizer state {state}; records "
        f"in {plan.store.path}", err=True)  # fmt: skip
    with watching(plan, plan.store.path, ()) as watcher:
        done = carry_out(plan, watcher)
    show(done, as_json)
    say_weights(plan)
    end(plan, done)
