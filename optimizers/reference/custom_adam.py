"""CustomAdam, plainly; see bench.optimizers.custom_adam."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bench.optimizers.reference.plain import PlainOptimizer, moments


class PlainCustomAdam(PlainOptimizer):
    """g <- g + wd w;  w <- w - lr / (1 - b1^t) · m / (sqrt(v) / sqrt(1 - b2^t) + eps)"""

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        beta1, beta2 = group["betas"]
        for w, g in pairs:
            if group["weight_decay"] != 0:
                g = g + group["weight_decay"] * w
            m, v, t = moments(self.state[w], g, beta1=beta1, beta2=beta2)
            D = v.sqrt() / (1 - beta2**t) ** 0.5 + group["eps"]
            w.addcdiv_(m, D, value=-group["lr"] / (1 - beta1**t))
