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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bench.optimizers.adam_moments import MOMENTS, adam_step
from bench.optimizers.flat import FlatState, Range
from bench.optimizers.groupwise import FlatOptimizer, apply_, wide
from bench.optimizers.validation import require_adam_settings, require_integer, require_number, require_range
from bench.spec import OptimizerSpec, learning_rate_search

SMALLEST_WEIGHT = 1e-8
SMALLEST_NORM = 1e-16
SINGULAR_RIDGE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """Inner products of the q transitions and of f and g: all that the mixing depends on."""

    FF: Tensor  # [q, q]
    Ff: Tensor  # [q]
    SS: Tensor  # [q, q]
    Sg: Tensor  # [q]
    sy: Tensor  # [q], s_j · y_j
    yy: Tensor  # [q], y_j · y_j
    ff: Tensor  # [], f · f
    fg: Tensor  # [], f · g


def transition_weights(
    ss: Tensor, sy: Tensor, yy: Tensor, *, cos_shift: float, w_clip: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Weights of the transitions, of mean 1, and their mean curvature, from s_j · s_j, s_j · y_j and y_j · y_j [q]."""
    s, y = (x.sqrt().clamp_min(SMALLEST_NORM) for x in (ss, yy))  # [q]
    cosine = sy / s / y  # [q]
    weight = ((cosine + cos_shift).clamp_min(0) * (s / y).clamp(*w_clip)).clamp_min(SMALLEST_WEIGHT)
    return weight / weight.mean(), (y / s).mean()


def solve(A: Tensor, b: Tensor) -> Tensor:
    """A^-1 b, with 1e-6 I added to A where A is singular; not finite where that fails too. [q, q], [q] -> [q]"""
    solution, info = torch.linalg.solve_ex(A, b)
    ridge = SINGULAR_RIDGE * torch.eye(len(b), dtype=A.dtype, device=A.device)
    return torch.where(info == 0, solution, torch.linalg.solve_ex(A + ridge, b).result)


def correction(p: Products, group: dict[str, Any]) -> Tensor:
    """theta [q] of the step to apply, f - theta S: shortened to the trust region, zero where f itself is applied."""
    weight, curvature = transition_weights(
        p.SS.diagonal(), p.sy, p.yy, cos_shift=group["cos_shift"], w_clip=tuple(group["w_clip"])
    )
    ridge = group["reg"] * (1 + group["nu"] * curvature) / weight
    theta = solve(p.FF + torch.diag(ridge), p.Ff)
    c = (theta @ p.SS @ theta).clamp_min(0).sqrt()
    limit = group["tau"] * p.ff.sqrt()
    theta = theta * torch.where(c > limit, limit / c.clamp_min(SMALLEST_NORM), 1.0)
    # Written so that a correction that is not finite fails the check, and f is applied.
    return torch.where(p.fg - theta @ p.Sg < 0, theta, 0.0)


class Sums(NamedTuple):
    """Inner products of step k over one range of the vectors, or over all of them."""

    FF: Tensor  # [m], of the newest F_j with every F_j
    Ff: Tensor  # [m]
    Sg: Tensor  # [m]
    sy: Tensor  # [], of the newest transition, as yy
    yy: Tensor  # []
    ff: Tensor  # []
    fg: Tensor  # []


def measure_(flat: FlatState, r: Range, group: dict[str, Any], k: int) -> Sums:
    """Take the gradients of a range into its vectors and return the inner products that the mixing needs.

    The transition k-1 -> k lies in row (k-2) mod m; the order of the rows does not matter to the least squares.
    """
    F, S, last_f, last_g = (r.of(flat.vectors[name]) for name in ("F", "S", "f", "g"))
    g, f, y = flat.scratch(r, 3)
    g = flat.gradient(r, out=g)
    f = adam_step(flat, r, g, group, out=f)
    row = (k - 2) % len(F)
    if k > 1:
        torch.sub(f, last_f, out=F[row])
        torch.sub(g, last_g, out=y)
    last_f.copy_(f)
    last_g.copy_(g)
    F, S, f, g, y = (wide(x) for x in (F, S, f, g, y))
    return Sums(F @ F[row], F @ f, S @ g, S[row].dot(y), y.dot(y), f.dot(f), f.dot(g))


def accelerate_(flat: FlatState, r: Range, group: dict[str, Any], k: int, theta: Tensor | None) -> Tensor:
    """Apply f - theta S, or f without theta, to the weights of a range and keep it in S; its inner products [m] there.

    The step of the transition k -> k+1 lies in row (k-1) mod m.
    """
    f, S = r.of(flat.vectors["f"]), r.of(flat.vectors["S"])
    step = f if theta is None else torch.addmv(wide(f), wide(S[: len(theta)]).T, theta, alpha=-1).to(f.dtype)
    row = (k - 1) % len(S)
    S[row] = step
    apply_(flat, r, step, group)
    return wide(S) @ wide(S[row])


class GDA2(FlatOptimizer):
    """GDA2; raises ValueError for settings outside their range, and for groups of several dtypes or devices.

    The history of a group is kept in the state of its first parameter that has a gradient. It belongs to one set of
    parameters: when another set of the group has gradients, it starts anew, with k = 1. Each parameter's moments go on.

    The Gram matrices of F and S are kept and get one new row a step, and norms and descent follow from inner products,
    so that a step reads every vector of the history twice.
    """

    PRODUCTS = ("history",)

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

    def _vectors(self, group: dict[str, Any]) -> Mapping[str, tuple[int, ...]]:
        m = group["history_size"]
        history = {"f": (), "g": (), "F": (m,), "S": (m,)} if m > 0 else {}
        return {**MOMENTS, **history}

    def _history(self, group: dict[str, Any], flat: FlatState) -> dict[str, Any]:
        """Counter and inner products of exactly these parameters, new ones if the group's present ones are of others.

        F, S, f and g then begin anew too: of their content only what was written since k = 1 is read.
        """
        members = [i for i, p in enumerate(group["params"]) if p.grad is not None]
        owner = self.state[group["params"][members[0]]]
        if owner.get("history", {}).get("members") != members:
            for p in group["params"]:
                if p in self.state:
                    self.state[p].pop("history", None)
            m, like = group["history_size"], wide(flat.vectors["f"])
            shapes = {"FF": (m, m), "SS": (m, m), "sy": (m,), "yy": (m,)}
            products = {name: like.new_zeros(shape) for name, shape in shapes.items()}
            owner["history"] = {"members": members, "k": 0, **products}
        return owner["history"]

    def _step_flat(self, group: dict[str, Any], flat: FlatState) -> None:
        if group["history_size"] == 0:
            for r in flat.ranges:
                g, f = flat.scratch(r, 2)
                apply_(flat, r, adam_step(flat, r, flat.gradient(r, out=g), group, out=f), group)
            return
        history = self._history(group, flat)
        history["k"] += 1
        k, m = history["k"], group["history_size"]
        products = [measure_(flat, r, group, k) for r in flat.ranges]
        theta = None
        if k > 1:
            sums = Sums(*(torch.stack(x).sum(0) for x in zip(*products, strict=True)))
            theta = self._theta(group, history, sums)
        ss = torch.stack([accelerate_(flat, r, group, k, theta) for r in flat.ranges]).sum(0)
        row = (k - 1) % m
        history["SS"][row], history["SS"][:, row] = ss, ss

    def _theta(self, group: dict[str, Any], history: dict[str, Any], sums: Sums) -> Tensor | None:
        """Take the inner products of the transition k-1 -> k into the history; theta [q], None in between intervals."""
        k, m = history["k"], group["history_size"]
        row = (k - 2) % m
        history["FF"][row], history["FF"][:, row] = sums.FF, sums.FF
        history["sy"][row], history["yy"][row] = sums.sy, sums.yy
        if k % group["interval"] != 0:
            return None
        q = min(k - 1, m)
        kept = {name: history[name][:q, :q] for name in ("FF", "SS")} | {
            name: history[name][:q] for name in ("sy", "yy")
        }
        return correction(Products(**kept, Ff=sums.Ff[:q], Sg=sums.Sg[:q], ff=sums.ff, fg=sums.fg), group)


SPEC = OptimizerSpec(
    name="gda2",
    title="GDA2",
    constructor=GDA2,
    defaults={"lr": 1e-3},
    documents={"lr": 1e-3},
    search=learning_rate_search(1e-3),
    revision=2,
    reference="Anderson acceleration (1965, https://doi.org/10.1145/321296.321305) of AdamW steps, after the documents",
)
