"""`bench speed`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from bench.commands.options import (
    AS_JSON,
    DATA_DIR,
    OVERRIDES,
    Command,
    optimizers_option,
    parse_overrides,
    print_json,
    progress_console,
)

if TYPE_CHECKING:
    import torch


class Measured(Protocol):
    """What a measurement found."""

    def as_json(self) -> dict[str, Any]: ...


@click.group("speed")
def speed_group() -> None:
    """Measure speed: ratios side by side in one process, on a machine that should be quiet."""


def _options(protocol: str, rounds: int | None) -> Callable[[Command], Command]:
    """What every measurement takes."""
    options = [
        click.option("--protocol", "-p", default=protocol, show_default=True, help="Whose network and data."),
        click.option("--threads", type=click.IntRange(min=1), help="Of the CPU.  [default: the usable cores]"),
        click.option("--device", help="cpu, cuda or cuda:N.  [default: cuda where present]"),
        DATA_DIR,
        AS_JSON,
    ]
    if rounds is not None:
        options.append(click.option("--rounds", type=click.IntRange(min=1), default=rounds, show_default=True,
                                    help="Samples of everything."))  # fmt: skip

    def decorated(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


def _place(threads: int | None, device: str | None) -> torch.device:
    """The device, this process set to so many threads."""
    import torch

    from bench.environment import usable_cores
    from bench.placement import usable_device

    torch.set_num_threads(threads or usable_cores())
    return torch.device(usable_device(device))


def _show(speeds: Measured, table: Callable[[Any], Any], *, as_json: bool) -> None:
    from bench.terminal import screen

    if as_json:
        print_json(speeds.as_json())
    else:
        screen().print(table(speeds))


@speed_group.command("step")
@_options("standard", 9)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the roofline into this file.")
def speed_step_command(
    protocol: str, rounds: int, threads: int | None, device: str | None, data_dir: Path | None, plot: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Time forward and backward passes against the straightforward network, and the parts of a step."""
    from bench.protocols import load_protocol
    from bench.speed import step
    from bench.speed.roofline import picture_kind, write_roofline

    if plot is not None:
        picture_kind(plot)
    chosen, place = load_protocol(protocol), _place(threads, device)
    with progress_console().status("rounds: 0") as status:
        speeds = step.measure(chosen, data_dir=data_dir, device=place, rounds=rounds,
                              on_round=lambda done: status.update(f"rounds: {done}"))  # fmt: skip
    if plot is not None:
        write_roofline(speeds, plot)
    _show(speeds, step.table, as_json=as_json)


@speed_group.command("study")
@optimizers_option("all")
@OVERRIDES
@_options("mini", None)
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True, help="Of our study.")
def speed_study_command(
    optimizers: Sequence[str], overrides: Sequence[str], protocol: str, threads: int | None, device: str | None,
    data_dir: Path | None, seeds: int, as_json: bool,
) -> None:  # fmt: skip
    """Time the epochs of a study against the same study written the obvious way."""
    from bench.protocols import load_protocol
    from bench.registry import select
    from bench.speed import study

    chosen, place = load_protocol(protocol), _place(threads, device)
    selected = select(list(optimizers), parse_overrides(overrides), "default", chosen.settings)
    with progress_console().status("…") as status:
        speeds = study.measure(selected, chosen, data_dir=data_dir, device=place, seeds=seeds, on_part=status.update)
    _show(speeds, study.table, as_json=as_json)


@speed_group.command("data")
@_options("standard", 9)
def speed_data_command(
    protocol: str, rounds: int, threads: int | None, device: str | None, data_dir: Path | None, as_json: bool
) -> None:
    """Time a training batch: resident, with an epoch's fresh noise, and item by item through loader processes."""
    from bench.protocols import load_protocol
    from bench.speed import data

    chosen, place = load_protocol(protocol), _place(threads, device)
    with progress_console().status("rounds: 0") as status:
        speeds = data.measure(chosen, data_dir=data_dir, device=place, rounds=rounds,
                              on_round=lambda done: status.update(f"rounds: {done}"))  # fmt: skip
    _show(speeds, data.table, as_json=as_json)


@speed_group.command("optimizers")
@optimizers_option("builtin")
@OVERRIDES
@_options("standard", 15)
def speed_optimizers_command(
    optimizers: Sequence[str], overrides: Sequence[str], protocol: str, rounds: int, threads: int | None,
    device: str | None, data_dir: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Time a step of every entry on a network's real parameters, against fused AdamW and its plain form."""
    from bench.protocols import load_protocol
    from bench.registry import select
    from bench.speed import optimizers as entries

    chosen, place = load_protocol(protocol), _place(threads, device)
    selected = select(list(optimizers), parse_overrides(overrides), "default")
    with progress_console().status("rounds: 0") as status:
        speeds = entries.measure(
            selected, chosen, data_dir=data_dir, device=place, rounds=rounds,
            on_round=lambda done: status.update(f"rounds: {done}"),
        )  # fmt: skip
    _show(speeds, entries.table, as_json=as_json)
