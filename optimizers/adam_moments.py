"""Adam's moments, shared by every optimizer here that builds on Adam.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g²;  D = sqrt(v) / sqrt(1 - b2^t) + eps

The order of operations is that of torch.optim.Adam (one tensor at a time), so that equal formulas give equal bits.

Kingma & Ba, "Adam: A Method for Stochastic Optimization", https://arxiv.org/abs/1412.6980
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def update_moments_(m: Tensor, v: Tensor, g: Tensor, *, beta1: float, beta2: float) -> None:
    """One in-place step on m and v; g is not modified."""
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)


def denominator(v: Tensor, *, t: int, beta2: float, eps: float) -> Tensor:
    """D, of v's shape."""
    return (v.sqrt() / (1 - beta2**t) ** 0.5).add_(eps)


def adam_step(m: Tensor, v: Tensor, *, t: int, lr: float, beta1: float, beta2: float, eps: float) -> Tensor:
    """f = -lr m / ((1 - b1^t) D): what Adam would add to the weights."""
    return (m / denominator(v, t=t, beta2=beta2, eps=eps)).mul_(-lr / (1 - beta1**t))


def advance_(state: dict[str, Any], g: Tensor, *, beta1: float, beta2: float) -> tuple[Tensor, Tensor, int]:
    """Take gradient `g` into a parameter's state, created at its first gradient; returns m, v and t = 1, 2, ..."""
    if "step" not in state:
        state["step"] = 0
        state["exp_avg"] = torch.zeros_like(g, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(g, memory_format=torch.preserve_format)
    state["step"] += 1
    update_moments_(state["exp_avg"], state["exp_avg_sq"], g, beta1=beta1, beta2=beta2)
    return state["exp_avg"], state["exp_avg_sq"], state["step"]
