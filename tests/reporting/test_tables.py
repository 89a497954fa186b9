"""The table in the terminal and in markdown."""

import csv
import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from statistics import fmean, stdev

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench.protocols import changed
from bench.reporting.markdown import markdown_cell, markdown_grid
from bench.reporting.result_table import (
    NAME_WIDTH,
    bytes_text,
    columns,
    directions,
    result,
    terminal_summary,
)
from bench.reporting.spreadsheet import csv_table
from bench.study import Study
from bench.summary import rows

Write = Callable[..., Study]
EIGHT = {f"universal_optimizer_{i}_xy": {s: 20.0 + 3 * i + s for s in range(5)} for i in range(6)} | {
    "fragile": {0: 30.0, 1: 31.0, 2: None, 3: 33.0, 4: None},
    "broken": dict.fromkeys(range(5)),
}


def printed(study: Study, width: int) -> str:
    stream = StringIO()
    Console(file=stream, width=width).print(terminal_summary(study))
    return stream.getvalue()


def markdown_table(study: Study) -> str:
    table = result(study)
    return markdown_grid(table.headings, table.text, [[cell.text for cell in row] for row in table.rows])


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_importing_the_tables_loads_no_heavy_library():
    heavy = "{'torch', 'pandas', 'matplotlib'}"
    code = f"import sys, bench.reporting.result_table; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_table_fits_and_shows_every_optimizer(write_study: Write, width: int):
    text = printed(write_study(EIGHT), width)
    assert max(len(line) for line in text.splitlines()) <= width
    for name in EIGHT:
        assert name in text
    for part in ("37.00 ± 1.58", "37.0/37.0", "123.5 MB", "chance: R@1", "ceiling (best"):
        assert part in text
    assert "…" not in text


def test_long_names_are_folded_and_numbers_are_not(write_study: Write):
    name = "a_file_with_a_very_long_name.py:AnOptimizerWithALongName"
    text = printed(write_study(EIGHT | {name: {s: 99.0 + s for s in range(5)}}), 80)
    for i in range(0, len(name), NAME_WIDTH):
        assert name[i : i + NAME_WIDTH] in text
    assert "101.00 ± 1.58" in text and max(len(line) for line in text.splitlines()) <= 80


def test_diverged_optimizer_shows_no_number_for_quality(write_study: Write):
    study = write_study(EIGHT)
    (line,) = [line for line in markdown_table(study).splitlines() if line.startswith("| broken")]
    assert cells(line) == ["broken", "diverged", *"–––", "5 diverged", *"––––––", "123.5 MB", "2.0 kB"]
    for text in (printed(study, 80), markdown_table(study)):
        assert "nan" not in text.replace("loss is nan", "").lower()


def test_failed_runs_are_counted_beside_the_mean_of_the_others(write_study: Write):
    (line,) = [line for line in markdown_table(write_study(EIGHT)).splitlines() if line.startswith("| fragile")]
    # mean (30 + 31 + 33) / 3; sd sqrt((1.333² + 0.333² + 1.667²) / 2)
    assert cells(line)[1:6] == ["31.33 ± 1.53", *["31.3/31.3"] * 3, "3 ok, 2 diverged"]


def test_missing_modalities_have_no_column(write_study: Write):
    two = {"i2t_r1": 10.0, "t2i_r1": 20.0, "avg_r1": 15.0, "avg_r5": 30.0, "avg_r10": 40.0}
    study = write_study({"adam": {0: 1.0, 1: 2.0}}, metrics=two)
    headings = [column.heading for column in columns(rows(study))]
    assert "I↔T" in headings and "I↔A" not in headings and "T↔A" not in headings
    assert "| adam | 15.00 ± 0.00 | 10.0/20.0 |" in markdown_table(study)


def test_one_seed_has_no_spread(write_study: Write):
    text = markdown_table(write_study({"adam": {0: 12.5}}))
    assert "| adam | 12.50 | 12.5/12.5 |" in text and "±" not in text


def test_another_primary_metric_has_the_first_column(write_study: Write):
    study = write_study({"adam": {0: 10.0}})
    other = replace(study, protocol=changed(study.protocol, {"primary_metric": "i2t_r5"}, "test"))
    assert "| adam | 11.00 | 10.00 |" in markdown_table(other)
    assert "| optimizer | I→T R@5 % | R@1 % |" in markdown_table(other)


def test_markup_in_names_is_shown_and_not_obeyed(write_study: Write):
    name = "a|b[bold]<script>"
    study = write_study({name: {0: 1.0}, "=cmd": {0: 2.0}})
    assert name in printed(study, 120)
    lines = markdown_table(study).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "<script" not in markdown_table(study).replace("\\<", "")


@given(st.text(max_size=40))
def test_markdown_cells_hold_one_line_and_no_border(text: str):
    cell = markdown_cell(text)
    assert len(cell.splitlines()) <= 1
    assert "|" not in cell.replace("\\\\", "").replace("\\|", "")


def test_markdown_leaves_underscores_inside_a_word():
    assert markdown_cell("a_b _c_ d__ `e`\n| f") == "a_b \\_c\\_ d\\_\\_ \\`e\\` \\| f"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(9)))
def test_order_of_records_does_not_matter(write_study: Write, order: list[int]):
    study = write_study({"a": {0: 1.1, 1: 2.7, 2: 3.3}, "b": {0: 1.3, 1: None, 2: 0.1}, "c": {0: 0.1, 1: 0.2, 2: 0.3}})
    shuffled = replace(study, records=tuple(study.records[i] for i in order))
    assert markdown_table(shuffled) == markdown_table(study)
    assert printed(shuffled, 80) == printed(study, 80)


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (3_243_776, "3.2 MB"),
                                             (2.5e9, "2.5 GB"), (1e13, "10000.0 GB")])  # fmt: skip
def test_bytes(count: float, text: str):
    assert bytes_text(count) == text


def test_no_number_of_a_table_is_lost_in_its_file(write_study: Write):
    study = write_study({"a": {0: 1 / 3, 1: 2 / 3}, "b": {0: None, 1: None}})
    for made in (result(study), directions(study)):
        first, second = csv.DictReader(io.StringIO(csv_table(made)))
        assert float(first["I→T R@1"]) == float(first["T→I R@1"]) == fmean([1 / 3, 2 / 3])
        assert second["I→T R@1"] == "–"
    (row, _) = csv.DictReader(io.StringIO(csv_table(result(study))))
    assert float(row["R@1 % sd"]) == stdev([1 / 3, 2 / 3])
