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
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bench.optimizers.adam_moments import MOMENTS, adam_step
from bench.optimizers.flat import FlatState, Range, wide
from bench.optimizers.groupwise import FlatOptimizer, apply_
from bench.optimizers.validation import require_adam_settings, require_integer, require_number, require_range
from bench.spec import OptimizerSpec, learning_rate_search

SMALLEST_WEIGHT = 1e-8
SMALLEST_NORM = 1e-16
SINGULAR_RIDGE = 1e-6


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


def coefficients(history: Mapping[str, Tensor], b: Tensor, q: int, group: dict[str, Any]) -> Tensor:
    """theta [q] from the inner products of q transitions and b = F f [m]; zero where there is no finite one."""
    ss, sy, yy = (history[name][:q] for name in ("ss", "sy", "yy"))
    weight, curvature = transition_weights(ss, sy, yy, cos_shift=group["cos_shift"], w_clip=tuple(group["w_clip"]))
    ridge = group["reg"] * (1 + group["nu"] * curvature) / weight
    theta = solve(history["FF"][:q, :q] + torch.diag(ridge), b[:q])
    return torch.where(theta.isfinite().all(), theta, 0.0)


def share(cc: Tensor, gc: Tensor, ff: Tensor, fg: Tensor, *, tau: float) -> Tensor:
    """The factor of c in the applied step, from inner products: shortened to the trust region, 0 where f is applied."""
    c, limit = cc.sqrt(), tau * ff.sqrt()
    factor = torch.where(c > limit, limit / c.clamp_min(SMALLEST_NORM), 1.0)
    # Written so that a product that is not finite fails the check, and f is applied.
    return torch.where(fg - factor * gc < 0, factor, 0.0)


class Sums(NamedTuple):
    """Inner products of step k over one range of the vectors, or over all of them."""

    Ff: Tensor  # [m]
    FF: Tensor  # [], of the newest transition, as ss, sy and yy
    ss: Tensor
    sy: Tensor
    yy: Tensor
    ff: Tensor
    fg: Tensor


def keep_(history: dict[str, Any], sums: Sums, row: int) -> None:
    """Take the inner products of the newest transition into their row of the history.

    F_j · F_k = F_j · f_k - F_j · f_(k-1): both are there already, for the f's own sake.
    """
    history["FF"][row] = history["FF"][:, row] = sums.Ff - history["Ff"]
    history["FF"][row, row] = sums.FF
    history["Ff"].copy_(sums.Ff)
    for name in ("ss", "sy", "yy"):
        history[name][row] = getattr(sums, name)


def measure_(flat: FlatState, r: Range, group: dict[str, Any], k: int) -> Sums:
    """Take the gradients of a range into its vectors and return the inner products that theta and the checks need.

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
    F, s, f, g, y = (wide(x) for x in (F, S[row], f, g, y))
    return Sums(F @ f, F[row].dot(F[row]), s.dot(s), s.dot(y), y.dot(y), f.dot(f), f.dot(g))


def correct_(flat: FlatState, r: Range, theta: Tensor) -> Tensor:
    """Put the correction c = theta S of a range into `flat.work`; returns c · c and g · c."""
    c, g, S = (r.of(x) for x in (flat.work, flat.vectors["g"], flat.vectors["S"]))
    c.copy_(torch.mv(wide(S[: len(theta)]).T, theta))
    return torch.stack([wide(c).dot(wide(c)), wide(c).dot(wide(g))])


def accelerate_(flat: FlatState, r: Range, group: dict[str, Any], k: int, factor: Tensor | None) -> None:
    """Apply f - factor c, or f without a factor, to the weights of a range and keep it in S.

    The step of the transition k -> k+1 lies in row (k-1) mod m.
    """
    f, S = r.of(flat.vectors["f"]), r.of(flat.vectors["S"])
    row = (k - 1) % len(S)
    if factor is None:
        S[row].copy_(f)
    else:
        torch.addcmul(f, r.of(flat.work), factor.to(f.dtype), value=-1, out=S[row])
    apply_(flat, r, S[row], group)


class GDA2(FlatOptimizer):
    """GDA2; raises ValueError for settings outside their range, and for groups of several dtypes or devices.

    The history of a group is kept in the state of its first parameter that has a gradient. It belongs to one set of
    parameters: when another set of the group has gradients, it starts anew, with k = 1. Each parameter's moments go on.

    The Gram matrix of F is kept and gets one new row a step, as do the other inner products of the transitions.
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
        owner, m = self.state[group["params"][members[0]]], group["history_size"]
        like = wide(flat.vectors["f"])
        history = owner.get("history")
        if history is None or history["members"] != members or len(history["FF"]) != m:
            for p in group["params"]:
                if p in self.state:
                    self.state[p].pop("history", None)
            products = {name: like.new_zeros(m) for name in ("Ff", "ss", "sy", "yy")} | {"FF": like.new_zeros(m, m)}
            history = owner["history"] = {"members": members, "k": 0, **products}
        elif history["FF"].dtype != like.dtype:  # loaded from parameters of another dtype
            history.update({key: x.to(like.dtype) for key, x in history.items() if isinstance(x, Tensor)})
        return history

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
        factor = None
        if k > 1:
            sums = Sums(*(torch.stack(x).sum(0) for x in zip(*products, strict=True)))
            keep_(history, sums, row=(k - 2) % m)
            if k % group["interval"] == 0:
                theta = coefficients(history, sums.Ff, min(k - 1, m), group)
                cc, gc = torch.stack([correct_(flat, r, theta) for r in flat.ranges]).sum(0)
                factor = share(cc, gc, sums.ff, sums.fg, tau=group["tau"])
        for r in flat.ranges:
            accelerate_(flat, r, group, k, factor)


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
