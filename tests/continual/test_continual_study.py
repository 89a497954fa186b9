"""A whole small study over tasks by the command, and everything that reads it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.protocol import Protocol
from bench.protocols import changed
from bench.ranking import study_scores
from bench.reporting.analysis import Analysis
from bench.reporting.result_table import columns, mean_matrix, result, tasks
from bench.study import load_study
from bench.summary import bounds_lines, rows

TOML = """
extends = "continual_mini"
epochs = 5
seeds = 2
batch_size = 6
evaluate_every = 1
[workload.dataset_options]
epochs_per_task = 1
buffer = 4
training_per_class = 9
validation_per_class = 2
test_per_class = 5
[workload.model_options]
patch_size = 14
width = 8
embedding = 8
image_layers = 1
"""


def test_a_study_runs_and_is_read_by_every_command(
    bench: Callable, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BENCH_DATA", str(digits))
    (tmp_path / "small.toml").write_text(TOML)
    done = bench("run", "-p", "small.toml", "-o", "sgd,adamw", "--workers", 1)
    assert done.code == 0, done.err
    for text in ("accuracy %", "forgetting %", "transfer %", "within", "chance: accuracy 10.00 %"):
        assert text in done.out, done.out
    assert "R@" not in done.out
    assert "average_accuracy" in done.err and "accuracy 1 1" not in done.err
    study, _ = load_study(tmp_path / "results" / "small", None)
    assert len(study.records) == 4 and {len(r.figures) for r in study.records} == {25}
    assert study_scores(study).scores.shape == (2, 2) and study_scores(study).chance == 10
    _read_by_every_command(bench, tmp_path)


def _read_by_every_command(bench: Callable, folder: Path) -> None:
    status = bench("status", "small")
    assert status.code == 0 and "4 ok" in status.out
    same = bench("compare", "small", "small")
    assert same.code == 0 and "Identical" in same.out
    assert bench("baseline", "update", "small", "--output", "base.json").code == 0
    checked = bench("check", "small", "--baseline", "base.json", "--json")
    assert checked.code == 0 and json.loads(checked.out)["metric"] == "average_accuracy"
    report = bench("report", "small")
    assert report.code == 0, report.err
    text = (folder / "reports" / "small" / "report.md").read_text()
    for part in ("## Task by task", "| after task |", "average accuracy", "forgetting %", "Accuracy over training"):
        assert part in text
    assert "R@" not in text and "pair of modalities" not in text
    page = (folder / "reports" / "small" / "report.html").read_text()
    assert "Each task over the tasks" in page
    figures = {path.stem for path in (folder / "reports" / "small" / "figures").glob("*.svg")}
    assert {"tasks", "forgetting", "final", "loss", "retrieval"} <= figures and "pairs" not in figures


def test_a_table_has_the_mean_matrix_and_leads_with_the_primary_metric(by_hand: Callable, small: Protocol):
    study = by_hand(small)
    table = rows(study)
    assert [row.optimizer for row in table] == ["keeps", "forgets"]
    for found, known in zip(mean_matrix(table[0]), [[90, 0, 0], [80, 80, 0], [75, 75, 85]], strict=True):
        assert found == pytest.approx(known)
    headings = [column.heading for column in columns(table, "average_accuracy", "continual")]
    assert headings[:5] == ["optimizer", "accuracy %", "forgetting %", "transfer %", "runs"]
    assert [cell.text for cell in result(study).rows[0]][:4] == [
        "keeps",
        "78.33 ± 3.00",
        "10.00 ± 3.00",
        "-10.00 ± 3.00",
    ]
    grid = tasks(study)
    assert [[cell.text for cell in row] for row in grid.rows[:3]] == [
        ["keeps", "1", "90.0", "", ""], ["keeps", "2", "80.0", "80.0", ""], ["keeps", "3", "75.0", "75.0", "85.0"],
    ]  # fmt: skip
    assert bounds_lines(study)[0] == "chance: accuracy 10.00 %"


def test_less_forgetting_is_better_wherever_it_is_the_primary_metric(by_hand: Callable, small: Protocol):
    study = by_hand(changed(small, {"primary_metric": "forgetting"}, "test"))
    assert [row.optimizer for row in rows(study)] == ["keeps", "forgets"]
    analysis = Analysis(study)
    assert analysis.verdict is not None and analysis.points == "points"
    assert [entry.name for entry in analysis.verdict.entries] == ["keeps", "forgets"]
    assert analysis.verdict.options.lower_is_better and analysis.verdict.options.margin == 0.5
    headings = [column.heading for column in columns(rows(study), "forgetting", "continual")]
    assert headings[1:4] == ["forgetting %", "accuracy %", "transfer %"]
