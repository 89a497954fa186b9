"""Tables as CSV."""

import csv
import io
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.reporting.document import Cell, Table, number, table
from bench.reporting.printable import printable
from bench.reporting.spreadsheet import FORMULA_SIGNS, csv_table, no_formula

any_text = st.text(st.characters(exclude_categories=()), max_size=20)


def one_cell(cell: Cell) -> str:
    """How the cell reads back."""
    made: Table = table("t", "caption", ["a", "b"], [["x", cell]])
    (_, (_, found)) = csv.reader(io.StringIO(csv_table(made)))
    return found


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_their_full_precision(value: float):
    assert float(one_cell(number(value, ".1f"))) == value


def test_numbers_of_numpy_and_whole_numbers_are_plain():
    assert one_cell(Cell("a", np.float64(0.1))) == "0.1"
    assert one_cell(Cell("a", 7)) == "7"


def test_what_is_no_finite_number_is_the_text():
    assert one_cell(Cell("missed", math.inf)) == "missed"
    assert one_cell(Cell("–", math.nan)) == "–"
    assert one_cell(number(None)) == "–"


@given(any_text)
def test_text_reads_back_and_is_no_formula(text: str):
    found = one_cell(Cell(text))
    assert not found.startswith(FORMULA_SIGNS)
    assert found == printable(f"'{text}" if text.startswith(FORMULA_SIGNS) else text)
    found.encode()


def test_only_text_can_be_a_formula():
    assert [no_formula(value) for value in ("=1", "+1", "-1", "@a", "\ta", "\ra", "a=1", -1.5)] == [
        "'=1", "'+1", "'-1", "'@a", "'\ta", "'\ra", "a=1", -1.5,
    ]  # fmt: skip


def test_a_cell_of_several_numbers_becomes_several_columns():
    parts = {"interval": ("from", "to")}
    rows = [["x", Cell("0.1 to 0.3", parts=(0.1, 1 / 3))], ["y", Cell("–")], ["z", Cell("1 to –", parts=(1.0, None))]]
    made = table("t", "caption", ["name", "interval"], rows, parts=parts)
    assert csv_table(made) == "name,from,to\nx,0.1,0.3333333333333333\ny,–,\nz,1.0,\n"
    assert [row[1].sort_key for row in made.rows] == [0.1, None, 1.0]
