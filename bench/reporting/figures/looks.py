"""How a study's figures look: colours, style, one look an optimizer, safe text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib as mpl
from matplotlib.colors import to_hex
from matplotlib.font_manager import FontProperties, findfont, get_font

# Every grey of every figure. The page replaces these colours by its own, so there is no other in a figure's file but
# the optimizers' and those of DIVERGING.
NEUTRALS = {"ink": "#1f2328", "muted": "#59636e", "line": "#8c959f", "grid": "#e4e8ec", "paper": "#ffffff"}
INK, MUTED, LINE, GRID, PAPER = NEUTRALS.values()
# Orange to blue in seven steps, the middle is the paper; ink has a contrast above 4.5 on each.
DIVERGING = ("#e8924a", "#f3b98a", "#fbe0cb", PAPER, "#d3e4f6", "#9cc4ea", "#5f9fdc")
# Lengths without a common divisor, so that the combination of colour, marker and line repeats late.
LINE_STYLES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
CROSS: dict[str, Any] = {"marker": "x", "linestyle": "none", "markersize": 7, "markeredgewidth": 1.8}
NAME_LENGTH = 34  # of a name in a figure; a longer one loses its middle
FONT = "DejaVu Sans"  # comes with matplotlib: the same bytes on every machine
STYLE: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "figure.facecolor": PAPER,
    "font.family": FONT,
    "font.size": 10,
    "text.color": INK,
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "grid.color": GRID,
    "legend.frameon": False,
    "lines.color": INK,
    "patch.edgecolor": LINE,
    "svg.hashsalt": "optimizer-bench",
    "xtick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
}


@contextmanager
def style() -> Iterator[None]:
    """The style of all figures; settings of the user's own do not reach them."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


@cache
def _glyphs() -> frozenset[int]:
    """What both weights of the font can draw."""
    fonts = (findfont(FontProperties(family=FONT, weight=weight)) for weight in ("normal", "bold"))
    return frozenset.intersection(*(frozenset(get_font(font).get_charmap()) for font in fonts))


def safe(text: str) -> str:
    """`text` as a figure can show it: no formula, and no sign that the font lacks."""
    shown = "".join(sign if ord(sign) in _glyphs() and sign.isprintable() else "□" for sign in text)
    return shown.replace("$", r"\$")


def plain(name: str) -> str:
    """`name` as `safe` text that is not too long."""
    if len(name) > NAME_LENGTH:
        name = f"{name[: NAME_LENGTH // 2 - 1]}…{name[-NAME_LENGTH // 2 :]}"
    return safe(name)


class Look:
    """Colour, line and marker of every optimizer, by its place in the alphabet."""

    def __init__(self, names: Iterable[str]) -> None:
        self._place = {name: i for i, name in enumerate(sorted(names))}

    def colour(self, name: str) -> str:
        """An optimizer's colour."""
        colours = mpl.color_sequences["petroff10"]
        return to_hex(colours[self._place[name] % len(colours)])

    def dot(self, name: str, **changes: Any) -> dict[str, Any]:
        """Keyword arguments of unconnected markers, with `changes`."""
        marker = MARKERS[self._place[name] % len(MARKERS)]
        return {"color": self.colour(name), "linestyle": "none", "marker": marker, "markeredgewidth": 0, **changes}

    def line(self, name: str, points: int, **changes: Any) -> dict[str, Any]:
        """Keyword arguments of a line through `points`; lines that coincide show their markers in turn."""
        place = self._place[name]
        every = max(1, min(len(self._place), points // 2))
        style = LINE_STYLES[place % len(LINE_STYLES)]
        line = {"linestyle": style, "linewidth": 1.6, "markersize": 5, "markevery": (place % every, every)}
        return self.dot(name, **line | changes)
