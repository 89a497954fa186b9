"""`bench speed study`: what a study costs an epoch, against the same study written the obvious way.

Both train every optimizer on the same data. The straightforward study is one process on all cores; ours runs in workers
as it always does. What starts once, processes and data, is no part of an epoch's cost: a study of more epochs less one
of a single epoch leaves it out. Optimizers that diverge in the first epoch have no cost in either.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.driver import Watcher
from bench.environment import usable_cores
from bench.protocol import Protocol
from bench.registry import Selected
from bench.runner import Study, carry_out, prepare
from bench.speed.machine import Conditions, conditions
from bench.speed.shortened import shortened
from bench.speed.straightforward import Loop, loader, network_of, samples_of
from bench.speed.tables import measured_table
from bench.timing import ForeignLoad, Rounds
from bench.workload import roled_parameters

if TYPE_CHECKING:
    from rich.console import Group

STEPS = 10  # an epoch
EPOCHS = 4  # of the longer study
NOISE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpeeds:
    """Seconds of a run's epoch of the shortened protocol, by optimizer and in the mean; the latter of every form."""

    protocol: str
    steps: int
    seeds: int
    straightforward: dict[str, float]  # by optimizer
    forms: dict[str, float]  # seconds of wall-clock time an epoch of one run, all optimizers' mean
    left_out: tuple[str, ...]
    conditions: Conditions

    def times_faster(self, form: str) -> float:
        """The straightforward study's time over a form's."""
        return sum(self.straightforward.values()) / len(self.straightforward) / self.forms[form]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "times_faster": {form: self.times_faster(form) for form in self.forms}}


def measure(
    selected: Sequence[Selected],
    protocol: Protocol,
    *,
    data_dir: Path | None,
    device: torch.device,
    seeds: int,
    on_part: Callable[[str], None] = lambda name: None,
) -> StudySpeeds:
    """Time both studies of the same optimizers, and ours with one worker on all cores.

    Raises `UsageError` where the protocol's network is none of the harness' own.
    """
    cores, names = usable_cores(), [chosen.reference for chosen in selected]
    short, long = (shortened(protocol, STEPS, epochs) for epochs in (1, 1 + EPOCHS))
    network_of(short)
    load = ForeignLoad()
    placements = {f"{cores} workers of 1 thread": (cores, 1), f"1 worker of {cores} threads": (1, cores)}
    forms, left_out = {}, set[str]()
    for form, (workers, threads) in placements.items():
        on_part(form)
        before, _ = _ours(names, short, seeds, data_dir, device, workers, threads)
        after, study = _ours(names, long, seeds, data_dir, device, workers, threads)
        trained = [record for record in study.records if record.outcome == "ok"]
        left_out |= {record.optimizer for record in study.records if record.outcome != "ok"}
        forms[form] = (after - before) / EPOCHS / len(trained)
    straightforward = {}
    for chosen in selected:
        if chosen.spec.name not in left_out:
            on_part(f"straightforward {chosen.spec.name}")
            straightforward[chosen.spec.name] = _plain_epoch(chosen, short, data_dir, device)
    cores_used = load.cores()
    here = conditions(device, Rounds(timings={}, kept=1, dropped=0, foreign=cores_used))
    return StudySpeeds(protocol=protocol.name, steps=STEPS, seeds=seeds, straightforward=straightforward, forms=forms,
                       left_out=tuple(sorted(left_out)), conditions=here)  # fmt: skip


def _ours(
    names: Sequence[str], protocol: Protocol, seeds: int, data_dir: Path | None, device: torch.device, workers: int,
    threads: int,
) -> tuple[float, Study]:  # fmt: skip
    """Seconds of a study from nothing, and its records."""
    with tempfile.TemporaryDirectory() as folder:
        plan = prepare(names, protocol=protocol, seeds=seeds, results=folder, data_dir=data_dir, device=str(device),
                       workers=workers, threads=threads)  # fmt: skip
        start = time.perf_counter()
        study = carry_out(plan, Watcher())
        return time.perf_counter() - start, study


def _plain_epoch(chosen: Selected, protocol: Protocol, data_dir: Path | None, device: torch.device) -> float:
    """Seconds of an epoch with its evaluation, after one to warm up."""
    dataset = protocol.workload.build_dataset(data_dir, device)
    network = network_of(protocol, dict(dataset.network_options)).to(device)
    loop = Loop(chosen, network, roled_parameters(network, protocol.workload.roles()), protocol)
    whole, held_out = (x.take(torch.arange(len(x), device=device))
                       for x in (dataset.training(1, 0), dataset.held_out("test")))  # fmt: skip
    batches, seconds = loader(whole, protocol.batch_size, NOISE), 0.0
    for _ in range(2):
        start = time.perf_counter()
        for items in batches:
            loop.step(samples_of(items, device))
        loop.evaluate(held_out)
        seconds = time.perf_counter() - start
    return seconds


def table(speeds: StudySpeeds) -> Group:
    """The measurement for the terminal."""
    from rich.console import Group
    from rich.text import Text

    title = f"A run's epoch of {speeds.steps} steps and its evaluation, {speeds.protocol}, {speeds.seeds} seeds"
    shown = measured_table(title, "study", "ms", "times faster")
    mean = sum(speeds.straightforward.values()) / len(speeds.straightforward)
    shown.add_row("straightforward, one after the other", f"{1e3 * mean:.4g}", "1.00")
    for name, seconds in speeds.straightforward.items():
        shown.add_row(f"  {name}", f"{1e3 * seconds:.4g}", "", style="dim")
    for form, seconds in speeds.forms.items():
        shown.add_row(f"ours, {form}", f"{1e3 * seconds:.4g}", f"{speeds.times_faster(form):.2f}")
    left = f"Left out, since they diverge: {', '.join(speeds.left_out)}. " if speeds.left_out else ""
    return Group(shown, Text(f"{left}The mean over optimizers. {speeds.conditions}", style="dim"))
