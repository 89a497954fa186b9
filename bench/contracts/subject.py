"""The optimizer under test: how it is built, how it is stepped, and how outcomes are compared."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.contracts.entries import INNER_SETTINGS
from bench.contracts.verdict import Broken, NotApplicable
from bench.spec import Need, OptimizerSpec, Role, RoledParameter

SHAPES: tuple[tuple[int, ...], ...] = ((), (5,), (6, 4), (4, 6), (3, 4, 2), (2, 3, 2, 2))
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
# Decay is on in the checks of the step, so that they see it; off where something is to be learned.
TESTED_DECAY = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An entry with the settings to test it at."""

    spec: OptimizerSpec
    hyperparameters: Mapping[str, Any]

    @classmethod
    def of(cls, spec: OptimizerSpec, overrides: Mapping[str, Any] | None = None) -> Subject:
        """The entry at its defaults, with small matrices in its matrix code; `overrides` have the last word."""
        return cls(
            spec=spec,
            hyperparameters={**spec.defaults, **INNER_SETTINGS.get(spec.name, {}), **(overrides or {})},
        )

    def accepts(self, hyperparameter: str) -> bool:
        """Whether the constructor has an argument of that name."""
        return hyperparameter in inspect.signature(self.spec.load()).parameters

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the checks of the step."""
        decay = {"weight_decay": TESTED_DECAY} if self.accepts("weight_decay") else {}
        return {**decay, **self.hyperparameters}

    @property
    def rate(self) -> float:
        """The learning rate under test."""
        return float(self.hyperparameters["lr"])

    def require_plain_step(self) -> None:
        """Raises `NotApplicable` for an optimizer that calls its closure as often as it likes."""
        if Need.CLOSURE in self.spec.needs:
            raise NotApplicable("the optimizer evaluates its closure itself, as often as its algorithm says")

    def build(self, parameters: Sequence[nn.Parameter], **overrides: Any) -> Optimizer:
        """The optimizer over `parameters` by the entry's policy of groups, matrices taken for hidden ones."""
        return self.ready(self.spec.build(roled(parameters), {**self.settings, **overrides}))

    def construct(self, groups: Any, **overrides: Any) -> Optimizer:
        """The optimizer over groups given as for torch.optim, without the entry's policy."""
        return self.ready(self.spec.load()(groups, **{**self.settings, **overrides}))

    def ready(self, optimizer: Optimizer) -> Optimizer:
        """`optimizer`, told that training begins where it asks to be told."""
        if Need.TRAIN_EVAL_SWITCH in self.spec.needs:
            optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
        return optimizer

    def step(self, optimizer: Optimizer, compute: Callable[[], Any]) -> Any:
        """One step in the way the entry asks for; `compute` sets the gradients and returns the loss."""
        if Need.CLOSURE in self.spec.needs:
            return optimizer.step(compute)
        loss = compute()
        return optimizer.step(lambda: loss) if Need.LOSS_VALUE in self.spec.needs else optimizer.step()

    def apply(self, optimizer: Optimizer, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Any:
        """One step with given gradients; where the optimizer evaluates its closure itself, with g + w.

        That is the gradient of Σ g·w + w²/2: bounded below, so that a line search ends.
        """
        bounded = Need.CLOSURE in self.spec.needs

        def compute() -> Tensor:
            for w, g in zip(parameters, gradients, strict=True):
                w.grad = g + w.detach() if bounded and g is not None else self._differentiable(w, g)
            return _loss(parameters, gradients, bounded=bounded) if self.spec.needs else torch.zeros(())

        return self.step(optimizer, compute)

    def _differentiable(self, w: Tensor, g: Tensor | None) -> Tensor | None:
        """`g` itself; with the Hessian 1 behind it for an optimizer that differentiates the gradients."""
        if g is None or Need.SECOND_ORDER not in self.spec.needs:
            return g
        with torch.enable_grad():
            return g + (w - w.detach())

    def run(self, optimizer: Optimizer, parameters: Sequence[Tensor], steps: Iterable[int]) -> None:
        """Steps with the random gradients that belong to these step numbers."""
        for step in steps:
            self.apply(optimizer, parameters, random_gradients(parameters, step))


def _loss(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None], *, bounded: bool) -> Tensor:
    """Σ g·w, of which the gradients are the g; plus w²/2 where it has to be bounded below."""
    terms = [
        (g * w.detach() + (w.detach().square() / 2 if bounded else 0)).sum().float()
        for w, g in zip(parameters, gradients, strict=True)
        if g is not None
    ]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def roled(parameters: Sequence[nn.Parameter]) -> list[RoledParameter]:
    """`parameters` by their position; matrices are hidden ones, everything else a bias."""
    return [
        RoledParameter(name=str(i), parameter=w, role=Role.HIDDEN_MATRIX if w.ndim == 2 else Role.BIAS)
        for i, w in enumerate(parameters)
    ]


def parameters_of(
    shapes: Sequence[tuple[int, ...]] = SHAPES, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> list[nn.Parameter]:
    """Normally distributed parameters."""
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def random_gradients(parameters: Sequence[Tensor], step: int) -> list[Tensor]:
    """Normally distributed gradients, the same ones for every dtype but for rounding."""
    generator = torch.Generator().manual_seed(1000 + step)
    return [torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w.dtype) for w in parameters]


def copies(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The values now."""
    return [w.detach().clone() for w in parameters]


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in nested dictionaries, lists, tuples and sets."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for each in value.values() for tensor in tensors_in(each)]
    if isinstance(value, list | tuple | set):
        return [tensor for each in value for tensor in tensors_in(each)]
    return []


def shape_text(w: Tensor) -> str:
    """`[6, 4]`."""
    return str(list(w.shape))


def require_same_bits(some: Sequence[Tensor], others: Sequence[Tensor], when: str) -> None:
    """Raises `Broken` with the largest difference, where it is, and `when` it was found; NaN equals NaN."""
    require_close(some, others, when, tolerance=0.0)


def require_close(some: Sequence[Tensor], others: Sequence[Tensor], when: str, *, tolerance: float) -> None:
    """Raises `Broken` where a difference is over `tolerance`, absolute and relative."""
    if len(some) != len(others):
        raise Broken(f"{len(some)} tensors against {len(others)} {when}")
    worst, place, differing = -1.0, "", 0
    for i, (a, b) in enumerate(zip(some, others, strict=True)):
        if a.dtype != b.dtype or a.shape != b.shape:
            raise Broken(f"tensor {i} is {a.dtype} {shape_text(a)} against {b.dtype} {shape_text(b)} {when}")
        x, y = a.detach().double().cpu(), b.detach().double().cpu()
        if torch.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True):
            continue
        differing += 1
        difference = (x - y).abs().nan_to_num(nan=float("inf"))[~(x.isnan() & y.isnan())].max().item()
        if difference > worst:
            worst, place = difference, f"in tensor {i} of shape {shape_text(a)}"
    if differing:
        raise Broken(f"largest difference {worst:.2g} {when}, {place}; {differing} of {len(some)} tensors differ")


def require_finite(parameters: Sequence[Tensor], when: str) -> None:
    """Raises `Broken` with the count of weights that are not finite."""
    bad = [w for w in parameters if not w.isfinite().all()]
    if bad:
        count = sum(int((~w.isfinite()).sum()) for w in bad)
        total = sum(w.numel() for w in parameters)
        raise Broken(f"{count} of {total} weights are not finite {when}, first of shape {shape_text(bad[0])}")
