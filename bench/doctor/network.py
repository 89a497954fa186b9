"""A few watched steps of one optimizer on a real network, and what its algorithm does there."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.contracts.subject import Subject
from bench.doctor.probes import Start, probe_matrices, step_cost
from bench.environment import state_bytes
from bench.plan import Run
from bench.protocol import Protocol
from bench.registry import Selected
from bench.seeding import globally_seeded, role_seed
from bench.spec import Observation, RoledParameter
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


def latest_loss(trainer: Trainer) -> float:
    """Of the latest evaluation: before the step that has just been taken."""
    return float(trainer.take_step.last_losses.sum())


def train(trainer: Trainer, steps: int, watch: Callable[[int], bool]) -> None:
    """At most `steps` steps; `watch(step)` is called after each, steps counted from 1, and ends them by False."""
    done = 0

    def count(*_: object) -> None:
        nonlocal done
        done += 1
        if not watch(done) or done >= steps:
            raise _Enough

    handle = trainer.optimizer.register_step_post_hook(count)
    try:
        for epoch in range(1, steps + 1):
            trainer.train_epoch(epoch)
    except _Enough:
        pass
    finally:
        handle.remove()


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of each tensor [P], in float64: a long update's squares overflow float32."""
    return torch.stack([torch.linalg.vector_norm(x, dtype=torch.float64) for x in tensors])


class _Watch:
    """Compares weights before and after every step of a trainer."""

    def __init__(
        self, trainer: Trainer, roled: Sequence[RoledParameter], examine: Callable[[], list[Observation]]
    ) -> None:
        self._trainer, self._examine = trainer, examine
        self._names = [p.name for p in roled]
        self._parameters = [p.parameter for p in roled]
        self._before: list[Tensor] = []
        self.start: Start | None = None
        self.losses: list[float] = []
        self.ratios: list[list[float]] = []
        self.not_finite: str | None = None
        self.observations: list[Observation] = []
        trainer.optimizer.register_step_pre_hook(self.before)

    def before(self, *_: object) -> None:
        """Keep the weights."""
        self._before = [w.detach().clone() for w in self._parameters]

    def after(self, step: int) -> bool:
        """Take the step's figures; False where a weight is no longer finite."""
        now = [w.detach() for w in self._parameters]
        update = _norms([a - b for a, b in zip(now, self._before, strict=True)])
        self.ratios.append(torch.where(update == 0, update, update / _norms(self._before)).tolist())
        self.losses.append(latest_loss(self._trainer))
        if self.start is None:
            gradients = [None if w.grad is None else w.grad.detach().clone() for w in self._parameters]
            self.start = Start(weights=self._before, gradients=gradients)
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
        watch = _Watch(trainer, roled, lambda: spec.examine(trainer.optimizer) if spec.examine else [])
        train(trainer, LOOK_STEPS, watch.after)
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
