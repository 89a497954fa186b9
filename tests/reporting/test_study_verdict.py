"""The verdict on a study's runs, and where it stands in the report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.ranking import rank_study
from bench.record import Outcome
from bench.reporting.report import write_report
from bench.study import Study

Write = Callable[..., Study]
GOOD = {seed: 40.0 + seed for seed in range(5)}
ALIKE = {seed: 40.02 + seed + 0.1 * (-1) ** seed for seed in range(5)}
WORSE = {seed: 20.0 + 0.5 * seed for seed in range(5)}


def test_a_clear_study_has_a_best_and_equivalent_entries(write_study: Write):
    found = rank_study(write_study({"good": GOOD, "alike": ALIKE, "worse": WORSE}))
    assert found is not None
    # 500 queries in 6 directions: a step of 100/3000 points, and 0.5 points count as equivalent.
    assert found.options.grain == pytest.approx(1 / 30)
    assert found.options.margin == 0.5
    intervals = {entry.name: entry.rank_interval for entry in found.entries}
    assert intervals == {"alike": (1, 2), "good": (1, 2), "worse": (3, 3)}
    assert [(pair.a, pair.b) for pair in found.pairs if pair.equivalent] == [("alike", "good")]


@pytest.mark.parametrize("outcome", [Outcome.DIVERGED, Outcome.OUT_OF_MEMORY])
def test_what_an_optimizer_brings_upon_itself_scores_chance(write_study: Write, outcome: Outcome):
    study = write_study({"good": GOOD, "gone": dict.fromkeys(range(5))})
    ended = [r if r.optimizer == "good" else r.model_copy(update={"outcome": outcome}) for r in study.records]
    found = rank_study(replace(study, records=tuple(ended)))
    assert found is not None and found.n_seeds == 5
    gone = next(entry for entry in found.entries if entry.name == "gone")
    assert (gone.mean, gone.success.successes) == (pytest.approx(0.2), 0)


def test_a_seed_with_a_missing_run_is_left_out_for_all(write_study: Write):
    found = rank_study(write_study({"good": GOOD, "worse": {seed: WORSE[seed] for seed in (0, 1, 2, 4)}}))
    assert found is not None
    assert (found.n_seeds, found.dropped_seeds) == (4, 1)


@pytest.mark.parametrize(
    "runs",
    [{"alone": GOOD}, {"good": {0: 40.0}, "worse": {0: 20.0}}, {"a": {0: 1.0, 1: 2.0}, "b": {2: 1.0, 3: 2.0}},
     {"a": {0: None, 1: None}, "b": {0: None, 1: None}}],
    ids=["one optimizer", "one seed", "no common seed", "all diverged"],
)  # fmt: skip
def test_without_something_to_compare_there_is_no_verdict(write_study: Write, runs, tmp_path: Path):
    study = write_study(runs)
    assert rank_study(study) is None
    assert "## Verdict" not in write_report(study, tmp_path / "report").markdown.read_text()


def test_the_report_opens_with_the_verdict(write_study: Write, tmp_path: Path):
    text = write_report(
        write_study({"good": GOOD, "alike": ALIKE, "worse": WORSE}), tmp_path / "report"
    ).markdown.read_text()
    assert text.index("* Best set: ") < text.index("## Result") < text.index("## Verdict")
    assert "Best set:" in text and "alike and good" in text
    assert "| worse | 3 | b |" in text


def answer(study: Study, folder: Path) -> str:
    return write_report(study, folder / "report").markdown.read_text().split("##")[0]


def test_who_is_not_ranked_is_said(write_study: Write, tmp_path: Path):
    write_study({"good": GOOD, "worse": WORSE})
    write_study({"broken": dict.fromkeys(range(5), 1.0)}, outcome=Outcome.ERROR, metrics={})
    text = answer(write_study({}), tmp_path)
    assert "good is the best" in text
    assert "* Not ranked, without a run that is ok, diverged or out of memory: broken." in text


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        ({"a": {0: None, 1: None}, "b": {0: None, 1: None}}, "(protocol hand, 2 optimizers, 4 runs): no run is ok"),
        ({"a": {0: 1.0}}, "(protocol hand, 1 optimizer, 1 run): a verdict needs two optimizers"),
        ({"a": {0: 1.0, 1: 2.0}, "b": {1: 1.0, 2: 3.0}}, "out of memory; there is one"),
    ],
)
def test_why_there_is_nothing_to_compare(write_study: Write, tmp_path: Path, runs: dict, why: str):
    text = answer(write_study(runs), tmp_path)
    assert "Nothing to compare" in text and why in text


def test_what_a_diverged_run_counts_as_is_said(write_study: Write, tmp_path: Path):
    study = write_study({"good": GOOD, "gone": dict.fromkeys(range(5))})
    text = write_report(study, tmp_path / "report").markdown.read_text()
    assert "a run that diverged or ran out of memory counts, with a score of 0.2" in text
