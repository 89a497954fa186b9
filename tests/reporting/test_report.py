"""Tables, figures and the report as files."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from bench.report import write_report
from bench.study import Study
from bench.summary import rows
from bench.tables import bytes_text, columns, markdown_cell, markdown_table, terminal_summary

Write = Callable[..., Study]
EIGHT = {f"optimizer_{i}_with_a_name": {s: 20.0 + 3 * i + s for s in range(5)} for i in range(7)} | {
    "broken": dict.fromkeys(range(5))
}


def printed(study: Study, width: int) -> str:
    stream = StringIO()
    Console(file=stream, width=width).print(terminal_summary(study))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_table_fits_and_shows_every_optimizer(write_study: Write, width: int):
    text = printed(write_study(EIGHT), width)
    assert max(len(line) for line in text.splitlines()) <= width
    for name in EIGHT:
        assert name in text
    assert "40.00 ± 1.58" in text and "5 diverged" in text
    assert "chance" in text and "ceiling" in text


def test_diverged_optimizer_shows_no_number_for_quality(write_study: Write):
    (line,) = [line for line in markdown_table(write_study(EIGHT)).splitlines() if line.startswith("| broken")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:6] == ["diverged", "–", "–", "–", "5 diverged"]


def test_missing_modalities_have_no_column(write_study: Write):
    two = {"i2t_r1": 10.0, "t2i_r1": 20.0, "avg_r1": 15.0, "avg_r5": 30.0, "avg_r10": 40.0}
    study = write_study({"adam": {0: 1.0, 1: 2.0}}, metrics=two)
    headings = [column.heading for column in columns(rows(study))]
    assert "I↔T" in headings and "I↔A" not in headings and "T↔A" not in headings
    assert "| adam | 15.00 ± 0.00 | 10.0/20.0 |" in markdown_table(study)


def test_markup_in_names_is_shown_and_not_obeyed(write_study: Write):
    name = "a|b[bold]<script>"
    study = write_study({name: {0: 1.0}, "=cmd": {0: 2.0}})
    text = printed(study, 120)
    assert name in text
    for line in markdown_table(study).splitlines():
        assert line.replace("\\|", "").count("|") == markdown_table(study).splitlines()[0].count("|")
    assert "<script" not in markdown_table(study).replace("\\<", "")


def test_markdown_cells_hold_one_line():
    assert markdown_cell("a\n| b `c`") == "a \\| b \\`c\\`"


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (3_243_776, "3.2 MB"),
                                             (2.5e9, "2.5 GB"), (1e13, "10000.0 GB")])  # fmt: skip
def test_bytes(count: float, text: str):
    assert bytes_text(count) == text


def test_report_holds_table_figures_cost_and_source(write_study: Write, tmp_path: Path):
    study = write_study(EIGHT)
    path = write_report(study, tmp_path / "report", {"abc": 3})
    text = path.read_text()
    facts = (f"hash {study.protocol.hash}", "abc (3 runs)", "bench run", "0.07 device hours", "lr=0.1")
    for part in (*facts, "| broken | diverged |", "## Worth knowing"):
        assert part in text
    for stem in ("loss", "retrieval", "final", "pairs", "time"):
        assert f"](figures/{stem}.svg)" in text
        assert (path.parent / "figures" / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(path.parent / "figures" / f"{stem}.svg").getroot().tag.endswith("svg")
    frame = pd.read_csv(path.parent / "runs.csv")
    assert (len(frame), int(frame["avg_r1"].count())) == (40, 35)
    assert str(tmp_path) not in text


def test_report_has_the_same_bytes_again_and_in_any_order(write_study: Write, tmp_path: Path):
    one, two = write_study(EIGHT), write_study(dict(reversed(EIGHT.items())), name="again/hand")
    first, second = write_report(one, tmp_path / "1"), write_report(two, tmp_path / "2")
    files = sorted(p.relative_to(first.parent) for p in first.parent.rglob("*") if p.is_file())
    assert len(files) == 12
    for file in files:
        assert (first.parent / file).read_bytes() == (second.parent / file).read_bytes(), file


@pytest.mark.parametrize(
    "runs",
    [{"a": {0: None}}, {"a": {0: 5.0}}, {"a": {0: 5.0, 1: None}}, {"a": {0: 0.0}, "b": {0: 0.0}}],
    ids=["all diverged", "one run", "some diverged", "zero"],
)
def test_report_of_odd_studies(write_study: Write, tmp_path: Path, runs: dict):
    assert write_report(write_study(runs), tmp_path / "report").exists()


def test_csv_text_cannot_be_a_formula(write_study: Write, tmp_path: Path):
    path = write_report(write_study({"=cmd": {0: 2.0}}), tmp_path / "report")
    assert "'=cmd" in (path.parent / "runs.csv").read_text()
