"""What searches found: the score against the learning rate, against the budget, and several settings at once."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.reporting.analysis import Analysis
from bench.reporting.figures.frame import (
    Drawn,
    draw_bounds,
    known_bounds,
    listed,
    optimizers_legend,
    plain_log_ticks,
    with_unit,
)
from bench.reporting.figures.frame import caption as write_caption
from bench.reporting.figures.looks import CROSS, INK, Look, plain, safe
from bench.search.results import SearchResult
from bench.search.space import RATE
from bench.spec import SearchRange
from bench.summary import metric_title
from bench.wording import counted


def sensitivity_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """The mean test score over tuning seeds against the rate; None where not the rate alone was searched."""
    results = [result for result in _shown(analysis) if result.sensitivity is not None]
    if not results:
        return None
    figure = Figure(figsize=(9.5, 5))
    axes = figure.subplots()
    for result in results:
        _draw_rates(axes, result, look)
    axes.set_xscale("log")
    rates = np.concatenate([result.rates for result in results])
    plain_log_ticks(axes.xaxis, rates.max() / rates.min())
    lines = draw_bounds(
        {k: v for k, v in known_bounds(analysis, analysis.metric).items() if k == "chance"}, axes.axhline
    )
    axes.set_xlabel("learning rate")
    axes.set_ylabel(f"{with_unit(analysis.metric)}, test split, tuning seeds")
    axes.set_title(_titled(analysis, "Sensitivity to the rate", results), pad=12)
    _legend(figure, look, analysis, results, lines)
    write_caption(
        figure, "line: mean over tuning seeds, dot: a seed; ring: the default rate; ✕: a rate at which a run diverged"
    )
    said = listed(f"{r.name} best at {s.best_rate:.3g} ({s.best:.1f})" for r in results if (s := r.sensitivity))
    return Drawn(figure, "Sensitivity to the rate",
                 f"Mean {metric_title(analysis.metric)} against the learning rate: {said}.")  # fmt: skip


def _titled(analysis: Analysis, title: str, results: list[SearchResult]) -> str:
    """A figure's own title; trials have seeds of their own."""
    seeds = counted(len(results[0].plan.seeds), "tuning seed")
    return f"{title}: protocol {plain(analysis.study.protocol.name)}, {seeds}"


def _shown(analysis: Analysis) -> list[SearchResult]:
    """The searches of the optimizers that the report shows, in its order."""
    return [analysis.searches[row.optimizer] for row in analysis.rows if row.optimizer in analysis.searches]


def _draw_rates(axes: Axes, result: SearchResult, look: Look) -> None:
    order = np.argsort(result.rates)
    rates, test, diverged = result.rates[order], result.test[order], result.diverged[order]
    mean = test.mean(axis=1)
    axes.plot(rates, mean, **look.line(result.name, len(rates), markevery=1))
    for seed in range(test.shape[1]):
        axes.plot(rates, test[:, seed], **look.dot(result.name, markersize=2.5))
    lost = diverged > 0
    axes.plot(rates[lost], mean[lost], color=look.colour(result.name), **CROSS)
    default = result.plan.defaults[RATE]
    assert isinstance(default, int | float)
    if rates[0] <= default <= rates[-1]:
        y = np.interp(math.log(default), np.log(rates), mean)
        axes.plot(default, y, **look.dot(result.name, marker="o", markersize=10, markerfacecolor="none",
                                         markeredgewidth=1.4))  # fmt: skip


def _legend(figure: Figure, look: Look, analysis: Analysis, results: list[SearchResult], lines: list) -> None:
    names = {result.name for result in results}
    optimizers_legend(figure, look, [row for row in analysis.rows if row.optimizer in names], lines, failed=False)


def budget_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """The expected test score of the best validated of k trials against k; None without such a curve."""
    results = [result for result in _shown(analysis) if len(result.best_of) > 1]
    if not results:
        return None
    figure = Figure(figsize=(9.5, 4.6))
    axes = figure.subplots()
    for result in results:
        budgets = list(result.best_of)
        axes.plot(budgets, list(result.best_of.values()), **look.line(result.name, len(budgets), markevery=1))
        if result.bands is not None:
            low, high = result.bands
            axes.fill_between(
                range(1, len(low) + 1), low, high, color=look.colour(result.name), alpha=0.12, linewidth=0
            )
    most = max(max(result.best_of) for result in results)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator([2**i for i in range(most.bit_length())]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("trials of the search")
    axes.set_ylabel(f"{with_unit(analysis.metric)}, expected of the best validated")
    axes.set_title(_titled(analysis, "What a budget brings", results), pad=12)
    if any(result.bands for result in results):
        write_caption(figure, "band: 95 % band of the median validation score of the best of k random trials")
    _legend(figure, look, analysis, results, [])
    said = listed(f"{r.name} {min(r.best_of.values()):.1f} with one, {r.best_of[max(r.best_of)]:.1f} with "
                  f"{max(r.best_of)}" for r in results)  # fmt: skip
    return Drawn(figure, "What a budget brings",
                 f"Expected {metric_title(analysis.metric)} of the best validated of k trials: {said}.")  # fmt: skip


def parallel_figure(analysis: Analysis, look: Look) -> Drawn | None:
    """Every trial as a line over its settings and its score; None where the rate alone was searched."""
    results = [result for result in _shown(analysis) if len(result.plan.ranges) > 1]
    if not results:
        return None
    names = list(results[0].search.space.ranges)
    scores = np.concatenate([result.validation.mean(axis=1) for result in results])
    low, high = float(scores.min()), float(max(scores.max(), scores.min() + 1e-9))
    ranges = {name: _joint([result.search.space.ranges[name] for result in results]) for name in names}
    figure = Figure(figsize=(9.5, 4.8))
    axes = figure.subplots()
    for result in results:
        for trial, score in zip(result.trials, result.validation.mean(axis=1), strict=True):
            heights = [_height(ranges[name], trial.values[name]) for name in names]
            axes.plot(range(len(names) + 1), [*heights, (score - low) / (high - low)],
                      **look.line(result.name, 2, linewidth=1.0, markersize=3, markevery=1))  # fmt: skip
    for place, name in enumerate(names):
        _write_ends(axes, place, f"{ranges[name].low:.2g}", f"{ranges[name].high:.2g}")
    _write_ends(axes, len(names), f"{low:.1f}", f"{high:.1f}")
    axes.set_xticks(range(len(names) + 1), [safe(name) for name in [*names, "validation score"]])
    axes.set_yticks([])
    axes.set_ylim(-0.1, 1.1)
    axes.set_title(_titled(analysis, "Settings tried, and their scores", results), pad=12)
    _legend(figure, look, analysis, results, [])
    said = listed(f"{r.name} {', '.join(f'{k} {v:.3g}' for k, v in b.values.items())}" for r in results
                  if (b := r.search.best))  # fmt: skip
    return Drawn(figure, "Settings tried, and their scores", f"A line a trial over its settings. The best: {said}.")


def _joint(ranges: list[SearchRange]) -> SearchRange:
    return SearchRange(low=min(r.low for r in ranges), high=max(r.high for r in ranges), log=ranges[0].log)


def _height(found: SearchRange, value: float) -> float:
    """Where a value lies between the ends of its range, 0 to 1."""
    if found.log:
        return math.log(value / found.low) / math.log(found.high / found.low)
    return (value - found.low) / (found.high - found.low)


def _write_ends(axes: Axes, place: int, low: str, high: str) -> None:
    axes.axvline(place, color=INK, linewidth=0.8, zorder=1)
    for y, text, side in ((-0.03, low, "top"), (1.03, high, "bottom")):
        axes.text(place, y, text, ha="center", va=side, fontsize=8, color=INK)
