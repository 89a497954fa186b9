"""The result for the terminal: a line a gate, a row an optimizer, then the verdict; 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.check.result import Case, CheckResult, Gate, Side, Status

if TYPE_CHECKING:
    from rich.console import Group

STYLES = {
    Status.PASS: "green",
    Status.NOTE: "cyan",
    Status.WARN: "yellow",
    Status.INCONCLUSIVE: "yellow",
    Status.FAIL: "bold red",
    Status.INCOMPATIBLE: "bold red",
    Status.SKIPPED: "dim",
}
HEADINGS = ("optimizer", "baseline", "candidate", "change", "95 %", "p")


def view(result: CheckResult) -> Group:
    """All of it."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    lines: list[object] = [Text(heading(result))]
    gates = Table.grid(padding=(0, 2, 0, 0))
    for gate in result.gates:
        gates.add_row(Text(gate.name), Text(gate.status, style=STYLES[gate.status]), Text(gate.text))
    lines.append(gates)
    if level := result.gate("level"):
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(HEADINGS[0], overflow="fold")
        for name in HEADINGS[1:]:
            table.add_column(name, justify="right", no_wrap=True)
        for case in level.cases:
            table.add_row(*map(Text, cells(case)), style="" if case.status is Status.PASS else STYLES[case.status])
        lines += [Text(), table, Text(legend(result), style="dim")]
    lines += [Padding(Text(f"note: {note}"), (0, 0)) for note in result.notes]
    lines.append(Text(f"\n{conclusion(result)}", style=STYLES[result.verdict]))
    return Group(*lines)  # pyright: ignore[reportArgumentType]


def heading(result: CheckResult) -> str:
    """Which two sides these are."""
    metric = f"{result.metric} in {result.unit}" if result.unit else result.metric
    return f"{_side(result.candidate)} against the baseline {_side(result.baseline)}, {metric}"


def _side(side: Side) -> str:
    return f"{side.source} ({side.commit})" if side.commit else side.source


def cells(case: Case) -> list[str]:
    """A row of the table; means in parentheses are over runs of which some failed."""
    f = case.figures
    values = [
        _mean(f.get("baseline"), f.get("baseline_failed")),
        _mean(f.get("candidate"), f.get("candidate_failed")),
        _number(f.get("difference"), "+.3g"),
        _interval(f.get("low"), f.get("high")),
        _number(f.get("p_holm"), ".2g"),
    ]
    return [case.name, *values]


def _mean(value: float | None, failed: float | None) -> str:
    shown = _number(value, ".4g")
    return f"({shown})" if failed else shown


def _interval(low: float | None, high: float | None) -> str:
    known = all(end is not None and math.isfinite(end) for end in (low, high))
    return f"{low:+.3g} to {high:+.3g}" if known else "–"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None or not math.isfinite(value) else format(value, form)


def legend(result: CheckResult) -> str:
    """What the columns are."""
    less = f" beyond the allowed {result.margin:g}" if result.margin else ""
    return (f"change: candidate − baseline, paired by seed, with its 95 % interval; p: of a loss{less}, one-sided, "
            "Holm over all; in parentheses: some runs failed and score chance.")  # fmt: skip


def conclusion(result: CheckResult) -> str:
    """The verdict and which gates decided it."""
    verdict = result.verdict
    deciding = [gate.name for gate in result.gates if gate.status is verdict]
    if verdict is Status.PASS:
        warned = [gate.name for gate in result.gates if gate.status is Status.WARN]
        return f"PASS, with a warning: {', '.join(warned)}" if warned else "PASS"
    return f"{verdict.upper()}: {', '.join(deciding)}"


def findings(result: CheckResult) -> Iterator[Gate]:
    """The gates that somebody should look at."""
    quiet = (Status.PASS, Status.NOTE, Status.SKIPPED)
    yield from (gate for gate in result.gates if gate.status not in quiet)
