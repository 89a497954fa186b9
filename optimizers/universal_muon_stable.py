"""UniversalMuonStable: UniversalMuon with a convergent orthogonalisation and steps of Adam's length. Ours.

    m, v as in Adam;  u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps);  w <- w (1 - lr wd)
    matrices with min(rows, columns) >= ortho_threshold:  Q = orthogonalised m̂;  w <- w - lr · Q |u| / |Q|
    everything else:                                      w <- w - lr u                                       (Adam)

What differs from UniversalMuon, and why:
* The input is divided by its Frobenius norm, not by the root of its mean squared singular value. Every eigenvalue of
  the Gram matrix is then at most 1, where the iteration is bounded whatever the gradient; there it could diverge.
* Small singular values have a long way to go from there, so the iteration is Muon's quintic one, five times (see
  `newton_schulz`): it multiplies them by up to 3.4, where the cubic one multiplies by 1.5.
* Only hidden matrices are orthogonalised; embeddings and heads take Adam's update.
* The orthogonal matrix is not divided by Adam's denominator. It sets the direction alone; the length is Adam's, so that
  the root mean square of the update equals that of Adam's update u and Adam's learning rates carry over. A scale mode
  is then not needed.

Jordan et al., "Muon", https://kellerjordan.github.io/posts/muon/; matching Adam's length: Liu et al., "Muon is Scalable
for LLM Training", https://arxiv.org/abs/2502.16982 (there by a constant, here by Adam's own step)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim.optimizer import ParamsT

from bench.optimizers.adam_moments import MOMENTS, adam_step
from bench.optimizers.flat import FlatState, wide
from bench.optimizers.groupwise import FlatOptimizer, apply_
from bench.optimizers.newton_schulz import orthogonalise, rescaled
from bench.optimizers.validation import require_adam_settings, require_choice, require_integer
from bench.spec import OptimizerSpec, by_matrix_role, learning_rate_search


class UniversalMuonStable(FlatOptimizer):
    """UniversalMuonStable; raises ValueError for settings outside their range."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        ortho_threshold: int = 128,
        ns_iters: int = 5,
        orthogonalise: bool = True,
    ) -> None:
        adam = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        ortho = {"ortho_threshold": ortho_threshold, "ns_iters": ns_iters, "orthogonalise": orthogonalise}
        super().__init__(params, {**adam, **ortho})

    def _check_group(self, group: dict[str, Any]) -> None:
        require_adam_settings("UniversalMuonStable", group)
        require_integer("UniversalMuonStable", "ortho_threshold", group["ortho_threshold"])
        require_integer("UniversalMuonStable", "ns_iters", group["ns_iters"])
        require_choice("UniversalMuonStable", "orthogonalise", group["orthogonalise"], (True, False))

    def _vectors(self, group: dict[str, Any]) -> Mapping[str, tuple[int, ...]]:
        return MOMENTS

    def _step_flat(self, group: dict[str, Any], flat: FlatState) -> None:
        for r in flat.ranges:
            (g,) = flat.scratch(r, 1)
            adam_step(flat, r, flat.gradient(r, out=g), group, out=r.of(flat.work))
        for stack in flat.stacks if group["orthogonalise"] else ():
            if len(stack.shape) == 2 and min(stack.shape) >= group["ortho_threshold"]:
                step, m = stack.of(flat.work), stack.of(flat.vectors["exp_avg"])
                for part in stack.parts(flat.limit):
                    m_hat = wide(m[part]) / (1 - group["betas"][0] ** flat.t(stack))
                    Q = orthogonalise(m_hat, iterations=group["ns_iters"], eps=group["eps"])
                    step[part] = -rescaled(Q, like=wide(step[part]))
        for r in flat.ranges:
            apply_(flat, r, r.of(flat.work), group)


SPEC = OptimizerSpec(
    name="universal_muon_stable",
    title="UniversalMuon (stable)",
    constructor=UniversalMuonStable,
    defaults={"lr": 1e-3},
    search=learning_rate_search(1e-3),
    groups=by_matrix_role(matrix={}, other={"orthogonalise": False}),
    matrix_algorithm=True,
    revision=2,
    reference="Ours, after Muon, https://kellerjordan.github.io/posts/muon/, and https://arxiv.org/abs/2502.16982",
)
