"""Counts, shares and seeds in words."""

from __future__ import annotations

from collections.abc import Iterable

MOST_SEEDS = 8  # named one by one


def counted(number: int, noun: str) -> str:
    """`1 run`, `1,200 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """`45 %`."""
    return f"{100 * share:.0f} %"


def seeds_text(seeds: Iterable[int]) -> str:
    """`seed 3`, `seeds 0 to 4`, `seeds 0, 2, 5`; of many, how many more."""
    found = sorted(set(seeds))
    if len(found) == 1:
        return f"seed {found[0]}"
    if len(found) > 2 and found[-1] - found[0] == len(found) - 1:
        return f"seeds {found[0]} to {found[-1]}"
    more = f", {len(found) - MOST_SEEDS} more" if len(found) > MOST_SEEDS else ""
    return f"seeds {', '.join(map(str, found[:MOST_SEEDS]))}{more}"
