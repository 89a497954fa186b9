"""What the plain forms share: settings taken as they are, and Adam's moments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bench.optimizers.groupwise import GroupwiseOptimizer


class PlainOptimizer(GroupwiseOptimizer):
    """An optimizer given by its update of a group's parameters; `settings` are the fast form's, all of them."""

    def __init__(self, params: ParamsT, **settings: Any) -> None:
        super().__init__(params, settings)

    def _check_group(self, group: dict[str, Any]) -> None:
        """The fast form has checked them."""


def moments(state: dict[str, Any], g: Tensor, *, beta1: float, beta2: float) -> tuple[Tensor, Tensor, int]:
    """m, v and t = 1, 2, ... of a parameter after its gradient g."""
    if not state:
        state.update(t=0, m=torch.zeros_like(g), v=torch.zeros_like(g))
    state["t"] += 1
    state["m"].mul_(beta1).add_(g, alpha=1 - beta1)
    state["v"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
    return state["m"], state["v"], state["t"]


def adam_step(state: dict[str, Any], g: Tensor, group: dict[str, Any]) -> Tensor:
    """f = -lr m̂ / (sqrt(v̂) + eps), of g's shape."""
    beta1, beta2 = group["betas"]
    m, v, t = moments(state, g, beta1=beta1, beta2=beta2)
    return -group["lr"] * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + group["eps"])


def decay_(w: Tensor, group: dict[str, Any]) -> None:
    """w <- w (1 - lr wd)."""
    w.mul_(1 - group["lr"] * group["weight_decay"])
