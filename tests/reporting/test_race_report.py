"""A raced study in the report: the survivors are ranked on all of their seeds, the others are named."""

from collections.abc import Callable
from pathlib import Path

from bench.races import Race, write_race
from bench.reporting.report import write_report
from bench.study import Study

Write = Callable[..., Study]
RACE = Race(
    looks=(3, 5), alpha=0.05, optimizers=("good", "alike", "worse"), seeds=tuple(range(6)), dropped={"worse": 3}
)


def raced(write_study: Write, seeds_of_worse: int) -> Study:
    scores = {"good": {s: 40.0 + s for s in range(6)}, "alike": {s: 40.1 + s + 0.3 * (-1) ** s for s in range(6)}}
    study = write_study(scores | {"worse": {s: 20.0 + s for s in range(seeds_of_worse)}})
    write_race(study.path, study.protocol.hash, RACE)
    return study


def test_survivors_are_ranked_on_all_seeds_and_the_stopped_are_named(write_study: Write, tmp_path: Path):
    report = write_report(raced(write_study, 3), tmp_path / "report")
    text, found = report.markdown.read_text(), report.analysis.verdict
    assert found is not None and found.n_seeds == 6 and {e.name for e in found.entries} == {"good", "alike"}
    assert "Stopped by the race and not ranked: worse after 3 seeds. 3 runs were saved" in text
    assert "| worse | 21.00 ± 1.00 |" in text


def test_an_optimizer_that_ran_on_after_all_is_ranked(write_study: Write, tmp_path: Path):
    report = write_report(raced(write_study, 6), tmp_path / "report")
    assert "Stopped by the race" not in report.markdown.read_text()
    assert report.analysis.verdict is not None and len(report.analysis.verdict.entries) == 3
