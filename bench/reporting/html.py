"""A report as one HTML file that asks for nothing outside itself: styles, script and figures stand inside."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import isfinite
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.reporting.colours import colours
from bench.reporting.document import Block, Bullets, Cell, Code, Document, Paragraph, Picture, Table
from bench.reporting.inline_svg import Styles, inline_svg
from bench.reporting.printable import printable


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure's <svg> element and the width it is drawn for, in CSS pixels."""

    svg: Markup
    width: float


def html(document: Document, figures: Path) -> str:
    """The whole report as a page; every picture is read from `figures`/STEM.svg.

    The page's policy allows its one style sheet and its one script, by their hashes, and nothing else.
    """
    styles = Styles({colour.light: colour.variable for colour in colours() if colour.of_figures})
    drawings = {picture.stem: _drawing(picture, figures, styles) for picture in _pictures(document)}
    style = "\n".join((_variables(), _file("style.css"), styles.sheet(), *_widths(drawings)))
    script = _file("script.js")
    page = _environment().get_template("report.html.j2")
    policy = _policy(style, script)
    return page.render(
        document=document, drawings=drawings, style=Markup(style), script=Markup(script), policy=policy
    )  # fmt: skip


def _pictures(document: Document) -> Iterator[Picture]:
    for blocks in (document.opening, *(section.blocks for section in document.sections)):
        yield from (block for block in blocks if isinstance(block, Picture))


def _drawing(picture: Picture, figures: Path, styles: Styles) -> Drawing:
    label = printable(f"{picture.title}: {picture.alternative}")
    svg, width = inline_svg(figures / f"{picture.stem}.svg", styles, label)
    return Drawing(Markup(svg), width)


def _variables() -> str:
    """Every colour as a variable; the browser takes the value of the page's scheme."""
    declared = "".join(f"--{c.variable}:light-dark({c.light},{c.dark});" for c in colours())
    return f":root{{{declared}}}"


def _widths(drawings: dict[str, Drawing]) -> Iterator[str]:
    for stem, drawing in drawings.items():
        yield f"#figure-{stem}{{--width:{drawing.width:.0f}px}}"


def _file(name: str) -> str:
    return (files("bench.reporting") / "page" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """The Content-Security-Policy: these two texts and images inside the page, no request of any kind."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    return (
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    ).format(*digests)


@cache
def _environment() -> Environment:
    # Without autoescape=True nothing would be escaped, and select_autoescape passes over names ending in .j2.
    environment = Environment(
        loader=PackageLoader("bench.reporting", "page"), autoescape=True, undefined=StrictUndefined, finalize=_final,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"kind": _kind, "sort_value": _sort_value, "breakable": _breakable}
    return environment


def _final(value: object) -> object:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(text: str) -> Markup:
    """`text`, escaped; a single word, as a name is, gets places where a line may break."""
    shown = escape(printable(text))
    return shown if " " in shown else Markup(re.sub("[_/:](?=.)", r"\g<0><wbr>", str(shown)))


def _kind(block: Block) -> str:
    match block:
        case Paragraph():
            return "paragraph"
        case Bullets():
            return "bullets"
        case Code():
            return "code"
        case Table():
            return "table"
        case Picture():
            return "picture"


def _sort_value(cell: Cell) -> str | None:
    """The number as script reads it; None where there is none to sort by."""
    key = cell.sort_key
    if key is None or key != key:
        return None
    return str(key) if isfinite(key) else "Infinity" if key > 0 else "-Infinity"
