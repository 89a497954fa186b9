"""Rate multipliers: parameters by name whose learning rate is a factor of what it would be.

    rate of a group = its rate by the entry's policy × the schedule's factor × the multiplier

Every group of a policy is divided into one group a multiplier, in the order in which the multipliers first occur in it.
An algorithm that looks at a whole group (its norm, its mixing) therefore sees smaller ones.
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
    """Each parameter's multiplier: that of the first pattern found in its name, else 1.

    Raises `UsageError` where a pattern is found in no name.
    """
    found, used = [], set()
    for p in roled:
        pattern = next((pattern for pattern in patterns if re.search(pattern, p.name)), None)
        used.add(pattern)
        found.append(1.0 if pattern is None else patterns[pattern])
    if idle := [pattern for pattern in patterns if pattern not in used]:
        modules = sorted({p.name.rpartition(".")[0].partition(".")[0] or p.name for p in roled})
        raise UsageError(f"rate_multipliers: {idle[0]!r} is the first to match no trainable parameter; their names "
                         f"begin with {', '.join(modules)}")  # fmt: skip
    return found


def divided(groups: ParameterGroups, multipliers: Mapping[int, float]) -> ParameterGroups:
    """The policy `groups`, each of its groups in parts of one multiplier; `multipliers` by a parameter's id."""

    def policy(parameters: Sequence[RoledParameter]) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for group in groups(parameters):
            members: dict[float, list[Any]] = {}
            for parameter in group["params"]:
                members.setdefault(multipliers[id(parameter)], []).append(parameter)
            parts += [{**group, "params": own} for own in members.values()]
        return parts

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
