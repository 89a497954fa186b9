"""Runs that keep weights, carried out in this process."""

from pathlib import Path

import torch

from bench.execution import execute
from bench.plan import Run
from bench.protocol import Protocol
from bench.record import RunRecord
from bench.registry import select
from bench.together import Together
from bench.weight_keeping import WeightKeeper
from bench.weights import Weights, read_weights

CPU = torch.device("cpu")
TIMES = {"seconds", "memory", "environment", "finished", "command", "curve_sha256", "device_use"}


def run_of(protocol: Protocol, name: str = "adamw", seed: int = 3) -> Run:
    (chosen,) = select([name], {}, "default")
    return Run(protocol=protocol, optimizer=chosen.spec.name, reference=chosen.reference,
               hyperparameters=dict(chosen.hyperparameters), seed=seed, revision=chosen.spec.revision,
               source_digest=chosen.spec.source_digest)  # fmt: skip


def content(record: RunRecord) -> dict:
    """What of a record does not depend on the clock."""
    return record.model_dump(exclude=TIMES)


def together(run: Run, **options) -> RunRecord:
    """The record of a run as a worker carries it out: through a bank where it may be."""
    records: list[RunRecord] = []
    Together().run([lambda member: records.append(execute(run, device=CPU, member=member, **options))])
    return records[0]


def last_weights(run: Run, folder: Path, **options) -> tuple[Weights, RunRecord]:
    """A run's last weights and its record."""
    record = together(run, weights=WeightKeeper(folder, last=True), **options)
    return read_weights(folder / "last.pt"), record
