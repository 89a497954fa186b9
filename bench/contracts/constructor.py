"""Contracts of the constructor: what it refuses."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable
from typing import Any

from bench.contracts.subject import Subject, parameters_of, random_gradients, require_same_bits
from bench.contracts.verdict import Broken, Contract, NotApplicable
from bench.registry import PLUGIN_FAULTS
from bench.seeding import globally_seeded
from bench.spec import Need

BAD_NUMBERS = (-1.0, math.nan, math.inf)
# A hyper-parameter's values that no optimizer has a meaning for, and the words by which an error may name it.
REFUSED: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
    "lr": (BAD_NUMBERS, ("lr", "learning rate", "learning_rate")),
    "eps": (BAD_NUMBERS, ("eps", "epsilon")),
    "weight_decay": (BAD_NUMBERS, ("weight_decay", "weight decay")),
    "momentum": (BAD_NUMBERS, ("momentum",)),
    "betas": (((-0.5, 0.999), (0.9, 1.5), (0.9, math.nan)), ("betas", "beta", "beta1", "beta2")),
}


def refusals(subject: Subject) -> str:
    """Every bad value of every hyper-parameter that the constructor takes."""
    accepted: list[str] = []
    unnamed: list[str] = []
    cases = [*_bad_values(subject), *((key, math.nan) for key in _other_numbers(subject))]
    for key, value in cases:
        case = f"{key}={value!r}"
        try:
            subject.spec.load()(parameters_of(((3,), (2, 2))), **{**subject.hyperparameters, key: value})
        except ValueError as error:
            if not _names(str(error), key, value):
                unnamed.append(f"{case}: {error}")
        except PLUGIN_FAULTS as error:  # a refusal, but of the wrong kind
            unnamed.append(f"{case}: {type(error).__name__}: {error}")
        else:
            accepted.append(case)
    faults = []
    if accepted:
        faults.append(f"accepts {len(accepted)} of {len(cases)} bad values: {', '.join(accepted)}")
    if unnamed:
        faults.append(f"{len(unnamed)} of {len(cases)} refusals are no ValueError naming the value: {unnamed[0][:150]}")
    if faults:
        raise Broken("; ".join(faults))
    return f"{len(cases)} bad values refused, each by name and value"


def _bad_values(subject: Subject) -> list[tuple[str, Any]]:
    """The bad values of the hyper-parameters that the constructor takes; none for a number that is a pair here."""
    parameters = inspect.signature(subject.spec.load()).parameters
    pairs = {key for key, p in parameters.items() if isinstance(p.default, tuple | list)}
    cases = [(key, value) for key, (values, _) in REFUSED.items() if key in parameters for value in values]
    return [
        (key, _as_long_as_default(subject, value) if isinstance(value, tuple) else value)
        for key, value in cases
        if isinstance(value, tuple) or key not in pairs
    ]


def _other_numbers(subject: Subject) -> list[str]:
    """The other hyper-parameters whose default is a number: none of them can be NaN."""
    parameters = inspect.signature(subject.spec.load()).parameters
    return [key for key, p in parameters.items() if key not in REFUSED and type(p.default) in (int, float)]


def _names(text: str, key: str, value: Any) -> bool:
    """Whether an error names the hyper-parameter and the value, or that of a pair which is out of range."""
    words = REFUSED[key][1] if key in REFUSED else (key,)
    values = [x for x in value if not 0 <= x < 1] if isinstance(value, tuple) else [value]
    return _has_word(text, words) and _has_word(text, [repr(x) for x in values])


def _has_word(text: str, words: Iterable[str]) -> bool:
    """Whether one of `words` is in `text` as a whole word or number: `lr` is not in `lr_1d`, nor 1.0 in 11.0."""
    return any(re.search(rf"(?<![\w.-]){re.escape(word.lower())}(?!\w|\.\w)", text.lower()) for word in words)


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
