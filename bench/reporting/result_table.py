"""A study's summary as tables: for the terminal and as markdown, from one list of columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from bench.continual.figures import TITLES, WITHIN_TASK
from bench.reporting.document import Cell, Table, number, table
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
from bench.workload import WorkloadKind

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table as Grid

    from bench.study import Study

Part = Literal["name", "quality", "cost"]
NOTHING = "–"
NAME_WIDTH = 24  # of the terminal's columns; longer names are folded
_COST = (
    "loss: of training in the last epoch; s/epoch: seconds of training; step: the optimizer's share of them; memory: "
    "peak; state: what the optimizer keeps"
)
LEGENDS: Mapping[WorkloadKind, str] = {
    "retrieval": "R@k in percent over all directions, ± the standard deviation over seeds; I↔T: R@1 image to text / "
    f"text to image, likewise audio; class: R@1 where any item of the query's class counts; {_COST}",
    "continual": "accuracy: average over all tasks after the last, among all classes; forgetting: a task's best "
    "accuracy − its last, mean of all tasks but the last, lower is better; transfer: its last − that right after the "
    f"task; ± the standard deviation over seeds; within: accuracy among the classes of the own task; {_COST}",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, the part of the terminal's output it stands in (names in all), and the cell of a row.

    `numbers` are the names of a cell's numbers where there are several.
    """

    heading: str
    part: Part
    cell: Callable[[Row], Cell]
    text: bool = False
    numbers: tuple[str, ...] = ()


def _estimate(value: Estimate | None, spread: bool = False, digits: int = 2) -> Cell:
    if value is None:
        return Cell(NOTHING)
    mean = f"{value.mean:.{digits}f}"
    text = f"{mean} ± {value.sd:.{digits}f}" if spread and value.sd is not None else mean
    return Cell(text, value.mean, parts=(value.mean, value.sd) if spread else ())


def _headline(row: Row, metric: str) -> Cell:
    """Mean ± sd; a row without any ok run says what happened and shows no number."""
    if not row.ok:
        return Cell(next(iter(row.outcomes)).replace("_", " "))
    return _estimate(row.metrics.get(metric), spread=True)


def _joined(values: Sequence[Estimate | None]) -> Cell:
    """Several means in one cell."""
    if not any(values):
        return Cell(NOTHING)
    text = "/".join(_estimate(value, digits=1).text for value in values)
    return Cell(text, parts=tuple(value and value.mean for value in values))


def _both(row: Row, forth: str, back: str) -> Cell:
    """The two directions of a pair of modalities."""
    return _joined([row.metrics.get(f"{direction}_r1") for direction in (forth, back)])


def bytes_text(count: float) -> str:
    """1,234,567 as `1.2 MB`."""
    for unit_name in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit_name == "GB":
            return f"{count:.0f} {unit_name}" if unit_name == "B" else f"{count:.1f} {unit_name}"
        count /= 1000
    raise AssertionError("unreachable")


def columns(table: Sequence[Row], primary: str = "avg_r1", kind: WorkloadKind = "retrieval") -> list[Column]:
    """The columns that the rows fill; the primary metric comes first."""
    quality, more = _of_tasks(table, primary) if kind == "continual" else _of_retrieval(table, primary)
    return [
        Column("optimizer", "name", lambda row: Cell(row.optimizer), text=True),
        *quality,
        Column("runs", "quality", lambda row: Cell(outcomes_text(row.outcomes)), text=True),
        *more,
        Column("loss", "cost", lambda row: _estimate(row.loss, digits=3)),
        Column("s/epoch", "cost", lambda row: number(row.seconds_an_epoch, ".2f")),
        Column("step", "cost", lambda row: _share(row.step_share)),
        Column("memory", "cost", lambda row: bytes_cell(row.peak_bytes, row)),
        Column("state", "cost", lambda row: bytes_cell(row.state_bytes, row)),
    ]


def _leading(metric: str, heading: str) -> Column:
    """Mean and standard deviation of a metric."""
    return Column(heading, "quality", lambda row: _headline(row, metric), numbers=(heading, f"{heading} sd"))


def _titled(metric: str) -> Column:
    return _leading(metric, f"{metric_title(metric)} {unit(metric)}".rstrip())


def _of_retrieval(table: Sequence[Row], primary: str) -> tuple[list[Column], list[Column]]:
    """R@k and the pairs of modalities: columns of quality, and those that stand beside cost."""
    pairs = {label: pair for label, pair in PAIRS.items() if any(f"{d}_r1" in r.metrics for r in table for d in pair)}
    first = [] if primary == "avg_r1" else [_titled(primary)]
    class_level = [Column("class", "cost", lambda row: _estimate(row.class_r1))]
    by_pair = [
        Column(label, "quality", lambda row, pair=pair: _both(row, *pair), numbers=tuple(map(_r1, pair)))
        for label, pair in pairs.items()
    ]
    return [*first, _leading("avg_r1", "R@1 %"), *by_pair], [
        Column("R@5", "cost", lambda row: _estimate(row.metrics.get("avg_r5"))),
        Column("R@10", "cost", lambda row: _estimate(row.metrics.get("avg_r10"))),
        *(class_level if any(row.class_r1 for row in table) else []),
    ]


def _of_tasks(table: Sequence[Row], primary: str) -> tuple[list[Column], list[Column]]:
    """The figures of the accuracy matrix and its last row."""
    del table
    first = [] if primary in TITLES else [_titled(primary)]
    leading = [_leading(metric, f"{heading} %") for metric, heading in TITLES.items()]
    leading.sort(key=lambda column: column.heading != f"{TITLES.get(primary)} %")
    within = Column("within", "cost", lambda row: _estimate(row.metrics.get(WITHIN_TASK)))
    return [*first, *leading], [within]


def _r1(direction: str) -> str:
    return metric_title(f"{direction}_r1")


def _share(value: float | None) -> Cell:
    return Cell(NOTHING) if value is None else Cell(f"{100 * value:.0f} %", value)


def bytes_cell(count: int, row: Row) -> Cell:
    """Bytes of a row's runs; a dash where memory was not measured."""
    return Cell(bytes_text(count), count) if row.peak_bytes else Cell(NOTHING)


def result(study: Study) -> Table:
    """One wide table: quality and cost."""
    found = rows(study)
    kind = study.protocol.workload.kind
    chosen = columns(found, study.protocol.primary_metric, kind)
    return _table("result", "Quality and cost", found, chosen, LEGENDS[kind] + ".")


def directions(study: Study) -> Table:
    """R@1, R@5 and R@10 of every direction, with time and status."""
    found = rows(study)
    present = [d for pair in PAIRS.values() for d in pair if any(f"{d}_r1" in row.metrics for row in found)]
    by_name = {column.heading: column for column in columns(found)}
    chosen = [
        by_name["optimizer"],
        *(_direction(d) for d in present),
        Column("training", "cost", lambda row: number(row.training_seconds, ".1f")),
        Column("status", "cost", lambda row: Cell(outcomes_text(row.outcomes)), text=True),
    ]
    note = "R@1/R@5/R@10 in percent, means over the runs that are ok; training: seconds a run, without evaluation."
    return _table("directions", "Retrieval in both directions", found, chosen, note)


def tasks(study: Study) -> Table:
    """The mean accuracy matrix of every optimizer: a row a task learned, a column a task looked at."""
    lines = []
    for row in rows(study):
        found = mean_matrix(row)
        for t, accuracies in enumerate(found, 1):
            shown = [number(value, ".1f") if i <= t else Cell("") for i, value in enumerate(accuracies, 1)]
            lines.append([Cell(row.optimizer), number(t, "d"), *shown])
    count = max((len(line) - 2 for line in lines), default=0)
    headings = ["optimizer", "after task", *(f"task {i}" for i in range(1, count + 1))]
    note = ("Accuracy in percent on each task's test images after every task, among all classes seen so far; means "
            "over the runs that are ok.")  # fmt: skip
    return table("tasks", "Accuracy of every task after every task", headings, lines, text=["optimizer"], note=note)


def mean_matrix(row: Row) -> list[list[float]]:
    """The accuracy matrix, a mean over the row's ok runs; [] without one."""
    records = [r.figures for r in row.ok if "accuracy_1_1" in r.figures]
    T = sum(name.startswith("accuracy_1_") for name in records[0]) if records else 0
    return [[fmean(figures[f"accuracy_{t}_{i}"] for figures in records) for i in range(1, T + 1)]
            for t in range(1, T + 1)]  # fmt: skip


def _direction(direction: str) -> Column:
    metrics = [f"{direction}_r{k}" for k in (1, 5, 10)]
    return Column(direction.upper().replace("2", "→"), "quality",
                  lambda row: _joined([row.metrics.get(metric) for metric in metrics]),
                  numbers=tuple(map(metric_title, metrics)))  # fmt: skip


def _table(stem: str, caption: str, found: Sequence[Row], chosen: Sequence[Column], note: str) -> Table:
    headings, cells = [c.heading for c in chosen], [[c.cell(row) for c in chosen] for row in found]
    parts = {c.heading: c.numbers for c in chosen if c.numbers}
    return table(stem, caption, headings, cells, text=[c.heading for c in chosen if c.text], note=note, parts=parts)


def terminal_summary(study: Study) -> Group:
    """Two tables that fit 80 columns, with the lines under them."""
    from rich.console import Group
    from rich.text import Text

    table = rows(study)
    kind, primary = study.protocol.workload.kind, study.protocol.primary_metric
    chosen = columns(table, primary, kind)
    measured, beside = ("R@1", "R@5, R@10, loss and cost")
    if kind == "continual":
        measured, beside = TITLES.get(primary, metric_title(primary)), "accuracy within the own task, loss and cost"
    title = f"{study.protocol.name} ({study.protocol.hash}): {measured} on the test split at the last epoch"
    shown = [
        Text(title, style="bold"),
        _terminal_table(table, [c for c in chosen if c.part != "cost"]),
        Text(f"\n{beside}", style="bold"),
        _terminal_table(table, [c for c in chosen if c.part != "quality"]),
        Text(),
        *(Text(line) for line in [*bounds_lines(study), *claim_lines(study, table)]),
    ]
    if notes := findings(study, table):
        shown += [Text("\nworth knowing", style="bold"), *(_note(line) for line in notes)]
    return Group(*shown)


def _terminal_table(table: Sequence[Row], chosen: Sequence[Column]) -> Grid:
    from rich.table import Table as Grid
    from rich.text import Text

    view = Grid(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="underline")
    for column in chosen:
        # Numbers and names keep their width in a narrow terminal; outcomes are wrapped.
        wrapped = column.text and column.part != "name"
        view.add_column(column.heading, justify="left" if column.text else "right", no_wrap=not wrapped)
    for row in table:
        # As Text, so that a name like [bold] is shown and not obeyed.
        view.add_row(*(Text(_folded(column.cell(row).text)) for column in chosen), style="" if row.ok else "dim")
    return view


def _folded(text: str) -> str:
    """`text` without control characters, in lines of at most `NAME_WIDTH`."""
    plain = "".join(sign if sign.isprintable() else " " for sign in text)
    return "\n".join(plain[i : i + NAME_WIDTH] for i in range(0, len(plain), NAME_WIDTH))


def _note(line: str) -> Grid:
    """A line behind a dot, its later lines under its first; a fault is red."""
    from rich.table import Table as Grid
    from rich.text import Text

    view = Grid.grid(padding=(0, 1))
    view.add_row("•", Text(line, style="bold red" if line.startswith("FAULT") else "", overflow="fold"))
    return view
