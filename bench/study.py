"""A study: the records of one folder that follow one protocol, as tables and data frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BadRecordError, UsageError
from bench.plan import TUNING_SEEDS
from bench.protocol import Protocol
from bench.record import CurvePoint, RunRecord
from bench.store import Store

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Study:
    """The runs of one protocol in a study's folder; `bad` are records that could not be read (see `faults`).

    `records` are those that rank; `trials` are the runs of searches, whose seeds rank nothing, of any protocol: a first
    rung has one of its own.
    """

    path: Path
    protocol: Protocol
    records: tuple[RunRecord, ...]
    bad: tuple[BadRecordError, ...] = ()
    trials: tuple[RunRecord, ...] = ()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @cached_property
    def labels(self) -> dict[str, str]:
        """Run id to optimizer; with its configuration where the study holds several of one optimizer."""
        configurations: dict[str, set[str]] = {}
        for record in self.records:
            configurations.setdefault(record.optimizer, set()).add(record.configuration)
        return {
            r.run_id: f"{r.optimizer}#{r.configuration[:4]}" if len(configurations[r.optimizer]) > 1 else r.optimizer
            for r in self.records
        }

    @property
    def curves(self) -> dict[str, list[CurvePoint]]:
        """Every run's curve by run id; an unreadable one is empty."""
        return self._curves[0]

    @property
    def faults(self) -> tuple[BadRecordError, ...]:
        """What could not be read: records, which are left out, and curves, whose records count."""
        return self.bad + self._curves[1]

    @cached_property
    def _curves(self) -> tuple[dict[str, list[CurvePoint]], tuple[BadRecordError, ...]]:
        store = Store(self.path)
        curves: dict[str, list[CurvePoint]] = {}
        faults: list[BadRecordError] = []
        for record in self.records:
            try:
                curves[record.run_id] = store.read_curve(record.run_id, record.curve_sha256)
            except BadRecordError as error:
                curves[record.run_id] = []
                faults.append(error)
        return curves, tuple(faults)

    def frame(self) -> pd.DataFrame:
        """One row a run: optimizer, seed, outcome, learning rate, loss, times, memory and every metric (percent)."""
        import pandas as pd

        rows = [
            {
                "run_id": r.run_id,
                "optimizer": self.labels[r.run_id],
                "seed": r.seed,
                "outcome": str(r.outcome),
                "learning_rate": r.hyperparameters.get("lr"),
                "loss": r.loss,
                "training_seconds": r.seconds.training,
                "optimizer_seconds": r.seconds.optimizer_step,
                "evaluation_seconds": r.seconds.evaluation,
                "peak_bytes": r.memory.peak_bytes,
                "state_bytes": r.memory.state_bytes,
                **r.metrics,
            }
            for r in self.records
        ]
        return pd.DataFrame(rows)


def load_study(path: Path, protocol_hash: str | None = None) -> tuple[Study, dict[str, int]]:
    """The study in `path`, and how many runs its folder holds of each protocol hash.

    Without `protocol_hash`, the protocol that was asked for last. Records of different protocols are never mixed.
    Raises `UsageError` where there is no study or no such protocol in it.
    """
    store = Store(path)
    records, bad = store.records()
    if not records:
        faults = f"; {len(bad)} unreadable, first: {bad[0]}" if bad else ""
        raise UsageError(f"no finished runs in {path}{faults}")
    counts = Counter(record.protocol.hash for record in records)
    ranking = [record for record in records if record.seed < TUNING_SEEDS]
    latest = max(ranking or records, key=lambda r: (r.finished, r.run_id)).protocol.hash
    last_used = store.last_used()
    chosen = protocol_hash or (last_used if last_used and last_used in counts else latest)
    if chosen not in counts:
        raise UsageError(f"study {path}: no runs of protocol {chosen!r}; there are {', '.join(sorted(counts))}")
    own = tuple(record for record in records if record.protocol.hash == chosen)
    ranked = tuple(record for record in own if record.seed < TUNING_SEEDS)
    trials = tuple(record for record in records if record.seed >= TUNING_SEEDS)
    return Study(path, store.read_protocol(chosen), ranked, tuple(bad), trials), dict(counts)


def find_studies(results: Path) -> Sequence[Path]:
    """The study folders under `results`, the one asked for last at the end."""
    if not results.is_dir():
        return []
    found = [entry for entry in results.iterdir() if (entry / "runs").is_dir()]

    def used(path: Path) -> tuple[float, str]:
        mark = path / "last_used"
        return (mark if mark.exists() else path / "runs").stat().st_mtime, path.name

    return sorted(found, key=used)
