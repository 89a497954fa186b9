"""What to watch in a run: how far updates move the weights, and whether the run has diverged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bench.protocol import Protocol as StudyProtocol
from bench.record import Diagnostics, Failure


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of each tensor, float32 [P]."""
    return torch.stack(torch._foreach_norm(list(tensors)))  # pyright: ignore[reportPrivateImportUsage].float()


class Waits(Protocol):
    """Something that holds gradients back: `waiting` are the ids of the parameters the latest step left alone."""

    @property
    def waiting(self) -> frozenset[int]: ...


class UpdateWatch:
    """Compares weights before and after chosen steps; costs a copy of the weights at those steps only."""

    def __init__(self, model: nn.Module) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._names = [name for name, _ in named]
        self._parameters = [p for _, p in named]
        self._starts_at_zero = _norms(self._detached()).eq(0)
        self._had_gradient = [False] * len(named)
        self._zero: Counter[str] = Counter()
        self._large: Counter[str] = Counter()
        self._observed = 0
        self.last_ratio = 0.0

    def _detached(self) -> list[Tensor]:
        return [p.detach() for p in self._parameters]

    @contextmanager
    def observe(self, cadence: Waits | None = None) -> Iterator[None]:
        """Watch the optimizer step inside the block; with a `cadence`, that of the parameters that do not wait."""
        before = [w.clone() for w in self._detached()]
        weight = _norms(before)
        yield
        update = _norms([after - w for after, w in zip(self._detached(), before, strict=True)])
        with_gradient = torch.tensor([p.grad is not None for p in self._parameters], device=update.device)
        self._had_gradient = [seen or p.grad is not None
                              for seen, p in zip(self._had_gradient, self._parameters, strict=True)]  # fmt: skip
        large = (update > weight) & ~self._starts_at_zero
        waiting = frozenset() if cadence is None else cadence.waiting
        moved = with_gradient & torch.tensor([id(p) not in waiting for p in self._parameters], device=update.device)
        self._count(self._zero, update.eq(0) & moved)
        self._count(self._large, large & with_gradient)
        self._observed += 1
        self.last_ratio = (update.norm() / weight.norm()).item()

    def _count(self, counter: Counter[str], flags: Tensor) -> None:
        counter.update(self._names[i] for i in flags.nonzero().flatten().tolist())

    def state(self) -> dict[str, Any]:
        """The findings so far as plain data."""
        return {"had_gradient": list(self._had_gradient), "zero": dict(self._zero), "large": dict(self._large),
                "observed": self._observed, "last_ratio": self.last_ratio}  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self._had_gradient, self._observed = list(state["had_gradient"]), state["observed"]
        self._zero, self._large = Counter(state["zero"]), Counter(state["large"])
        self.last_ratio = state["last_ratio"]

    def diagnostics(self, skipped_steps: int) -> Diagnostics:
        """The findings so far."""
        without = [i for i, had in enumerate(self._had_gradient) if not had]
        return Diagnostics(
            parameters=sum(p.numel() for p in self._parameters),
            parameters_without_gradient=sum(self._parameters[i].numel() for i in without),
            without_gradient=tuple(self._names[i] for i in without),
            zero_update=dict(self._zero),
            large_update=dict(self._large),
            observed_steps=self._observed,
            skipped_steps=skipped_steps,
        )


class DivergenceWatch:
    """Says whether a run has diverged, by the limits of its protocol."""

    def __init__(self, model: nn.Module, protocol: StudyProtocol, *, at_least: float = 0.0) -> None:
        """`at_least`: what the initial loss counts as where it is lower, as it is of weights that are trained."""
        self._at_least = at_least
        self._named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        # A parameter that starts at zero (a bias) is measured against a norm of 1.
        initial = _norms([p.detach() for _, p in self._named])
        self._limits = protocol.diverged_norm_factor * torch.where(initial > 0, initial, 1.0)
        self._protocol = protocol
        self.initial_loss: float | None = None

    def check(self, losses: Sequence[float], epoch: int, first_step: int) -> Failure | None:
        """The failure after steps `first_step`, … with these losses (steps of the run count from 0), or None."""
        if self.initial_loss is None and losses:
            self.initial_loss = max(losses[0], self._at_least)
        for step, loss in enumerate(losses, first_step):
            if not abs(loss) < float("inf"):
                return Failure(reason=f"loss is {loss}", epoch=epoch, step=step)
            if self.initial_loss is not None and loss > self._protocol.diverged_loss_factor * self.initial_loss:
                return Failure(reason=f"loss {loss:.4g} is over {self._protocol.diverged_loss_factor:g} × the initial "
                               f"{self.initial_loss:.4g}", epoch=epoch, step=step)  # fmt: skip
        norms = _norms([p.detach() for _, p in self._named])
        exploded = (~(norms <= self._limits)).nonzero().flatten().tolist()  # ~(a <= b) also finds NaN
        if exploded:
            name = self._named[exploded[0]][0]
            more = f" and of {len(exploded) - 1} more parameters" if len(exploded) > 1 else ""
            reason = (
                f"norm of {name}{more} is over {self._protocol.diverged_norm_factor:g} × the initial one or not finite"
            )
            return Failure(reason=reason, epoch=epoch, step=first_step + len(losses) - 1)
        return None
