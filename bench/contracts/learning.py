"""Contracts of learning: losses that any optimizer lowers, and steps of even size where gradients are constant."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.contracts.subject import Subject
from bench.contracts.verdict import Broken, Contract, NotApplicable
from bench.spec import Need

# Tried after the rate under test, until one of them gets there.
RATES = (1e-2, 1e-1, 1e-3, 1.0, 1e-4)
CONSTANT_STEPS = 30
# Without bias correction Adam's steps at betas (0.9, 0.999) grow by 2.0 in 30 steps; with it they keep their size.
SIZE_TOLERANCE = 1.25

Loss = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A loss, its starting point, and by what factor it must fall within how many steps."""

    start: Callable[[], list[nn.Parameter]]
    loss: Loss
    factor: float
    steps: int


def _draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _zeros(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape)) for shape in shapes]


# Curvatures from 1e-3 to 1.
_CURVATURES = torch.logspace(-3, 0, 48).view(6, 8)
_FEATURES, _TRUE_WEIGHTS = _draw(1, 64, 8), _draw(2, 8, 5)
_CLASSES = (_FEATURES @ _TRUE_WEIGHTS).argmax(dim=1)
_TARGETS = torch.sin(_FEATURES[:, :1] * 2) + 0.5 * _FEATURES[:, 1:2]


def _quadratic(parameters: Sequence[Tensor]) -> Tensor:
    return 0.5 * (_CURVATURES * parameters[0].square()).sum()


def _rosenbrock(parameters: Sequence[Tensor]) -> Tensor:
    x, y = parameters[0].unbind()
    return (1 - x).square() + 100 * (y - x.square()).square()


def _logistic(parameters: Sequence[Tensor]) -> Tensor:
    weight, bias = parameters
    return functional.cross_entropy(_FEATURES @ weight.T + bias, _CLASSES)


def _network(parameters: Sequence[Tensor]) -> Tensor:
    first, first_bias, second, second_bias = parameters
    hidden = torch.tanh(functional.linear(_FEATURES, first, first_bias))
    return functional.mse_loss(functional.linear(hidden, second, second_bias), _TARGETS)


def _network_start() -> list[nn.Parameter]:
    weights = (0.35 * _draw(3, 16, 8), torch.zeros(16), 0.25 * _draw(4, 1, 16), torch.zeros(1))
    return [nn.Parameter(w) for w in weights]


PROBLEMS: dict[str, Problem] = {
    "quadratic": Problem(start=lambda: [nn.Parameter(_draw(0, 6, 8))], loss=_quadratic, factor=4.0, steps=100),
    "rosenbrock": Problem(
        start=lambda: [nn.Parameter(torch.tensor([-1.2, 1.0]))], loss=_rosenbrock, factor=4.0, steps=200
    ),
    "logistic_regression": Problem(start=lambda: _zeros((5, 8), (5,)), loss=_logistic, factor=2.0, steps=100),
    "small_network": Problem(start=_network_start, loss=_network, factor=3.0, steps=150),
}


def _compute(subject: Subject, parameters: Sequence[Tensor], loss: Loss) -> Tensor:
    """The loss, with the gradients set."""
    with torch.enable_grad():
        value = loss(parameters)
        second_order = Need.SECOND_ORDER in subject.spec.needs
        found = torch.autograd.grad(value, list(parameters), create_graph=second_order)
    for w, g in zip(parameters, found, strict=True):
        w.grad = g
    return value.detach()


def descent(subject: Subject, problem: Problem, rate: float) -> tuple[float, float, int]:
    """First and lowest loss, and the step of the lowest; ends once the loss has fallen far enough or is not finite."""
    parameters = problem.start()
    decay = (
        {"weight_decay": subject.hyperparameters.get("weight_decay", 0.0)} if subject.accepts("weight_decay") else {}
    )
    optimizer = subject.build(parameters, lr=rate, **decay)
    first = problem.loss(parameters).item()
    lowest, at = first, 0
    for step in range(1, problem.steps + 1):
        subject.step(optimizer, lambda: _compute(subject, parameters, problem.loss))
        value = problem.loss([w.detach() for w in parameters]).item()
        if value < lowest:
            lowest, at = value, step
        if not math.isfinite(value) or lowest * problem.factor <= first:
            break
    return first, lowest, at


def learns(subject: Subject, problem: Problem) -> str:
    """The rate under test first, then the grid."""
    tried: list[str] = []
    first, best, best_rate = math.nan, math.inf, math.nan
    for rate in dict.fromkeys((subject.rate, *RATES)):
        first, lowest, at = descent(subject, problem, rate)
        if lowest * problem.factor <= first:
            return f"{first:.3g} to {lowest:.3g} in {at} steps at rate {rate:g}"
        tried.append(f"{rate:g}")
        if lowest < best:
            best, best_rate = lowest, rate
    raise Broken(
        f"falls from {first:.3g} to {best:.3g} at best (rate {best_rate:g}) in {problem.steps} steps, by a factor of "
        f"{first / best:.2g}; {problem.factor:g} is asked for; rates {', '.join(tried)}"
    )


def even_steps(subject: Subject) -> str:
    """The sizes of the first 30 steps on one constant gradient."""
    if not subject.accepts("betas"):
        raise NotApplicable("the constructor has no `betas`: no moments that start at zero")
    subject.require_plain_step()
    (w,) = parameters = [nn.Parameter(torch.ones(5, dtype=torch.float64))]
    decay = {"weight_decay": 0.0} if subject.accepts("weight_decay") else {}
    optimizer = subject.build(parameters, **decay)
    gradient = torch.tensor([0.3, -0.3, 0.3, 0.3, -0.3], dtype=torch.float64)
    sizes: list[float] = []
    for _ in range(CONSTANT_STEPS):
        before = w.detach().clone()
        subject.apply(optimizer, parameters, [gradient.clone()])
        sizes.append(torch.linalg.vector_norm(w.detach() - before).item() / len(w) ** 0.5)
    smallest, largest = min(sizes), max(sizes)
    found = f"steps 1, 2 and {CONSTANT_STEPS} are {sizes[0]:.3g}, {sizes[1]:.3g} and {sizes[-1]:.3g}"
    if not largest <= SIZE_TOLERANCE * smallest:
        factor = largest / smallest if smallest else math.inf
        raise Broken(f"{found}; the largest is {factor:.3g} × the smallest, allowed is {SIZE_TOLERANCE:g}")
    return f"{found} at rate {subject.rate:g}"


def _learning(name: str, text: str) -> Contract:
    problem = PROBLEMS[name]
    statement = (
        f"Lowers {text} by a factor of {problem.factor:g} in {problem.steps} steps at some rate of a small grid."
    )
    return Contract(name=name, statement=statement, check=lambda subject: learns(subject, problem))


CONTRACTS = (
    Contract(
        name="even_steps",
        statement="A constant gradient gives steps of about one size from the first on: moments are bias-corrected.",
        check=even_steps,
    ),
    _learning("quadratic", "a quadratic of condition 1000"),
    _learning("rosenbrock", "Rosenbrock's function"),
    _learning("logistic_regression", "a logistic regression"),
    _learning("small_network", "a network of two layers"),
)
