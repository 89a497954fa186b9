"""The colours of the page and of the figures in it, each for light and for dark.

A figure's file has the light ones. In the page they become variables, so that a figure follows the page's scheme.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.colors import to_hex

from bench.reporting.figures.looks import DIVERGING, NEUTRALS


class Colour(NamedTuple):
    """A CSS variable and its two values; `of_figures` are replaced where figures use them."""

    variable: str
    light: str
    dark: str
    of_figures: bool = False


DARK_NEUTRALS = {"ink": "#e6eaef", "muted": "#9aa5b1", "line": "#6b7683", "grid": "#2a313a", "paper": "#14181e"}
# The others of petroff10 stand out from dark paper as they are. With these two the smallest colour-blind distance
# (CIE76, Machado's simulation of the three kinds) is 13.1.
DARK_SERIES = {2: "#e73135", 4: "#d6a0de"}
# As DIVERGING from orange to blue: the ink of the dark page has a contrast above 4.5 on each.
DARK_DIVERGING = ("#8f4a10", "#66401f", "#3f2d20", DARK_NEUTRALS["paper"], "#1c3046", "#21496f", "#22639c")
# Of the page alone: behind the paper; the answer's card and its border; links and what has the focus.
PAGE = (
    Colour("page", "#f6f7f9", "#0d1014"),
    Colour("card", "#eef5fb", "#15222e"),
    Colour("card-line", "#c4dcf0", "#274158"),
    Colour("accent", "#0a5ca8", "#7ab8f0"),
)


def colours() -> Iterator[Colour]:
    """Every colour that the page or a figure uses."""
    for name, light in NEUTRALS.items():
        yield Colour(name, light, DARK_NEUTRALS[name], of_figures=True)
    for place, rgb in enumerate(mpl.color_sequences["petroff10"]):
        light = to_hex(rgb)
        yield Colour(f"series-{place}", light, DARK_SERIES.get(place, light), of_figures=True)
    for place, (light, dark) in enumerate(zip(DIVERGING, DARK_DIVERGING, strict=True)):
        if light != NEUTRALS["paper"]:
            yield Colour(f"diverging-{place}", light, dark, of_figures=True)
    yield from PAGE
