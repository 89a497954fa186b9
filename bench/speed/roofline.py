"""How near each computation comes to what the machine can do: operations a second over operations a byte."""

from __future__ import annotations

from pathlib import Path

from bench.errors import UsageError
from bench.speed.step import StepSpeeds

KINDS = (".png", ".svg", ".pdf")


def picture_kind(path: Path) -> str:
    """A picture's file ending; raises `UsageError` where it is none of those that can be drawn."""
    if path.suffix not in KINDS:
        raise UsageError(f"--plot {path}: allowed are files that end in {', '.join(KINDS)}")
    return path.suffix


def write_roofline(speeds: StepSpeeds, path: Path) -> None:
    """Draw a step's forms under the machine's roof into a file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    from bench.reporting.figures.looks import INK, MUTED, Look, safe, style

    here = speeds.conditions
    with style():
        figure = Figure(figsize=(8, 5))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        names = list(dict.fromkeys(form.name for form in speeds.forms))
        look = Look(names)
        intensities = [form.operations / form.moved for form in speeds.forms]
        low, high = min(intensities) / 4, max(max(intensities), *(r / here.bandwidth for r in here.gemm.values())) * 4
        for dtype, rate in here.gemm.items():
            knee = rate / here.bandwidth
            axes.plot([low, knee, high], [low * here.bandwidth / 1e9, rate / 1e9, rate / 1e9], color=MUTED, linewidth=1)
            axes.annotate(f"{dtype}: {rate / 1e9:.0f} GFLOP/s", (high, rate / 1e9), ha="right", va="bottom", color=INK)
        for form, intensity in zip(speeds.forms, intensities, strict=True):
            filled = {} if form.dtype == "float32" else {"markerfacecolor": "none", "markeredgewidth": 1.6}
            rate = form.operations / form.milliseconds / 1e6
            axes.plot([intensity], [rate], **look.dot(form.name, markersize=9, **filled),
                      label=safe(f"{form.name}, {form.dtype}"))  # fmt: skip
        axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel="operations a byte that the operators move",
                 ylabel="GFLOP/s", title=safe(f"Forward and backward passes, {speeds.protocol}"))  # fmt: skip
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.legend(loc="lower right")
        figure.supxlabel(f"roof: {here.bandwidth / 1e9:.0f} GB/s and the rate of large matrix products; "
                         f"{here.processor}, {here.device}, {here.threads} threads", x=0.01, ha="left", fontsize=9,
                         color=MUTED)  # fmt: skip
        figure.savefig(path)
