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
from bench.search.plan import RATE
from bench.spec import SearchRange
from bench.statistics.intervals import FloatArray
from bench.suggestions import unknown

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
    known = {**COMMON, **selected.spec.search, RATE: _rate_range(selected)}
    for name in names:
        if name not in known:
            raise UsageError(f"--search: {unknown('hyper-parameter', name, known)}")
        _require_range(name, known[name], selected)
    return Space({name: known[name] for name in names})


def _rate_range(selected: Selected) -> SearchRange:
    rate, half = selected.hyperparameters[RATE], 10 ** (DECADES / 2)
    least, most = (10.0 ** (side * 300) for side in (-1, 1))  # with room for every widening
    if not least < rate < most:
        raise UsageError(f"optimizer {selected.spec.name}: its default lr is {rate}; a search needs one above 0, "
                         f"from {least:g} to {most:g}")  # fmt: skip
    return SearchRange(low=rate / half, high=rate * half)


def _require_range(name: str, found: SearchRange, selected: Selected) -> None:
    """Raise `UsageError` where an optimizer has no such setting, it is no number, or its range is none."""
    optimizer = selected.spec.name
    default = _value_of(selected.hyperparameters, name)
    if default is _ABSENT:
        raise UsageError(f"--search {name}: optimizer {optimizer} has no such setting")
    if isinstance(default, bool) or not isinstance(default, int | float):
        raise UsageError(f"--search {name}: optimizer {optimizer} has {name} = {default!r}; allowed are numbers")
    if not -math.inf < found.low < found.high < math.inf or (found.log and found.low <= 0):
        raise UsageError(f"--search {name}: optimizer {optimizer} has the range {found.low} to {found.high}; "
                         f"allowed are finite ones that rise{', above 0' if found.log else ''}")  # fmt: skip


_ABSENT = object()


def _value_of(settings: Mapping[str, Any], name: str) -> Any:
    """A setting's value; `_ABSENT` where there is none of that name."""
    betas = settings.get("betas")
    if name not in settings and name in _BETAS and isinstance(betas, list) and len(betas) > _BETAS[name]:
        return betas[_BETAS[name]]
    return settings.get(name, _ABSENT)


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
    """The middles of `count` equal parts of the range; several ranges have a grid of equally many a side.

    Raises `ValueError` where no such grid has `count` points.
    """
    side = round(count ** (1 / dimensions))
    if side**dimensions != count:
        near = ", ".join(str(n**dimensions) for n in range(max(1, side - 1), side + 2))
        raise ValueError(f"a grid over {dimensions} hyper-parameters never has {count} points; allowed are {near}, …")
    axis = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(*[axis] * dimensions, indexing="ij"), axis=-1).reshape(-1, dimensions)
