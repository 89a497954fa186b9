"""AndersonGDA: gradient descent with a gradient difference, and Anderson mixing for every tensor on its own.

    x = -lr g - beta lr (g - g_prev)                         the residual; at the first step g_prev = g
    c = argmin |x - sum_i c_i r_i|² + eps |c|²               r_i: the residuals x of the last m steps before this one
    w <- w + sum_i c_i r_i if there are at least two r_i, else w + x

The mixed step is x projected on the residuals before it. It is never uphill of x: x · (sum_i c_i r_i) >= 0.

Anderson, "Iterative Procedures for Nonlinear Integral Equations", https://doi.org/10.1145/321296.321305
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bench.optimizers.flat import wide
from bench.optimizers.groupwise import GroupwiseOptimizer
from bench.optimizers.validation import require_integer, require_number
from bench.spec import OptimizerSpec, learning_rate_search


def mixed_step(x: Tensor, R: Tensor, *, eps: float) -> Tensor:
    """x [n] projected on the residuals R [q, n], in any order; x itself where the system has no finite solution."""
    x, R = wide(x), wide(R)
    A = R @ R.T  # [q, q]
    A.diagonal().add_(eps)
    c, info = torch.linalg.solve_ex(A, R @ x)
    mixed = c @ R  # [n]
    return torch.where((info == 0) & mixed.isfinite().all(), mixed, x)


def anderson_gda_(w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """One in-place step on w and its state under the settings `group`; g is not modified."""
    lr, m = group["lr"], group["anderson_m"]
    flat_g = g.reshape(-1)  # [n]
    if "step" not in state:
        state["step"] = 0
        state["last_grad"], state["residuals"] = flat_g.clone(), flat_g.new_zeros(m, flat_g.numel())
    x = -lr * flat_g - group["beta"] * lr * (flat_g - state["last_grad"])
    q = min(state["step"], m)
    w.add_((mixed_step(x, state["residuals"][:q], eps=group["eps"]) if q >= 2 else x).view(w.shape))
    state["last_grad"].copy_(flat_g)
    if m > 0:
        state["residuals"][state["step"] % m] = x
    state["step"] += 1


class AndersonGDA(GroupwiseOptimizer):
    """AndersonGDA; raises ValueError for settings outside their range."""

    def __init__(
        self, params: ParamsT, lr: float = 1e-3, beta: float = 0.0, anderson_m: int = 3, eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "anderson_m": anderson_m, "eps": eps})

    def _check_group(self, group: dict[str, Any]) -> None:
        require_number("AndersonGDA", "lr", group["lr"])
        require_number("AndersonGDA", "beta", group["beta"])
        require_integer("AndersonGDA", "anderson_m", group["anderson_m"])
        require_number("AndersonGDA", "eps", group["eps"])

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        for w, g in pairs:
            anderson_gda_(w, g, self.state[w], group)


SPEC = OptimizerSpec(
    name="anderson_gda",
    title="AndersonGDA",
    constructor=AndersonGDA,
    defaults={"lr": 1e-3},
    search=learning_rate_search(1e-3),
    reference="Anderson acceleration (1965, https://doi.org/10.1145/321296.321305) of gradient descent",
)
