"""What a report computes of a study: times to a target, the order over training."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bench.errors import UsageError
from bench.record import CurvePoint, Outcome, Seconds
from bench.reporting.analysis import Analysis, Flip, analyse
from bench.store import Store
from bench.study import Study

from .conftest import make_record, metrics, store_run

Write = Callable[..., Study]


def curve(scores: list[float], seconds: float = 2.0) -> list[CurvePoint]:
    return [
        CurvePoint(
            epoch=i, step=30 * i, samples=960 * i, loss=1.0, pair_losses={}, gradient_norm=1.0, update_ratio=0.1,
            learning_rate=0.1, seconds=Seconds(training=seconds * i), peak_bytes=1, metrics=metrics(score),
        )
        for i, score in enumerate(scores, 1)
    ]  # fmt: skip


@pytest.fixture
def add(write_study: Write) -> Callable[..., None]:
    """Stores a run with a curve of its own."""

    def store(optimizer: str, seed: int, scores: list[float], seconds: float = 2.0, **changes: object) -> None:
        record = make_record(optimizer, seed, scores[-1], **changes)
        store_run(Store(write_study({"zero": {0: 0.2}}).path), record, curve(scores, seconds))

    return store


def analysis(write_study: Write) -> Analysis:
    study = write_study({})
    kept = tuple(r for r in study.records if r.optimizer != "zero")
    return Analysis(Study(study.path, study.protocol, kept))


def test_the_target_is_an_eighth_that_half_of_the_optimizers_reach(write_study: Write, add: Callable[..., None]):
    # Chance is 0.2 and the ceiling 90: eighths at 11.4, 22.7, 33.9, 45.1, … of which 33.9 is reached by a alone in one
    # of two runs, 22.7 by a in both.
    for seed, last in ((0, 40.0), (1, 30.0)):
        add("a", seed, [10.0, 20.0, last])
        add("b", seed, [5.0, 6.0, 7.0], seconds=1.0)
    target = analysis(write_study).target
    assert target is not None and target.score == pytest.approx(0.2 + 89.8 * 2 / 8) and "2/8" in target.how
    # 20 → 40 crosses 22.65 at 0.1325 of the last 30 steps.
    assert target.times["steps"]["a"][0] == pytest.approx(60 + 30 * 0.1325)
    assert target.times["samples"]["a"][0] == pytest.approx(32 * target.times["steps"]["a"][0])
    assert target.times["seconds"]["a"][0] == pytest.approx(4 + 2 * 0.1325)
    assert target.summary["steps"]["b"].reached == 0 and np.isinf(target.summary["steps"]["b"].median)
    assert target.summary["steps"]["b"].par2 == 180


def test_a_diverged_run_never_reaches_and_an_error_is_left_out(write_study: Write, add: Callable[..., None]):
    add("a", 0, [10.0, 20.0, 30.0])
    add("a", 1, [10.0, 20.0, 30.0], outcome=Outcome.DIVERGED)
    add("a", 2, [10.0, 20.0, 30.0], outcome=Outcome.ERROR)
    add("b", 0, [10.0, 20.0, 30.0])
    add("b", 2, [10.0, 20.0, 30.0])
    target = analysis(write_study).target
    assert target is not None
    assert target.seeds == {"a": (0, 1), "b": (0, 2)} and np.isinf(target.times["steps"]["a"][1])
    names, blocks = target.blocks()
    assert set(names) == {"a", "b"} and blocks.shape == (1, 2)


def test_without_chance_or_curves_there_is_no_target(write_study: Write, add: Callable[..., None]):
    add("a", 0, [1.0, 2.0, 3.0], chance={}, ceiling={})
    assert analysis(write_study).target is None
    study = write_study({})
    for path in study.path.glob("runs/*/curve.jsonl"):
        path.unlink()
    assert Analysis(write_study({})).target is None


def test_an_order_that_flips_is_said(write_study: Write, add: Callable[..., None]):
    for seed in range(5):
        wobble = 0.1 * (-1) ** seed
        add("early", seed, [30.0 + seed, 32.0 + seed, 33.0 + seed, 34.0 + seed])
        add("late", seed, [20.0 + seed + wobble, 31.95 + seed + wobble, 40.0 + seed + wobble, 50.0 + seed + wobble])
    course = analysis(write_study).rank_course
    assert course is not None and course.epochs == (1, 2, 3, 4)
    assert course.flips == (Flip("early", "late", 1, 3),)
    assert str(course.flips[0]) == "early leads late last at epoch 1, late leads first at 3"
    early = course.mean_rank[:, course.names.index("early")]
    assert early.tolist() == [1.0, 1.6, 2.0, 2.0]  # at epoch 2 late leads on three of five seeds


def test_failed_runs_rank_last_in_every_epoch(write_study: Write, add: Callable[..., None]):
    for seed in range(3):
        add("a", seed, [10.0, 20.0])
        add("b", seed, [30.0, 40.0], outcome=Outcome.DIVERGED)
    course = analysis(write_study).rank_course
    assert course is not None and course.flips == ()
    assert course.mean_rank[:, course.names.index("b")].tolist() == [2.0, 2.0]


def test_one_optimizer_has_no_course(write_study: Write, add: Callable[..., None]):
    add("a", 0, [1.0, 2.0])
    assert analysis(write_study).rank_course is None


def test_a_run_whose_curve_is_lost_is_no_miss_and_takes_no_other_along(write_study: Write, add: Callable[..., None]):
    for seed in range(4):
        add("a", seed, [10.0, 20.0, 30.0])
        add("b", seed, [5.0, 6.0, 7.0])
    study = write_study({})
    (study.path / "runs" / "a-s1" / "curve.jsonl").unlink()
    still = study.path / "runs" / "a-s2" / "curve.jsonl"
    still.write_text(still.read_text().replace('"step":60', '"step":30'))
    found = analysis(write_study)
    assert found.target is not None and found.target.seeds == {"a": (0, 3), "b": (0, 1, 2, 3)}
    assert found.target.summary["steps"]["a"].reached == 2
    assert found.rank_course is not None and found.rank_course.epochs == (1, 2, 3)


def test_a_target_that_few_reach_is_not_said_to_be_reached_by_half(write_study: Write, add: Callable[..., None]):
    for seed in (0, 1):
        add("a", seed, [0.3, 0.4, 0.5])
        add("b", seed, [0.3, 0.4, 0.6])
    target = analysis(write_study).target
    assert target is not None
    assert target.how.startswith("1/8 of the way from chance to the ceiling, the lowest such eighth, although fewer")


def test_an_optimizer_that_never_ends_by_itself_leaves_the_others_their_verdict(write_study: Write):
    write_study({"a": {s: 30.0 + s for s in range(5)}, "b": {s: 20.0 + s for s in range(5)}})
    write_study({"c": dict.fromkeys(range(5), 1.0)}, outcome=Outcome.ERROR, metrics={})
    found = Analysis(write_study({}))
    assert found.verdict is not None and [entry.name for entry in found.verdict.entries] == ["a", "b"]
    assert found.unranked == ("c",) and found.rank_course is not None and len(found.rank_course.names) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_an_ok_run_without_a_score_is_a_fault(write_study: Write, value: float | None):
    write_study({"a": {s: 30.0 + s for s in range(3)}, "b": {s: 20.0 + s for s in range(4)}})
    write_study({"a": {3: 1.0}}, metrics={} if value is None else metrics(value))
    found = analyse(write_study({}))
    assert ("a", 3) not in {(r.optimizer, r.seed) for r in found.study.records} and len(found.study.records) == 7
    (fault,) = found.study.faults
    assert "runs/a-s3/run.json: the run is ok and its avg_r1 is" in str(fault)
    assert found.verdict is not None and found.verdict.n_seeds == 3
    with pytest.raises(UsageError, match=r"no run can be ranked.*a-s3.*the run is ok and its avg_r1 is"):
        analyse(replace(found.study, records=(), bad=found.study.bad))
