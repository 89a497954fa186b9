"""How a study's figures look: style, one look an optimizer, safe text, and labels that keep clear of each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import product
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from bench.summary import Row, outcomes_text

# Lengths without a common divisor, so that the combination of colour, marker and line repeats late.
LINE_STYLES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
BOUND = "0.45"  # the grey of chance, ceiling and best loss
NAME_LENGTH = 34  # of a name in a figure; a longer one loses its middle
STYLE: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same bytes on every machine
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": "0.2",
    "axes.edgecolor": "0.4",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "legend.frameon": False,
    "svg.hashsalt": "optimizer-bench",
}


@contextmanager
def style() -> Iterator[None]:
    """The style of all figures; settings of the user's own do not reach them."""
    with mpl.rc_context():
        mpl.rcdefaults()
        settings: Any = sns.axes_style("ticks") | STYLE
        mpl.rcParams.update(settings)
        yield


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def plain(name: str) -> str:
    """`name` as a figure can show it: no formula, no sign the font lacks, not too long."""
    shown = "".join(sign if ord(sign) in _glyphs() and sign.isprintable() else "□" for sign in name)
    if len(shown) > NAME_LENGTH:
        shown = f"{shown[: NAME_LENGTH // 2 - 1]}…{shown[-NAME_LENGTH // 2 :]}"
    return shown.replace("$", r"\$")


class Look:
    """Colour, line and marker of every optimizer, by its place in the alphabet."""

    def __init__(self, table: Sequence[Row]) -> None:
        self._place = {name: i for i, name in enumerate(sorted(row.optimizer for row in table))}

    def colour(self, row: Row) -> Any:
        """An optimizer's colour."""
        colours = mpl.color_sequences["petroff10"]
        return colours[self._place[row.optimizer] % len(colours)]

    def dot(self, row: Row, **changes: Any) -> dict[str, Any]:
        """Keyword arguments of unconnected markers, with `changes`."""
        marker = MARKERS[self._place[row.optimizer] % len(MARKERS)]
        return {"color": self.colour(row), "linestyle": "none", "marker": marker, "markeredgewidth": 0, **changes}

    def line(self, row: Row, epochs: int) -> dict[str, Any]:
        """Keyword arguments of a line over `epochs` points; lines that coincide show their markers in turn."""
        place = self._place[row.optimizer]
        every = max(1, min(len(self._place), epochs // 2))
        style = LINE_STYLES[place % len(LINE_STYLES)]
        return self.dot(row, linestyle=style, linewidth=1.6, markersize=5, markevery=(place % every, every))

    def legend(
        self, figure: Figure, table: Sequence[Row], bounds: Sequence[Line2D] = (), *, joined: bool = True
    ) -> None:
        """All optimizers in the table's order and the bounds, right of the axes; `joined` where the points are."""
        handles = [Line2D([], [], **(self.line(row, 1) if joined else self.dot(row))) for row in table]
        texts = [plain(row.optimizer) + (f"\n({outcomes_text(row.outcomes)})" if row.failed else "") for row in table]
        drawn = {str(line.get_label()): line for line in bounds}
        if joined and any(row.failed for row in table):
            drawn["end of a run that is not ok"] = Line2D([], [], color="0.2", **CROSS)
        figure.legend([*handles, *drawn.values()], [*texts, *drawn], loc="outside right upper", fontsize=9,
                      handlelength=3)  # fmt: skip


CROSS: dict[str, Any] = {"marker": "x", "linestyle": "none", "markersize": 8, "markeredgewidth": 2}


def label_points(axes: Axes, points: Sequence[tuple[float, float, str]], obstacles: Sequence[Bbox] = ()) -> None:
    """Write each (x, y, text) beside its point, at the nearest free place of a few; a thin line leads to a far one."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    renderer = canvas.get_renderer()
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in axes.transData.transform([p[:2] for p in points])]
    taken += obstacles
    inside = axes.get_window_extent(renderer)
    places = [(d * dx, d * dy) for d, (dx, dy) in product((9, 18, 30, 44, 60), _AROUND)]
    for x, y, text in points:
        found: list[tuple[int, tuple[float, float], Bbox]] = []
        for place in places:
            label = _write(axes, x, y, text, place)
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer)  # an annotation's own extent holds its line, too
            label.remove()
            outside = not (inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1)
            found.append((box.count_overlaps(taken) + 10 * outside, place, box))
            if not found[-1][0]:
                break
        _, place, box = min(found, key=lambda option: option[0])
        _write(axes, x, y, text, place)
        taken.append(box)


_AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8))


def _write(axes: Axes, x: float, y: float, text: str, place: tuple[float, float]) -> Annotation:
    dx, dy = place
    far = max(abs(dx), abs(dy)) > 10
    label = axes.annotate(
        plain(text), (x, y), xytext=place, textcoords="offset points", fontsize=9,
        ha="center" if not dx else "left" if dx > 0 else "right",
        va="center" if not dy else "bottom" if dy > 0 else "top",
        arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4} if far else None,
    )  # fmt: skip
    label.set_in_layout(False)
    return label
