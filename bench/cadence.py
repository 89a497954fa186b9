"""An update cadence: groups of parameters, the levels, each of which is updated only every so many ticks.

A tick is one batch's gradient. What a level does with its ticks is in `bench.cadenced`; this file says what a level is
and which parameters belong to it. After Behrouz et al., "Nested Learning: The Illusion of Deep Learning Architectures",
NeurIPS 2025, whose levels are sorted by updates per unit of data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from bench.errors import UsageError
from bench.spec import Need, OptimizerSpec, RoledParameter

if TYPE_CHECKING:
    from bench.protocol import Protocol

# A chunk's gradients are there when a level fires: no loss to evaluate anew, no graph, no second set of weights.
UNSUITED = frozenset(Need)


class Level(BaseModel):
    """Parameters whose names `pattern` finds; they are updated every `chunk` ticks, at `lr_scale` times the rate.

    What they are updated with is the sum or the mean of the chunk's gradients. With `flush_at_end` the ticks after the
    last whole chunk make one more, shorter chunk when training ends; else they are dropped.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    pattern: str
    chunk: int = Field(default=1, ge=1)
    lr_scale: float = Field(default=1.0, gt=0)
    reduction: Literal["sum", "mean"] = "mean"
    flush_at_end: bool = False

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return pattern


def distinct(levels: tuple[Level, ...] | None) -> tuple[Level, ...] | None:
    """The levels themselves; raises `ValueError` where there are none, or two of one name."""
    if levels is not None:
        names = [level.name for level in levels]
        if not names:
            raise ValueError('no levels; allowed are one or more, or "none"')
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two levels are called {twice[0]!r}; allowed are distinct names")
    return levels


def by_level(levels: Sequence[Level], parameters: Sequence[RoledParameter]) -> list[list[RoledParameter]]:
    """Each level's parameters, in the network's order.

    Raises `UsageError` where a parameter is in no level or in two, or a level has none.
    """
    found: list[list[RoledParameter]] = [[] for _ in levels]
    for parameter in parameters:
        places = [i for i, level in enumerate(levels) if re.search(level.pattern, parameter.name)]
        if len(places) != 1:
            where = " and ".join(levels[i].name for i in places) or "none"
            raise UsageError(f"cadence: parameter {parameter.name!r} is in level {where}; allowed is exactly one of "
                             f"{_patterns(levels)}")  # fmt: skip
        found[places[0]].append(parameter)
    for level, own in zip(levels, found, strict=True):
        if not own:
            raise UsageError(f"cadence: level {level.name!r} has no parameter: its pattern {level.pattern!r} is in no "
                             "name of the network")  # fmt: skip
    return found


def _patterns(levels: Sequence[Level]) -> str:
    return ", ".join(f"{level.name} ({level.pattern})" for level in levels)


def require_plain_step(spec: OptimizerSpec) -> None:
    """Raise `UsageError` where an entry cannot be stepped at a cadence."""
    if unsuited := sorted(UNSUITED & spec.needs):
        needs = " and ".join(unsuited)
        raise UsageError(f"optimizer {spec.name}: the protocol has a cadence, which does not go with the need {needs}; "
                         'allowed are entries with a plain step, and cadence = "none"')  # fmt: skip


def require_cadence(specs: Sequence[OptimizerSpec], protocol: Protocol, roled: Sequence[RoledParameter]) -> None:
    """Raise `UsageError` where an entry cannot be stepped at a cadence, or the levels do not divide the network."""
    if protocol.cadence is None:
        return
    for spec in specs:
        require_plain_step(spec)
    if protocol.techniques.stages is not None:
        raise UsageError(f"protocol {protocol.name!r}: has a cadence and stages, which freeze in mid-chunk; "
                         "allowed is one of them")  # fmt: skip
    by_level(protocol.cadence, roled)
