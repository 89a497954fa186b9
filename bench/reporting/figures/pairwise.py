"""Every optimizer against every other: the differences, coloured where they are significant."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from bench.reporting.analysis import Analysis
from bench.reporting.figures.frame import Drawn, legend, listed, over_panels, titled
from bench.reporting.figures.labels import text_pixels
from bench.reporting.figures.looks import DIVERGING, GRID, INK, LINE, MUTED, PAPER, Look, plain
from bench.statistics.verdict import PairVerdict, Verdict
from bench.summary import metric_title

MOST_NUMBERS = 12  # entries up to which cells hold numbers
MOST_ENTRIES = 60
LEGEND = 2.9  # inches
MIDDLE = len(DIVERGING) // 2
_CELLS = ((MOST_NUMBERS, 0.56), (30, 0.28), (MOST_ENTRIES, 0.17))  # up to how many entries: inches of a cell


def pairs_matrix_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """Row minus column, in the metric's own direction; blue where the row is significantly better, orange where worse.

    None without a verdict, and for more entries than are readable.
    """
    verdict = analysis.verdict
    if verdict is None or len(verdict.entries) > MOST_ENTRIES:
        return None
    names = [entry.name for entry in verdict.entries]
    k = len(names)
    title = titled(analysis, f"Differences of {metric_title(analysis.metric)}")
    figure, axes, cell = _figure(names, title)
    borders = _borders(verdict.pairs)
    _draw_cells(axes, verdict, names, borders)
    if k <= MOST_NUMBERS:
        _write_numbers(axes, verdict, names)
    else:
        _mark_equivalent(axes, verdict, names, cell)
    _name_sides(axes, names)
    unit = f" {analysis.points}".rstrip()
    _legend(figure, verdict, borders, unit)
    over_panels(figure, title)
    return Drawn(figure, "Pairwise differences", _said(verdict, unit))


def _figure(names: Sequence[str], title: str) -> tuple[Figure, Axes, float]:
    """Axes with square cells, room for the names at both sides, title and legend; and inches of a cell."""
    k, few = len(names), len(names) <= MOST_NUMBERS
    cell = next(inches for most, inches in _CELLS if k <= most)
    figure = Figure()
    figure.set_layout_engine("none")
    widths = [text_pixels(figure, plain(name), 9)[0] / figure.dpi for name in names]
    left = max(widths) + (0.15 if few else 0.4)
    above = 0.45 + (0.65 * max(widths) + 0.1 if few else 0.2)
    beyond = max(0.77 * width - cell * (k - i - 0.5) for i, width in enumerate(widths)) if few else 0.0
    over = text_pixels(figure, title, 11, "bold")[0] / figure.dpi + 0.2
    width, height = max(left + cell * k + max(beyond, 0), over) + LEGEND, max(2.5, above + cell * k + 0.1)
    figure.set_size_inches(width, height)
    sides = (left / width, 1 - (above + cell * k) / height, cell * k / width, cell * k / height)
    return figure, figure.add_axes(sides), cell


def _said(verdict: Verdict, unit: str) -> str:
    told = [pair for pair in verdict.pairs if pair.significant]
    by_size = sorted(told, key=lambda pair: -abs(pair.difference))
    first = (f"{pair.a} minus {pair.b} {pair.difference:+.2f}{unit}" for pair in by_size)
    alike = sum(bool(pair.equivalent) for pair in verdict.pairs)
    equivalent = "" if verdict.options.margin is None else (
        f" Equivalent within {verdict.options.margin:.3g}{unit}: {alike}.")  # fmt: skip
    return (
        f"Differences of all pairs, coloured where significant by paired tests with Holm's correction: {len(told)} of "
        f"{len(verdict.pairs)} pairs; the largest: {listed(first)}.{equivalent}"
    )


def _borders(pairs: Sequence[PairVerdict]) -> tuple[float, float]:
    """Sizes that part the significant differences into three shades, about a third of them in each."""
    sizes = [abs(pair.difference) for pair in pairs if pair.significant]
    if not sizes:
        return math.inf, math.inf
    low, high = (float(f"{size:.2g}") for size in np.quantile(sizes, (1 / 3, 2 / 3)))
    return low, high


def _shade(size: float, borders: tuple[float, float]) -> int:
    """1 for the palest to 3."""
    return 1 + sum(size > border for border in borders)


def _draw_cells(axes: Axes, verdict: Verdict, names: Sequence[str], borders: tuple[float, float]) -> None:
    """A square each, all of one colour as one patch; GRID on the diagonal."""
    place = {name: i for i, name in enumerate(names)}
    cells: dict[str, list[tuple[int, int]]] = {GRID: [(i, i) for i in range(len(names))]}
    for pair in verdict.pairs:
        a, b = place[pair.a], place[pair.b]
        shade = _shade(abs(pair.difference), borders) if pair.significant else 0
        wins = (pair.difference > 0) != verdict.options.lower_is_better
        for sign, at in ((1 if wins else -1, (a, b)), (-1 if wins else 1, (b, a))):
            cells.setdefault(DIVERGING[MIDDLE + sign * shade], []).append(at)
    for colour, of in cells.items():
        squares = np.array(of)[:, None, ::-1] + np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
        path = Path.make_compound_path_from_polys(squares)
        axes.add_patch(PathPatch(path, facecolor=colour, edgecolor=GRID, linewidth=0.6))
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)


def _write_numbers(axes: Axes, verdict: Verdict, names: Sequence[str]) -> None:
    place = {name: i for i, name in enumerate(names)}
    digits = 1 if max(abs(pair.difference) for pair in verdict.pairs) >= 1 else 2
    for pair in verdict.pairs:
        for sign, row, column in ((1, pair.a, pair.b), (-1, pair.b, pair.a)):
            number = _signed(sign * pair.difference, digits)
            text = f"{number}\n≈" if pair.equivalent else number
            axes.text(place[column], place[row], text, ha="center", va="center", fontsize=8.5, linespacing=0.95,
                      color=INK if pair.significant else MUTED)  # fmt: skip


def _signed(value: float, digits: int) -> str:
    """`+1.2`, `−1.2`; `0.0` without a sign."""
    shown = f"{value:+.{digits}f}"
    return shown[1:] if not float(shown) else shown.replace("-", "−")


def _mark_equivalent(axes: Axes, verdict: Verdict, names: Sequence[str], inches: float) -> None:
    place = {name: i for i, name in enumerate(names)}
    both = [(place[p.a], place[p.b]) for p in verdict.pairs if p.equivalent]
    at = [end for pair in both for end in (pair, pair[::-1])]
    if at:
        axes.plot(*zip(*at, strict=True), color=MUTED, marker=".", linestyle="none", markersize=20 * inches)


def _name_sides(axes: Axes, names: Sequence[str]) -> None:
    """Names at both sides where they fit, else numbers at the columns."""
    k, few = len(names), len(names) <= MOST_NUMBERS
    size = 9 if k <= 30 else 7
    rows = [plain(name) if few else f"{plain(name)}  {i}" for i, name in enumerate(names, 1)]
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks(range(k), rows, fontsize=size)
    if few:
        axes.set_xticks(range(k), [plain(name) for name in names], fontsize=size, rotation=40, ha="left", va="bottom",
                        rotation_mode="anchor")  # fmt: skip
    else:
        axes.set_xticks(range(k), [str(i) for i in range(1, k + 1)], fontsize=size if k <= 30 else 6)


def _legend(figure: Figure, verdict: Verdict, borders: tuple[float, float], unit: str) -> None:
    """The colours that occur, and the mark of equivalence."""
    low, high = borders
    sizes = {3: f"over {high:g}{unit}", 2: f"{low:g} to {high:g}{unit}", 1: f"up to {low:g}{unit}"}
    shades = sorted({_shade(abs(pair.difference), borders) for pair in verdict.pairs if pair.significant})
    keys = {
        **{f"row better by {sizes[s]}": _patch(DIVERGING[MIDDLE + s]) for s in shades[::-1]},
        "not told apart": _patch(PAPER),
        **{f"row worse by {sizes[s]}": _patch(DIVERGING[MIDDLE - s]) for s in shades},
    }
    if any(pair.equivalent for pair in verdict.pairs):
        mark = "$≈$" if len(verdict.entries) <= MOST_NUMBERS else "."
        keys[f"equivalent within {verdict.options.margin:.3g}{unit}"] = Line2D(
            [], [], color=MUTED, marker=mark, linestyle="none", markersize=8, markeredgewidth=0
        )
    legend(figure, list(keys.values()), list(keys), title="row minus column", title_fontsize=9, handlelength=1.5,
           loc="upper right", bbox_to_anchor=(1, 1))  # fmt: skip


def _patch(colour: str) -> Line2D:
    return Line2D([], [], color=colour, marker="s", linestyle="none", markersize=11, markeredgecolor=LINE,
                  markeredgewidth=0.6)  # fmt: skip
