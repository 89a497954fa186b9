"""The best choice under a constraint: memory and time that a run may take."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.errors import UsageError
from bench.ranking import rank_scores
from bench.reporting.analysis import Analysis
from bench.reporting.document import Bullets, Cell, Section, table
from bench.reporting.provenance import duration
from bench.reporting.result_table import bytes_cell, bytes_text
from bench.summary import Row
from bench.verdict_text import sentences

_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}  # fmt: skip
_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run may take: bytes of peak memory and seconds in all; None is no limit."""

    memory: float | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        memory = [] if self.memory is None else [f"{bytes_text(self.memory)} of memory"]
        seconds = [] if self.seconds is None else [duration(self.seconds)]
        return " and ".join([*memory, *seconds])


def parse_memory(text: str) -> float:
    """`8GB` in bytes; raises `UsageError` where it is no size."""
    return _parse("--max-memory", text, _BYTES)


def parse_time(text: str) -> float:
    """`2h` in seconds; raises `UsageError` where it is no time."""
    return _parse("--max-time", text, _SECONDS)


def _parse(option: str, text: str, units: dict[str, int]) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    by_lower = {name.lower(): size for name, size in units.items()}
    if not found or found[2].lower() not in by_lower or not float(found[1]):
        raise UsageError(f"{option} {text!r}: allowed is a number above 0 with one of {', '.join(units)}")
    return float(found[1]) * by_lower[found[2].lower()]


def section(analysis: Analysis, limits: Limits) -> Section:
    """Which optimizers keep within the limits in every run, and what may be the best of them."""
    fits = [row for row in analysis.rows if _fits(row, limits)]
    names = {row.optimizer for row in fits}
    ranked = [name for name in analysis.scores.names if name in names]
    found = rank_scores(analysis.scores.only(ranked)) if len(fits) > 1 else None
    said = [f"{len(fits)} of {len(analysis.rows)} optimizers keep within {limits} in every run."]
    if len(fits) == len(analysis.rows):
        said.append("So what was said of all holds here too.")
    elif found is not None:
        said += sentences(found, analysis.points)
    elif fits:
        said.append(f"{fits[0].optimizer} alone: there is nothing to compare it with." if len(fits) == 1 else
                    "There are too few complete seeds to compare them.")  # fmt: skip
    lines = [
        [row.optimizer, "yes" if row in fits else "no" if row.ok else "no run is ok", bytes_cell(row.peak_bytes, row),
         Cell(duration(_longest(row)), _longest(row))]
        for row in analysis.rows
    ]  # fmt: skip
    headings = ["optimizer", "fits", "peak memory", "longest run"]
    grid = table("limits", "The most that a run took", headings, lines, text=("optimizer", "fits"))
    return Section(f"Within {limits}", (Bullets(tuple(said)), grid))


def _longest(row: Row) -> float:
    return max(r.seconds.total for r in row.records)


def _fits(row: Row, limits: Limits) -> bool:
    """Peak memory over all runs and the longest run; neither no ok run fits nor memory that was not measured."""
    memory = limits.memory is None or 0 < row.peak_bytes <= limits.memory
    return bool(row.ok) and memory and (limits.seconds is None or _longest(row) <= limits.seconds)
