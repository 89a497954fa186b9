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


def csv_text(value: T) -> T | str:
    """`value`; text as a CSV file can hold it."""
    return printable(no_formula(value)) if isinstance(value, str) else value


def csv_table(table: Table) -> str:
    """A heading line and a line a row: numbers in full precision, text without formulas.

    A column of several numbers becomes several; a cell without them has its text in the first.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([csv_text(name) for several in table.exported for name in several])
    for row in table.rows:
        fields = (_fields(cell, len(several)) for cell, several in zip(row, table.exported, strict=True))
        writer.writerow([field for several in fields for field in several])
    return stream.getvalue()


def _fields(cell: Cell, count: int) -> list[str]:
    if count > 1 and cell.parts:
        assert len(cell.parts) == count, cell
        return ["" if part is None else _field(Cell(str(part), part)) for part in cell.parts]
    return [_field(cell), *[""] * (count - 1)]


def _field(cell: Cell) -> str:
    """The number in the shortest form that reads back the same; the text where it is none or not finite."""
    if cell.value is None or not math.isfinite(cell.value):
        return csv_text(cell.text)
    return str(cell.value)
