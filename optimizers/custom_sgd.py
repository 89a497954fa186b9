"""CustomSGD: stochastic gradient descent with a momentum buffer and coupled (L2) weight decay, written out.

    g <- g + wd w;  b <- mu b + g;  w <- w - lr b

Polyak, "Some methods of speeding up the convergence of iteration methods", 1964
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bench.optimizers.groupwise import GroupwiseOptimizer
from bench.optimizers.validation import require_number
from bench.spec import OptimizerSpec, learning_rate_search


def custom_sgd_(w: Tensor, g: Tensor, b: Tensor, *, lr: float, momentum: float, weight_decay: float) -> None:
    """One in-place step on w and b; g is not modified."""
    if weight_decay != 0:
        g = g.add(w, alpha=weight_decay)
    b.mul_(momentum).add_(g)
    w.add_(b, alpha=-lr)


class CustomSGD(GroupwiseOptimizer):
    """SGD with momentum; raises ValueError for settings outside their range."""

    def __init__(self, params: ParamsT, lr: float = 1e-2, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def _check_group(self, group: dict[str, Any]) -> None:
        require_number("CustomSGD", "lr", group["lr"])
        require_number("CustomSGD", "momentum", group["momentum"], below=1.0)
        require_number("CustomSGD", "weight_decay", group["weight_decay"])

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        for w, g in pairs:
            state = self.state[w]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(g, memory_format=torch.preserve_format)
            custom_sgd_(
                w,
                g,
                state["momentum_buffer"],
                lr=group["lr"],
                momentum=group["momentum"],
                weight_decay=group["weight_decay"],
            )


SPEC = OptimizerSpec(
    name="custom_sgd",
    title="CustomSGD",
    constructor=CustomSGD,
    defaults={"lr": 1e-2, "momentum": 0.9},
    search=learning_rate_search(1e-2),
    reference="Polyak, 1964, https://doi.org/10.1016/0041-5553(64)90137-5; own code, the A/A control of sgd",
)
