"""UniversalAndersonGDA: Anderson acceleration of AdamW steps, for every tensor on its own.

With f = -lr m̂ / (sqrt(v̂) + eps), and the gradients and applied steps of the m + 1 steps before step t = 1, 2, ...:

    r_i = step_i - step_(i-1);  y_i = grad_i - grad_(i-1)         the newest q = min(m, t - 2) pairs;  R = [r_i]
    w_i = max(1e-8, max(0, cos(r_i, y_i)) · clip(|r_i| / |y_i|, 0.1, 10)), or 1e-8 where |r_i| or |y_i| <= 1e-8;
          then divided by their mean + 1e-8
    (R^T R + rho diag(1 / (w + 1e-8))) theta = R^T (f - last step)            without weighting: R^T R + rho I
    c = R theta, not longer than trust |f|
    applied step = f - c if g · (f - c) < 0, else f; also f if q < 1 or the system has no finite solution

Decay, w <- w (1 - lr wd) before the update, is no part of a step. A step lies against the gradient, so r_i · y_i is
mostly negative and the weights are mostly all at their floor; that is the algorithm as published.

Anderson, "Iterative Procedures for Nonlinear Integral Equations", https://doi.org/10.1145/321296.321305
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bench.optimizers.adam_moments import adam_step, advance_
from bench.optimizers.groupwise import GroupwiseOptimizer, wide
from bench.optimizers.validation import require_adam_settings, require_choice, require_integer, require_number
from bench.spec import OptimizerSpec, learning_rate_search

SMALL = 1e-8
RATIO_LOW, RATIO_HIGH = 0.1, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What one tensor brings to the mixing: f, g and the last step [n], and the rows of R and then of Y [2q, n]."""

    f: Tensor
    g: Tensor
    last_step: Tensor
    rows: Tensor


def pair_weights(r: Tensor, y: Tensor, ry: Tensor) -> Tensor:
    """Weights of mean about 1 from the norms of r_i and y_i and their inner products; all [..., q]."""
    weight = ((ry / (r * y)).clamp_min(0) * (r / y).clamp(RATIO_LOW, RATIO_HIGH)).clamp_min(SMALL)
    weight = torch.where(torch.minimum(r, y) > SMALL, weight, SMALL)
    return weight / (weight.mean(dim=-1, keepdim=True) + SMALL)


def coefficients(A: Tensor, b: Tensor, ridge: Tensor | float) -> Tensor:
    """theta [..., q] with (A + diag(ridge)) theta = b, and 0 where there is no finite solution. A is [..., q, q]."""
    A = A.clone()
    A.diagonal(dim1=-2, dim2=-1).add_(ridge)
    theta, info = torch.linalg.solve_ex(A, b)
    solved = (info == 0) & theta.isfinite().all(dim=-1)
    return torch.where(solved.unsqueeze(-1), theta, 0.0)


def share(c: Tensor, f: Tensor, gc: Tensor, gf: Tensor, *, trust: float) -> Tensor:
    """The factor of c in the applied step, from the norms of c and f and the inner products g · c and g · f; all [...].

    It shortens c to the trust region, and is 0 where g · (f - factor c) < 0 does not hold.
    """
    factor = torch.where((c > trust * f) & (f > SMALL), trust * f / c, 1.0)
    return torch.where(gf - factor * gc < 0, factor, 0.0)


def inner_products(p: Proposal) -> tuple[Tensor, ...]:
    """Of the rows of R and Y [2q, 2q], of R with f - last step [q], and |f| and g · f."""
    R = p.rows[: len(p.rows) // 2]  # [q, n]
    return p.rows @ p.rows.T, R @ (p.f - p.last_step), torch.linalg.vector_norm(p.f), p.g.dot(p.f)


def mixed_steps(proposals: list[Proposal], *, reg: float, trust: float, weighted: bool) -> list[Tensor]:
    """The step to apply [n] for each proposal; all have the same q. The small systems are solved together."""
    gram, b, f, gf = (torch.stack(x) for x in zip(*map(inner_products, proposals), strict=True))
    q = b.shape[-1]
    r, y = gram.diagonal(dim1=-2, dim2=-1).sqrt().split(q, dim=-1)  # [tensors, q]
    ry = gram.diagonal(offset=q, dim1=-2, dim2=-1)  # [tensors, q]
    theta = coefficients(gram[:, :q, :q], b, reg / (pair_weights(r, y, ry) + SMALL) if weighted else reg)
    corrections = [row @ p.rows[:q] for p, row in zip(proposals, theta.unbind(), strict=True)]  # [n]
    products = [(torch.linalg.vector_norm(x), p.g.dot(x)) for p, x in zip(proposals, corrections, strict=True)]
    c, gc = (torch.stack(x) for x in zip(*products, strict=True))  # [tensors]
    factors = share(c, f, gc, gf, trust=trust).unbind()
    return [p.f - k * x for p, k, x in zip(proposals, factors, corrections, strict=True)]


def propose(f: Tensor, g: Tensor, state: dict[str, Any], q: int) -> Proposal:
    """The proposal of a tensor whose history holds q differences or more."""
    rows = state["differences"][:, :q].reshape(2 * q, -1)
    return Proposal(f=wide(f), g=wide(g), last_step=wide(state["last"][0]), rows=wide(rows))


def remember_(state: dict[str, Any], step: Tensor, g: Tensor, *, size: int) -> None:
    """Take the applied step and the gradient [n] of step t into the history of `size` differences.

    The differences to step t - 1 lie in row (t - 2) mod size: the order of the rows does not matter to the mixing.
    """
    now = torch.stack((step, g))  # [2, n]
    if "last" in state:
        torch.sub(now, state["last"], out=state["differences"][:, (state["step"] - 2) % size])
    else:
        state["differences"] = g.new_zeros(2, size, g.numel())
    state["last"] = now


class UniversalAndersonGDA(GroupwiseOptimizer):
    """UniversalAndersonGDA; raises ValueError for settings outside their range."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        anderson_m: int = 3,
        anderson_reg: float = 1e-3,
        trust_region: float = 1.5,
        use_weighting: bool = True,
    ) -> None:
        adam = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        anderson = {"anderson_m": anderson_m, "anderson_reg": anderson_reg, "trust_region": trust_region}
        super().__init__(params, {**adam, **anderson, "use_weighting": use_weighting})

    def _check_group(self, group: dict[str, Any]) -> None:
        require_adam_settings("UniversalAndersonGDA", group)
        require_integer("UniversalAndersonGDA", "anderson_m", group["anderson_m"])
        require_number("UniversalAndersonGDA", "anderson_reg", group["anderson_reg"])
        require_number("UniversalAndersonGDA", "trust_region", group["trust_region"])
        require_choice("UniversalAndersonGDA", "use_weighting", group["use_weighting"], (True, False))

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        lr, (beta1, beta2), size = group["lr"], group["betas"], group["anderson_m"]
        steps = []
        alike = defaultdict(list)  # positions of the tensors whose systems can be solved together
        for position, (w, g) in enumerate(pairs):
            m, v, t = advance_(self.state[w], g, beta1=beta1, beta2=beta2)
            steps.append(adam_step(m, v, t=t, lr=lr, beta1=beta1, beta2=beta2, eps=group["eps"]).reshape(-1))
            q = min(t - 2, size)
            if q > 0:
                alike[q, g.dtype, g.device].append(position)
        settings = {"reg": group["anderson_reg"], "trust": group["trust_region"], "weighted": group["use_weighting"]}
        for (q, dtype, _), positions in alike.items():
            proposals = [propose(steps[i], pairs[i][1].reshape(-1), self.state[pairs[i][0]], q) for i in positions]
            for i, mixed in zip(positions, mixed_steps(proposals, **settings), strict=True):
                steps[i] = mixed.to(dtype)
        for (w, g), step in zip(pairs, steps, strict=True):
            if size > 0:
                remember_(self.state[w], step, g.reshape(-1), size=size)
            if group["weight_decay"] != 0:
                w.mul_(1 - lr * group["weight_decay"])
            w.add_(step.view(w.shape))


SPEC = OptimizerSpec(
    name="universal_anderson_gda",
    title="UniversalAndersonGDA",
    constructor=UniversalAndersonGDA,
    defaults={"lr": 1e-3},
    documents={"lr": 1e-3, "anderson_m": 3, "use_weighting": True, "trust_region": 1.5},
    search=learning_rate_search(1e-3),
    reference="Anderson acceleration (1965, https://doi.org/10.1145/321296.321305) of Adam steps, after the documents",
)
