"""Adam's moments and step, shared by every optimizer here that builds on Adam.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g²
    D = sqrt(v) / sqrt(1 - b2^t) + eps;  w <- w - lr / (1 - b1^t) m / D

One pass over memory by torch's fused kernel. It takes tensors for contiguous whatever their strides are, so all that is
given to it here must be.

Kingma & Ba, "Adam: A Method for Stochastic Optimization", https://arxiv.org/abs/1412.6980
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.optimizers.flat import FlatState, Range, wide

# What `adam_step` keeps of every parameter.
MOMENTS: dict[str, tuple[int, ...]] = {"exp_avg": (), "exp_avg_sq": ()}


def fused_adam_(
    ws: list[Tensor], gs: list[Tensor], ms: list[Tensor], vs: list[Tensor], ts: list[Tensor], group: dict[str, Any],
    *, coupled_decay: float = 0.0,
) -> None:  # fmt: skip
    """One in-place step of Adam on contiguous w, m and v whose step numbers are t [], with L2 decay g + wd w."""
    beta1, beta2 = group["betas"]
    torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
        ws, gs, ms, vs, [], ts, lr=group["lr"], beta1=beta1, beta2=beta2, weight_decay=coupled_decay, eps=group["eps"],
        amsgrad=False, maximize=False,
    )  # fmt: skip


def adam_step(flat: FlatState, r: Range, g: Tensor, group: dict[str, Any], *, out: Tensor) -> Tensor:
    """f = -lr m / ((1 - b1^t) D) of a range after its gradient g, in `out`: what Adam adds to the weights."""
    m, v = r.of(flat.vectors["exp_avg"]), r.of(flat.vectors["exp_avg_sq"])
    t = torch.full((), float(flat.t(r)), dtype=torch.float32, device=g.device)
    fused_adam_([out.zero_()], [g], [m], [v], [t], group)  # 0 - x is exact: weights of zero receive the step itself
    return out


def denominator(v: Tensor, *, t: int, beta2: float, eps: float) -> Tensor:
    """D, of v's shape, in float32 at least: eps is 0 in float16."""
    return (wide(v).sqrt() / (1 - beta2**t) ** 0.5).add_(eps)
