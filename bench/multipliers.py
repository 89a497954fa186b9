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
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.errors import UsageError
from bench.registry import PLUGIN_FAULTS
from bench.seeding import torch_seeded
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
    """Raise `UsageError` where there are multipliers and the entry cannot have several groups, or has one rate for all.

    Two steps are taken with two parameters that differ in their multiplier alone.
    """
    if all(factor == 1 for factor in patterns.values()):
        return
    try:
        halved, plain = _moved(spec, hyperparameters)
    except PLUGIN_FAULTS as error:
        line = " ".join(str(error).split())
        raise UsageError(f"optimizer {spec.name}: cannot have rate_multipliers: {line}") from None
    if torch.equal(halved, plain) and plain.any():
        raise UsageError(f"optimizer {spec.name}: cannot have rate_multipliers: all of its groups move at one rate")


def _moved(spec: OptimizerSpec, hyperparameters: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """How far equal parameters go by equal gradients, the first at half of the rate."""
    from bench.contracts.subject import Subject

    start, gradient = torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([[0.3, 0.1], [-0.2, 0.4]])
    parameters = [nn.Parameter(start.clone()) for _ in range(2)]
    roled = [RoledParameter(name=name, parameter=parameter, role=Role.HIDDEN_MATRIX)
             for name, parameter in zip(("halved", "plain"), parameters, strict=True)]  # fmt: skip
    subject = Subject(spec=spec, hyperparameters=hyperparameters)
    with torch_seeded(0):
        optimizer = subject.ready(build(spec, roled, hyperparameters, {"halved": 0.5}))
        for _ in range(2):
            subject.apply(optimizer, parameters, [gradient, gradient])
    halved, plain = (parameter.detach() - start for parameter in parameters)
    return halved, plain
