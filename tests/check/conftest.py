"""Snapshots and studies written by hand: five seeds of four optimizers, `good` and `better` not told apart."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.check.snapshot import Entry, KeptRun, Metric, Snapshot
from bench.plan import slug
from bench.protocol import Protocol
from bench.protocols import PROTOCOLS, changed
from bench.record import (
    CurvePoint,
    Environment,
    Failure,
    Fingerprints,
    Outcome,
    ProtocolName,
    RunRecord,
    Seconds,
)
from bench.store import Store
from bench.study import Study, load_study

PROTOCOL = changed(PROTOCOLS["mini"], {"name": "hand", "epochs": 3}, "test")
PLACE = Environment(
    versions={"python": "3.11", "torch": "2.11"}, device="cpu", processor="P", cores=2, threads=1, git_commit="c" * 40,
    git_dirty=False,
)  # fmt: skip
GPU = PLACE.model_copy(update={"device": "H100"})
SEEDS = range(5)
# R@1 of seeds 0 to 4; multiples of the grain 1/30.
SCORES = {
    "better": (45.1, 44.2, 46.0, 45.4, 44.8),
    "good": (45.0, 44.5, 45.7, 45.6, 44.6),
    "middle": (30.2, 29.4, 31.1, 30.0, 30.3),
    "poor": (12.0, 11.1, 13.2, 12.4, 11.8),
}
Scores = Mapping[str, Mapping[int, float | None]]


def by_seed(scores: Mapping[str, tuple[float, ...]] = SCORES) -> dict[str, dict[int, float | None]]:
    return {name: dict(zip(SEEDS, values, strict=False)) for name, values in scores.items()}


def make_run(name: str, seed: int, score: float | None, metric: str = "avg_r1", **changes: Any) -> KeptRun:
    """A run that rises to its score in three epochs of 10 steps; without a score it has diverged."""
    ok = score is not None
    values: dict[str, Any] = {
        "optimizer": name, "seed": seed, "outcome": Outcome.OK if ok else Outcome.DIVERGED,
        "reason": None if ok else "loss is nan", "metrics": {metric: score} if ok else {},
        "loss": 2.0 - score / 100 if ok else None, "steps": 30, "training_seconds": 6.0, "optimizer_seconds": 1.0,
        "evaluations": tuple((10 * e, 2.0 * e, (score or 0.0) * e / 3) for e in (1, 2, 3)) if ok else (),
        "fingerprints": Fingerprints(initial_weights=f"w{seed}", batch_order=f"o{seed}"), "environment": 0,
    }  # fmt: skip
    return KeptRun(**(values | changes))


def make_snapshot(
    scores: Scores | None = None, *, protocol: Protocol = PROTOCOL, place: Environment = PLACE, **settings: Any
) -> Snapshot:
    """A snapshot of {optimizer: {seed: R@1, None = diverged}}; `settings` are hyper-parameters of every entry."""
    scores = by_seed() if scores is None else scores
    metric = protocol.primary_metric
    lower = metric.endswith("_rank")
    return Snapshot(
        protocol_hash=protocol.hash,
        protocol=protocol,
        metric=Metric(name=metric, lower_is_better=lower, grain=1 / 500 if lower else 100 / 3000,
                      chance=250.5 if lower else 0.2),
        environments=(place,),
        entries=tuple(Entry(optimizer=name, configuration="c0", revision=1, source_digest=None,
                            hyperparameters={"lr": 0.1} | settings) for name in scores),
        runs=tuple(make_run(name, seed, score, metric) for name, row in scores.items() for seed, score in row.items()),
    )  # fmt: skip


def make_record(optimizer: str, seed: int, score: float | None, **changes: Any) -> RunRecord:
    """The record of such a run."""
    ok = score is not None
    values: dict[str, Any] = {
        "run_id": f"{slug(optimizer)}-s{seed}-{changes.get('configuration', 'c0')}",
        "protocol": ProtocolName(name="hand", hash=PROTOCOL.hash),
        "optimizer": optimizer, "configuration": "c0", "hyperparameters": {"lr": 0.1}, "seed": seed,
        "outcome": Outcome.OK if ok else Outcome.DIVERGED,
        "failure": None if ok else Failure(reason="loss is nan"),
        "metrics": {"avg_r1": score} if ok else {}, "chance": {"avg_r1": 0.2}, "ceiling": {"avg_r1": 90.0},
        "loss": 2.0 if ok else None, "epochs": 3, "steps": 30,
        "fingerprints": Fingerprints(initial_weights=f"w{seed}", batch_order=f"o{seed}"),
        "seconds": Seconds(training=6.0, optimizer_step=1.0), "environment": PLACE,
        "finished": "2020-01-01T00:00:00+00:00",
    }  # fmt: skip
    return RunRecord(**(values | changes))


def store_run(store: Store, record: RunRecord) -> None:
    store.write_record(record)
    store.start_curve(record.run_id)
    for epoch in (1, 2, 3) if "avg_r1" in record.metrics else ():
        store.append_curve(record.run_id, CurvePoint(
            epoch=epoch, step=10 * epoch, samples=320 * epoch, loss=2.0, pair_losses={}, gradient_norm=1.0,
            update_ratio=0.1, learning_rate=0.1, seconds=Seconds(training=2.0 * epoch), peak_bytes=1,
            metrics={"avg_r1": record.metrics["avg_r1"] * epoch / 3}))  # fmt: skip


@pytest.fixture(scope="session")
def hand() -> SimpleNamespace:
    """What the tests make their snapshots and records with."""
    return SimpleNamespace(
        snapshot=make_snapshot, run=make_run, record=make_record, store_run=store_run, scores=by_seed, place=PLACE,
        gpu=GPU, protocol=PROTOCOL,
    )  # fmt: skip


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Study]:
    """Writes {optimizer: {seed: R@1, None = diverged}} as the study `results/NAME` and loads it."""

    def write(name: str, scores: Scores | None = None, **changes: Any) -> Study:
        store = Store(tmp_path / "results" / name)
        store.write_protocol(PROTOCOL)
        for optimizer, row in (by_seed() if scores is None else scores).items():
            for seed, score in row.items():
                store_run(store, make_record(optimizer, seed, score, **changes))
        study, _ = load_study(store.path)
        return study

    return write
