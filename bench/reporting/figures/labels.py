"""Labels beside points that keep clear of the points and of each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple, TypeAlias

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from bench.reporting.figures.looks import LINE, plain

SIZE = 9  # points of the font
NEAR = 5  # points between a marker and its label that need no line
_DISTANCES = (4, 12, 22, 34, 48, 64, 82, 102, 124, 148)
_AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8),
           (0.92, 0.4), (-0.92, 0.4), (0.92, -0.4), (-0.92, -0.4))  # fmt: skip


class Point(NamedTuple):
    """A marker with a name, or with none: an empty text; `radius` in points."""

    x: float
    y: float
    text: str
    radius: float = 4


# Ends of a line along an axis, in data.
Line: TypeAlias = tuple[tuple[float, float], tuple[float, float]]


class _Place(NamedTuple):
    """Where a label could stand: offset from its point in points, and the box in pixels."""

    x: float
    y: float
    near: bool
    box: Bbox


def text_pixels(figure: Figure, text: str, size: float, weight: str = "normal") -> tuple[float, float]:
    """Width and height of a text as drawn, in the figure's pixels."""
    probe = figure.text(0, 0, text, fontsize=size, fontweight=weight)
    width, height = probe.get_window_extent(FigureCanvasAgg(figure).get_renderer()).size
    probe.remove()
    return width, height


def label_points(axes: Axes, points: Sequence[Point], lines: Sequence[Line] = ()) -> None:
    """Write each text beside its point, at the nearest free place of many; a thin line leads to a far one.

    Labels keep clear of points, of each other, and of straight lines. Call it when everything else is
    drawn; labels take no room from the axes.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    inside, pixels = axes.get_window_extent(renderer), figure.dpi / 72
    centres = axes.transData.transform([(p.x, p.y) for p in points]) if points else []
    taken = [
        Bbox.from_extents(x - r, y - r, x + r, y + r)
        for (x, y), r in zip(centres, (p.radius * pixels for p in points), strict=True)
    ]
    for ends in lines:
        (left, right), (bottom, top) = map(sorted, zip(*axes.transData.transform(ends), strict=True))
        taken.append(Bbox.from_extents(left - 2, bottom - 2, right + 2, top + 2))
    for point, (x, y) in zip(points, centres, strict=True):
        if not point.text:
            continue
        size = text_pixels(figure, plain(point.text), SIZE)
        options = _places(x, y, point.radius, size, pixels)
        place = min(options, key=lambda option: option.box.count_overlaps(taken) + 10 * _leaves(option.box, inside))
        _write(axes, point, place)
        taken.append(place.box)


def _places(x: float, y: float, radius: float, size: Sequence[float], pixels: float) -> list[_Place]:
    """Places around a point at pixel (x, y) for a label of `size` pixels, the nearest first."""
    places = []
    for distance, (dx, dy) in product(_DISTANCES, _AROUND):
        offset = (radius + distance) * dx, (radius + distance) * dy
        left = x + offset[0] * pixels - size[0] * (0.5 if not dx else 0 if dx > 0 else 1)
        bottom = y + offset[1] * pixels - size[1] * (0.5 if not dy else 0 if dy > 0 else 1)
        places.append(_Place(*offset, distance <= NEAR, Bbox.from_bounds(left, bottom, *size)))
    return places


def _leaves(box: Bbox, inside: Bbox) -> bool:
    return not (inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1)


def _write(axes: Axes, point: Point, place: _Place) -> None:
    line = {"arrowstyle": "-", "color": LINE, "linewidth": 0.7, "shrinkA": 0, "shrinkB": point.radius}
    label = axes.annotate(
        plain(point.text), (point.x, point.y), xytext=(place.x, place.y), textcoords="offset points", fontsize=SIZE,
        ha="center" if not place.x else "left" if place.x > 0 else "right",
        va="center" if not place.y else "bottom" if place.y > 0 else "top",
        arrowprops=None if place.near else line,
    )  # fmt: skip
    label.set_in_layout(False)
