"""The answer to a query as a picture: the query at the left, each modality's nearest items in a row beside it."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine

from bench.demo import Answer, Match, Thing
from bench.errors import UsageError
from bench.reporting.figures.looks import INK, LINE, MUTED, plain, safe, style

DPI = 150
CELL = 1.35  # inches a side
COLOURS = {True: "#2f7d32", False: "#c4501b", None: LINE}  # of frames; the sign says the same without colour
SIGNS = {True: "✓ ", False: "✗ ", None: ""}
WIDTHS = {"query": 16, "match": 13}  # signs a line of a text in a cell
LINES = 6


def require_picture(path: Path) -> None:
    """Raise `UsageError` where a picture cannot be written to a path."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--output {path}: allowed is a file name that ends in .png")
    if not path.parent.is_dir():
        raise UsageError(f"--output {path}: {path.parent} is no folder; allowed is a file in one that is there")


def save(answer: Answer, path: Path) -> None:
    """Write the picture; the same answer gives the same bytes."""
    buffer = io.BytesIO()
    with style():
        FigureCanvasAgg(_figure(answer)).print_png(buffer, metadata={"Software": None})
    path.write_bytes(buffer.getvalue())


def _figure(answer: Answer) -> Figure:
    rows, columns = len(answer.matches), max(len(found) for found in answer.matches.values())
    width = CELL * (columns + 1.9) + 0.4
    room = ConstrainedLayoutEngine(h_pad=0.14, rect=(0, 0, 1, 0.97))  # for the headings above the rows
    figure = Figure(figsize=(max(width, 6.0), (CELL + 0.7) * rows + 1.0), dpi=DPI, layout=room)
    head = answer.weights.head
    title = f"{plain(head.protocol.name)}: {plain(answer.name)} weights, epoch {head.epoch}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    grid = GridSpec(rows, columns + 2, figure=figure, width_ratios=[1.5, 0.12, *[1.0] * columns])
    query = figure.add_subplot(grid[:, 0])
    _draw(query, answer.asked, "query")
    _frame(query, INK, 1.2)
    query.set_title(f"query: {_of(answer)}", fontsize=10, fontweight="bold", loc="center")
    for i, (modality, found) in enumerate(answer.matches.items()):
        for j, match in enumerate(found):
            axes = figure.add_subplot(grid[i, j + 2])
            _draw_match(axes, match)
            if j == 0:
                place = f"; first that belongs: place {answer.places[modality]}" if modality in answer.places else ""
                nearest = f"nearest of {answer.pools[modality]} {_plural(modality)}{place}"
                heading = axes.annotate(
                    nearest, (0, 1), xytext=(0, 22), xycoords="axes fraction", textcoords="offset points",
                    fontsize=10, fontweight="bold", color=INK, annotation_clip=False,
                )  # fmt: skip
                heading.set_in_layout(False)  # its width is no column's
    figure.supxlabel(_legend(answer), x=0.01, ha="left", fontsize=9, color=MUTED)
    return figure


def _of(answer: Answer) -> str:
    query = answer.query
    return f"your {_own(query.modality)}" if query.item is None else f"{_own(query.modality)} of item {query.item}"


def _own(modality: str) -> str:
    return {"text": "text", "image": "image", "audio": "sound"}[modality]


def _plural(modality: str) -> str:
    return {"text": "texts", "image": "images", "audio": "clips"}[modality]


def _legend(answer: Answer) -> str:
    known = any(match.belongs is not None for found in answer.matches.values() for match in found)
    meaning = "cosine of the embeddings"
    return f"{meaning}; ✓ belongs to the query, ✗ does not" if known else f"{meaning}; what belongs is not known"


def _draw_match(axes: Axes, match: Match) -> None:
    _draw(axes, match.thing, "match")
    _frame(axes, COLOURS[match.belongs], 2.2)
    axes.set_title(f"{SIGNS[match.belongs]}{match.similarity:.3f}", fontsize=10, loc="center",
                   color=COLOURS[match.belongs] if match.belongs is not None else INK)  # fmt: skip
    copies = f"{match.copies} alike" if match.copies > 1 else f"item {match.item}"
    below = copies if match.caption is None else f"{_cut(match.caption, 17)}"
    axes.set_xlabel(safe(below), fontsize=8, color=MUTED, labelpad=3)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _frame(axes: Axes, colour: str, width: float) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set(color=colour, linewidth=width)


def _draw(axes: Axes, thing: Thing, place: str) -> None:
    if thing.picture is None:
        lines = textwrap.wrap(thing.text or "", WIDTHS[place])
        shown = [*lines[: LINES - 1], "…"] if len(lines) > LINES else lines
        axes.text(0.5, 0.5, "\n".join(map(safe, shown)), ha="center", va="center", transform=axes.transAxes,
                  fontsize=11 if place == "query" else 8.5, color=INK)  # fmt: skip
        axes.set_box_aspect(1)
        return
    settings: dict[str, Any] = {"interpolation": "nearest"}
    if thing.modality == "audio":  # low bands at the bottom; a square, however long the clip is
        settings |= {"origin": "lower", "aspect": "auto", "cmap": "magma"}
    axes.imshow(thing.picture.float().numpy(), **settings)
    axes.set_box_aspect(1)
