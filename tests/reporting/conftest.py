"""Studies written by hand: records and curves with known numbers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.plan import slug
from bench.protocols import PROTOCOLS, changed
from bench.record import (
    CurvePoint,
    Diagnostics,
    Failure,
    Fingerprints,
    MemoryUse,
    Outcome,
    ProtocolName,
    RunRecord,
    Seconds,
)
from bench.store import Store
from bench.study import Study, load_study

DIRECTIONS = ("i2t", "t2i", "i2a", "a2i", "t2a", "a2t")
PROTOCOL = changed(PROTOCOLS["mini"], {"name": "hand", "epochs": 3}, "test")


def metrics(r1: float, directions: tuple[str, ...] = DIRECTIONS) -> dict[str, float]:
    """Every direction at `r1`, R@5 and R@10 one and two points above."""
    table = {f"{d}_r{k}": r1 + i for d in directions for i, k in enumerate((1, 5, 10))}
    return table | {f"avg_r{k}": r1 + i for i, k in enumerate((1, 5, 10))}


def make_record(optimizer: str, seed: int, r1: float | None, **changes: Any) -> RunRecord:
    """A run; without `r1` it has diverged."""
    ok = r1 is not None
    values: dict[str, Any] = {
        "run_id": f"{slug(optimizer)}-s{seed}",
        "protocol": ProtocolName(name="hand", hash=PROTOCOL.hash),
        "optimizer": optimizer,
        "configuration": "c0",
        "hyperparameters": {"lr": 0.1},
        "seed": seed,
        "outcome": Outcome.OK if ok else Outcome.DIVERGED,
        "failure": None if ok else Failure(reason="loss is nan", epoch=2, step=5),
        "metrics": metrics(r1) if r1 is not None else {},
        "class_metrics": metrics(r1 + 50) if r1 is not None else {},
        "chance": metrics(0.2),
        "ceiling": metrics(90.0),
        "loss": 2.0 if ok else None,
        "epochs": 3,
        "steps": 9,
        "fingerprints": Fingerprints(initial_weights=f"w{seed}", batch_order=f"o{seed}", initial_loss=10.0),
        "seconds": Seconds(training=6.0, optimizer_step=1.5, evaluation=0.5, total=6.5),
        "memory": MemoryUse(peak_bytes=123_456_789, state_bytes=2_000),
        "diagnostics": Diagnostics(parameters=100, parameters_without_gradient=25, observed_steps=3),
        "finished": "2020-01-01T00:00:00+00:00",
        "command": "bench run",
    }
    return RunRecord(**(values | changes))


def make_curve(r1: float | None) -> list[CurvePoint]:
    """Three epochs towards `r1`; without it the loss is NaN in the last, and nothing is evaluated."""
    points = []
    for epoch in (1, 2, 3):
        loss = 10.0 / epoch if r1 is not None else 10.0 * epoch if epoch < 3 else float("nan")
        points.append(CurvePoint(
            epoch=epoch, step=3 * epoch, samples=96 * epoch, loss=loss, pair_losses={"image_text": loss},
            gradient_norm=1.0, update_ratio=0.1, learning_rate=0.1, seconds=Seconds(training=2.0 * epoch), peak_bytes=1,
            metrics={} if r1 is None else metrics(r1 * epoch / 3)))  # fmt: skip
    return points


def store_run(store: Store, record: RunRecord, points: list[CurvePoint]) -> None:
    """A run with its curve."""
    store.write_record(record)
    store.start_curve(record.run_id)
    for point in points:
        store.append_curve(record.run_id, point)


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Study]:
    """Writes {optimizer: {seed: R@1, None = diverged}} as a study on disk and loads it."""

    def write(runs: Mapping[str, Mapping[int, float | None]], name: str = "hand", **changes: Any) -> Study:
        store = Store(tmp_path / name)
        store.write_protocol(PROTOCOL)
        for optimizer, scores in runs.items():
            for seed, r1 in scores.items():
                store_run(store, make_record(optimizer, seed, r1, **changes), make_curve(r1))
        study, _ = load_study(store.path)
        return study

    return write
