"""CustomAdam: Adam with coupled (L2) weight decay, written out.

    g <- g + wd w;  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g²
    w <- w - lr / (1 - b1^t) · m / (sqrt(v) / sqrt(1 - b2^t) + eps)

The same algorithm as torch.optim.Adam, and on a CPU in float32 the same bits: with `adam` it is the registry's A/A
control, so any difference between the two in a study is that study's noise.

Kingma & Ba, "Adam: A Method for Stochastic Optimization", https://arxiv.org/abs/1412.6980
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from bench.optimizers.adam_moments import advance_, denominator
from bench.optimizers.groupwise import GroupwiseOptimizer
from bench.optimizers.validation import require_adam_settings
from bench.spec import OptimizerSpec, learning_rate_search


def custom_adam_(
    w: Tensor,
    g: Tensor,
    state: dict[str, Any],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """One in-place step on w and its state; g is not modified."""
    if weight_decay != 0:
        g = g.add(w, alpha=weight_decay)
    m, v, t = advance_(state, g, beta1=beta1, beta2=beta2)
    w.addcdiv_(m, denominator(v, t=t, beta2=beta2, eps=eps), value=-lr / (1 - beta1**t))


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
        beta1, beta2 = group["betas"]
        for w, g in pairs:
            custom_adam_(
                w,
                g,
                self.state[w],
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                eps=group["eps"],
                weight_decay=group["weight_decay"],
            )


SPEC = OptimizerSpec(
    name="custom_adam",
    title="CustomAdam",
    constructor=CustomAdam,
    defaults={"lr": 1e-3},
    documents={"lr": 1e-3},
    search=learning_rate_search(1e-3),
    reference="Kingma & Ba, 2014, https://arxiv.org/abs/1412.6980; own code, the A/A control of adam",
)
