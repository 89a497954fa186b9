"""A study's summary as tables: for the terminal and as markdown, from one list of columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.record import Outcome
from bench.study import Study
from bench.summary import PAIRS, Estimate, Row, bounds_lines, claim_line, findings, rows

if TYPE_CHECKING:
    from rich.console import Group

Part = Literal["quality", "cost"]


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, the part of the terminal's output it stands in, and the cell of a row."""

    heading: str
    part: Part
    cell: Callable[[Row], str]


def _percent(value: Estimate | None, spread: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value.mean:.2f} ± {value.sd:.2f}" if spread and value.sd is not None else f"{value.mean:.2f}"


def _both(row: Row, forth: str, back: str) -> str:
    first, second = row.metrics.get(f"{forth}_r1"), row.metrics.get(f"{back}_r1")
    return "–" if first is None or second is None else f"{first.mean:.1f}/{second.mean:.1f}"


def bytes_text(count: float) -> str:
    """1,234,567 as `1.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def _outcomes(row: Row) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in row.outcomes.items())


def _quality(row: Row, text: str) -> str:
    """A cell of a row without any ok run says what happened and shows no number."""
    if row.outcomes.get(Outcome.OK):
        return text
    return str(next(iter(row.outcomes)))


def columns(table: list[Row]) -> list[Column]:
    """The columns that the rows fill."""
    pairs = {label: pair for label, pair in PAIRS.items() if any(f"{pair[0]}_r1" in row.metrics for row in table)}
    quality = [
        Column("optimizer", "quality", lambda row: row.optimizer),
        Column("R@1 %", "quality", lambda row: _quality(row, _percent(row.metrics.get("avg_r1"), spread=True))),
        *(Column(label, "quality", lambda row, pair=pair: _both(row, *pair)) for label, pair in pairs.items()),
        Column("runs", "quality", _outcomes),
    ]
    class_level = [Column("class", "cost", lambda row: _percent(row.class_r1))]
    return [
        *quality,
        Column("R@5", "cost", lambda row: _percent(row.metrics.get("avg_r5"))),
        Column("R@10", "cost", lambda row: _percent(row.metrics.get("avg_r10"))),
        *(class_level if any(row.class_r1 for row in table) else []),
        Column("loss", "cost", lambda row: "–" if row.loss is None else f"{row.loss.mean:.3f}"),
        Column("s/epoch", "cost", lambda row: "–" if row.seconds_an_epoch is None else f"{row.seconds_an_epoch:.2f}"),
        Column("step", "cost", lambda row: "–" if row.step_share is None else f"{100 * row.step_share:.0f} %"),
        Column("memory", "cost", lambda row: bytes_text(row.peak_bytes)),
        Column("state", "cost", lambda row: bytes_text(row.state_bytes)),
    ]


LEGEND = (
    "R@k in percent over all directions, ± one standard deviation; I↔T: R@1 image to text / text to image, likewise "
    "audio; class: R@1 where any item of the class counts; step: the optimizer's share of training time; memory: peak; "
    "state: what the optimizer keeps"
)


def terminal_summary(study: Study) -> Group:
    """Two tables that fit 80 columns, with the lines under them."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = rows(study)
    name = f"{study.protocol.name} ({study.protocol.hash})"
    shown = []
    titles = {"quality": f"{name}: retrieval, last epoch, test split", "cost": "and what it took"}
    for part, title in titles.items():
        view = Table(box=None, padding=(0, 1, 0, 0))
        chosen = [c for c in columns(table) if c.part == part or c.heading == "optimizer"]
        for column in chosen:
            left = column.heading in ("optimizer", "runs")
            view.add_column(
                column.heading, justify="left" if left else "right", no_wrap=column.heading != "runs", overflow="fold"
            )
        for row in table:
            view.add_row(*(escape(column.cell(row)) for column in chosen))
        shown += [Text(title, style="bold"), view, Text()]
    lines = [*bounds_lines(study), claim_line(study)]
    shown += [Text(line) for line in lines]
    if notes := findings(study):
        shown += [Text("\nworth knowing", style="bold"), *(Text(f"• {line}") for line in notes)]
    return Group(*shown)


def markdown_cell(text: str) -> str:
    """`text` as a cell or line of markdown: no markup, no cell border, no line break."""
    for sign in "\\`*_{}[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def markdown_table(study: Study) -> str:
    """One wide table."""
    table = rows(study)
    chosen = columns(table)
    lines = [
        "| " + " | ".join(column.heading for column in chosen) + " |",
        "|" + "|".join("---" if column.heading in ("optimizer", "runs") else "---:" for column in chosen) + "|",
        *("| " + " | ".join(markdown_cell(column.cell(row)) for column in chosen) + " |" for row in table),
    ]
    return "\n".join(lines)
