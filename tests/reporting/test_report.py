"""Figures and the report as files."""

import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest

from bench.record import Environment
from bench.reporting.analysis import Analysis
from bench.reporting.figures import FIGURES, write_figures
from bench.reporting.figures.looks import Look, plain
from bench.reporting.report import write_report
from bench.study import Study
from bench.summary import rows

Write = Callable[..., Study]
OF_OTHERS = ("sensitivity", "budget", "parallel", "forgetting", "tasks")  # searches, and tasks in sequence
EIGHT = {f"optimizer_{i}_with_a_name": {s: 20.0 + 3 * i + s for s in range(5)} for i in range(7)} | {
    "broken": dict.fromkeys(range(5))
}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_report_holds_table_figures_cost_and_source(write_study: Write, tmp_path: Path):
    environment = Environment(versions={"torch": "2.12"}, device="cpu", processor="a processor", cores=2, threads=1,
                              git_commit="0123456789abcdef", git_dirty=True)  # fmt: skip
    study = write_study(EIGHT, environment=environment)
    path = write_report(study, tmp_path / "report", {"abc": 3}).markdown
    text = path.read_text()
    # 40 runs × 6.5 s
    for part in (
        "# hand", f"hash {study.protocol.hash}", "abc (3 runs)", "3 epochs, batch 32, float32", "seeds 0 to 4",
        "| broken | diverged |", "chance: R@1", "ordered by the mean", "## Worth knowing", "| broken | lr=0.1 |",
        "| broken | 4 | diverged | 2 | 5 | loss is nan |", "Device time in all 4.3 min", "40 runs on cpu; a processor",
        "commit 0123456789ab with local changes; torch 2.12", "bench run\nbench report hand",
    ):  # fmt: skip
        assert part in text, part
    assert str(tmp_path) not in text
    frame = pd.read_csv(path.parent / "runs.csv")
    assert (len(frame), int(frame["avg_r1"].count())) == (40, 35)


def test_figures_are_valid_and_have_a_text_each(write_study: Write, tmp_path: Path):
    path = write_report(write_study(EIGHT), tmp_path / "report").markdown
    for stem in [stem for stem in FIGURES if stem not in OF_OTHERS]:
        assert f"](figures/{stem}.png)" in path.read_text()
        png = (path.parent / "figures" / f"{stem}.png").read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert png.startswith(b"\x89PNG\r\n\x1a\n") and png.endswith(b"IEND\xaeB`\x82") and min(width, height) > 300
        assert ElementTree.parse(path.parent / "figures" / f"{stem}.svg").getroot().tag.endswith("svg")


def test_report_has_the_same_bytes_again_and_in_any_order(write_study: Write, tmp_path: Path):
    study = write_study(EIGHT)
    first = files(write_report(study, tmp_path / "1").folder)
    second = files(write_report(replace(study, records=study.records[::-1]), tmp_path / "2").folder)
    assert {"report.md", "report.html", "runs.csv", "tables/pairs.csv", "tables/result.tex"} <= first.keys()
    assert first.keys() == second.keys()
    for name, content in first.items():
        assert second[name] == content, name


def test_own_settings_of_matplotlib_reach_no_figure(write_study: Write, tmp_path: Path):
    study = write_study({"a": {0: 5.0, 1: 6.0}})
    write_figures(Analysis(study), tmp_path / "1")
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.edgecolor": "red"}):
        write_figures(Analysis(study), tmp_path / "2")
        assert mpl.rcParams["font.size"] == 30
    assert files(tmp_path / "1") == files(tmp_path / "2")


@pytest.mark.parametrize(
    "runs",
    [
        {"a": {0: None}, "b": {0: None, 1: None}},
        {"a": {0: 5.0}},
        {"a": {0: 5.0, 1: None}},
        {"a": {0: 0.0}, "b": {0: 0.0}},
        {"_a|b[bold]$x$": {0: 5.0}, "$": {0: None}, "=cmd": {0: 1.0}, "é漢\n💥\t" + "x" * 90: {0: 2.0}},
    ],
    ids=["all diverged", "one run", "some diverged", "zero", "odd names"],
)
def test_report_of_odd_studies(write_study: Write, tmp_path: Path, runs: dict):
    assert files(write_report(write_study(runs), tmp_path / "report").folder).keys() >= {"report.md", "runs.csv"}


def test_report_without_curves_and_of_two_modalities(write_study: Write, tmp_path: Path):
    two = {"i2t_r1": 10.0, "t2i_r1": 20.0, "avg_r1": 15.0, "avg_r5": 30.0, "avg_r10": 40.0}
    study = write_study({"a": {0: 1.0, 1: 2.0}, "b": {0: None}}, metrics=two, chance={}, ceiling={})
    for curve in study.path.glob("runs/*/curve.jsonl"):
        curve.unlink()
    assert write_report(study, tmp_path / "report").html.exists()


def test_report_of_a_single_epoch(write_study: Write, tmp_path: Path):
    study = write_study({"a": {0: 1.0, 1: 2.0}})
    for curve in study.path.glob("runs/*/curve.jsonl"):
        curve.write_text(curve.read_text().splitlines(keepends=True)[0])
    assert write_report(study, tmp_path / "report").html.exists()


def test_an_optimizer_looks_the_same_everywhere_and_no_two_look_alike(write_study: Write):
    table = rows(write_study({f"o{i:02}": {0: float(i)} for i in range(40)}))
    look = Look(row.optimizer for row in table)
    names = [row.optimizer for row in table]
    looks = {(name, str(look.dot(name)["color"]), look.dot(name)["marker"]) for name in names}
    assert len({pair[1:] for pair in looks}) == 40
    assert all(look.line(name, 20)["marker"] == look.dot(name)["marker"] for name in names)


def test_names_in_figures_are_no_formulas_and_have_glyphs():
    assert plain("a$b$") == r"a\$b\$"
    assert plain("漢\n") == "□□"
    assert len(plain("x" * 200)) == 34


def test_csv_text_cannot_be_a_formula(write_study: Write, tmp_path: Path):
    path = write_report(write_study({"=cmd": {0: -2.0}, "@x": {0: 1.0}}), tmp_path / "report").markdown
    text = (path.parent / "runs.csv").read_text()
    assert ",'=cmd," in text and ",'@x," in text
    assert ",-2.0," in text  # numbers stay numbers


def test_without_a_recorded_command_one_is_named(write_study: Write, tmp_path: Path):
    text = write_report(write_study({"a": {0: 1.0, 1: 2.0}}, command=None), tmp_path / "report").markdown.read_text()
    assert "bench run --protocol PROTOCOL.toml --optimizers a --seeds 0,1 --study hand" in text


def test_paths_do_not_reach_the_report(write_study: Write, tmp_path: Path):
    study = write_study({"a": {0: 1.0, 1: 2.0}}, command="bench run -o /home/someone/code/mine.py:Mine")
    (study.path / "runs" / "a-s1" / "run.json").write_text("{")
    text = write_report(write_study({}), tmp_path / "report").markdown.read_text()
    assert "bench run -o …/mine.py:Mine" in text and "/home" not in text and str(tmp_path) not in text


def test_names_in_a_command_that_is_to_be_copied_are_quoted(write_study: Write, tmp_path: Path):
    text = write_report(write_study({"a; rm -rf x": {0: 1.0}}, command=None), tmp_path / "report").markdown.read_text()
    assert "--optimizers 'a; rm -rf x' --seeds 0" in text


def test_several_configurations_of_one_optimizer_are_counted_as_such(write_study: Write, tmp_path: Path):
    write_study({"a": {0: 1.0}})
    study = write_study({"a": {1: 1.0}}, configuration="d1")
    text = write_report(study, tmp_path / "report").markdown.read_text()
    assert "2 runs: 1 optimizer in 2 configurations, seeds 0, 1" in text
