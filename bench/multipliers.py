"""Rate multipliers: parameters by name whose learning rate is a factor of what it would be.

    rate of a group = its rate by the entry's policy × the schedule's factor × the multiplier of the stage

Every group of a policy is divided into one group a multiplier. An algorithm that looks at a whole group (its norm, its
mixing) therefore sees smaller ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.errors import UsageError
from bench.registry import PLUGIN_FAULTS
from bench.seeding import torch_seeded
from bench.spec import OptimizerSpec, ParameterGroups, Role, RoledParameter

Factors = tuple[float, ...]  # on a parameter's rate: one a stage of training


def multipliers_of(roled: Sequence[RoledParameter], patterns: Mapping[str, float]) -> list[float]:
    """Each parameter's multiplier: that of the last pattern found in its name, so that later ones overrule, else 1."""
    found = [[factor for pattern, factor in patterns.items() if re.search(pattern, p.name)] for p in roled]
    return [factors[-1] if factors else 1.0 for factors in found]


def factors_of(roled: Sequence[RoledParameter], stages: Sequence[Mapping[str, float]]) -> list[Factors]:
    """Each parameter's multipliers, by the patterns of each stage."""
    by_stage = [multipliers_of(roled, patterns) for patterns in stages]
    return list(zip(*by_stage, strict=True))


def require_found(patterns: Mapping[str, float], names: Sequence[str]) -> None:
    """Raise `UsageError` where a pattern is found in no name of a network's parameters, frozen ones included."""
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            parts = dict.fromkeys(name.partition(".")[0] for name in names)
            raise UsageError(f"rate_multipliers: {pattern!r} is found in no parameter's name; names begin with "
                             f"{', '.join(parts)}")  # fmt: skip


def divided(groups: ParameterGroups, factors: Mapping[int, Factors]) -> ParameterGroups:
    """The policy `groups`, each of its groups in parts of equal factors; `factors` by a parameter's id.

    Parts whose factors are 1 come first: the first group's rate is the one that a curve shows.
    """

    def policy(parameters: Sequence[RoledParameter]) -> list[dict[str, Any]]:
        parts: list[tuple[Factors, dict[str, Any]]] = []
        for group in groups(parameters):
            members: dict[Factors, list[Any]] = {}
            for parameter in group["params"]:
                members.setdefault(factors[id(parameter)], []).append(parameter)
            parts += [(own, {**group, "params": params}) for own, params in members.items()]
        return [group for _, group in sorted(parts, key=lambda part: not _ones(part[0]))]

    return policy


def build(
    spec: OptimizerSpec,
    roled: Sequence[RoledParameter],
    hyperparameters: Mapping[str, Any],
    factors: Sequence[Factors],
) -> tuple[Optimizer, list[Factors]]:
    """The optimizer with groups of equal factors, those of each parameter given, and the factors of each group.

    The very same as `spec.build` where all are 1. The rates of its groups are the entry's own.
    """
    if all(map(_ones, factors)):
        optimizer = spec.build(roled, hyperparameters)
        return optimizer, [factors[0] for _ in optimizer.param_groups]
    by_id = {id(p.parameter): own for p, own in zip(roled, factors, strict=True)}
    optimizer = replace(spec, groups=divided(spec.groups, by_id)).build(roled, hyperparameters)
    by_group = [{by_id[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups]
    if any(len(own) != 1 for own in by_group):
        raise UsageError(f"optimizer {spec.name}: joins parameter groups, so it has no rate_multipliers")
    return optimizer, [own.pop() for own in by_group]


def _ones(factors: Factors) -> bool:
    return all(factor == 1 for factor in factors)


def require_multipliers(spec: OptimizerSpec, hyperparameters: Mapping[str, Any], factors: Iterable[float]) -> None:
    """Raise `UsageError` where there are multipliers and the entry cannot have several groups, or has one rate for all.

    Two steps are taken with two parameters that differ in their multiplier alone.
    """
    if all(factor == 1 for factor in factors):
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
        optimizer, by_group = build(spec, roled, hyperparameters, [(0.5,), (1.0,)])
        for group, (factor,) in zip(optimizer.param_groups, by_group, strict=True):
            group["lr"] *= factor
        subject.ready(optimizer)
        for _ in range(2):
            subject.apply(optimizer, parameters, [gradient, gradient])
    halved, plain = (parameter.detach() - start for parameter in parameters)
    return halved, plain
