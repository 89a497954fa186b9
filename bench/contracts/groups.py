"""Contracts of parameter groups and of what works on them from outside: schedulers, hooks, closures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.contracts.subject import Subject, parameters_of, random_gradients, require_same_bits
from bench.contracts.verdict import Broken, Contract, NotApplicable
from bench.seeding import globally_seeded
from bench.spec import Need

OTHER_RATE = 3.0  # times the rate under test
LATE_SHAPES = ((7,), (2, 5))


def rates_apart(subject: Subject) -> str:
    """Two groups with rates of their own against two optimizers."""
    some, some_twins = parameters_of(seed=1), parameters_of(seed=1)
    others, other_twins = parameters_of(LATE_SHAPES, seed=2), parameters_of(LATE_SHAPES, seed=2)
    rate = OTHER_RATE * subject.rate
    optimizer = subject.construct([{"params": some}, {"params": others, "lr": rate}])
    apart = [subject.construct(some_twins), subject.construct(other_twins, lr=rate)]
    for step in range(8):
        _together_and_apart(subject, step, (optimizer, [*some, *others]), apart, [some_twins, other_twins])
    require_same_bits([*some, *others], [*some_twins, *other_twins], "between two groups and two optimizers, 8 steps")
    return f"two groups, the second at {OTHER_RATE:g} × the rate, have the bits of two optimizers after 8 steps"


def added_late(subject: Subject) -> str:
    """A group added after three steps against an optimizer that begins then."""
    early, early_twins = parameters_of(seed=1), parameters_of(seed=1)
    late, late_twins = parameters_of(LATE_SHAPES, seed=2), parameters_of(LATE_SHAPES, seed=2)
    rate = OTHER_RATE * subject.rate
    optimizer, first = subject.build(early), subject.build(early_twins)
    for each, parameters in ((optimizer, early), (first, early_twins)):
        with globally_seeded(1):
            subject.run(each, parameters, range(3))
    optimizer.add_param_group({"params": late, "lr": rate})
    apart = [first, subject.construct(late_twins, lr=rate)]
    for step in range(3, 12):
        _together_and_apart(subject, step, (optimizer, [*early, *late]), apart, [early_twins, late_twins])
    require_same_bits([*early, *late], [*early_twins, *late_twins], "between a group added at step 3 and its own run")
    return f"a group added at step 3, at {OTHER_RATE:g} × the rate, has the bits of an optimizer of its own at step 12"


def _together_and_apart(
    subject: Subject,
    step: int,
    together: tuple[Optimizer, Sequence[nn.Parameter]],
    apart: Sequence[Optimizer],
    twins: Sequence[Sequence[nn.Parameter]],
) -> None:
    """One step of the one optimizer and of the others on the same gradients."""
    optimizer, parameters = together
    with globally_seeded(step):
        subject.run(optimizer, parameters, [step])
    given: list[Tensor] = random_gradients(parameters, step)
    with globally_seeded(step):
        for each, weights in zip(apart, twins, strict=True):
            mine, given = given[: len(weights)], given[len(weights) :]
            subject.apply(each, weights, mine)


def empty_and_named(subject: Subject) -> str:
    """A group without parameters, and parameters given by name, against the plain form."""
    parameters, twins = parameters_of(((3,), (2, 2))), parameters_of(((3,), (2, 2)))
    with_empty = subject.construct([{"params": []}, {"params": parameters}])
    named = subject.construct(zip("ab", twins, strict=True))
    for each, weights in ((with_empty, parameters), (named, twins)):
        with globally_seeded(1):
            subject.run(each, weights, range(6))
    require_same_bits(parameters, twins, "between an empty group beside and named parameters")
    if (names := named.state_dict()["param_groups"][0].get("param_names")) != ["a", "b"]:
        raise Broken(f"param_names in the state are {names} for parameters named a and b")
    return "an empty group changes no bit; names are in the state"


def schedule(subject: Subject) -> str:
    """LambdaLR against the same rates set by hand; and the rate has to matter."""
    scheduled, by_hand, unscheduled = parameters_of(), parameters_of(), parameters_of()
    optimizer, other, constant = (subject.build(w) for w in (scheduled, by_hand, unscheduled))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    rates = [group["lr"] for group in other.param_groups]
    for step in range(8):
        for each, weights in ((optimizer, scheduled), (other, by_hand), (constant, unscheduled)):
            with globally_seeded(step):
                if each is other:
                    for group, rate in zip(other.param_groups, rates, strict=True):
                        group["lr"] = rate * (1 / (1 + step))
                subject.run(each, weights, [step])
        scheduler.step()
    require_same_bits(scheduled, by_hand, "between LambdaLR and rates set by hand after 8 steps")
    if all(torch.equal(a, b) for a, b in zip(scheduled, unscheduled, strict=True)):
        raise Broken("8 steps at rates falling to 1/8 have the bits of 8 steps at a constant rate: group['lr'] is idle")
    return "8 steps under LambdaLR have the bits of the rates set by hand"


def hooks(subject: Subject) -> str:
    """Pre and post hooks over two steps."""
    parameters = parameters_of(((3,),))
    optimizer = subject.build(parameters)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    subject.run(optimizer, parameters, range(2))
    if seen != ["before", "after"] * 2:
        raise Broken(f"hooks of 2 steps ran as {seen}")
    return "hooks ran before and after each of 2 steps"


def closure(subject: Subject) -> str:
    """step(closure) against a twin whose gradients are set before step()."""
    subject.require_plain_step()
    if Need.SECOND_ORDER in subject.spec.needs:
        raise NotApplicable("the gradients must be differentiable, which only the training loop can arrange")
    parameters, twins = parameters_of(), parameters_of()
    optimizer, twin = subject.build(parameters), subject.build(twins)
    calls: list[float] = []

    def compute() -> float:
        optimizer.zero_grad()
        loss = torch.stack([w.square().sum() for w in parameters]).sum()
        loss.backward()  # raises where step() did not enable gradients
        calls.append(loss.item())
        return calls[-1]

    for step in range(4):
        gradients = [2 * w.detach() for w in twins]
        with globally_seeded(step):
            returned = optimizer.step(compute)
        with globally_seeded(step):
            subject.apply(twin, twins, gradients)
        if len(calls) != step + 1:
            raise Broken(f"the closure ran {len(calls) - step} times in step {step + 1}")
        if returned is None or float(returned) != calls[-1]:
            raise Broken(f"step {step + 1} returned {returned!r}; the closure's loss is {calls[-1]:.6g}")
    require_same_bits(parameters, twins, "between step(closure) and step() after 4 steps")
    return "called once a step, its loss returned; same bits as step() without it"


CONTRACTS = (
    Contract(
        name="empty_group",
        statement="An empty group and parameters given by name are fine.",
        check=empty_and_named,
    ),
    Contract(
        name="rates_of_groups",
        statement="Groups with rates of their own step as optimizers apart would.",
        check=rates_apart,
    ),
    Contract(
        name="added_group",
        statement="A group added in mid-training steps as an optimizer begun then would.",
        check=added_late,
    ),
    Contract(
        name="schedule",
        statement="A scheduler of torch.optim sets the rate: the bits are those of rates set by hand.",
        check=schedule,
    ),
    Contract(
        name="hooks",
        statement="Hooks before and after a step run once a step.",
        check=hooks,
    ),
    Contract(
        name="closure",
        statement="step(closure) calls it once, with gradients enabled, and returns its loss.",
        check=closure,
    ),
)
