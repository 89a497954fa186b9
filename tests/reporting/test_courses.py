"""Losses that rise or stand still, scores at chance, slow epochs: named with their seeds, and only where they are."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.protocols import PROTOCOLS
from bench.record import CurvePoint, Outcome, ProtocolName, RunRecord, Seconds
from bench.reporting.courses import courses
from bench.summary import rows


@dataclass(frozen=True)
class Courses:
    """What `courses` reads of a study."""

    protocol = PROTOCOLS["mini"]
    path = Path("study")
    records: tuple[RunRecord, ...]
    curves: dict[str, list[CurvePoint]]

    @property
    def labels(self) -> dict[str, str]:
        return {r.run_id: r.optimizer for r in self.records}


FALLING = [10.0, 8.0, 6.0, 5.0, 4.0, 3.5, 3.0, 2.8]


def said(losses_by_seed, *, scores=(30.0, 31.0, 32.0), seconds=1.0, best=2.0) -> list[str]:
    records, curves = [], {}
    for seed, losses in enumerate(losses_by_seed):
        records.append(RunRecord(
            run_id=f"x-s{seed}", protocol=ProtocolName(name="mini", hash=PROTOCOLS["mini"].hash), optimizer="x",
            configuration="c", hyperparameters={"lr": 0.1}, seed=seed, outcome=Outcome.OK, best_loss=best,
            metrics={"avg_r1": scores[seed]}, chance={"avg_r1": 0.2}, finished="2020-01-01T00:00:00+00:00",
        ))  # fmt: skip
        times = seconds if isinstance(seconds, list) else [seconds] * len(losses)
        curves[f"x-s{seed}"] = [
            CurvePoint(epoch=i + 1, step=i, samples=i, loss=loss, pair_losses={}, gradient_norm=1.0, update_ratio=0.1,
                       learning_rate=0.1, metrics={}, seconds=Seconds(training=sum(times[: i + 1])), peak_bytes=0)
            for i, loss in enumerate(losses)
        ]  # fmt: skip
    study = Courses(tuple(records), curves)
    return courses(study, rows(study))


def test_a_course_like_any_other_is_not_named():
    assert said([FALLING, FALLING, FALLING]) == []


def test_a_rise_is_named_with_its_seeds():
    rising = [*FALLING[:5], 6.1, 4.0, 3.0]  # 6.1 > 1.5 · 4
    assert said([FALLING, rising, rising]) == [
        "x: the loss of an epoch rose to over 1.5 × the lowest before in seeds 1, 2"
    ]
    assert said([[*FALLING[:5], 5.9, 4.0, 3.0]]) == []


@pytest.mark.parametrize(
    ("losses", "named"),
    [
        ([10, 9.5, 9.2, 9.1, 9.0, 8.99, 8.98, 8.95], True),  # moves .05 of 8 in the second half, 6.95 above the best
        ([10, 9.5, 9.2, 9.1, 9.0, 8.9, 8.8, 8.7], False),  # moves .3 > .02 · 8
        ([10, 5, 4, 3, 2.5, 2.5, 2.5, 2.5], False),  # has arrived
    ],
)
def test_a_loss_that_stands_still_far_from_the_best(losses: list, named: bool):
    expected = ["x: the loss stands still in the second half, far from the best possible in seed 0"]
    assert said([losses]) == (expected if named else [])


def test_scores_that_chance_could_give():
    assert said([FALLING] * 3, scores=(0.1, 0.2, 0.4)) == [
        "x: avg_r1 0.23 over 3 seeds is not above chance (0.20), as far as its 95 % interval tells"
    ]
    assert said([FALLING, FALLING], scores=(0.1, 0.2)) == []  # too few for an interval


def test_a_slow_epoch_but_for_the_first():
    assert said([FALLING], seconds=[9.0, 1, 1, 1, 1, 1, 1, 1]) == []
    assert said([FALLING], seconds=[1.0, 1, 1, 1, 3.5, 1, 1, 1]) == [
        "x: an epoch took over 3 × the median of its run in seed 0"
    ]


def test_a_curve_of_few_epochs_says_nothing():
    assert said([[1.0, 9.0, 9.0, 9.0]]) == []
