"""What is searched: the ranges of an optimizer's hyper-parameters, and the points that all optimizers share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.stats import qmc

from bench.errors import UsageError
from bench.registry import Selected
from bench.spec import SearchRange
from bench.statistics.intervals import FloatArray
from bench.suggestions import unknown

RATE = "lr"
DECADES = 4.0  # of the learning rate's range, centred on the published default
EDGE = 0.1  # share of the range at either end in which an optimum is not trusted
# Settings that many optimizers have, where the entry itself names no range.
COMMON: Mapping[str, SearchRange] = {
    "weight_decay": SearchRange(low=1e-4, high=1.0),
    "momentum": SearchRange(low=0.5, high=0.99, log=False),
    "beta1": SearchRange(low=0.5, high=0.99, log=False),
    "beta2": SearchRange(low=0.9, high=0.9999, log=False),
    "eps": SearchRange(low=1e-10, high=1e-4),
}
_BETAS = {"beta1": 0, "beta2": 1}

Side = Literal["low", "high"]


@dataclass(frozen=True, slots=True)
class Space:
    """The ranges by name; the learning rate is always one of them."""

    ranges: Mapping[str, SearchRange]

    def at(self, point: Sequence[float]) -> dict[str, float]:
        """The values at a point of the unit cube, a coordinate a range."""
        return {name: _value(found, u) for (name, found), u in zip(self.ranges.items(), point, strict=True)}

    def edge(self, values: Mapping[str, float]) -> Side | None:
        """The end of the learning rate's range whose outermost tenth holds the value."""
        found = self.ranges[RATE]
        place = (math.log(values[RATE]) - math.log(found.low)) / (math.log(found.high) - math.log(found.low))
        return "low" if place < EDGE else "high" if place > 1 - EDGE else None

    def widened(self, side: Side) -> tuple[Space, Space]:
        """The space with a decade more of the learning rate at that end, and the new part alone."""
        old = self.ranges[RATE]
        new = replace(old, low=old.low / 10) if side == "low" else replace(old, high=old.high * 10)
        part = replace(old, low=old.low / 10, high=old.low) if side == "low" else replace(old, low=old.high,
                                                                                       high=old.high * 10)  # fmt: skip
        return Space({**self.ranges, RATE: new}), Space({**self.ranges, RATE: part})


def _value(found: SearchRange, u: float) -> float:
    if found.log:
        return found.low * (found.high / found.low) ** u
    return found.low + (found.high - found.low) * u


def search_space(selected: Selected, names: Sequence[str]) -> Space:
    """The ranges of an entry: the learning rate's `DECADES` around its default, others from the entry or `COMMON`.

    Raises `UsageError` where the optimizer has no such setting or no range for it is known.
    """
    if RATE not in names:
        raise UsageError(f"--search {','.join(names)}: {RATE} is always searched; name it, too")
    rate = selected.hyperparameters[RATE]
    if not rate > 0:
        raise UsageError(f"optimizer {selected.spec.name}: its default lr is {rate}; a search needs one above 0")
    half = 10 ** (DECADES / 2)
    known = {**COMMON, **selected.spec.search, RATE: SearchRange(low=rate / half, high=rate * half)}
    for name in names:
        if name not in known:
            raise UsageError(f"--search: {unknown('hyper-parameter', name, known)}")
        if not _has(selected.hyperparameters, name):
            raise UsageError(f"--search {name}: optimizer {selected.spec.name} has no such setting")
    return Space({name: known[name] for name in names})


def _has(settings: Mapping[str, Any], name: str) -> bool:
    betas = settings.get("betas")
    return name in settings or (name in _BETAS and isinstance(betas, list) and len(betas) > _BETAS[name])


def with_values(settings: Mapping[str, Any], values: Mapping[str, float]) -> dict[str, Any]:
    """An optimizer's settings with searched values; `beta1` and `beta2` stand in `betas`."""
    changed = dict(settings)
    for name, value in values.items():
        if name in settings:
            changed[name] = value
        else:
            betas = list(changed["betas"])
            betas[_BETAS[name]] = value
            changed["betas"] = betas
    return changed


def sobol_points(count: int, dimensions: int, seed: int) -> FloatArray:
    """The first points [count, dimensions] of a scrambled Sobol sequence: the same for everyone with this seed."""
    power = max(0, math.ceil(math.log2(max(count, 1))))
    return qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed)).random_base2(power)[:count]


def grid_points(count: int, dimensions: int) -> FloatArray:
    """The middles of `count` equal parts of the range; several ranges have a grid of as many a side as fit."""
    side = max(1, round(count ** (1 / dimensions)))
    axis = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(*[axis] * dimensions, indexing="ij"), axis=-1).reshape(-1, dimensions)[:count]
