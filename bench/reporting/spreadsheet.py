"""A table as CSV that a spreadsheet opens without obeying it."""

from __future__ import annotations

import csv
import io
import math
from typing import TypeVar

from bench.reporting.document import Cell, Table
from bench.reporting.printable import printable

# A spreadsheet takes text that begins with one of these for a formula.
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")

T = TypeVar("T")


def no_formula(value: T) -> T | str:
    """`value`; text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_SIGNS) else value


def csv_table(table: Table) -> str:
    """A heading line and a line a row: numbers in full precision, text without formulas."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([_text(heading) for heading in table.headings])
    writer.writerows([_field(cell) for cell in row] for row in table.rows)
    return stream.getvalue()


def _field(cell: Cell) -> str:
    """The number in the shortest form that reads back the same; the text where it is none or not finite."""
    if cell.value is None or not math.isfinite(cell.value):
        return _text(cell.text)
    return str(cell.value)


def _text(text: str) -> str:
    return printable(no_formula(text))
