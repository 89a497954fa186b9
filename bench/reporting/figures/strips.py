"""Strips: a row an optimizer, its runs as dots, and room at the side for the runs that have no value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from bench.reporting.figures.frame import FEW
from bench.reporting.figures.looks import CROSS, LINE, Look, plain

SIDE = 0.09  # the side's share of the axes


def strip_figure(rows: int, width: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure high enough for `rows`, and its panels, which share the rows."""
    figure = Figure(figsize=(width, 1.7 + (0.4 if rows <= FEW else 0.2) * rows))
    return figure, list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])


def name_rows(axes: Axes, names: Sequence[str], bold: Iterable[str] = ()) -> None:
    """The rows' names at the left, the first at the top."""
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    chosen = frozenset(bold)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name in chosen else "normal")
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def dots(axes: Axes, row: float, name: str, values: Sequence[float], look: Look, *, half: float = 0.2) -> None:
    """An optimizer's values, spread over its row's height so that equal ones are seen."""
    spread = np.linspace(-half, half, len(values)) if len(values) > 1 else np.zeros(len(values))
    axes.plot(values, row + spread, **look.dot(name, markersize=6 if len(values) <= FEW else 4))


def side(axes: Axes, *, right: bool) -> Callable[[float], float]:
    """Add room at one side of the x axis; returns where in the axes (0 to 1) a share of that room is."""
    limits = axes.get_xlim()
    scale = axes.xaxis.get_transform()
    low, high = scale.transform(np.array(limits))
    more = (high - low) * SIDE / (1 - SIDE)
    ticks = [tick for tick in axes.get_xticks() if limits[0] <= tick <= limits[1]]
    axes.set_xlim(*scale.inverted().transform(np.array((low, high + more) if right else (low - more, high))))
    axes.set_xticks(ticks)
    axes.axvline(limits[right], color=LINE, linewidth=0.8)
    return lambda share: (1 - SIDE if right else 0) + SIDE * share


def draw_lost(axes: Axes, counts: Mapping[str, int], names: Sequence[str], look: Look, *, right: bool) -> None:
    """At one side, a cross with the number of an optimizer's runs that have no value."""
    if not any(counts.values()):
        return
    at = side(axes, right=right)
    place = blended_transform_factory(axes.transAxes, axes.transData)
    for row, name in enumerate(names):
        if counts.get(name):
            axes.plot(at(0.3), row, transform=place, color=look.colour(name), **CROSS)
            count = axes.text(at(0.55), row, str(counts[name]), transform=place, va="center", fontsize=9)
            count.set_in_layout(False)
