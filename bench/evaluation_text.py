"""The metrics of stored weights in a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bench.reporting.result_table import NOTHING
from bench.summary import PAIRS, limit_lines, metric_title, pools_line, unit

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from bench.evaluation import Evaluated, Row


def view(found: Evaluated) -> Group:
    """The rows as a table, and what they lie between."""
    from rich.console import Group
    from rich.text import Text

    protocol = found.protocol
    lines = [line] if (line := pools_line(found.pools, found.split)) else []
    lines += limit_lines(protocol, lambda metric: (found.chance.get(metric), found.ceiling.get(metric)))
    if found.class_chance["avg_r1"] != found.chance["avg_r1"]:
        lines.append(f"chance of R@1 where any item of the class counts: {found.class_chance['avg_r1']:.2f} %")
    title = f"{protocol.name} ({protocol.hash}): retrieval in percent on the {found.split} split"
    parts = [Text(title, style="bold"), _table(found), Text(), *(Text(line) for line in lines)]
    return Group(*parts, *(_test_time(found) if found.test_time else ()))


def _test_time(found: Evaluated) -> list[RenderableType]:
    """What test-time training changes, by file and over all."""
    from rich.table import Table
    from rich.text import Text

    title = f"\nTest-time training: {metric_title(found.protocol.primary_metric)} without and with, in percent"
    view = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="underline")
    view.add_column("weights", overflow="fold")
    for heading in ("off", "on", "difference", "95 % interval", "‖Δ‖", "of all"):
        view.add_column(heading, justify="right", no_wrap=True)
    for row, each in zip(found.rows, found.test_time, strict=False):  # the ensemble has no effect of its own
        share = NOTHING if each.relative_change is None else f"{100 * each.relative_change:.0f} %"
        view.add_row(Text(row.name), f"{each.off:.2f}", f"{each.on:.2f}", f"{each.difference:+.2f}",
                     Text(f"[{each.low:+.2f}, {each.high:+.2f}]"), f"{each.change:.3g}",
                     share)  # fmt: skip
    batch = found.test_time[0].batch
    lines = ["each interval: paired bootstrap over the split's items, of that network alone",
             f"items in their order, {batch} at a time; the memories are restored to the last bit"]  # fmt: skip
    if (over := found.over_seeds) is not None:
        lines.insert(0, f"mean difference over {over.files} files {over.mean:+.2f}, 95 % t-interval "
                        f"[{over.low:+.2f}, {over.high:+.2f}]")  # fmt: skip
    return [Text(title, style="bold"), view, Text(), *(Text(line) for line in lines)]


def _table(found: Evaluated) -> Table:
    from rich.table import Table
    from rich.text import Text

    view = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="underline")
    view.add_column("weights", overflow="fold")
    cells = _cells(found)
    for heading in cells:
        view.add_column(heading, justify="right", no_wrap=True)
    for row in found.rows:
        view.add_row(Text(row.name), *(cell(row) for cell in cells.values()))
    return view


def _cells(found: Evaluated) -> dict[str, Callable[[Row], str]]:
    """The columns by heading; the primary metric comes first where it is not the average R@1."""
    primary, first = found.protocol.primary_metric, found.rows[0]
    pairs = {label: pair for label, pair in PAIRS.items() if f"{pair[0]}_r1" in first.metrics}
    cells: dict[str, Callable[[Row], str]] = {"epoch": lambda row: NOTHING if row.epoch is None else str(row.epoch)}
    if primary != "avg_r1":
        cells[f"{metric_title(primary)} {unit(primary)}".rstrip()] = lambda row: f"{row.metrics[primary]:.2f}"
    cells["R@1"] = lambda row: f"{row.metrics['avg_r1']:.2f}"
    for label, pair in pairs.items():
        cells[label] = lambda row, pair=pair: _both(row, pair)
    cells |= {label: lambda row, metric=metric: f"{row.metrics[metric]:.2f}"
              for label, metric in (("R@5", "avg_r5"), ("R@10", "avg_r10"))}  # fmt: skip
    if any(row.class_metrics["avg_r1"] != row.metrics["avg_r1"] for row in found.rows):
        cells["class"] = lambda row: f"{row.class_metrics['avg_r1']:.2f}"
    return cells


def _both(row: Row, pair: Sequence[str]) -> str:
    return "/".join(f"{row.metrics[f'{direction}_r1']:.1f}" for direction in pair)
