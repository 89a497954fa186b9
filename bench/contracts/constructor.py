"""Contracts of the constructor: what it refuses."""

from __future__ import annotations

import inspect
import math
from typing import Any

from bench.contracts.subject import Subject, parameters_of, random_gradients, require_same_bits
from bench.contracts.verdict import Broken, Contract, NotApplicable
from bench.seeding import globally_seeded
from bench.spec import Need

BAD_NUMBERS = (-1.0, math.nan, math.inf)
# A hyper-parameter's values that no optimizer has a meaning for, and the words by which an error may name it.
REFUSED: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
    "lr": (BAD_NUMBERS, ("lr", "learning rate", "learning_rate")),
    "eps": (BAD_NUMBERS, ("eps",)),
    "weight_decay": (BAD_NUMBERS, ("weight_decay", "weight decay")),
    "momentum": (BAD_NUMBERS, ("momentum",)),
    "betas": (((-0.5, 0.999), (0.9, 1.5), (0.9, math.nan)), ("beta",)),
}


def refusals(subject: Subject) -> str:
    """Every bad value of every hyper-parameter that the constructor takes."""
    accepted: list[str] = []
    unnamed: list[str] = []
    cases = [(key, value) for key, (values, _) in REFUSED.items() if subject.accepts(key) for value in values]
    for key, value in cases:
        if key == "betas":
            value = _as_long_as_default(subject, value)
        case = f"{key}={value!r}"
        try:
            subject.spec.load()(parameters_of(((3,), (2, 2))), **{**subject.hyperparameters, key: value})
        except ValueError as error:
            text = str(error).lower()
            names_value = any(repr(x) in text for x in (value if isinstance(value, tuple) else (value,)))
            if not (names_value and any(word in text for word in REFUSED[key][1])):
                unnamed.append(f"{case}: {error}")
        except Exception as error:  # a refusal, but of the wrong kind
            unnamed.append(f"{case}: {type(error).__name__}: {error}")
        else:
            accepted.append(case)
    if accepted:
        raise Broken(f"accepts {len(accepted)} of {len(cases)} bad values: {', '.join(accepted)}")
    if unnamed:
        raise Broken(f"{len(unnamed)} of {len(cases)} refusals are no ValueError naming the value: {unnamed[0][:150]}")
    return f"{len(cases)} bad values refused, each by name and value"


def _as_long_as_default(subject: Subject, value: tuple[float, ...]) -> tuple[float, ...]:
    """`value` with as many coefficients as the constructor's own default."""
    default = inspect.signature(subject.spec.load()).parameters["betas"].default
    return value + tuple(default[2:]) if isinstance(default, tuple | list) else value


def maximize(subject: Subject) -> str:
    """maximize=True on g against maximize=False on -g."""
    if not subject.accepts("maximize"):
        raise NotApplicable("the constructor has no `maximize`")
    if Need.SECOND_ORDER in subject.spec.needs:
        raise NotApplicable("the given gradients have one Hessian, which is not negated with them")
    up, down = parameters_of(), parameters_of()
    climbing, descending = subject.build(up, maximize=True), subject.build(down, maximize=False)
    for step in range(8):
        given = random_gradients(up, step)
        negated = [-g for g in given]
        with globally_seeded(step):
            subject.apply(climbing, up, given)
        with globally_seeded(step):
            subject.apply(descending, down, negated)
    require_same_bits(up, down, "between maximize on g and descent on -g after 8 steps")
    return "8 steps have the bits of descent on the negated gradients"


CONTRACTS = (
    Contract(
        name="hyperparameters",
        statement="Negative, infinite and NaN hyper-parameters give a ValueError that names them and their value.",
        check=refusals,
    ),
    Contract(
        name="maximize",
        statement="Where there is `maximize`, it is descent on the negated gradient.",
        check=maximize,
    ),
)
