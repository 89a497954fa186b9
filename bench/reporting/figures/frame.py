"""What stands around a figure's data: title, legend, lines at known levels, ticks, and the text alternative's parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from bench.reporting.analysis import Analysis
from bench.reporting.figures.looks import CROSS, INK, MUTED, Look, plain, safe
from bench.statistics.intervals import CONFIDENCE, t_quantile
from bench.summary import Row, bounds, lower_is_better, metric_title, outcomes_text, unit

LINES = {"chance": (0, (1, 2)), "ceiling": (0, (6, 2))}
FEW = 20  # optimizers up to which a figure is generous with room
LISTED = 12  # entries that a text alternative names
LOG_RANGE = 8  # what spans more than this factor is drawn on a logarithmic axis
_LEGEND = ((24, 9, 0.5), (math.inf, 8, 0.3))  # up to how many lines: points of the font, spacing in its sizes


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure with the report's title of it, and what it shows in words for readers who do not see it."""

    figure: Figure
    title: str
    alternative: str


def titled(analysis: Analysis, title: str) -> str:
    """A figure's own title: what, under which protocol, from how many seeds."""
    counts = sorted({len(row.seeds) for row in analysis.rows})
    seeds = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{safe(title)}: protocol {plain(analysis.study.protocol.name)}, {seeds} seed{'s' if counts[-1] > 1 else ''}"


def over_panels(figure: Figure, title: str) -> None:
    """A title over several panels, where one panel's title would stand."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")


def caption(figure: Figure, *lines: str) -> None:
    """What the marks mean, below everything."""
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=9, color=MUTED)


def with_unit(metric: str) -> str:
    """`average R@1, %`."""
    return safe(f"{metric_title(metric)}, {unit(metric)}".rstrip(", "))


def score_text(value: float, metric: str) -> str:
    """`34.3 %`."""
    return f"{value:.1f} {unit(metric)}".rstrip()


def better(metric: str) -> str:
    """Which direction is the good one."""
    return "lower is better" if lower_is_better(metric) else "higher is better"


def listed(parts: Iterable[str], nothing: str = "none") -> str:
    """The first parts in one line, and how many more there are."""
    found = list(parts)
    more = [f"and {len(found) - LISTED} more"] if len(found) > LISTED else []
    return "; ".join([*found[:LISTED], *more]) or nothing


def mean_interval(values: Sequence[float], grain: float = 0.0) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % t-interval; the mean itself for one value. s² is at least grain²/12."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, mean, mean
    sd = max(math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1)), grain / math.sqrt(12))
    half = t_quantile(n, (1 + CONFIDENCE) / 2) * sd / math.sqrt(n)
    return mean, mean - half, mean + half


def known_bounds(analysis: Analysis, metric: str) -> dict[str, float]:
    """Chance and ceiling of a metric as far as they are known."""
    found = zip(LINES, bounds(analysis.study, metric), strict=True)
    return {name: value for name, value in found if value is not None and math.isfinite(value)}


def bounds_text(known: dict[str, float]) -> str:
    """`chance 0.2, ceiling 91.2` for a text alternative."""
    return ", ".join(f"{name} {value:.1f}" for name, value in known.items()) or "chance and ceiling not known"


def draw_bounds(known: dict[str, float], draw: Callable[..., Line2D]) -> list[Line2D]:
    """Lines at chance and ceiling by `axes.axhline` or `axes.axvline`."""
    return [
        draw(value, color=MUTED, linewidth=1.1, linestyle=LINES[name], label=name, zorder=1)
        for name, value in known.items()
    ]


def plain_log_ticks(axis: Axis, span: float) -> None:
    """1, 2, 5, 10 instead of powers of ten; more of them where the axis spans less than a factor of ten."""
    decades = math.log10(span) if span > 1 else 0
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 1 else (1.0, 2.0, 5.0) if decades < 4 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if 1 <= x < 1e6 and x % 1 == 0 else f"{x:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, handles: Sequence[Line2D], texts: Sequence[str], **settings: Any) -> None:
    """A legend right of the axes; the figure becomes as high as it needs to be for it."""
    lines = sum(text.count("\n") + 1 for text in texts)
    size, spacing = next((size, spacing) for most, size, spacing in _LEGEND if lines <= most)
    settings = {
        "loc": "outside right upper",
        "fontsize": size,
        "labelspacing": spacing,
        "handlelength": 3,
        "alignment": "left",
        **settings,
    }
    figure.legend(handles, texts, **settings)
    points = size * (1.25 * lines + settings["labelspacing"] * len(texts))
    figure.set_figheight(max(figure.get_figheight(), 0.4 + points / 72))


def optimizers_legend(
    figure: Figure, look: Look, table: Sequence[Row], lines: Sequence[Line2D] = (), *, joined: bool = True,
    failed: bool = True,
) -> None:  # fmt: skip
    """Optimizers in the table's order, then labelled lines; `joined` where the points are, `failed` where runs end."""
    names = [row.optimizer for row in table]
    handles = [Line2D([], [], **(look.line(name, 1) if joined else look.dot(name))) for name in names]
    gap = "\n" if len(table) <= FEW else " "
    texts = [plain(row.optimizer) + (f"{gap}({outcomes_text(row.outcomes)})" if failed and row.failed else "")
             for row in table]  # fmt: skip
    drawn = {str(line.get_label()): line for line in lines}
    if failed and joined and any(row.failed for row in table):
        drawn["end of a run that is not ok"] = Line2D([], [], color=INK, **CROSS)
    legend(figure, [*handles, *drawn.values()], [*texts, *drawn])
