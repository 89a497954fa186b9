"""CustomAdam: Adam with coupled (L2) weight decay, written out.

    g <- g + wd w;  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g²
    w <- w - lr / (1 - b1^t) · m / (sqrt(v) / sqrt(1 - b2^t) + eps)

The same algorithm as torch.optim.Adam with the same kernel, hence the same bits: with `adam` it is the registry's A/A
control, so any difference between the two in a study is that study's noise.

Kingma & Ba, "Adam: A Method for Stochastic Optimization", https://arxiv.org/abs/1412.6980
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bench.optimizers.adam_moments import fused_adam_
from bench.optimizers.groupwise import GroupwiseOptimizer, by_dtype_and_device
from bench.optimizers.validation import require_adam_settings
from bench.spec import OptimizerSpec, learning_rate_search


def custom_adam_(pairs: list[tuple[Tensor, Tensor]], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
    """One in-place step on the weights w of pairs (w, g) and their states; g is not modified."""
    for (w, _), state in zip(pairs, states, strict=True):
        if "step" not in state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(w, memory_format=torch.contiguous_format)
            state["exp_avg_sq"] = torch.zeros_like(w, memory_format=torch.contiguous_format)
        state["step"] += 1
    ms, vs = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
    numbers = {state["step"] for state in states}  # one, unless some parameter has missed a gradient
    ts = {t: torch.full((), float(t), dtype=torch.float32, device=pairs[0][0].device) for t in numbers}
    ws, gs = [w.contiguous() for w, _ in pairs], [g.contiguous() for _, g in pairs]  # no copies where they are so
    fused_adam_(ws, gs, ms, vs, [ts[state["step"]] for state in states], group, coupled_decay=group["weight_decay"])
    for (w, _), new in zip(pairs, ws, strict=True):
        if new is not w:
            w.copy_(new)


class CustomAdam(GroupwiseOptimizer):
    """Adam; raises ValueError for settings outside their range."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _check_group(self, group: dict[str, Any]) -> None:
        require_adam_settings("CustomAdam", group)

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        for alike in by_dtype_and_device(pairs):
            custom_adam_(alike, [self.state[w] for w, _ in alike], group)


SPEC = OptimizerSpec(
    name="custom_adam",
    title="CustomAdam",
    constructor=CustomAdam,
    defaults={"lr": 1e-3},
    documents={"lr": 1e-3},
    search=learning_rate_search(1e-3),
    revision=2,
    reference="Kingma & Ba, 2014, https://arxiv.org/abs/1412.6980; own code, the A/A control of adam",
)
