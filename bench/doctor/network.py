"""A few watched steps of one optimizer on a real network, and what its algorithm does there."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from bench.contracts.subject import Subject
from bench.doctor.probes import Start, probe_matrices, step_cost
from bench.environment import state_bytes
from bench.plan import Run
from bench.protocol import Protocol
from bench.registry import Selected
from bench.seeding import globally_seeded, role_seed
from bench.spec import Need, Observation, RoledParameter
from bench.trainer import Trainer
from bench.workload import roled_parameters

LOOK_STEPS = 4
NEGLIGIBLE = 1e-6  # of a gradient's norm, against the largest


class _Enough(Exception):
    """As many steps as were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A parameter over the watched steps; its gradient is the first step's.

    `matrix`: whether it is treated as one, None where that was not probed. `ratios`: update norm / weight norm, a step.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    gradient: bool
    gradient_norm: float
    matrix: bool | None
    ratios: tuple[float, ...]
    starts_at_zero: bool

    def largest(self) -> float:
        """The largest finite ratio; infinite where there is none."""
        return max([r for r in self.ratios if math.isfinite(r)], default=math.inf)

    def ratio(self) -> float:
        """The median over the steps with a finite one; infinite where there is none."""
        return statistics.median([r for r in self.ratios if math.isfinite(r)] or [math.inf])


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen."""

    protocol: str
    steps: int
    rate: float
    losses: tuple[float, ...]
    layers: tuple[Layer, ...]
    state_bytes: int
    parameters: int
    host_reads: int
    cost: float | None
    cost_milliseconds: float | None
    not_finite: str | None
    observations: tuple[Observation, ...]

    def exploding(self) -> list[Layer]:
        """Layers whose update was finite and longer than their weights at some step."""
        return [layer for layer in self.moving() if 1 < layer.largest() < math.inf]

    def moving(self) -> list[Layer]:
        """Layers with a gradient and a weight to compare the update with."""
        return [layer for layer in self.layers if layer.gradient and layer.ratios and not layer.starts_at_zero]

    def idle(self) -> list[Layer]:
        """Layers that never moved, with a gradient that is not just rounding (as of a bias before a normalisation)."""
        least = NEGLIGIBLE * max((layer.gradient_norm for layer in self.layers), default=0.0)
        return [layer for layer in self.layers if layer.gradient_norm > least and not any(layer.ratios)]


def trainer_at(selected: Selected, protocol: Protocol, rate: float, seed: int, data_dir: Path | None) -> Trainer:
    """A trainer at a constant rate, in float32: neither warm-up nor precision is under test."""
    plain = protocol.model_copy(update={"schedule": "constant", "warmup": 0.0, "precision": "float32"})
    run = Run(
        protocol=plain,
        optimizer=selected.spec.name,
        reference=selected.reference,
        hyperparameters={**selected.hyperparameters, "lr": rate},
        seed=seed,
        revision=selected.spec.revision,
        source_digest=selected.spec.source_digest,
    )
    return Trainer(run, torch.device("cpu"), data_dir)


def train(
    trainer: Trainer, steps: int, watch: Callable[[int, float], bool], evaluated: Callable[[], None] = lambda: None
) -> None:
    """At most `steps` steps; `watch(step, loss)` is called after each, steps counted from 1, and ends them by False.

    The loss is that of the step's first evaluation, at the weights before the step; `evaluated()` is called right
    after that evaluation, with its gradients in place.
    """
    done, loss = 0, math.nan

    def note() -> None:
        nonlocal loss
        loss = float(trainer.take_step.last_losses.sum())
        evaluated()

    def count(*_: object) -> None:
        nonlocal done
        done += 1
        if not watch(done, loss) or done >= steps:
            raise _Enough

    handles = [_after_first_evaluation(trainer, note), trainer.optimizer.register_step_post_hook(count)]
    try:
        while True:
            trainer.train(trainer.steps_per_epoch)
            trainer.end_epoch()
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _after_first_evaluation(trainer: Trainer, call: Callable[[], None]) -> RemovableHandle:
    """Have `call` made after every step's first evaluation: before the step, or where its closure returns first."""

    def before(optimizer: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if Need.CLOSURE not in trainer.needs:
            call()
            return None
        own, closure, *others = args
        calls = itertools.count()

        def watched() -> Any:
            loss = closure()
            if next(calls) == 0:
                call()
            return loss

        return (own, watched, *others), kwargs

    return trainer.optimizer.register_step_pre_hook(before)


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of each tensor [P], in float64: a long update's squares overflow float32."""
    return torch.stack([torch.linalg.vector_norm(x, dtype=torch.float64) for x in tensors])


class _Watch:
    """Compares weights before and after every step."""

    def __init__(self, roled: Sequence[RoledParameter], examine: Callable[[], list[Observation]]) -> None:
        self._examine = examine
        self._names = [p.name for p in roled]
        self._parameters = [p.parameter for p in roled]
        self._before: list[Tensor] = []
        self._gradients: list[Tensor | None] = []
        self.start: Start | None = None
        self.losses: list[float] = []
        self.ratios: list[list[float]] = []
        self.not_finite: str | None = None
        self.observations: list[Observation] = []

    def evaluated(self) -> None:
        """Keep the weights at which the step's gradients were taken, and the first step's gradients."""
        self._before = [w.detach().clone() for w in self._parameters]
        if self.start is None:
            self._gradients = [None if w.grad is None else w.grad.detach().clone() for w in self._parameters]

    def after(self, step: int, loss: float) -> bool:
        """Take the step's figures; False where a weight is no longer finite."""
        now = [w.detach() for w in self._parameters]
        update = _norms([a - b for a, b in zip(now, self._before, strict=True)])
        self.ratios.append(torch.where(update == 0, update, update / _norms(self._before)).tolist())
        self.losses.append(loss)
        if self.start is None:
            self.start = Start(weights=self._before, gradients=self._gradients)
            self.observations = self._examine()
        bad = [name for name, w in zip(self._names, now, strict=True) if not w.isfinite().all()]
        if bad:
            self.not_finite = f"{bad[0]} and {len(bad) - 1} more tensors after step {step}"
        return not bad


def look_at(selected: Selected, protocol: Protocol, seed: int, data_dir: Path | None) -> Look:
    """Watched steps at the rate given, then the probes on the weights and gradients of the first step."""
    spec, rate = selected.spec, float(selected.hyperparameters["lr"])
    with globally_seeded(role_seed(seed, "optimizer")):
        trainer = trainer_at(selected, protocol, rate, seed, data_dir)
        roled = roled_parameters(trainer.model, protocol.workload.roles())
        watch = _Watch(roled, lambda: spec.examine(trainer.optimizer) if spec.examine else [])
        train(trainer, LOOK_STEPS, watch.after, watch.evaluated)
        assert watch.start is not None
        subject = Subject(spec=spec, hyperparameters=selected.hyperparameters)
        matrices = probe_matrices(subject, roled, watch.start)
        reads, cost, milliseconds = step_cost(subject, roled, watch.start)
    layers = [
        Layer(
            name=p.name,
            role=p.role.value,
            shape=tuple(p.parameter.shape),
            gradient=g is not None,
            gradient_norm=0.0 if g is None else float(torch.linalg.vector_norm(g)),
            matrix=matrices.get((p.role, p.parameter.shape)) if p.parameter.ndim == 2 else False,
            ratios=tuple(step[i] for step in watch.ratios),
            starts_at_zero=not w.any(),
        )
        for i, (p, w, g) in enumerate(zip(roled, watch.start.weights, watch.start.gradients, strict=True))
    ]
    return Look(
        protocol=protocol.name,
        steps=len(watch.losses),
        rate=rate,
        losses=tuple(watch.losses),
        layers=tuple(layers),
        state_bytes=state_bytes(trainer.optimizer),
        parameters=sum(p.parameter.numel() for p in roled),
        host_reads=reads,
        cost=cost,
        cost_milliseconds=milliseconds,
        not_finite=watch.not_finite,
        observations=tuple(watch.observations),
    )
