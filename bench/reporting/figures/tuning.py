"""What searches found: the score against the learning rate, against the budget, and several settings at once."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.reporting.analysis import Analysis
from bench.reporting.figures.frame import (
    Drawn,
    bounds_text,
    draw_bounds,
    known_bounds,
    listed,
    optimizers_legend,
    over_panels,
    plain_log_ticks,
    with_unit,
)
from bench.reporting.figures.frame import caption as write_caption
from bench.reporting.figures.looks import CROSS, INK, Look, plain, safe
from bench.search.results import SearchResult
from bench.search.space import RATE
from bench.spec import SearchRange
from bench.statistics.tuning import quantile_of_best
from bench.summary import metric_title
from bench.wording import counted

_WIDTH = 0.7  # octaves that the bands of one k take beside each other
Results: TypeAlias = dict[str, SearchResult]  # by the label that the report has for the optimizer


def sensitivity_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """The mean test score over tuning seeds against the rate; None where not the rate alone was searched."""
    results = {label: result for label, result in _shown(analysis).items() if result.sensitivity is not None}
    if not results:
        return None
    figure = Figure(figsize=(9.5, 5))
    axes = figure.subplots()
    diverged = [label for label, result in results.items() if result.diverged.any()]
    for label, result in results.items():
        _draw_rates(axes, label, result, look)
    for i, label in enumerate(diverged):  # the later the smaller: those of shared rates lie on each other, at chance
        _draw_crosses(axes, label, results[label], look, CROSS["markersize"] + 2.5 * (len(diverged) - 1 - i))
    axes.set_xscale("log")
    rates = np.concatenate([result.rates for result in results.values()])
    plain_log_ticks(axes.xaxis, rates.max() / rates.min())
    known = known_bounds(analysis, analysis.metric)
    lines = _draw_chance(known, axes)
    axes.set_xlabel("learning rate")
    axes.set_ylabel(f"{with_unit(analysis.metric)}, test split")
    axes.set_title(_titled(analysis, "Sensitivity to the rate", results), pad=12)
    _legend(figure, look, analysis, results, lines)
    write_caption(
        figure, "line: mean over tuning seeds; small mark: a seed; large mark: the rate that validation chose",
        f"ring: the default rate; ✕: a rate at which a run diverged; {bounds_text(known)}", *_others(analysis),
    )  # fmt: skip
    return Drawn(figure, "Sensitivity to the rate",
                 f"Mean {metric_title(analysis.metric)} on the test split against the learning rate: "
                 f"{listed(map(_peak_text, results, results.values()))}; {bounds_text(known)}.")  # fmt: skip


def _peak_text(label: str, result: SearchResult) -> str:
    """`a best at 0.1 (30.0), 2 runs diverged`."""
    found, lost = result.sensitivity, int(result.diverged.sum())
    if found is None or lost == result.test.size:
        return f"{label} diverged in every run"
    return f"{label} best at {found.best_rate:.3g} ({found.best:.1f})" + (
        f", {counted(lost, 'run')} diverged" if lost else ""
    )


def _titled(analysis: Analysis, title: str, results: Results) -> str:
    """A figure's own title; trials have seeds of their own."""
    counts = sorted({len(result.plan.seeds) for result in results.values()})
    seeds = counted(counts[0], "tuning seed") if len(counts) == 1 else f"{counts[0]}–{counts[-1]} tuning seeds"
    return f"{title}: protocol {plain(analysis.study.protocol.name)}, {seeds}"


def _shown(analysis: Analysis) -> Results:
    """The searches of the optimizers that the report shows, by label in its order; of several labels by the first."""
    found: dict[str, tuple[str, SearchResult]] = {}
    for row in analysis.rows:
        name = row.records[0].optimizer
        if name in analysis.searches:
            found.setdefault(name, (row.optimizer, analysis.searches[name]))
    return dict(found.values())


def _others(analysis: Analysis) -> list[str]:
    """A line for a caption: which searched optimizers have no run that the report shows."""
    names = [row.records[0].optimizer for row in analysis.rows]
    left_out = [name for name in analysis.searches if name not in names]
    return [f"not drawn, without a run that ranks: {', '.join(map(plain, left_out))}"] if left_out else []


def _draw_rates(axes: Axes, label: str, result: SearchResult, look: Look) -> None:
    order = np.argsort(result.rates)
    rates, test = result.rates[order], result.test[order]
    mean = test.mean(axis=1)
    axes.plot(rates, mean, **look.line(label, len(rates), markevery=1))
    for seed in range(test.shape[1]):
        axes.plot(rates, test[:, seed], **look.dot(label, markersize=2.5))
    if result.search.best is not None:
        chosen = rates == result.search.best.values[RATE]
        axes.plot(rates[chosen], mean[chosen], **look.dot(label, markersize=9))
    default = result.plan.defaults[RATE]
    assert isinstance(default, int | float)
    if rates[0] <= default <= rates[-1]:
        y = np.interp(math.log(default), np.log(rates), mean)
        axes.plot(default, y, **look.dot(label, marker="o", markersize=10, markerfacecolor="none",
                                         markeredgewidth=1.4))  # fmt: skip


def _draw_crosses(axes: Axes, label: str, result: SearchResult, look: Look, size: float) -> None:
    """A cross of `size` points at every rate with a diverged run."""
    lost = result.diverged > 0
    mean = result.test.mean(axis=1)
    looks = CROSS | {"color": look.colour(label), "markersize": size}
    axes.plot(result.rates[lost], mean[lost], **looks)


def _legend(figure: Figure, look: Look, analysis: Analysis, results: Results, lines: list[Line2D]) -> None:
    optimizers_legend(figure, look, [row for row in analysis.rows if row.optimizer in results], lines, failed=False)


def budget_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """The expected test score of the best validated of k trials against k; None without such a curve.

    Beside it, where searches are large enough for bands, what is known of the median validation score.
    """
    results = {label: result for label, result in _shown(analysis).items() if len(result.best_of) > 1}
    if not results:
        return None
    banded = {label: result for label, result in results.items() if result.bands is not None}
    figure = Figure(figsize=(9.5, 4.6) if not banded else (12.5, 4.6))
    panels = figure.subplots(1, 2 if banded else 1, squeeze=False)[0]
    for label, result in results.items():
        budgets = list(result.best_of)
        panels[0].plot(budgets, list(result.best_of.values()), **look.line(label, len(budgets), markevery=1))
    for i, label in enumerate(banded):
        _draw_bands(panels[1], label, banded[label], look, _WIDTH * ((i + 0.5) / len(banded) - 0.5))
    for axes in panels:
        _budget_axis(axes, max(max(result.best_of) for result in results.values()))
    known = known_bounds(analysis, analysis.metric)
    lines = [line for axes in panels for line in _draw_chance(known, axes)]
    panels[0].set_ylabel(f"{with_unit(analysis.metric)}, test split, mean")
    if banded:
        panels[1].set_ylabel(f"{with_unit(analysis.metric)}, validation split, median")
    over_panels(figure, _titled(analysis, "What a budget brings", results))
    _legend(figure, look, analysis, results, lines)
    write_caption(
        figure, f"test score of the best validated of k random trials, expected; {bounds_text(known)}",
        *(["right: best validation score of k random trials: its median, and 95 % bands of it, jointly for all k of an "
           "optimizer"] if banded else []), *_others(analysis),
    )  # fmt: skip
    said = listed(f"{label} {r.best_of[min(r.best_of)]:.1f} with one, {r.best_of[max(r.best_of)]:.1f} with "
                  f"{max(r.best_of)}" for label, r in results.items())  # fmt: skip
    return Drawn(figure, "What a budget brings",
                 f"Expected {metric_title(analysis.metric)} on the test split of the best validated of k trials: "
                 f"{said}; {bounds_text(known)}.")  # fmt: skip


def _draw_chance(known: dict[str, float], axes: Axes) -> list[Line2D]:
    """A line at chance; the ceiling would leave no room for the curves, and stands in the caption."""
    return draw_bounds({name: value for name, value in known.items() if name == "chance"}, axes.axhline)


def _draw_bands(axes: Axes, label: str, result: SearchResult, look: Look, shift: float) -> None:
    """The median validation score of the best of k trials with its band, at each k moved by `shift` octaves."""
    assert result.bands is not None
    low, high = result.bands
    scores, budgets = result.validation[: len(low)].mean(axis=1), np.array(list(result.best_of))
    places = budgets * 2.0**shift
    axes.vlines(places, low[budgets - 1], high[budgets - 1], color=look.colour(label), linewidth=1.4)
    axes.plot(places, [quantile_of_best(scores, int(k)) for k in budgets], **look.dot(label, markersize=5))


def _budget_axis(axes: Axes, most: int) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator([2**i for i in range(most.bit_length())]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("k, random trials of the search")


def parallel_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """Every trial as a line over its settings and its score; None where the rate alone was searched.

    Optimizers of which other settings were searched have a panel of their own.
    """
    results = {label: result for label, result in _shown(analysis).items() if len(result.plan.ranges) > 1}
    if not results:
        return None
    groups = list(dict.fromkeys(tuple(result.plan.ranges) for result in results.values()))
    figure = Figure(figsize=(9.5, 4.8 * len(groups)))
    panels = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for axes, names in zip(panels, groups, strict=True):
        alike = {label: result for label, result in results.items() if tuple(result.plan.ranges) == names}
        _draw_trials(axes, names, alike, look, f"{with_unit(analysis.metric)},\nvalidation split")
    over_panels(figure, _titled(analysis, "Settings tried, and their scores", results))
    _legend(figure, look, analysis, results, [])
    write_caption(figure, "line: a trial, its score the mean over tuning seeds; thick: the best of an optimizer; "
                  "✕: a run diverged", *_others(analysis))  # fmt: skip
    said = listed(f"{label} {', '.join(f'{k} {v:.3g}' for k, v in b.values.items())}" for label, r in results.items()
                  if (b := r.search.best))  # fmt: skip
    return Drawn(figure, "Settings tried, and their scores", f"A line a trial over its settings. The best: {said}.")


def _draw_trials(axes: Axes, names: tuple[str, ...], results: Results, look: Look, title: str) -> None:
    """An axis a setting and one for the score, whose `title` says what it is."""
    scores = np.concatenate([result.validation.mean(axis=1) for result in results.values()])
    low, high = float(scores.min()), float(scores.max())
    ranges = {name: _joint([result.search.space.ranges[name] for result in results.values()]) for name in names}
    for label, result in results.items():
        for i, trial in enumerate(result.trials):
            height = (result.validation[i].mean() - low) / ((high - low) or 1)
            heights = [*(_height(ranges[name], trial.values[name]) for name in names), height]
            width = 3.0 if trial == result.search.best else 1.0
            axes.plot(range(len(heights)), heights, **look.line(label, 2, linewidth=width, markersize=3, markevery=1))
            if result.diverged[i]:
                axes.plot(len(names), height, color=look.colour(label), **CROSS)
    for place, name in enumerate(names):
        _write_ends(axes, place, f"{ranges[name].low:.3g}", f"{ranges[name].high:.3g}")
    _write_ends(axes, len(names), f"{low:.1f}", f"{high:.1f}")
    shown = [safe(name) + (", log" if ranges[name].log else "") for name in names]
    axes.set_xticks(range(len(names) + 1), [*shown, title])
    axes.set_yticks([])
    axes.set_ylim(-0.1, 1.1)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)


def _joint(ranges: list[SearchRange]) -> SearchRange:
    return SearchRange(low=min(r.low for r in ranges), high=max(r.high for r in ranges), log=ranges[0].log)


def _height(found: SearchRange, value: float) -> float:
    """Where a value lies between the ends of its range, 0 to 1."""
    if found.log:
        return math.log(value / found.low) / math.log(found.high / found.low)
    return (value - found.low) / (found.high - found.low)


def _write_ends(axes: Axes, place: int, low: str, high: str) -> None:
    axes.plot([place, place], [0, 1], color=INK, linewidth=0.8, zorder=1)
    for y, text, side in ((-0.03, low, "top"), (1.03, high, "bottom")):
        axes.text(place, y, text, ha="center", va=side, fontsize=8, color=INK)
