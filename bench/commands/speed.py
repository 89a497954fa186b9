"""`bench speed`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from bench.commands.options import (
    AS_JSON,
    DATA_DIR,
    OVERRIDES,
    optimizers_option,
    parse_overrides,
    print_json,
    progress_console,
)


@click.group("speed")
def speed_group() -> None:
    """Measure speed: ratios side by side in one process, on a machine that should be quiet."""


@speed_group.command("optimizers")
@optimizers_option("builtin")
@OVERRIDES
@click.option("--protocol", "-p", default="standard", show_default=True, help="Whose network's parameters.")
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Samples of every entry.")
@click.option("--threads", type=click.IntRange(min=1), help="Of the CPU.  [default: the usable cores]")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: cuda where present]")
@DATA_DIR
@AS_JSON
def speed_optimizers_command(
    optimizers: Sequence[str], overrides: Sequence[str], protocol: str, rounds: int, threads: int | None,
    device: str | None, data_dir: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Time a step of every entry on a network's real parameters, against fused AdamW and its plain form."""
    import torch

    from bench import speed
    from bench.environment import usable_cores
    from bench.placement import usable_device
    from bench.protocols import load_protocol
    from bench.registry import select
    from bench.terminal import screen

    torch.set_num_threads(threads or usable_cores())
    chosen, place = load_protocol(protocol), torch.device(usable_device(device))
    selected = select(list(optimizers), parse_overrides(overrides), "default")
    click.echo(f"{len(selected)} optimizers on {place}, {torch.get_num_threads()} threads", err=True)
    with progress_console().status("rounds: 0") as status:
        speeds = speed.measure(
            selected, chosen, data_dir=data_dir, device=place, rounds=rounds,
            on_round=lambda done: status.update(f"rounds: {done}"),
        )  # fmt: skip
    if as_json:
        print_json(speeds.as_json())
    else:
        screen().print(speed.table(speeds))
