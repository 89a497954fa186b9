"""A study's figures, as PNG and SVG with reproducible bytes. An optimizer looks the same in all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.record import CurvePoint, Outcome, RunRecord
from bench.study import Study
from bench.summary import PAIRS, Row, rows

LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
STYLE: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "optimizer-bench",
}
BOUND = "0.45"  # grey of chance, ceiling and best loss


class Look:
    """Colour, line style and marker of every optimizer, by its place in the alphabet."""

    def __init__(self, names: Sequence[str]) -> None:
        colours = mpl.color_sequences["petroff10"]
        order = sorted(names)
        self._looks = dict(zip(order, zip(islice(cycle(colours), len(order)), islice(cycle(LINE_STYLES), len(order)),
                                          islice(cycle(MARKERS), len(order)), strict=True), strict=True))  # fmt: skip

    def line(self, name: str) -> dict[str, Any]:
        """Keyword arguments of a line."""
        colour, style, marker = self._looks[name]
        return {"color": colour, "linestyle": style, "marker": marker, "markersize": 4, "linewidth": 1.6}

    def dot(self, name: str) -> dict[str, Any]:
        """Keyword arguments of unconnected markers."""
        colour, _, marker = self._looks[name]
        return {"color": colour, "linestyle": "none", "marker": marker}


def write_figures(study: Study, folder: Path) -> dict[str, str]:
    """Write every figure into `folder`; returns file stem → text alternative."""
    drawings: Mapping[str, Callable[[Study, Look], tuple[Figure, str]]] = {
        "loss": loss_figure,
        "retrieval": retrieval_figure,
        "final": final_figure,
        "pairs": pairs_figure,
        "time": time_figure,
    }
    folder.mkdir(parents=True, exist_ok=True)
    look = Look([row.optimizer for row in rows(study)])
    texts = {}
    with sns.axes_style("ticks", rc=STYLE), mpl.rc_context(STYLE):
        for stem, draw in drawings.items():
            figure, texts[stem] = draw(study, look)
            figure.savefig(folder / f"{stem}.png", dpi=150, metadata={"Software": None})
            figure.savefig(folder / f"{stem}.svg", metadata={"Date": None})
    return texts


def _runs(study: Study, optimizer: str) -> list[RunRecord]:
    return [r for r in study.records if study.labels[r.run_id] == optimizer]


def _over_epochs(
    study: Study, optimizer: str, value: Callable[[CurvePoint], float | None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Epochs with mean, lowest and highest value over the optimizer's runs that have a finite value there."""
    by_epoch: dict[int, list[float]] = {}
    for record in _runs(study, optimizer):
        for point in study.curves.get(record.run_id, []):
            found = value(point)
            if found is not None and np.isfinite(found):
                by_epoch.setdefault(point.epoch, []).append(found)
    epochs = sorted(by_epoch)
    mean, low, high = ([f(by_epoch[e]) for e in epochs] for f in (np.mean, np.min, np.max))
    return np.array(epochs), np.array(mean), np.array(low), np.array(high)


def _curves(axes: Axes, study: Study, look: Look, value: Callable[[CurvePoint], float | None]) -> None:
    """A line an optimizer with a band from the lowest to the highest seed; a cross where all its runs have ended."""
    for row in rows(study):
        epochs, mean, low, high = _over_epochs(study, row.optimizer, value)
        if not len(epochs):
            axes.plot([], [], label=f"{row.optimizer} ({_fate(row)})", **look.line(row.optimizer))
            continue
        axes.plot(epochs, mean, label=row.optimizer, markevery=max(1, len(epochs) // 6), **look.line(row.optimizer))
        axes.fill_between(epochs, low, high, color=look.line(row.optimizer)["color"], alpha=0.12, linewidth=0)
        if not row.outcomes.get(Outcome.OK):
            axes.plot(epochs[-1], mean[-1], marker="x", markersize=9, markeredgewidth=2,
                      color=look.line(row.optimizer)["color"], linestyle="none")  # fmt: skip
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _fate(row: Row) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in row.outcomes.items())


def _subtitle(study: Study) -> str:
    seeds = {len(_runs(study, row.optimizer)) for row in rows(study)}
    count = str(max(seeds)) if len(seeds) == 1 else f"{min(seeds)}–{max(seeds)}"
    return f"protocol {study.protocol.name}, {count} seed{'s' if count != '1' else ''}"


def _legend(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=9, handlelength=3)


def _bound(study: Study, metric: str) -> tuple[float | None, float | None]:
    """Chance and ceiling of a metric."""
    record = next((r for r in study.records if r.chance), None)
    return (None, None) if record is None else (record.chance.get(metric), record.ceiling.get(metric))


def _draw_bounds(axes: Axes, study: Study, metric: str, draw: Callable[..., object]) -> None:
    for name, value in zip(("chance", "ceiling"), _bound(study, metric), strict=True):
        if value is not None:
            draw(
                value, color=BOUND, linewidth=1, linestyle=(0, (1, 2)) if name == "chance" else (0, (5, 2)), label=name
            )


def loss_figure(study: Study, look: Look) -> tuple[Figure, str]:
    """Training loss over epochs."""
    figure = Figure(figsize=(8.5, 4.5))
    axes = figure.subplots()
    _curves(axes, study, look, lambda point: point.loss)
    best = next((r.best_loss for r in study.records if r.best_loss is not None), None)
    if best is not None:
        axes.axhline(best, color=BOUND, linewidth=1, linestyle=(0, (5, 2)), label="lowest expected")
    low, high = axes.get_ylim()
    if low > 0 and high / low > 20:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_ylabel("training loss, mean of the epoch")
    axes.set_title(f"Training loss: {_subtitle(study)} (line: mean, band: all seeds)")
    _legend(figure, axes)
    return figure, "Training loss of every optimizer over epochs."


def retrieval_figure(study: Study, look: Look) -> tuple[Figure, str]:
    """R@1, R@5 and R@10 over epochs, means of all directions."""
    figure = Figure(figsize=(12.5, 4.5))
    panels = figure.subplots(1, 3)
    for axes, k in zip(panels, (1, 5, 10), strict=True):
        _curves(axes, study, look, lambda point, k=k: point.metrics.get(f"avg_r{k}"))
        _draw_bounds(axes, study, f"avg_r{k}", axes.axhline)
        axes.set_title(f"R@{k}, % of test queries")
        axes.set_ylim(bottom=0)
    _legend(figure, panels[0])
    figure.suptitle(
        f"Retrieval over training, mean of all directions: {_subtitle(study)}", x=0.01, ha="left", fontsize=11
    )
    return figure, "R@1, R@5 and R@10 of every optimizer over epochs, with chance and ceiling."


def final_figure(study: Study, look: Look) -> tuple[Figure, str]:
    """The primary metric at the last epoch: every seed a dot."""
    metric, table = study.protocol.primary_metric, rows(study)
    figure = Figure(figsize=(8.5, 1.6 + 0.42 * len(table)))
    axes = figure.subplots()
    for y, row in enumerate(table):
        values = [r.metrics[metric] for r in _runs(study, row.optimizer) if r.outcome is Outcome.OK]
        spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(len(values))
        axes.plot(values, y + spread, markersize=5, alpha=0.75, markeredgewidth=0, **look.dot(row.optimizer))
        if values:
            axes.plot([np.mean(values)] * 2, [y - 0.33, y + 0.33], color="0.15", linewidth=2)
        lost = {outcome: count for outcome, count in row.outcomes.items() if outcome is not Outcome.OK}
        if lost:
            text = "✕ " + ", ".join(f"{count} {outcome}" for outcome, count in lost.items())
            axes.annotate(text, (0, y), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                          va="center", fontsize=9, color=look.dot(row.optimizer)["color"])  # fmt: skip
    _draw_bounds(axes, study, metric, axes.axvline)
    axes.set_yticks(range(len(table)), [row.optimizer for row in table])
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{metric}, % at the last epoch (dot: a seed, bar: the mean)")
    axes.set_title(f"Final result: {_subtitle(study)}")
    if axes.get_legend_handles_labels()[0]:
        _legend(figure, axes)
    return figure, f"{metric} of every seed of every optimizer at the last epoch, with means, chance and ceiling."


def pairs_figure(study: Study, look: Look) -> tuple[Figure, str]:
    """R@1 by pair of modalities."""
    table = [row for row in rows(study) if row.metrics]
    pairs = {label: (a, b) for label, (a, b) in PAIRS.items() if any(f"{a}_r1" in row.metrics for row in table)}
    figure = Figure(figsize=(8.5, 4.2))
    axes = figure.subplots()
    offsets = np.linspace(-0.32, 0.32, len(table)) if len(table) > 1 else np.zeros(1)
    for offset, row in zip(offsets, table, strict=False):
        for x, (a, b) in enumerate(pairs.values()):
            both = [row.metrics[f"{d}_r1"].mean for d in (a, b)]
            axes.plot([x + offset] * 2, both, color=look.dot(row.optimizer)["color"], linewidth=1, alpha=0.6)
            axes.plot([x + offset] * 2, both, markersize=6, label=row.optimizer if x == 0 else None,
                      **look.dot(row.optimizer))  # fmt: skip
    axes.set_xticks(range(len(pairs)), list(pairs))
    axes.set_xlim(-0.5, max(len(pairs), 1) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("R@1, % (mean over seeds)")
    axes.set_title(f"R@1 by pair of modalities, both directions: {_subtitle(study)}")
    if table:
        _legend(figure, axes)
    return figure, "R@1 of every optimizer for each pair of modalities, both directions joined by a line."


def time_figure(study: Study, look: Look) -> tuple[Figure, str]:
    """Training time against quality."""
    metric = study.protocol.primary_metric
    table = [row for row in rows(study) if row.seconds_an_epoch is not None and metric in row.metrics]
    figure = Figure(figsize=(8.5, 4.5))
    axes = figure.subplots()
    for row in table:
        score, seconds = row.metrics[metric], row.seconds_an_epoch or 0.0
        axes.errorbar(seconds, score.mean, yerr=score.sd or 0, capsize=3, markersize=8,
                      label=row.optimizer, **look.dot(row.optimizer))  # fmt: skip
    _draw_bounds(axes, study, metric, axes.axhline)
    if table:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="x", which="minor", labelsize=8)
        _legend(figure, axes)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds of training an epoch")
    axes.set_ylabel(f"{metric}, % (mean ± one sd over seeds)")
    axes.set_title(f"Time against quality: {_subtitle(study)}")
    return figure, f"Seconds of training an epoch against {metric} of every optimizer."
