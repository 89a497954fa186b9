"""Rate multipliers: parameters by name whose learning rate is a factor of what it would be.

    rate of a group = its rate by the entry's policy × the schedule's factor × the multiplier

Every group of a policy is divided into one group a multiplier. An algorithm that looks at a whole group (its norm, its
mixing) therefore sees smaller ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from bench.errors import UsageError
from bench.registry import PLUGIN_FAULTS
from bench.spec import OptimizerSpec, ParameterGroups, Role, RoledParameter


def multipliers_of(roled: Sequence[RoledParameter], patterns: Mapping[str, float]) -> list[float]:
    """Each parameter's multiplier: that of the last pattern found in its name, so that later ones overrule, else 1."""
    found = [[factor for pattern, factor in patterns.items() if re.search(pattern, p.name)] for p in roled]
    return [factors[-1] if factors else 1.0 for factors in found]


def require_found(patterns: Mapping[str, float], names: Sequence[str]) -> None:
    """Raise `UsageError` where a pattern is found in no name of a network's parameters, frozen ones included."""
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            parts = dict.fromkeys(name.partition(".")[0] for name in names)
            raise UsageError(f"rate_multipliers: {pattern!r} is found in no parameter's name; names begin with "
                             f"{', '.join(parts)}")  # fmt: skip


def divided(groups: ParameterGroups, multipliers: Mapping[int, float]) -> ParameterGroups:
    """The policy `groups`, each of its groups in parts of one multiplier; `multipliers` by a parameter's id.

    Parts whose multiplier is 1 come first: the first group's rate is the one that a curve shows.
    """

    def policy(parameters: Sequence[RoledParameter]) -> list[dict[str, Any]]:
        parts: list[tuple[float, dict[str, Any]]] = []
        for group in groups(parameters):
            members: dict[float, list[Any]] = {}
            for parameter in group["params"]:
                members.setdefault(multipliers[id(parameter)], []).append(parameter)
            parts += [(factor, {**group, "params": own}) for factor, own in members.items()]
        return [group for _, group in sorted(parts, key=lambda part: part[0] != 1)]

    return policy


def build(
    spec: OptimizerSpec,
    roled: Sequence[RoledParameter],
    hyperparameters: Mapping[str, Any],
    patterns: Mapping[str, float],
) -> Optimizer:
    """`spec.build` with the rates of `patterns`; the very same where every multiplier is 1."""
    factors = multipliers_of(roled, patterns)
    if all(factor == 1 for factor in factors):
        return spec.build(roled, hyperparameters)
    by_id = {id(p.parameter): factor for p, factor in zip(roled, factors, strict=True)}
    optimizer = replace(spec, groups=divided(spec.groups, by_id)).build(roled, hyperparameters)
    for group in optimizer.param_groups:
        own = {by_id[id(parameter)] for parameter in group["params"]}
        if len(own) != 1:
            raise UsageError(f"optimizer {spec.name}: joins parameter groups, so it has no rate_multipliers")
        group["lr"] *= own.pop()
    return optimizer


def require_multipliers(spec: OptimizerSpec, hyperparameters: Mapping[str, Any], patterns: Mapping[str, float]) -> None:
    """Raise `UsageError` where the entry cannot have several groups and there are multipliers."""
    if all(factor == 1 for factor in patterns.values()):
        return
    roled = [RoledParameter(name=name, parameter=nn.Parameter(torch.zeros(2, 2)), role=Role.HIDDEN_MATRIX)
             for name in ("a", "b")]  # fmt: skip
    try:
        build(spec, roled, hyperparameters, {"a": 0.5})
    except PLUGIN_FAULTS as error:
        line = " ".join(str(error).split())
        raise UsageError(f"optimizer {spec.name}: cannot have rate_multipliers: {line}") from None
