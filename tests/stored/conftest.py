"""Studies made by hand: runs that ended, that were stopped, that were asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.plan import Run, ended
from bench.protocol import Protocol
from bench.record import CurvePoint, Failure, Outcome, RunRecord, Seconds
from bench.store import Store


@dataclass
class Maker:
    """Writes one study."""

    path: Path
    protocol: Protocol

    @property
    def store(self) -> Store:
        return Store(self.path)

    def run(self, optimizer: str = "sgd", seed: int = 0, **changes) -> Run:
        given = {"protocol": self.protocol, "reference": optimizer, "hyperparameters": {"lr": 0.1}, **changes}
        return Run(optimizer=optimizer, seed=seed, **given)

    def runs(self, optimizers: Sequence[str], seeds: int) -> list[Run]:
        return [self.run(name, seed) for seed in range(seeds) for name in optimizers]

    def end(self, run: Run, outcome: Outcome = Outcome.OK, points: int = 2, **changes) -> RunRecord:
        """The run's curve and record; the metric is its seed."""
        self.store.write_protocol(run.protocol)
        failure = None if outcome is Outcome.OK else Failure(reason=f"it was {outcome}", epoch=1, step=3)
        values = {"metrics": {"avg_r1": float(run.seed)}, "loss": 1.5} if outcome is Outcome.OK else {}
        values |= {"seconds": Seconds(total=10.0), "finished": "2026-01-01T00:00:00+00:00", **changes}
        record = ended(run, outcome, failure, "bench run").model_copy(update=values)
        self.store.start_curve(run.run_id, [point(epoch) for epoch in range(1, points + 1)])
        self.store.write_record(record)
        return record

    def begin(self, run: Run, points: int, checkpoints: Sequence[int] = ()) -> Path:
        """A run that was stopped after so many epochs of 10 steps, with checkpoints at some steps."""
        self.store.start_curve(run.run_id, [point(epoch) for epoch in range(1, points + 1)])
        folder = self.store.run_dir(run.run_id)
        (folder / ".lock").touch()
        for step in checkpoints:
            (folder / f"checkpoint-{step:09d}.pt").write_bytes(b"x" * 1000)
            (folder / f"checkpoint-{step:09d}.pt.sha256").write_bytes(b"y" * 10)
        return folder

    def record_path(self, run: Run) -> Path:
        return self.store.run_dir(run.run_id) / "run.json"


def point(epoch: int) -> CurvePoint:
    return CurvePoint(epoch=epoch, step=10 * epoch, samples=80 * epoch, loss=2.0, pair_losses={"image_text": 2.0},
                      gradient_norm=1.0, update_ratio=0.1, learning_rate=0.1, metrics={}, seconds=Seconds(),
                      peak_bytes=1)  # fmt: skip


@pytest.fixture
def maker(tmp_path: Path, tiny: Protocol) -> Callable[..., Maker]:
    """A study by its name, in the folder that the command takes for --results."""

    def make(name: str = "one", protocol: Protocol = tiny) -> Maker:
        path = tmp_path / "results" / name
        path.mkdir(parents=True, exist_ok=True)
        return Maker(path, protocol)

    return make


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes]]:
    """What is in a folder, by path: content of every file but locks."""

    def read(folder: Path) -> dict[str, bytes]:
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    return read
