"""A study's summary as tables: for the terminal and as markdown, from one list of columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.reporting.findings import findings
from bench.summary import (
    PAIRS,
    Estimate,
    Row,
    bounds_lines,
    claim_lines,
    metric_title,
    outcomes_text,
    rows,
    unit,
)

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from bench.study import Study

Part = Literal["name", "quality", "cost"]
NOTHING = "–"
NAME_WIDTH = 24  # of the terminal's columns; longer names are folded
LEGEND = (
    "R@k in percent over all directions, ± the standard deviation over seeds; I↔T: R@1 image to text / text to image, "
    "likewise audio; class: R@1 where any item of the query's class counts; loss: of training in the last epoch; "
    "s/epoch: seconds of training; step: the optimizer's share of them; memory: peak; state: what the optimizer keeps"
)


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, the part of the terminal's output it stands in (names in all), and the cell of a row."""

    heading: str
    part: Part
    cell: Callable[[Row], str]
    text: bool = False


def _number(value: Estimate | None, spread: bool = False, digits: int = 2) -> str:
    if value is None:
        return NOTHING
    mean = f"{value.mean:.{digits}f}"
    return f"{mean} ± {value.sd:.{digits}f}" if spread and value.sd is not None else mean


def _headline(row: Row, metric: str) -> str:
    """Mean ± sd; a row without any ok run says what happened and shows no number."""
    if not row.ok:
        return next(iter(row.outcomes)).replace("_", " ")
    return _number(row.metrics.get(metric), spread=True)


def _both(row: Row, forth: str, back: str) -> str:
    """The two directions of a pair of modalities."""
    values = [row.metrics.get(f"{direction}_r1") for direction in (forth, back)]
    return NOTHING if values == [None, None] else "/".join(_number(value, digits=1) for value in values)


def bytes_text(count: float) -> str:
    """1,234,567 as `1.2 MB`."""
    for unit_name in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit_name == "GB":
            return f"{count:.0f} {unit_name}" if unit_name == "B" else f"{count:.1f} {unit_name}"
        count /= 1000
    raise AssertionError("unreachable")


def columns(table: Sequence[Row], primary: str = "avg_r1") -> list[Column]:
    """The columns that the rows fill; the primary metric comes first where it is not the average R@1."""
    pairs = {label: pair for label, pair in PAIRS.items() if any(f"{d}_r1" in r.metrics for r in table for d in pair)}
    leading = f"{metric_title(primary)} {unit(primary)}".rstrip()
    first = [] if primary == "avg_r1" else [Column(leading, "quality", lambda row: _headline(row, primary))]
    class_level = [Column("class", "cost", lambda row: _number(row.class_r1))]
    return [
        Column("optimizer", "name", lambda row: row.optimizer, text=True),
        *first,
        Column("R@1 %", "quality", lambda row: _headline(row, "avg_r1")),
        *(Column(label, "quality", lambda row, pair=pair: _both(row, *pair)) for label, pair in pairs.items()),
        Column("runs", "quality", lambda row: outcomes_text(row.outcomes), text=True),
        Column("R@5", "cost", lambda row: _number(row.metrics.get("avg_r5"))),
        Column("R@10", "cost", lambda row: _number(row.metrics.get("avg_r10"))),
        *(class_level if any(row.class_r1 for row in table) else []),
        Column("loss", "cost", lambda row: _number(row.loss, digits=3)),
        Column("s/epoch", "cost", lambda row: _optional(row.seconds_an_epoch, "{:.2f}")),
        Column("step", "cost", lambda row: _optional(row.step_share, "{:.0%}").replace("%", " %")),
        Column("memory", "cost", lambda row: bytes_text(row.peak_bytes) if row.peak_bytes else NOTHING),
        Column("state", "cost", lambda row: bytes_text(row.state_bytes) if row.peak_bytes else NOTHING),
    ]


def _optional(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)


def terminal_summary(study: Study) -> Group:
    """Two tables that fit 80 columns, with the lines under them."""
    from rich.console import Group
    from rich.text import Text

    table = rows(study)
    chosen = columns(table, study.protocol.primary_metric)
    title = f"{study.protocol.name} ({study.protocol.hash}): R@1 on the test split at the last epoch"
    shown = [
        Text(title, style="bold"),
        _terminal_table(table, [c for c in chosen if c.part != "cost"]),
        Text("\nR@5, R@10, loss and cost", style="bold"),
        _terminal_table(table, [c for c in chosen if c.part != "quality"]),
        Text(),
        *(Text(line) for line in [*bounds_lines(study), *claim_lines(study, table)]),
    ]
    if notes := findings(study, table):
        shown += [Text("\nworth knowing", style="bold"), *(_note(line) for line in notes)]
    return Group(*shown)


def _terminal_table(table: Sequence[Row], chosen: Sequence[Column]) -> Table:
    from rich.table import Table
    from rich.text import Text

    view = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="underline")
    for column in chosen:
        # Numbers and names keep their width in a narrow terminal; outcomes are wrapped.
        wrapped = column.text and column.part != "name"
        view.add_column(column.heading, justify="left" if column.text else "right", no_wrap=not wrapped)
    for row in table:
        # As Text, so that a name like [bold] is shown and not obeyed.
        view.add_row(*(Text(_folded(column.cell(row))) for column in chosen), style="" if row.ok else "dim")
    return view


def _folded(text: str) -> str:
    """`text` without control characters, in lines of at most `NAME_WIDTH`."""
    plain = "".join(sign if sign.isprintable() else " " for sign in text)
    return "\n".join(plain[i : i + NAME_WIDTH] for i in range(0, len(plain), NAME_WIDTH))


def _note(line: str) -> Table:
    """A line behind a dot, its later lines under its first; a fault is red."""
    from rich.table import Table
    from rich.text import Text

    view = Table.grid(padding=(0, 1))
    view.add_row("•", Text(line, style="bold red" if line.startswith("FAULT") else "", overflow="fold"))
    return view


def markdown_cell(text: str) -> str:
    """`text` as a cell or line of markdown: no markup, no cell border, no line break."""
    for sign in "\\`*{}[]<>|#~$&":
        text = text.replace(sign, f"\\{sign}")
    # Within a word an underscore is no markup.
    return " ".join(re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text).split())


def markdown_grid(headings: Sequence[str], left: Sequence[bool], cells: Sequence[Sequence[str]]) -> str:
    """A markdown table; `left` says which columns are text."""
    lines = [headings, [":--" if side else "--:" for side in left]]
    lines += [[markdown_cell(cell) for cell in line] for line in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_table(study: Study) -> str:
    """One wide table."""
    table = rows(study)
    chosen = columns(table, study.protocol.primary_metric)
    return markdown_grid(
        [column.heading for column in chosen],
        [column.text for column in chosen],
        [[column.cell(row) for column in chosen] for row in table],
    )
