"""Contracts of how an optimizer treats gradients: read only, absent, and of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.contracts.subject import (
    Subject,
    copies,
    parameters_of,
    random_gradients,
    require_finite,
    require_same_bits,
    shape_text,
)
from bench.contracts.verdict import Broken, Contract
from bench.spec import Need

ABSENT = 2  # a matrix
EARLY_AND_LATE = (0, 1, 2, 6)
SQUARE_UNDERFLOWS = 1e-5  # in float16


def read_only(subject: Subject) -> str:
    """Identity, version counter and values of every gradient over six steps."""
    subject.require_plain_step()
    parameters = parameters_of()
    optimizer = subject.build(parameters)
    for step in range(6):
        given = random_gradients(parameters, step)
        values, versions = copies(given), [g._version for g in given]
        subject.apply(optimizer, parameters, given)
        for i, (w, g) in enumerate(zip(parameters, given, strict=True)):
            if w.grad is not g and Need.SECOND_ORDER not in subject.spec.needs:
                raise Broken(f"the gradient of parameter {i} is another object after step {step + 1}")
        require_same_bits(given, values, f"in gradients before and after step {step + 1}")
        written = [i for i, g in enumerate(given) if g._version != versions[i]]
        if written:
            raise Broken(f"{len(written)} of {len(given)} gradients are written to in place in step {step + 1}")
    return f"{len(parameters)} gradients untouched in 6 steps"


def absent(subject: Subject) -> str:
    """One matrix never has a gradient."""
    parameters = parameters_of()
    before = copies(parameters)[ABSENT]
    optimizer = subject.build(parameters)
    for step in range(6):
        given: list[Tensor | None] = [*random_gradients(parameters, step)]
        given[ABSENT] = None
        subject.apply(optimizer, parameters, given)
    require_same_bits([parameters[ABSENT]], [before], "in a parameter without gradient after 6 steps")
    if state := optimizer.state.get(parameters[ABSENT]):
        raise Broken(f"a parameter without gradient has state: {', '.join(map(str, state))}")
    return f"a parameter of shape {shape_text(before)} without gradient: no change, no state in 6 steps"


def come_and_go(subject: Subject) -> str:
    """At every step another parameter has no gradient."""
    parameters = parameters_of()
    optimizer = subject.build(parameters)
    for step in range(14):
        missing = step % len(parameters)
        given: list[Tensor | None] = [*random_gradients(parameters, step)]
        given[missing] = None
        before = copies(parameters)[missing]
        subject.apply(optimizer, parameters, given)
        require_same_bits([parameters[missing]], [before], f"in the parameter without gradient at step {step + 1}")
    require_finite(parameters, "after 14 steps")
    return "14 steps, at each another parameter without gradient: it alone stays, all stay finite"


def none_at_all(subject: Subject) -> str:
    """A step before any gradient."""
    parameters = parameters_of()
    before = copies(parameters)
    optimizer = subject.build(parameters)
    subject.apply(optimizer, parameters, [None] * len(parameters))
    require_same_bits(parameters, before, "after a step without any gradient")
    if state := sum(bool(optimizer.state.get(w)) for w in parameters):
        raise Broken(f"{state} of {len(parameters)} parameters have state after a step without any gradient")
    return "no change and no state"


def filled(
    subject: Subject, value: float, *, steps: Sequence[int], finite: bool, dtype: torch.dtype = torch.float32
) -> str:
    """Ten steps, at `steps` with gradients that are `value` throughout."""
    parameters = parameters_of(dtype=dtype)
    optimizer = subject.build(parameters)
    for step in range(10):
        given = random_gradients(parameters, step)
        if step in steps:
            given = [torch.full_like(g, value) for g in given]
        subject.apply(optimizer, parameters, given)
    if finite:
        require_finite(parameters, f"after {len(steps)} of 10 steps with gradients of {value:g} in {dtype}")
    bad = sum(not w.isfinite().all() for w in parameters)
    after = "every weight is finite" if not bad else f"{bad} of {len(parameters)} parameters are not finite"
    return f"nothing raised in 10 steps, {len(steps)} of them with gradients of {value:g}; {after}"


def not_finite(subject: Subject) -> str:
    """NaN and infinity, each at two of ten steps."""
    found = [filled(subject, value, steps=(1, 5), finite=False) for value in (torch.nan, torch.inf)]
    return "; ".join(found)


def zero(subject: Subject) -> str:
    """Zero, and in float16 also the small number whose square is zero there."""
    found = filled(subject, 0.0, steps=EARLY_AND_LATE, finite=True)
    for value in (0.0, SQUARE_UNDERFLOWS):
        filled(subject, value, steps=EARLY_AND_LATE, finite=True, dtype=torch.float16)
    return f"{found}; so it is in float16, also with gradients of {SQUARE_UNDERFLOWS:g}"


def of_size(value: float, *, finite: bool) -> Callable[[Subject], str]:
    """The check with gradients of `value`, from the first step on and again later."""
    return lambda subject: filled(subject, value, steps=EARLY_AND_LATE, finite=finite)


CONTRACTS = (
    Contract(
        name="gradients_untouched",
        statement="step() neither replaces a gradient nor writes to it.",
        check=read_only,
    ),
    Contract(
        name="no_gradient",
        statement="A parameter whose gradient is None is left alone: no decay, no state.",
        check=absent,
    ),
    Contract(
        name="gradients_come_and_go",
        statement="A parameter may be without gradient at any step, and moves again when it has one.",
        check=come_and_go,
    ),
    Contract(
        name="no_gradients_at_all",
        statement="A step without any gradient changes nothing and creates no state.",
        check=none_at_all,
    ),
    Contract(
        name="zero_gradients",
        statement="Gradients of zero, also at the first step, leave every weight finite; in float16 1e-5 too.",
        check=zero,
    ),
    Contract(
        name="tiny_gradients",
        statement="Gradients of 1e-30, also at the first step, leave every weight finite.",
        check=of_size(1e-30, finite=True),
    ),
    Contract(
        name="huge_gradients",
        statement="Gradients of 1e30 raise nothing: what they do to the weights is the run's outcome.",
        check=of_size(1e30, finite=False),
    ),
    Contract(
        name="non_finite_gradients",
        statement="Gradients of NaN or infinity raise nothing.",
        check=not_finite,
    ),
)
