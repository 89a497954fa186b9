"""Slow drift, which no single check can see: one change point in the means of a history file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from bench.statistics.changes import change_point

FEWEST_CHECKS = 12
ALPHA = 0.01  # over all optimizers of a history


def drifts(path: Path) -> list[str]:
    """A line for every optimizer whose means changed at one point of the history's latest protocol.

    Bonferroni over optimizers; lines that are none, of another protocol or without a mean are passed over.
    """
    lines = _lines(path)
    hashes = [line.get("protocol_hash") for line in lines]
    lines = [line for line in lines if line.get("protocol_hash") == hashes[-1]] if lines else []
    series: dict[str, list[tuple[dict[str, Any], float]]] = {}
    for line in lines:
        for name, found in line.get("optimizers", {}).items():
            mean = found.get("mean") if isinstance(found, dict) else None
            if isinstance(mean, int | float) and math.isfinite(mean):
                series.setdefault(name, []).append((line, float(mean)))
    long = {name: points for name, points in series.items() if len(points) >= FEWEST_CHECKS}
    return [said for name, points in long.items() if (said := _drift(name, points, ALPHA / len(long)))]


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("optimizers"), dict):
            found.append(line)
    return found


def _drift(name: str, points: list[tuple[dict[str, Any], float]], alpha: float) -> str | None:
    means = [mean for _, mean in points]
    found = change_point(means)
    if found is None or found.p > alpha:
        return None
    before, after = (math.fsum(part) / len(part) for part in (means[: found.index], means[found.index :]))
    line = points[found.index][0]
    where = f"{line.get('finished')}, commit {str(line.get('commit'))[:12]}"
    return (
        f"{name} changed at check {found.index + 1} of {len(means)} ({where}): {before:.2f} before, {after:.2f} since"
    )
