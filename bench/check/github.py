"""The result for GitHub Actions: annotations on standard output, and markdown for the step's summary.

A step shows ten annotations of a kind and no more, hence one a gate.
https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

import html
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.check.result import CheckResult, Status
from bench.check.text import HEADINGS, cells, conclusion, findings, heading, legend

SUMMARY_BYTES = 1 << 20  # what a step may write
CUT = "\n\nThe summary is cut here: a step may write 1 MiB.\n"
SIGNS = {Status.PASS: "✅", Status.FAIL: "❌", Status.INCOMPATIBLE: "❌", Status.WARN: "⚠️", Status.INCONCLUSIVE: "⚠️"}


def annotation_lines(result: CheckResult) -> list[str]:
    """A workflow command for every gate that somebody should look at."""
    return [
        command("error" if gate.status in (Status.FAIL, Status.INCOMPATIBLE) else "warning",
                f"bench check: {gate.name} {gate.status}", gate.text)
        for gate in findings(result)
    ]  # fmt: skip


def command(kind: str, title: str, text: str) -> str:
    """`::error title=…::…`, escaped so that no text can end it or begin another."""
    return f"::{kind} title={_property(title)}::{_data(text)}"


def fence() -> tuple[str, str]:
    """Lines around a text, in which no name can then be a command: nobody can guess the token that ends it."""
    token = secrets.token_hex(16)
    return f"::stop-commands::{token}", f"::{token}::"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def markdown(result: CheckResult) -> str:
    """The same as on a terminal."""
    gates = [(gate.name, f"{SIGNS.get(gate.status, '')} {gate.status}".strip(), gate.text) for gate in result.gates]
    parts = [f"## bench check: {plain(conclusion(result))}", plain(heading(result)),
             _table(("gate", "", ""), gates)]  # fmt: skip
    if level := result.gate("level"):
        parts += [_table(HEADINGS, [cells(case) for case in level.cases]), plain(legend(result))]
    if result.notes:
        parts.append("\n".join(f"* {plain(note)}" for note in result.notes))
    return "\n\n".join(parts) + "\n"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Text that markdown shows as it is: no markup, HTML, link, mention or end of a cell."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~@:>-])", r"\\\1", html.escape(text, quote=False))


def append_summary(text: str, path: Path) -> None:
    """Add `text` to the step's summary, cut to what GitHub accepts."""
    room = SUMMARY_BYTES - (path.stat().st_size if path.exists() else 0)
    content = text.encode()
    if len(content) > room:
        content = content[: max(0, room - len(CUT.encode()))].decode(errors="ignore").encode() + CUT.encode()
    if len(content) <= room:
        with path.open("ab") as file:
            file.write(content)
