"""One optimizer step, in the way its entry's needs ask for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from bench.clock import StepTimer
from bench.datasets.samples import Samples
from bench.models.dropout import DropoutStream
from bench.protocol import Protocol
from bench.spec import Need
from bench.techniques.accumulation import Parts
from bench.techniques.objective import Mixed, Objective, Targets

if TYPE_CHECKING:
    from bench.ddp import Ranks

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(protocol: Protocol, device: torch.device) -> torch.autocast:
    """The protocol's precision as a context."""
    dtype = AUTOCAST.get(protocol.precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a forward and a backward pass found; the gradients are left on the parameters."""

    pairs: tuple[str, ...]
    losses: Tensor  # [pairs]
    gradient_norm: Tensor  # before clipping


class _Given(NamedTuple):
    """What a step is taken on."""

    batch: Samples
    step: int
    progress: float
    mixed: Mixed | None


class OptimizerStep:
    """Takes a run's steps. Nothing is read back from the device, unless the optimizer does or the precision is fp16.

    With `ranks`, a batch is this process's share of the step's, and losses and gradients are the whole batch's.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        needs: frozenset[Need],
        model: nn.Module,
        objective: Objective,
        dropout: DropoutStream,
        protocol: Protocol,
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> None:
        self._ranks = ranks
        self._optimizer, self._needs, self._model, self._dropout = optimizer, needs, model, dropout
        self._objective, self._protocol, self._device = objective, protocol, device
        # Walking the modules costs 0.4 ms a step.
        self._parameters = [*model.parameters(), *objective.parameters()]
        self._scaler = GradScaler(device.type, enabled=protocol.precision == "fp16")
        self._step_timer, self._first_evaluation = StepTimer(device), StepTimer(device)
        self._first_seen: tuple[dict[str, Tensor], Targets] | None = None  # by the step's first evaluation
        self.last_losses = torch.zeros(0)  # of each pair, of the latest step's first evaluation
        self.skipped = 0

    def __call__(
        self,
        batch: Samples,
        step: int,
        watch: AbstractContextManager[None],
        evaluation: Evaluation | None = None,
        *,
        progress: float = 0.0,
        mixed: Mixed | None = None,
    ) -> Evaluation:
        """Take step number `step` on a batch, the optimizer's part of it inside `watch`; returns the first evaluation.

        Where an `evaluation` is given, the gradients are on the parameters already. `progress` and `mixed` are those of
        `Targets`. Raises `RuntimeError` where an optimizer that needs a closure does not call it.
        """
        if Need.CLOSURE in self._needs:
            evaluation = self._step_with_closure(_Given(batch, step, progress, mixed), watch)
        else:
            evaluation = evaluation or self._evaluate(_Given(batch, step, progress, mixed))
            self.last_losses = evaluation.losses
            loss = evaluation.losses.sum() if Need.LOSS_VALUE in self._needs else None
            closure = () if loss is None else (lambda: loss,)
            with watch, self._step_timer.measure():
                self._scaler.step(self._optimizer, *closure)
        if self._first_seen is not None:
            self._objective.end_step(*self._first_seen)
            self._first_seen = None
        scale = self._scaler.get_scale()
        self._scaler.update()
        self.skipped += self._scaler.get_scale() < scale
        if Need.SECOND_ORDER in self._needs:
            # Such gradients hold the graph and the graph holds the parameters: a cycle that would outlive the step.
            self._optimizer.zero_grad(set_to_none=True)
        return evaluation

    def _step_with_closure(self, given: _Given, watch: AbstractContextManager[None]) -> Evaluation:
        """A step whose optimizer evaluates loss and gradients itself, every time under the step's dropout masks.

        Running statistics count the batch once, as in any other step: what later evaluations add is taken back.
        """
        first: list[Evaluation] = []
        buffers = list(self._model.buffers())
        counted: list[Tensor] = []

        def closure() -> Any:  # torch says float, and takes tensors
            with torch.enable_grad(), nullcontext() if first else self._first_evaluation.measure():
                evaluation = self._evaluate(given)
            if not first:
                first.append(evaluation)
                counted.extend(buffer.clone() for buffer in buffers)
            return evaluation.losses.sum()

        with watch, self._step_timer.measure():
            self._optimizer.step(closure)
        if not first:
            raise RuntimeError(f"{type(self._optimizer).__name__}: declared to need a closure, but did not call it")
        for buffer, value in zip(buffers, counted, strict=True):
            buffer.copy_(value)
        self.last_losses = first[0].losses
        return first[0]

    def _evaluate(self, given: _Given) -> Evaluation:
        """Loss and gradients of a batch at the present weights, clipped, under the dropout masks of its step."""
        self._optimizer.zero_grad(set_to_none=True)
        losses = self._with_gradients(given)
        if self._ranks is not None:
            self._ranks.sum_gradients(self._parameters)
        self._scaler.unscale_(self._optimizer)
        # A line search compares losses with slopes: with clipped gradients the two would belong to different functions.
        # With a cadence, gradients are clipped when a level uses them.
        unclipped = Need.CLOSURE in self._needs or self._protocol.cadence is not None
        limit = float("inf") if unclipped else self._protocol.clip_norm or float("inf")
        gradient_norm = nn.utils.clip_grad_norm_(self._parameters, limit, foreach=True)
        return Evaluation(pairs=tuple(losses), losses=self.last_losses, gradient_norm=gradient_norm)

    def _with_gradients(self, given: _Given) -> dict[str, Tensor]:
        """The terms of the loss, whose gradients are left on the parameters."""
        batch, second_order = given.batch, Need.SECOND_ORDER in self._needs
        if (accumulation := self._protocol.techniques.accumulation) is not None:
            return self._in_parts(given, accumulation.micro_batches)
        self._dropout.start_step(given.step)
        with autocast(self._protocol, self._device), _twice_differentiable() if second_order else nullcontext():
            embeddings = self._embedded(batch)
            losses = self._objective.of_samples(self._model, batch, embeddings, self._dropout)
        targets = self._targets(given)
        losses = self._objective.of_batch(embeddings, targets) | losses
        step_losses = torch.stack(list(losses.values()))
        self.last_losses = step_losses.detach()
        with _silent_about_the_cycle() if second_order else nullcontext():
            self._scaler.scale(step_losses.sum()).backward(create_graph=second_order)
        self._first_seen = self._first_seen or ({name: x.detach() for name, x in embeddings.items()}, targets)
        return losses

    def _in_parts(self, given: _Given, count: int) -> dict[str, Tensor]:
        """The same, of a batch in parts."""
        parts = Parts(
            count=count, network=self._model, objective=self._objective, dropout=self._dropout, step=given.step,
            precision=lambda: autocast(self._protocol, self._device),
        )  # fmt: skip
        targets = self._targets(given)
        losses, embeddings = parts.backward(given.batch, targets, self._scaler.scale)
        self.last_losses = torch.stack(list(losses.values()))
        self._first_seen = self._first_seen or (embeddings, targets)
        return losses

    def _embedded(self, batch: Samples) -> dict[str, Tensor]:
        """Embeddings of the step's whole batch."""
        ranks = self._ranks
        if ranks is None:
            return self._model(batch.inputs(), batch.masks(), self._dropout)
        return ranks.gathered(self._model(batch.inputs(), batch.masks(), ranks.dropout(self._dropout, len(batch))))

    def _targets(self, given: _Given) -> Targets:
        """What belongs together in the step's whole batch."""
        ids = given.batch.match_N, given.batch.label_N
        match_B, label_B = ids if self._ranks is None else map(self._ranks.gathered_ids, ids)
        text_B = self._objective.text_ids(given.batch)
        with autocast(self._protocol, self._device):
            teacher = self._objective.taught(given.batch)
        return Targets(match_B=match_B, label_B=label_B, progress=given.progress, mixed=given.mixed, text_B=text_B,
                       teacher=teacher)  # fmt: skip

    def seconds(self) -> float:
        """Time the steps took beyond one forward and one backward pass each; waits for the device."""
        return self._step_timer.seconds() - self._first_evaluation.seconds()

    def state(self) -> dict[str, Any]:
        """What later steps need of this one, and what was counted."""
        return {"scaler": self._scaler.state_dict(), "skipped": int(self.skipped), "last_losses": self.last_losses,
                "seconds": self.seconds()}  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.restore_scale(state["scaler"])
        self.skipped, self.last_losses = state["skipped"], state["last_losses"].to(self._device)
        self._step_timer.carry(state["seconds"])

    def restore_scale(self, scaler: Mapping[str, Any]) -> None:
        """Go on with the loss scale of a `state`."""
        if scaler:  # empty without mixed precision, and then refused
            self._scaler.load_state_dict(dict(scaler))


def _twice_differentiable() -> AbstractContextManager[Any]:
    """Attention by plain matrix products: the gradients of the fused kernels have no gradient."""
    return sdpa_kernel(SDPBackend.MATH)


@contextmanager
def _silent_about_the_cycle() -> Iterator[None]:
    """Without torch's warning of the cycle that `OptimizerStep` breaks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Using backward\(\) with create_graph=True", UserWarning)
        yield
