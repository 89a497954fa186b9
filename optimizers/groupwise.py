"""What this folder's own optimizers share: checked settings, the closure, and the choice of parameters to update.

State has the parameter's dtype, as in torch.optim: `load_state_dict` casts floating-point state to it, so wider state
would not survive a round trip bit for bit. Small systems are solved in float32 at least (see `wide`). With bfloat16 or
float16 weights a second moment that decays by 0.999 a step cannot decay at all; keep float32 master weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bench.optimizers.validation import require_floating_point


def wide(x: Tensor) -> Tensor:
    """`x` in the dtype of inner products and solves: float32, or float64 where `x` is float64. No copy if it is so."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


class GroupwiseOptimizer(Optimizer, ABC):
    """An optimizer given by its check of a group's settings and its update of a group.

    A parameter whose gradient is None is left alone: no decay, no state. Gradients are read only.
    """

    @abstractmethod
    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for a group, complete with its defaults, that has a setting outside its range."""

    @abstractmethod
    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        """Update the parameters of `group` that have a gradient: pairs (w, g), at least one."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch.optim, with the group's settings checked; raises ValueError and then does not keep the group."""
        super().add_param_group(param_group)
        try:
            require_floating_point(type(self).__name__, param_group["params"])
            self._check_group(param_group)
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every group; returns the closure's loss, or None without one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if any(g.is_sparse for _, g in pairs):
                raise RuntimeError(f"{type(self).__name__}: found a sparse gradient; only dense gradients are allowed")
            if pairs:
                self._step_group(group, pairs)
        return loss
