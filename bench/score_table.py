"""A table of scores as a user has it: CSV with a row a seed and a column an optimizer."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import UsageError

DIVERGED = "diverged"
LARGEST = 1e100  # beyond, squares of differences overflow


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable:
    """Scores [seeds, optimizers], NaN where there is none; `diverged` marks those that are an outcome, not missing."""

    names: tuple[str, ...]
    seeds: tuple[str, ...]
    scores: NDArray[np.float64]
    diverged: NDArray[np.bool_]


def read_scores(path: Path) -> ScoreTable:
    """The table of a CSV file: header `seed,<name>,…`; cells are finite numbers, empty (missing) or `diverged`.

    Raises `UsageError` naming file, row and column of what is not allowed.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file, strict=True), 1) if row]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not readable as CSV: {error}") from None
    if len(rows) < 2:
        raise UsageError(f"{path}: has no row of scores; allowed is a header seed,<name>,… and one row a seed")
    names = _names(path, [cell.strip() for cell in rows[0][1]])
    seeds = _seeds(path, rows[1:])
    scores = np.array([_numbers(path, number, row, names) for number, row in rows[1:]])
    diverged = np.isinf(scores)
    scores[diverged] = math.nan
    if np.isnan(scores).all():
        raise UsageError(f"{path}: holds no score: every cell is empty or {DIVERGED}")
    missing = np.isnan(scores) & ~diverged
    if (kept := int((~missing.any(axis=1)).sum())) < 2:
        raise UsageError(f"{path}: {kept} of {len(seeds)} rows are complete; a comparison needs 2 seeds or more")
    return ScoreTable(names=names, seeds=seeds, scores=scores, diverged=diverged)


def _names(path: Path, header: list[str]) -> tuple[str, ...]:
    if separator := next((s for s in (";", "\t") if len(header) == 1 and s in header[0]), None):
        raise UsageError(
            f"{path}, row 1: cells are separated by {separator!r}; allowed is a comma, and a point in numbers"
        )
    if header[0].lower() != "seed" or len(header) < 2:
        raise UsageError(f"{path}, row 1: header is {','.join(header)!r}; allowed is seed,<name>,<name>,…")
    names = header[1:]
    if "" in names:
        raise UsageError(f"{path}, row 1: column {names.index('') + 2} has no name")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{path}, row 1: {twice[0]!r} is the name of two columns")
    return tuple(names)


def _seeds(path: Path, rows: list[tuple[int, list[str]]]) -> tuple[str, ...]:
    first: dict[str, int] = {}
    for number, row in rows:
        seed = row[0].strip()
        if seed in first:
            raise UsageError(f"{path}, row {number}: seed {seed!r} is there already, in row {first[seed]}")
        first[seed] = number
    return tuple(first)


def _numbers(path: Path, number: int, row: list[str], names: tuple[str, ...]) -> list[float]:
    if len(row) != len(names) + 1:
        raise UsageError(f"{path}, row {number}: has {len(row)} cells; the header has {len(names) + 1}")
    return [_cell(path, number, name, text.strip()) for name, text in zip(names, row[1:], strict=True)]


def _cell(path: Path, number: int, name: str, text: str) -> float:
    """The number, NaN where the cell is empty, infinity where the run diverged."""
    if not text:
        return math.nan
    if text.lower() == DIVERGED:
        return math.inf
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST:
        allowed = f"a finite number (at most {LARGEST:g}), nothing and {DIVERGED}"
        raise UsageError(f"{path}, row {number}, {name}: {text!r}; allowed are {allowed}")
    return value
