"""GDA2: gradient-difference-aware Anderson acceleration of AdamW steps, over all parameters of a group at once.

With flat vectors over the parameters of a group that have a gradient, at step k = 1, 2, ...:

    f_k = -lr m̂ / (sqrt(v̂) + eps)                                            the step of AdamW, decay apart
    F_j = f_j - f_(j-1);  s_j = the step applied between them;  y_j = g_j - g_(j-1)      the last q = min(k-1, m)
    w_j = max(1e-8, max(0, cos(s_j, y_j) + tau_c) · clip(|s_j| / |y_j|)), divided by their mean
    lambda = reg (1 + nu · mean_j(|y_j| / |s_j|))
    (F^T F + lambda diag(1/w)) theta = F^T f_k
    c = sum_j theta_j s_j, not longer than tau |f_k|;  applied step = f_k - c if g_k · (f_k - c) < 0, else f_k

Decay, w <- w (1 - lr wd) before the update, is no part of a step. Some implementations pair F_j with the step of the
transition before it; here it is paired with its own. Norms in a denominator are at least 1e-16.

Anderson, "Iterative Procedures for Nonlinear Integral Equations", https://doi.org/10.1145/321296.321305
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bench.optimizers.adam_moments import adam_step, advance_
from bench.optimizers.groupwise import GroupwiseOptimizer, wide
from bench.optimizers.validation import require_adam_settings, require_integer, require_number, require_range
from bench.spec import OptimizerSpec, learning_rate_search

SMALLEST_WEIGHT = 1e-8
SMALLEST_NORM = 1e-16
SINGULAR_RIDGE = 1e-6


def transition_weights(S: Tensor, Y: Tensor, *, cos_shift: float, w_clip: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Weights of the transitions, of mean 1, and their mean curvature, from steps and gradient differences [q, n]."""
    s = torch.linalg.vector_norm(S, dim=1).clamp_min(SMALLEST_NORM)  # [q]
    y = torch.linalg.vector_norm(Y, dim=1).clamp_min(SMALLEST_NORM)  # [q]
    cosine = torch.linalg.vecdot(S, Y) / s / y  # [q]
    weight = ((cosine + cos_shift).clamp_min(0) * (s / y).clamp(*w_clip)).clamp_min(SMALLEST_WEIGHT)
    return weight / weight.mean(), (y / s).mean()


def solve(A: Tensor, b: Tensor) -> Tensor:
    """A^-1 b, with 1e-6 I added to A where A is singular; not finite where that fails too. [q, q], [q] -> [q]"""
    solution, info = torch.linalg.solve_ex(A, b)
    ridge = SINGULAR_RIDGE * torch.eye(len(b), dtype=A.dtype, device=A.device)
    return torch.where(info == 0, solution, torch.linalg.solve_ex(A + ridge, b).result)


def mixed_step(
    f: Tensor,
    g: Tensor,
    F: Tensor,
    S: Tensor,
    Y: Tensor,
    *,
    reg: float,
    nu: float,
    tau: float,
    cos_shift: float,
    w_clip: tuple[float, float],
) -> Tensor:
    """The step to apply [n], from f and g [n] and the transitions F, S and Y [q, n] in any order."""
    f, g, F, S, Y = (wide(x) for x in (f, g, F, S, Y))
    weight, curvature = transition_weights(S, Y, cos_shift=cos_shift, w_clip=w_clip)
    A = F @ F.T + torch.diag(reg * (1 + nu * curvature) / weight)  # [q, q]
    c = solve(A, F @ f) @ S  # [n]
    c_norm, limit = torch.linalg.vector_norm(c), tau * torch.linalg.vector_norm(f)
    mixed = f - c * torch.where(c_norm > limit, limit / c_norm.clamp_min(SMALLEST_NORM), 1.0)
    # Written so that a correction that is not finite fails the check, and f is applied.
    return torch.where(torch.dot(g, mixed) < 0, mixed, f)


class GDA2(GroupwiseOptimizer):
    """GDA2; raises ValueError for settings outside their range, and for groups of several dtypes or devices.

    The history of a group is kept in the state of its first parameter that has a gradient. It belongs to one set of
    parameters: when another set of the group has gradients, it starts anew, with k = 1. Each parameter's moments go on.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        history_size: int = 5,
        reg: float = 1e-2,
        nu: float = 0.5,
        tau: float = 1.5,
        interval: int = 1,
        cos_shift: float = 0.1,
        w_clip: tuple[float, float] = (0.1, 10.0),
    ) -> None:
        adam = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        mixing = {"reg": reg, "nu": nu, "tau": tau, "cos_shift": cos_shift, "w_clip": w_clip}
        super().__init__(params, {**adam, **mixing, "history_size": history_size, "interval": interval})

    def _check_group(self, group: dict[str, Any]) -> None:
        require_adam_settings("GDA2", group)
        for name in ("reg", "nu", "tau"):
            require_number("GDA2", name, group[name])
        require_number("GDA2", "cos_shift", group["cos_shift"], at_least=-1.0, at_most=1.0)
        require_range("GDA2", "w_clip", group["w_clip"])
        require_integer("GDA2", "history_size", group["history_size"])
        require_integer("GDA2", "interval", group["interval"], at_least=1)
        kinds = {f"{p.dtype} on {p.device}" for p in group["params"]}
        if len(kinds) > 1:
            raise ValueError(f"GDA2: one group holds parameters of {sorted(kinds)}; allowed: one dtype and one device")

    def _history(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        """The history of exactly these parameters, a new one if the group's present history is of others."""
        members = [i for i, p in enumerate(group["params"]) if p.grad is not None]
        owner = self.state[pairs[0][0]]
        if owner.get("history", {}).get("members") != members:
            for p in group["params"]:
                if p in self.state:
                    self.state[p].pop("history", None)
            m, n = group["history_size"], sum(g.numel() for _, g in pairs)
            vectors = {name: pairs[0][1].new_zeros(n) for name in ("f", "g")}
            rings = {name: pairs[0][1].new_zeros(m, n) for name in ("F", "S", "Y")}
            owner["history"] = {"members": members, "k": 0, **vectors, **rings}
        return owner["history"]

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        lr, eps = group["lr"], group["eps"]
        beta1, beta2 = group["betas"]
        steps = []
        for w, g in pairs:
            m, v, t = advance_(self.state[w], g, beta1=beta1, beta2=beta2)
            steps.append(adam_step(m, v, t=t, lr=lr, beta1=beta1, beta2=beta2, eps=eps).reshape(-1))
        f = torch.cat(steps)  # [n]
        if group["history_size"] > 0:
            flat_g = torch.cat([g.reshape(-1) for _, g in pairs])  # [n]
            f = self._mix(group, self._history(group, pairs), f, flat_g)
        for (w, _), step in zip(pairs, f.split([w.numel() for w, _ in pairs]), strict=True):
            if group["weight_decay"] != 0:
                w.mul_(1 - lr * group["weight_decay"])
            w.add_(step.view(w.shape))

    def _mix(self, group: dict[str, Any], history: dict[str, Any], f: Tensor, g: Tensor) -> Tensor:
        """Take f_k and g_k into the history and return the step to apply.

        The transition k-1 -> k lies in row (k-2) mod m; the order of the rows does not matter to the least squares.
        """
        history["k"] += 1
        k, m = history["k"], group["history_size"]
        F, S, Y = history["F"], history["S"], history["Y"]
        if k > 1:
            row = (k - 2) % m
            torch.sub(f, history["f"], out=F[row])
            torch.sub(g, history["g"], out=Y[row])
        history["f"].copy_(f)
        history["g"].copy_(g)
        if k > 1 and k % group["interval"] == 0:
            q = min(k - 1, m)
            settings = {name: group[name] for name in ("reg", "nu", "tau", "cos_shift", "w_clip")}
            f = mixed_step(f, g, F[:q], S[:q], Y[:q], **settings)
        S[(k - 1) % m] = f
        return f


SPEC = OptimizerSpec(
    name="gda2",
    title="GDA2",
    constructor=GDA2,
    defaults={"lr": 1e-3},
    documents={"lr": 1e-3},
    search=learning_rate_search(1e-3),
    reference="Anderson acceleration (1965, https://doi.org/10.1145/321296.321305) of AdamW steps, after the documents",
)
