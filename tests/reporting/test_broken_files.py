"""A study with broken files is reported without them; each is named, and the exit code says so."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.cli import cli
from bench.study import Study

Write = Callable[..., Study]


@pytest.fixture
def study(write_study: Write) -> Study:
    return write_study({name: {seed: 20.0 + i + seed for seed in range(4)} for i, name in enumerate("abc")})


def report(study: Study, *options: str) -> Result:
    folders = ["--results", str(study.path.parent), "--reports", str(study.path.parent / "reports")]
    return CliRunner().invoke(cli, ["report", study.name, *folders, *options], catch_exceptions=False)


def written(study: Study) -> str:
    return (study.path.parent / "reports" / study.name / "report.md").read_text()


def test_a_whole_study_ends_with_0_and_names_its_files(study: Study):
    result = report(study)
    assert result.exit_code == 0 and result.stderr == ""
    assert [Path(line).name for line in result.stdout.splitlines()] == ["report.md", "report.html"]
    assert all(Path(line).exists() for line in result.stdout.splitlines())


def test_broken_records_are_named_and_the_rest_is_reported(study: Study):
    runs = study.path / "runs"
    truncated, newer, torn = (runs / run / "run.json" for run in ("a-s1", "b-s2", "c-s3"))
    truncated.write_text(truncated.read_text()[:200])
    newer.write_text(json.dumps(json.loads(newer.read_text()) | {"schema_version": 9, "new": 1}))
    (torn.parent / "curve.jsonl").write_text('{"epoch": 1}\n')
    result = report(study)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") and line.endswith("; left out") for line in lines)
    for path, fault in (
        (truncated, "Invalid JSON"),
        (newer, "schema version 9 is newer"),
        (torn, "curve.jsonl:1: step"),
    ):
        assert any(str(path.parent) in line and fault in line for line in lines), fault
    text = written(study)
    assert "10 runs: 3 optimizers" in text and text.count("left out, because unreadable") == 3
    assert "c: no record" not in text  # its record counts, its curve alone is lost


def test_without_any_readable_record_nothing_is_written(study: Study):
    for path in study.path.glob("runs/*/run.json"):
        path.write_text("{")
    result = CliRunner().invoke(cli, ["report", study.name, "--results", str(study.path.parent)])
    assert "12 unreadable, first: " in str(result.exception) and not Path("reports").exists()


def test_json_holds_the_verdict_the_files_and_what_is_unreadable(study: Study):
    (study.path / "runs" / "a-s1" / "run.json").write_text("{")
    result = report(study, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 2 and found["study"] == "hand" and len(found["unreadable"]) == 1
    assert {"report.md", "report.html", "runs.csv", "tables/pairs.csv", "tables/result.tex"} <= set(found["files"])
    assert [entry["name"] for entry in found["verdict"]["entries"]] == [entry["name"] for entry in found["entries"]]
    assert found["target"]["steps"].keys() == set("abc")


def test_limits_are_checked_before_anything_is_written(study: Study):
    result = CliRunner().invoke(
        cli, ["report", study.name, "--results", str(study.path.parent), "--max-memory", "much"]
    )
    assert "--max-memory 'much': allowed is" in str(result.exception)
    assert "Within 8.0 GB of memory" in (report(study, "--max-memory", "8GB"), written(study))[1]
