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

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bench.optimizers.adam_moments import MOMENTS, adam_step
from bench.optimizers.flat import Block, FlatState, Range, add_products_, wide
from bench.optimizers.groupwise import FlatOptimizer, apply_
from bench.optimizers.validation import require_adam_settings, require_choice, require_integer, require_number
from bench.spec import OptimizerSpec, learning_rate_search

SMALL = 1e-8
RATIO_LOW, RATIO_HIGH = 0.1, 10.0


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


class Sums(NamedTuple):
    """Inner products of one step for every tensor; R: its differences of steps, r and y: those that this step adds."""

    Rf: Tensor  # [tensors, m]
    Rg: Tensor  # [tensors, m]
    ff: Tensor  # [tensors, 1], as all that follow
    fg: Tensor
    rr: Tensor
    rs: Tensor  # of r with the step applied
    ry: Tensor
    yy: Tensor


class View(NamedTuple):
    """What a step needs of one block: vectors [rows, q, columns], and the block's part of every sum [rows, q]."""

    R: Tensor
    rows_of_R: tuple[Tensor, ...]  # its m vectors, one by one
    step: Tensor  # f, then the step applied
    g: Tensor
    y: Tensor
    tensors: slice
    sums: Sums


class Plan:
    """Views of every block and the sums they add to: made once for a layout, since a step has hundreds of them."""

    def __init__(self, flat: FlatState, m: int) -> None:
        zeros = wide(flat.work[:0]).new_zeros
        self.sums = Sums(*(zeros(len(flat.tensors), m if name in ("Rf", "Rg") else 1) for name in Sums._fields))
        self.gradients = {r.start: flat.scratch(r, 1)[0] for r in flat.ranges}
        self.views = {r.start: [self._view(flat, r, block) for block in r.blocks] for r in flat.ranges}

    def _view(self, flat: FlatState, r: Range, block: Block) -> View:
        R = block.of(r.of(flat.vectors["R"]))
        step, g, y = (
            block.of(x.unsqueeze(0)) for x in (r.of(flat.work), self.gradients[r.start], r.of(flat.more_work))
        )
        tensors = slice(block.first, block.first + block.rows)
        return View(R, R.split(1, dim=1), step, g, y, tensors, Sums(*(x[tensors] for x in self.sums)))


def theta_of(flat: FlatState, tensors: slice, q: int, sums: Sums, group: dict[str, Any]) -> Tensor:
    """theta [..., q] of the step to apply, f - theta R, for tensors with q differences each."""
    reg, trust = group["anderson_reg"], group["trust_region"]
    gram = flat.products["gram"][tensors, :q, :q]
    ridge = reg
    if group["use_weighting"]:
        r, y = gram.diagonal(dim1=-2, dim2=-1).sqrt(), flat.products["yy"][tensors, :q].sqrt()
        ridge = reg / (pair_weights(r, y, flat.products["ry"][tensors, :q]) + SMALL)
    theta = coefficients(gram, (sums.Rf - flat.products["Rs"])[tensors, :q], ridge)
    c = ((gram * theta.unsqueeze(1)).sum(-1) * theta).sum(-1).clamp_min(0).sqrt()
    gc = (theta * sums.Rg[tensors, :q]).sum(-1)
    return theta * share(c, sums.ff[tensors].sqrt(), gc, sums.fg[tensors], trust=trust).unsqueeze(-1)


def keep_(flat: FlatState, tensors: slice, row: int, sums: Sums, theta: Tensor) -> None:
    """Put the inner products of the newest differences of some tensors into their row.

    R · step = R · f - theta R R^T, and R · r = R · step - R · last step: only those of r with itself need its elements.
    """
    gram, last = flat.products["gram"][tensors], flat.products["Rs"][tensors]
    now = sums.Rf[tensors] - (gram * theta[tensors].unsqueeze(1)).sum(-1)  # R · step, [..., m]
    gram[:, row] = gram[:, :, row] = now - last
    gram[:, row, row] = sums.rr[tensors]
    last.copy_(now)
    last[:, row] = sums.rs[tensors]
    flat.products["ry"][tensors, row], flat.products["yy"][tensors, row] = sums.ry[tensors], sums.yy[tensors]


def measure_(flat: FlatState, r: Range, group: dict[str, Any], plan: Plan) -> None:
    """Take the gradients of a range into moments and history, add the inner products of f, g and y to the sums.

    Leaves f in `flat.work` and y in `flat.more_work`.
    """
    g = plan.gradients[r.start]
    if (given := flat.gradient(r, out=g)) is not g:
        g.copy_(given)
    adam_step(flat, r, g, group, out=r.of(flat.work))
    last_g = r.of(flat.vectors["last_g"])
    torch.sub(g, last_g, out=r.of(flat.more_work))
    last_g.copy_(g)
    for view in plan.views[r.start]:
        add_products_(view.sums.yy, view.y, view.y)
        if flat.t(r) > 2:
            add_products_(view.sums.Rf, view.R, view.step)
            add_products_(view.sums.Rg, view.R, view.g)
            add_products_(view.sums.ff, view.step, view.step)
            add_products_(view.sums.fg, view.step, view.g)


def accelerate_(flat: FlatState, r: Range, group: dict[str, Any], plan: Plan, theta: Tensor) -> None:
    """Apply f - theta R to the weights of a range."""
    for view in plan.views[r.start] if flat.t(r) > 2 else ():
        view.step.baddbmm_(theta[view.tensors].unsqueeze(1).to(view.R.dtype), view.R, alpha=-1)
    apply_(flat, r, r.of(flat.work), group)


def remember_(flat: FlatState, r: Range, plan: Plan) -> None:
    """Take the applied step of a range into its history, add the inner products of r to the sums.

    The differences between steps t and t - 1 lie in row (t - 2) mod m: the order of the rows does not matter.
    """
    R, last_step, step = r.of(flat.vectors["R"]), r.of(flat.vectors["last_step"]), r.of(flat.work)
    if flat.t(r) > 1:
        row = (flat.t(r) - 2) % len(R)
        torch.sub(step, last_step, out=R[row])
        for view in plan.views[r.start]:
            difference = view.rows_of_R[row]
            add_products_(view.sums.rr, difference, difference)
            add_products_(view.sums.rs, difference, view.step)
            add_products_(view.sums.ry, difference, view.y)
    last_step.copy_(step)


class UniversalAndersonGDA(FlatOptimizer):
    """UniversalAndersonGDA; raises ValueError for settings outside their range.

    The inner products of a tensor's history are kept and get one new row a step.
    """

    PRODUCTS = ("gram", "Rs", "ry", "yy")

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

    def _vectors(self, group: dict[str, Any]) -> Mapping[str, tuple[int, ...]]:
        m = group["anderson_m"]
        return {**MOMENTS, **({"last_step": (), "last_g": (), "R": (m,)} if m > 0 else {})}

    def _products(self, group: dict[str, Any]) -> Mapping[str, tuple[int, ...]]:
        m = group["anderson_m"]
        return {"gram": (m, m), "Rs": (m,), "ry": (m,), "yy": (m,)} if m > 0 else {}

    def _step_flat(self, group: dict[str, Any], flat: FlatState) -> None:
        m = group["anderson_m"]
        if m == 0:
            for r in flat.ranges:
                g, f = flat.scratch(r, 2)
                apply_(flat, r, adam_step(flat, r, flat.gradient(r, out=g), group, out=f), group)
            return
        plan = flat.plan = flat.plan or Plan(flat, m)
        for total in plan.sums:
            total.zero_()
        for r in flat.ranges:
            measure_(flat, r, group, plan)
        sums = Sums(*(total if name in ("Rf", "Rg") else total.squeeze(1)
                      for name, total in plan.sums._asdict().items()))  # fmt: skip
        theta = torch.zeros_like(sums.Rf)
        for tensors, t in flat.ages():
            q = min(t - 2, m)
            if q > 0:
                theta[tensors, :q] = theta_of(flat, tensors, q, sums, group)
        for r in flat.ranges:
            accelerate_(flat, r, group, plan, theta)
            remember_(flat, r, plan)
        for tensors, t in flat.ages():
            if t > 1:
                keep_(flat, tensors, (t - 2) % m, sums, theta)


SPEC = OptimizerSpec(
    name="universal_anderson_gda",
    title="UniversalAndersonGDA",
    constructor=UniversalAndersonGDA,
    defaults={"lr": 1e-3},
    documents={"lr": 1e-3, "anderson_m": 3, "use_weighting": True, "trust_region": 1.5},
    search=learning_rate_search(1e-3),
    revision=3,
    reference="Anderson acceleration (1965, https://doi.org/10.1145/321296.321305) of Adam steps, after the documents",
)
