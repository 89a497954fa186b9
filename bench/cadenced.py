"""The update cadence of a network's levels, around any optimizer with a plain step.

Every level has an instance of the optimizer and accumulators of its own. At tick t = 1, 2, …

    A_l <- A_l + g                                 for every level l
    where t mod C_l = 0:  step_l(clip(reduce(A_l)));  A_l <- 0

so a slow level is updated with all gradients of its chunk, at the rate of tick t. Gradients are clipped once, when they
are used: those of levels of one chunk together, since these always fire together, and apart from those of other
chunks, which may be many times as long. With chunk 1 everywhere this is the plain step with its clipping.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.cadence import Level, by_level
from bench.models.multimodal_memory import at_least_float32
from bench.optimizer_state import plain_attributes, restore_optimizer
from bench.spec import RoledParameter


class _Clock:
    """One level in motion: its parameters, its instance of the optimizer, and what it has gathered."""

    def __init__(self, level: Level, optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> None:
        self.level, self.optimizer, self.parameters = level, optimizer, list(parameters)
        for group in optimizer.param_groups:
            group["lr"] *= level.lr_scale
        self.gathered: list[Tensor | None] = [None] * len(self.parameters)  # None: no gradient yet
        self.firings = self.ticks = 0  # ticks gathered since the last firing

    def gather(self) -> None:
        """Add the gradients at hand."""
        self.ticks += 1
        sums, gradients = [], []
        for i, p in enumerate(self.parameters):
            if p.grad is None:
                continue
            sum_so_far = self.gathered[i]
            if sum_so_far is None:
                gradient = at_least_float32(p.grad.detach())
                self.gathered[i] = gradient if self.level.chunk == 1 else gradient.clone()
            else:
                sums.append(sum_so_far)
                gradients.append(at_least_float32(p.grad.detach()))
        if sums:
            torch._foreach_add_(sums, gradients)  # pyright: ignore[reportPrivateImportUsage]

    def hand_over(self) -> None:
        """Leave what the ticks have come to on the parameters, and begin anew."""
        ticks, self.ticks = self.ticks, 0
        for p, total in zip(self.parameters, self.gathered, strict=True):
            if total is not None and self.level.reduction == "mean" and ticks > 1:
                total.div_(ticks)
            p.grad = None if total is None else total.to(p.dtype)
        self.gathered = [None] * len(self.parameters)

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "attributes": plain_attributes(self.optimizer),
                "gathered": list(self.gathered), "firings": self.firings, "ticks": self.ticks}  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        device = self.parameters[0].device
        restore_optimizer(self.optimizer, state["optimizer"], state["attributes"], device)
        self.gathered = [None if total is None else total.to(device) for total in state["gathered"]]
        self.firings, self.ticks = state["firings"], state["ticks"]


class _States(ChainMap[Tensor, Any]):
    """The states of several optimizers as one; unlike theirs, looking for a parameter does not give it a state."""

    def __getitem__(self, key: Tensor) -> Any:
        for states in self.maps:
            if key in states:
                return states[key]
        raise KeyError(key)


class CadencedOptimizer(Optimizer):
    """The levels' optimizers as one: its step is a tick. Reads one number back from the device each.

    A tick whose gradients are not all finite counts for no level, as if its batch had not been there. The parameter
    groups are those of the levels' optimizers, which `build` makes, level by level.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        parameters: Sequence[RoledParameter],
        build: Callable[[Sequence[RoledParameter]], Optimizer],
        clip_norm: float | None,
    ) -> None:
        super().__init__([p.parameter for p in parameters], {})
        self._clocks = [
            _Clock(level, build(own), [p.parameter for p in own])
            for level, own in zip(levels, by_level(levels, parameters), strict=True)
        ]
        self._clip_norm = clip_norm
        self._all = [p.parameter for p in parameters]
        self.tick = self.skipped = 0
        self._fired: list[_Clock] = []
        self._link()

    def _link(self) -> None:
        """Show the groups and states that the levels' optimizers have now."""
        self.param_groups = list(chain.from_iterable(clock.optimizer.param_groups for clock in self._clocks))
        self.state: Any = _States(*(clock.optimizer.state for clock in self._clocks))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take the tick of the gradients at hand; those of levels that fire are replaced by what they fire with."""
        del closure  # what needs one is refused, see `bench.cadence`
        self._fired = []
        gradients = [p.grad for p in self._all if p.grad is not None]
        if not nn.utils.get_total_norm(gradients, foreach=True).isfinite():
            self.skipped += 1
            return
        self.tick += 1
        for clock in self._clocks:
            clock.gather()
        self._fire([clock for clock in self._clocks if self.tick % clock.level.chunk == 0])

    @torch.no_grad()
    def flush(self) -> None:
        """Fire the levels that are flushed at the end, with what they have of a chunk."""
        self._fire([clock for clock in self._clocks if clock.level.flush_at_end and self.tick % clock.level.chunk])

    def _fire(self, clocks: Sequence[_Clock]) -> None:
        for clock in clocks:
            clock.hand_over()
        for chunk in {clock.level.chunk for clock in clocks}:
            own = {id(p) for clock in clocks if clock.level.chunk == chunk for p in clock.parameters}
            together = [p for p in self._all if id(p) in own]  # in the plain step's order, which decides the last bits
            nn.utils.clip_grad_norm_(together, self._clip_norm or float("inf"), foreach=True)
        for clock in clocks:
            clock.optimizer.step()
            clock.firings += 1
        self._fired = list(clocks)

    @property
    def waiting(self) -> frozenset[int]:
        """The ids of the parameters whose gradients the latest tick did not use."""
        fired = {id(p) for clock in self._fired for p in clock.parameters}
        return frozenset(id(p) for p in self._all if id(p) not in fired)

    def count_anew(self) -> None:
        """Count firings and skipped ticks from here on; chunks go on."""
        self.skipped = 0
        for clock in self._clocks:
            clock.firings = 0

    @property
    def figures(self) -> dict[str, float]:
        """How often each level has fired."""
        return {f"firings_{clock.level.name}": float(clock.firings) for clock in self._clocks}

    def state_dict(self) -> dict[str, Any]:
        """Optimizers, accumulators and the tick, as plain data and tensors."""
        return {"tick": self.tick, "skipped": self.skipped, "levels": [clock.state() for clock in self._clocks]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state of the same levels."""
        self.tick, self.skipped = state_dict["tick"], state_dict["skipped"]
        for clock, state in zip(self._clocks, state_dict["levels"], strict=True):
            clock.restore(state)
        self._link()
