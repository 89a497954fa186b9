"""`bench speed data`: what a training batch costs, resident, with fresh noise, and item by item through a loader."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.protocol import Protocol
from bench.speed.machine import Conditions, conditions
from bench.speed.straightforward import LOADERS, loader
from bench.speed.tables import measured_table
from bench.timing import interleaved

if TYPE_CHECKING:
    from rich.console import Group

RESIDENT, FRESH, ITEMS = "resident", "an epoch's own samples", f"items through {LOADERS} loader processes"
NOISE = 0.1  # of the items: that of the paired data


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to a batch."""

    name: str
    milliseconds: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpeeds:
    """What one measurement found; items are missing where samples are not kept as tensors."""

    protocol: str
    batch_size: int
    forms: tuple[Form, ...]
    conditions: Conditions

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def measure(
    protocol: Protocol,
    *,
    data_dir: Path | None,
    device: torch.device,
    rounds: int,
    on_round: Callable[[int], None] = lambda done: None,
) -> DataSpeeds:
    """Time a batch of every form."""
    dataset, size = protocol.workload.build_dataset(data_dir, device), protocol.batch_size
    samples, steps = dataset.training(1, 0), dataset.training_size // protocol.batch_size
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0)).to(device)
    epochs = iter(range(2, 1 << 30))

    def resident() -> None:
        samples.take(order[:size])

    def epoch() -> None:
        own = dataset.training(next(epochs), 0)
        for step in range(steps):
            own.take(order[step * size : (step + 1) * size])

    found = interleaved({RESIDENT: resident, FRESH: epoch}, rounds=rounds, device=device, on_round=on_round)
    batches = _endless(loader(samples.take(order), size, NOISE))
    # In rounds of their own: loader processes work ahead, beside whatever else is timed.
    timings = found.timings | interleaved({ITEMS: lambda: next(batches)}, rounds=rounds, device=device).timings
    batches.close()
    forms = [
        Form(name=name, milliseconds=1e3 * t.median / count, low=1e3 * t.low / count, high=1e3 * t.high / count)
        for name, t in timings.items()
        for count in (steps if name == FRESH else 1,)
    ]
    return DataSpeeds(protocol=protocol.name, batch_size=size, forms=tuple(forms), conditions=conditions(device, found))


def _endless(batches: Iterable[Any]) -> Generator[Any, None, None]:
    """One epoch after the other."""
    while True:
        yield from batches


def table(speeds: DataSpeeds) -> Group:
    """The measurement for the terminal."""
    from rich.console import Group
    from rich.text import Text

    shown = measured_table(f"A batch of {speeds.batch_size}, {speeds.protocol}", "form", "ms", "quartiles")
    for form in speeds.forms:
        shown.add_row(form.name, f"{form.milliseconds:.3g}", f"{form.low:.3g}–{form.high:.3g}")
    return Group(shown, Text(str(speeds.conditions), style="dim"))
