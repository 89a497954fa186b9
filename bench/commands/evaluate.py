"""`bench evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from bench.commands.options import AS_JSON, CODE_PROTOCOL, DATA_DIR, DEVICE, WEIGHTS, print_json

if TYPE_CHECKING:
    from bench.weights import Weights


@click.command("evaluate")
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True, type=WEIGHTS)
@click.option("--split", type=click.Choice(["test", "validation"]), default="test", show_default=True)
@click.option("--test-time-training", is_flag=True, help="Also with memories that adapt to what they see.")
@DATA_DIR
@DEVICE
@CODE_PROTOCOL
@AS_JSON
def evaluate_command(
    checkpoints: Sequence[Path],
    split: Literal["test", "validation"],
    test_time_training: bool,
    data_dir: Path | None,
    device: str | None,
    protocol: str | None,
    as_json: bool,
) -> None:
    """Show the metrics of stored weights: best.pt, last.pt of a run.

    Several files are looked at each alone, and together as an ensemble that ranks by the mean of their similarities;
    they must be of the same data. --json prints protocol, split, rows (name, epoch, metrics, class_metrics), files,
    pools, chance, class_chance, ceiling, test_time (metric, off, on, difference, low, high, queries, batch, change,
    relative_change, metrics_off, metrics_on) and over_seeds (files, mean, low, high).
    """
    import torch

    from bench.evaluation import evaluate, with_test_time
    from bench.evaluation_text import view
    from bench.placement import usable_device
    from bench.terminal import screen

    place = torch.device(usable_device(device))
    files = usable_weights(checkpoints, protocol)
    found = evaluate(files, split=split, data_dir=data_dir, device=place)
    if test_time_training:
        found = with_test_time(found, files, data_dir=data_dir, device=place)
    if as_json:
        print_json(found.to_json())
    else:
        screen().print(view(found))


def usable_weights(paths: Sequence[Path], protocol: str | None) -> list[Weights]:
    """The weights of files of retrieval, whose code the user has named where it is not bench's own."""
    from bench.evaluation import require_own_code, require_retrieval
    from bench.protocols import load_protocol
    from bench.weights import read_weights

    files = [read_weights(path) for path in paths]
    require_retrieval(files)
    require_own_code(files, None if protocol is None else load_protocol(protocol))
    return files
