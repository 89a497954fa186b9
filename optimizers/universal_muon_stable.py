"""UniversalMuonStable: UniversalMuon with a convergent orthogonalisation and steps of Adam's length. Ours.

    m, v as in Adam;  u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps);  w <- w (1 - lr wd)
    matrices with min(rows, columns) >= ortho_threshold:  Q = orthogonalised m̂;  w <- w - lr · Q |u| / |Q|
    everything else:                                      w <- w - lr u                                       (Adam)

What differs from UniversalMuon, and why:
* The input is divided by its Frobenius norm, not by the root of its mean squared singular value. Every eigenvalue of
  the Gram matrix is then at most 1, where the iteration is bounded whatever the gradient; there it could diverge.
* Small singular values have a long way to go from there, so the iteration is Muon's quintic one, five times: each time
  it multiplies them by up to 3.4, where the cubic one multiplies by 1.5. Singular values from 0.0015 of the Frobenius
  norm up end between 0.68 and 1.21 rather than at 1, which is enough for Muon; none ends above 1.21.
* The orthogonal matrix is not divided by Adam's denominator. It sets the direction alone; the length is Adam's, so that
  the root mean square of the update equals that of Adam's update u and Adam's learning rates carry over. A scale mode
  is then not needed.

Jordan et al., "Muon", https://kellerjordan.github.io/posts/muon/; matching Adam's length: Liu et al., "Muon is Scalable
for LLM Training", https://arxiv.org/abs/2502.16982 (there by a constant, here by Adam's own step)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bench.optimizers.adam_moments import adam_step, advance_
from bench.optimizers.groupwise import GroupwiseOptimizer, wide
from bench.optimizers.validation import require_adam_settings, require_integer
from bench.spec import OptimizerSpec, learning_rate_search

QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(d: Tensor, *, iterations: int, eps: float) -> Tensor:
    """Close to the nearest semi-orthogonal matrix to d: its singular values lie in [0, 1.21]. [m, n]

    A d shorter than eps is divided by eps, and so stays shorter than 1: zero gives zero.
    """
    a, b, c = QUINTIC
    X = d / torch.linalg.vector_norm(d).clamp_min(eps)
    if d.shape[0] > d.shape[1]:
        X = X.T
    for _ in range(iterations):
        G = X @ X.T  # [k, k], k = min(m, n)
        X = a * X + (b * G + c * G @ G) @ X
    return X.T if d.shape[0] > d.shape[1] else X


def rescaled(x: Tensor, like: Tensor) -> Tensor:
    """x with the Frobenius norm of `like`; zero where x is zero."""
    norm = torch.linalg.vector_norm(x).clamp_min(torch.finfo(x.dtype).tiny)
    return x * (torch.linalg.vector_norm(like) / norm)


def universal_muon_stable_(w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """One in-place step on w and its state under the settings `group`; g is not modified."""
    lr, eps = group["lr"], group["eps"]
    beta1, beta2 = group["betas"]
    m, v, t = advance_(state, g, beta1=beta1, beta2=beta2)
    f = adam_step(m, v, t=t, lr=lr, beta1=beta1, beta2=beta2, eps=eps)
    if w.ndim == 2 and min(w.shape) >= group["ortho_threshold"]:
        Q = orthogonalise(wide(m) / (1 - beta1**t), iterations=group["ns_iters"], eps=eps)
        f = -rescaled(Q, like=wide(f))
    if group["weight_decay"] != 0:
        w.mul_(1 - lr * group["weight_decay"])
    w.add_(f)


class UniversalMuonStable(GroupwiseOptimizer):
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
    ) -> None:
        adam = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**adam, "ortho_threshold": ortho_threshold, "ns_iters": ns_iters})

    def _check_group(self, group: dict[str, Any]) -> None:
        require_adam_settings("UniversalMuonStable", group)
        require_integer("UniversalMuonStable", "ortho_threshold", group["ortho_threshold"])
        require_integer("UniversalMuonStable", "ns_iters", group["ns_iters"])

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        for w, g in pairs:
            universal_muon_stable_(w, g, self.state[w], group)


SPEC = OptimizerSpec(
    name="universal_muon_stable",
    title="UniversalMuon (stable)",
    constructor=UniversalMuonStable,
    defaults={"lr": 1e-3},
    search=learning_rate_search(1e-3),
    reference="Ours, after Muon, https://kellerjordan.github.io/posts/muon/, and https://arxiv.org/abs/2502.16982",
)
