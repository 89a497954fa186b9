"""All figures of a study as PNG and SVG with reproducible bytes. An optimizer looks the same in all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bench.reporting.analysis import Analysis
from bench.reporting.document import Picture
from bench.reporting.figures.curves import loss_figure, retrieval_figure
from bench.reporting.figures.final import final_figure, pairs_figure
from bench.reporting.figures.frame import Drawn
from bench.reporting.figures.looks import Look, style
from bench.reporting.figures.pairwise import pairs_matrix_figure
from bench.reporting.figures.ranking import critical_difference_figure, rank_course_figure, ranks_figure
from bench.reporting.figures.targets import profile_figure, targets_figure
from bench.reporting.figures.tasks import forgetting_figure, tasks_figure
from bench.reporting.figures.tradeoff import pareto_figure
from bench.reporting.figures.tuning import budget_figure, parallel_figure, sensitivity_figure

DPI = 150  # of PNG files
KINDS = ("png", "svg")
# File stem to what draws it, in the order of display. It draws nothing, None, of a study that has nothing to show.
FIGURES: Mapping[str, Callable[[Analysis, Look], Drawn | None]] = MappingProxyType({
    "ranks": ranks_figure,
    "final": final_figure,
    "pairs_matrix": pairs_matrix_figure,
    "critical_difference": critical_difference_figure,
    "loss": loss_figure,
    "retrieval": retrieval_figure,
    "rank_course": rank_course_figure,
    "targets": targets_figure,
    "profile": profile_figure,
    "pairs": pairs_figure,
    "forgetting": forgetting_figure,
    "tasks": tasks_figure,
    "pareto": pareto_figure,
    "sensitivity": sensitivity_figure,
    "budget": budget_figure,
    "parallel": parallel_figure,
})  # fmt: skip


def write_figures(analysis: Analysis, folder: Path) -> tuple[Picture, ...]:
    """Write STEM.png and STEM.svg of every figure that the study has into `folder`; remove those of earlier reports.

    PNG files have white paper, SVG files none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    look, pictures = Look(row.optimizer for row in analysis.rows), []
    with style():
        for stem, draw in FIGURES.items():
            drawn = draw(analysis, look)
            if drawn is not None:
                _save(drawn.figure, folder / stem)
                pictures.append(Picture(stem=stem, title=drawn.title, alternative=drawn.alternative))
    _remove_others(folder, {picture.stem for picture in pictures})
    return tuple(pictures)


def _remove_others(folder: Path, stems: Collection[str]) -> None:
    """Remove the figures of earlier reports: known by their names, or by being there as PNG and as SVG."""
    found = {kind: {path.stem for path in folder.glob(f"*.{kind}")} for kind in KINDS}
    for kind, names in found.items():
        for stem in names - set(stems):
            if stem in FIGURES or all(stem in others for others in found.values()):
                (folder / f"{stem}.{kind}").unlink()


def _save(figure: Figure, path: Path) -> None:
    """Both files. The layout is found once, and `savefig` is avoided, which draws everything twice."""
    for axes in figure.axes:
        for artist in (*axes.lines, *axes.collections):
            artist.set_in_layout(False)  # the data: within the axes, and slow to measure
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine("none")
    figure.dpi = DPI
    FigureCanvasAgg(figure).print_png(path.with_name(f"{path.name}.png"), metadata={"Software": None})
    for part in (figure, *figure.axes):
        part.set_facecolor("none")
    FigureCanvasSVG(figure).print_svg(path.with_name(f"{path.name}.svg"), metadata={"Date": None})
