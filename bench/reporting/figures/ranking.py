"""The order of the optimizers: rank intervals, groups that are not told apart, and the order over training."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.reporting.analysis import Analysis
from bench.reporting.figures.curves import epoch_axis
from bench.reporting.figures.frame import Drawn, caption, listed, optimizers_legend, over_panels, titled
from bench.reporting.figures.looks import GRID, INK, LINE, MUTED, Look, plain, safe
from bench.reporting.figures.strips import name_rows, strip_figure
from bench.statistics.verdict import EntryVerdict
from bench.summary import metric_title

MOST_LABELS = 20  # entries of a diagram of groups: more labels would not be readable
LETTERS = 14  # of an entry that are written out
# Inches of the diagram of groups: of a bar's level, of a label's line, and between axis, bars and labels.
LEVEL, LABEL, GAP = 0.13, 0.23, 0.16


def ranks_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """Each entry's rank interval with its mean rank and its letters, the best set outlined; None without a verdict."""
    if analysis.verdict is None:
        return None
    entries = analysis.verdict.entries
    figure, (axes,) = strip_figure(len(entries), 9)
    for y, entry in enumerate(entries):
        _draw_ranks(axes, y, entry, look)
    name_rows(axes, [entry.name for entry in entries], analysis.verdict.best_set)
    axes.set_xlim(0.4, len(entries) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    joint = f"{100 * (1 - analysis.verdict.options.alpha):g} % jointly"
    axes.set_xlabel("rank, 1 is the best")
    caption(figure, f"bar: the ranks that remain possible, {joint}; dot: mean rank over seeds; outlined and bold: the "
            "best set", "letters: entries that share one are not told apart")  # fmt: skip
    axes.set_title(titled(analysis, f"Ranks by {metric_title(analysis.metric)}"))
    said = (
        f"{e.name} {_interval_text(e.rank_interval)} (mean {e.mean_rank:.1f}, {_letters(e.letters)})" for e in entries
    )
    return Drawn(figure, "Ranks", f"Ranks that remain possible, {joint}, with mean rank and letters: {listed(said)}. "
                 f"Best set: {listed(analysis.verdict.best_set)}.")  # fmt: skip


def _draw_ranks(axes: Axes, y: int, entry: EntryVerdict, look: Look) -> None:
    low, high = entry.rank_interval
    outline = {"edgecolor": INK, "linewidth": 1.3} if entry.in_best_set else {"edgecolor": LINE, "linewidth": 0.5}
    axes.barh(y, high - low + 0.8, left=low - 0.4, height=0.56, color=GRID, **outline)
    axes.plot(entry.mean_rank, y, **look.dot(entry.name, markersize=8))
    axes.annotate(_letters(entry.letters), (1, y), xycoords=axes.get_yaxis_transform(), xytext=(6, 0),
                  textcoords="offset points", va="center",
                  fontweight="bold" if entry.in_best_set else "normal")  # fmt: skip


def _letters(letters: str) -> str:
    return safe(letters if len(letters) <= LETTERS else f"{letters[: LETTERS - 1]}…")


def _interval_text(interval: tuple[int, int]) -> str:
    low, high = interval
    return f"{low}" if low == high else f"{low}–{high}"


def critical_difference_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """Mean ranks on an axis, bars over the groups that share a letter; None for more entries than labels fit.

    The groups are the verdict's, by paired tests with Holm's correction, and need not be neighbours in mean rank: a bar
    holds for the entries that have a dot on it.
    """
    if analysis.verdict is None or len(analysis.verdict.entries) > MOST_LABELS:
        return None
    entries = sorted(analysis.verdict.entries, key=lambda entry: entry.mean_rank)
    levels = _levels(_groups(entries), entries)
    below = GAP + LEVEL * len(levels) + GAP
    depth = below + LABEL * (len(entries) // 2 + 0.5)
    figure = Figure(figsize=(9, depth + 1.15))
    axes = figure.subplots()
    _rank_axis(axes, len(entries), depth)
    half = (len(entries) + 1) // 2
    for i, entry in enumerate(entries):  # the better half has its names at the left, the others between these lines
        line = i if i < half else len(entries) - 0.5 - i
        _draw_elbow(axes, entry, look, below + LABEL * line, len(entries), left=i < half)
    for level, groups in enumerate(levels):
        for group in groups:
            ranks = [entries[i].mean_rank for i in group]
            y = GAP + LEVEL * level
            axes.plot([min(ranks), max(ranks)], [y, y], color=INK, linewidth=3, solid_capstyle="round", zorder=4)
            axes.plot(ranks, [y] * len(ranks), color=INK, marker="o", markersize=5.5, linestyle="none", zorder=5)
    over_panels(figure, titled(analysis, "Mean ranks, and groups that are not told apart"))
    caption(figure, "axis: mean rank over seeds, 1 is the best; a bar joins the entries with a dot on it: they share a "
            "letter")  # fmt: skip
    joined = [", ".join(entries[i].name for i in group) for groups in levels for group in groups]
    means = listed(f"{entry.name} {entry.mean_rank:.2f}" for entry in entries)
    return Drawn(figure, "Mean ranks and groups", f"Mean ranks over seeds, 1 is the best: {means}. Not told apart "
                 f"(paired tests, Holm's correction): {listed(joined, 'no group')}.")  # fmt: skip


def _groups(entries: Sequence[EntryVerdict]) -> list[list[int]]:
    """Places of the entries that share a letter, for each letter that several have."""
    letters = sorted({letter for entry in entries for letter in entry.letters})
    groups = [[i for i, entry in enumerate(entries) if letter in entry.letters] for letter in letters]
    return sorted(group for group in groups if len(group) > 1)


def _levels(groups: Sequence[list[int]], entries: Sequence[EntryVerdict]) -> list[list[list[int]]]:
    """Groups by level, so that the bars of a level do not touch."""
    levels: list[list[list[int]]] = []
    for group in groups:
        start = entries[group[0]].mean_rank
        free = next((level for level in levels if entries[level[-1][-1]].mean_rank < start), None)
        if free is None:
            levels.append([group])
        else:
            free.append(group)
    return levels


def _rank_axis(axes: Axes, entries: int, depth: float) -> None:
    """Ranks on top; below it a unit of y is an inch."""
    axes.set_xlim(1 - 0.02 * entries, entries + 0.02 * entries)
    axes.set_ylim(depth, -0.05)
    axes.xaxis.tick_top()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.grid(visible=False)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.spines["top"].set_visible(True)


def _draw_elbow(axes: Axes, entry: EntryVerdict, look: Look, y: float, entries: int, *, left: bool) -> None:
    """From the axis down and to the side, where the name is."""
    end = 1 - 0.02 * entries if left else entries + 0.02 * entries
    axes.plot([entry.mean_rank, entry.mean_rank, end], [-0.05, y, y], color=MUTED, linewidth=0.9, clip_on=False)
    axes.plot(end, y, **look.dot(entry.name, markersize=7, clip_on=False))
    parts = [plain(entry.name), f"{entry.mean_rank:.2f}"]
    axes.annotate("  ".join(parts if left else parts[::-1]), (end, y), xytext=(-8 if left else 8, 0), va="center",
                  textcoords="offset points", ha="right" if left else "left", fontsize=9,
                  fontweight="bold" if entry.in_best_set else "normal")  # fmt: skip


def rank_course_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """Mean rank over epochs; None where the order has no course."""
    course = analysis.rank_course
    if course is None:
        return None
    figure = Figure(figsize=(9, 4.8))
    axes = figure.subplots()
    for name, ranks in zip(course.names, course.mean_rank.T, strict=True):
        axes.plot(course.epochs, ranks, **look.line(name, len(course.epochs)))
    axes.set_ylim(len(course.names) + 0.4, 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    epoch_axis(axes, course.epochs[-1])
    axes.set_ylabel("mean rank over seeds, 1 is the best")
    axes.set_title(titled(analysis, f"Order by {metric_title(analysis.metric)} over training"))
    optimizers_legend(figure, look, [row for row in analysis.rows if row.optimizer in course.names], failed=False)
    ends = (
        f"{name} {first:.1f} to {last:.1f}"
        for name, first, last in zip(course.names, course.mean_rank[0], course.mean_rank[-1], strict=True)
    )
    return Drawn(figure, "Order over training", f"Mean rank from epoch {course.epochs[0]} to {course.epochs[-1]}, 1 is "
                 f"the best: {listed(ends)}. Order of pairs that flips: {listed(map(str, course.flips))}.")  # fmt: skip
