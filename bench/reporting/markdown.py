"""A report as markdown (GitHub's), and the rule by which its text is escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.reporting.document import Block, Bullets, Code, Document, Paragraph, Picture, Section, Table
from bench.reporting.printable import printable


def markdown(document: Document) -> str:
    """The whole report; figures are expected in figures/ beside it."""
    parts = [f"# {markdown_cell(document.title)}", *map(_block, document.opening)]
    for section in document.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    return [f"## {markdown_cell(section.title)}", *map(_block, section.blocks)]


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return markdown_line(text)
        case Bullets(lines):
            return "\n".join(f"* {markdown_line(line)}" for line in lines)
        case Code(lines):
            return _code(lines)
        case Table():
            return _table(block)
        case Picture():
            # The PNG file has paper of its own: the SVG file's dark ink would be lost on a dark page.
            picture = f"![{markdown_cell(block.alternative)}](figures/{block.stem}.png)"
            return f"### {markdown_cell(block.title)}\n\n{picture}"


def _code(lines: Sequence[str]) -> str:
    """Fenced, since indented lines after a list would belong to the list; the fence is longer than any inside."""
    text = printable("\n".join(lines))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _table(table: Table) -> str:
    cells = [[cell.text for cell in row] for row in table.rows]
    grid = markdown_grid(table.headings, table.text, cells)
    parts = (f"**{markdown_cell(table.caption)}**" if table.caption.strip() else "", grid, markdown_line(table.note))
    return "\n\n".join(filter(None, parts))


def markdown_line(text: str) -> str:
    """`text` as a line of its own, which its first sign makes neither list nor heading."""
    line = re.sub(r"^(\d{1,9})([.)])", r"\1\\\2", markdown_cell(text))
    return f"\\{line}" if line.startswith(("-", "+", "=")) else line


def markdown_cell(text: str) -> str:
    """`text` as a cell or line of markdown: no markup, no cell border, no line break."""
    text = re.sub(r"([\\`*{}\[\]<>|#~$&])", r"\\\1", printable(text))
    # Within a word an underscore is no markup.
    return " ".join(re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text).split())


def markdown_grid(headings: Sequence[str], left: Sequence[bool], cells: Sequence[Sequence[str]]) -> str:
    """A markdown table; `left` says which columns are text."""
    border = [":--" if side else "--:" for side in left]
    lines = [[markdown_cell(cell) for cell in line] for line in (headings, *cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], border, *lines[1:]))
