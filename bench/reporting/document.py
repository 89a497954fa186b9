"""What a report says, apart from how it is written: sections of paragraphs, lists, tables, figures and code.

Text here is plain. Each form (markdown, HTML, LaTeX) escapes it, because names and reasons come from files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

NO_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of text."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of lines."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines shown as they are."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's cell: what is read, the number that it shows, and what it is sorted by where it shows no single one.

    `value` is exported in full precision in place of the text; without it the text is. `parts` are the numbers of a
    text that shows several, for a column that the table names the parts of; the first is sorted by unless `order` is.
    """

    text: str
    value: float | None = None
    order: float | None = None
    parts: tuple[float | None, ...] = ()

    @property
    def sort_key(self) -> float | None:
        """What the cell is sorted by; None where by its text."""
        return next((key for key in (self.value, self.order, *self.parts[:1]) if key is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; `stem` names its files, `text` says which columns are text and stand left, `note` explains it.

    `exported` are the names of each column in the CSV file: several where its cells hold several numbers.
    """

    stem: str
    caption: str
    headings: tuple[str, ...]
    text: tuple[bool, ...]
    exported: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure: `stem` names its files, `alternative` is for readers who do not see it."""

    stem: str
    title: str
    alternative: str


Block: TypeAlias = Paragraph | Bullets | Code | Table | Picture


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A title, what stands before the first heading, and sections."""

    title: str
    opening: tuple[Block, ...]
    sections: tuple[Section, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables in their order."""
        blocks = (*self.opening, *(block for section in self.sections for block in section.blocks))
        return tuple(block for block in blocks if isinstance(block, Table))


def table(
    stem: str,
    caption: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[Cell | str]],
    *,
    text: Iterable[str] = (),
    note: str = "",
    parts: Mapping[str, tuple[str, ...]] = NO_PARTS,
) -> Table:
    """A table from rows of cells or strings; `text` names the headings of the columns that are text.

    `parts` names the numbers of a heading's cells, where they are several.
    """
    columns = frozenset(text)
    made = tuple(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in row) for row in rows)
    assert columns | parts.keys() <= set(headings) and all(len(row) == len(headings) for row in made), stem
    return Table(
        stem=stem, caption=caption, headings=tuple(headings), text=tuple(h in columns for h in headings), rows=made,
        exported=tuple(parts.get(h, (h,)) for h in headings), note=note,
    )  # fmt: skip


def number(value: float | None, form: str = ".4g", missing: str = "–") -> Cell:
    """A cell of a number; the sign `missing` where there is none."""
    return Cell(missing) if value is None else Cell(format(value, form), value)
