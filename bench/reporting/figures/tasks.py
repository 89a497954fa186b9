"""Tasks in sequence: every task's accuracy while later ones are learned, and the figures of the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from bench.continual.figures import TITLES
from bench.reporting.analysis import Analysis
from bench.reporting.figures.frame import (
    Drawn,
    draw_bounds,
    known_bounds,
    listed,
    optimizers_legend,
    over_panels,
    titled,
    with_unit,
)
from bench.reporting.figures.looks import Look
from bench.reporting.result_table import mean_matrix
from bench.summary import Row, metric_title

PANELS = 6  # a row


def tasks_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """A panel a task: its accuracy after it and after every later task, means over ok seeds; None without a matrix."""
    found = {row.optimizer: mean_matrix(row) for row in analysis.rows}
    shown = [row for row in analysis.rows if found[row.optimizer]]
    if not shown:
        return None
    T = max(len(found[row.optimizer]) for row in shown)
    rows, columns = math.ceil(T / PANELS), min(T, PANELS)
    figure = Figure(figsize=(2.5 + 2 * columns, 1 + 3.4 * rows))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes in panels[T:]:
        axes.set_visible(False)
    chance = {name: y for name, y in known_bounds(analysis, "accuracy_1").items() if name == "chance"}
    lines = [line for axes in panels[:T] for line in draw_bounds(chance, axes.axhline)]
    for i, axes in enumerate(panels[:T]):
        for row in shown:
            after = range(i + 1, len(found[row.optimizer]) + 1)
            values = [found[row.optimizer][t - 1][i] for t in after]
            axes.plot(list(after), values, **look.line(row.optimizer, 1))
        axes.set_title(f"task {i + 1}", fontweight="normal")
        axes.set_xlim(0.5, T + 0.5)
        axes.set_xticks(range(1, T + 1))
        axes.set_ylim(0, 102)
        axes.set_xlabel("after task")
    for axes in panels[:T:PANELS]:
        axes.set_ylabel("accuracy, % of the task's test images")
    over_panels(figure, titled(analysis, "Accuracy of each task as later ones are learned"))
    optimizers_legend(figure, look, shown, lines, failed=False)
    first = (f"{row.optimizer} {found[row.optimizer][0][0]:.1f} to {found[row.optimizer][-1][0]:.1f}" for row in shown)
    return Drawn(figure, "Each task over the tasks", "Accuracy of every task after it and after every later task, "
                 f"means over ok seeds. The first task, from after it to after the last: {listed(first)}.")  # fmt: skip


def forgetting_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """Average accuracy against forgetting: a dot a run, a larger one the mean; None without either."""
    shown = [row for row in analysis.rows if {"average_accuracy", "forgetting"} <= row.metrics.keys()]
    if not shown:
        return None
    figure = Figure(figsize=(9, 4.8))
    axes = figure.subplots()
    for row in shown:
        x, y = _values(row)
        axes.plot(x, y, **look.dot(row.optimizer, markersize=4, alpha=0.45))
        axes.plot([row.metrics["forgetting"].mean], [row.metrics["average_accuracy"].mean],
                  **look.dot(row.optimizer, markersize=9))  # fmt: skip
    axes.set_xlabel(f"{with_unit('forgetting')} (lower is better)")
    axes.set_ylabel(f"{with_unit('average_accuracy')} (higher is better)")
    axes.set_title(titled(analysis, "Accuracy and forgetting"))
    optimizers_legend(figure, look, shown, joined=False, failed=False)
    said = (", ".join(f"{metric_title(name)} {row.metrics[name].mean:.1f}" for name in TITLES if name in row.metrics)
            for row in shown)  # fmt: skip
    each = (f"{row.optimizer}: {text}" for row, text in zip(shown, said, strict=True))
    return Drawn(figure, "Accuracy and forgetting", "Average accuracy against forgetting, small marks the runs, large "
                 f"ones their means. {listed(each)}.")  # fmt: skip


def _values(row: Row) -> tuple[Sequence[float], Sequence[float]]:
    """Forgetting and average accuracy of the ok runs that have both."""
    pairs = [(r.metrics["forgetting"], r.metrics["average_accuracy"]) for r in row.ok
             if {"average_accuracy", "forgetting"} <= r.metrics.keys()]  # fmt: skip
    return [x for x, _ in pairs], [y for _, y in pairs]
