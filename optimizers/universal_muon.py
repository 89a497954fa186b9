"""UniversalMuon: Adam's second moment with conditional orthogonalisation of the first.

    m, v as in Adam;  d = m / (1 - b1^t);  D = sqrt(v / (1 - b2^t)) + eps;  w <- w (1 - lr wd)
    d <- orthogonalised d, where w is a matrix and the mode asks for it
    w <- w - scale · lr · d / D

    mode:   always | auto and preserve_magnitude: min(rows, columns) >= ortho_threshold | never
            preserve_magnitude rescales the result to the Frobenius norm that d had
    scale:  matrices only; adaptive: min(1, sqrt(min(rows, columns) / 256)) | spectral: sqrt(max(rows, columns)) | None

Two properties of this algorithm are known and kept as they are, because the entries stand for it as published:
* The coupled Newton-Schulz iteration converges where the eigenvalues of its input are below 3. Dividing the Gram matrix
  by its mean eigenvalue bounds the mean, not the largest: with one dominant direction the largest is near n, and the
  result grows without bound. In `preserve_magnitude` its norm overflows, and the update is then zero or not finite.
* An orthogonal d has entries near 1/sqrt(n) whatever the gradient's size; divided by D, of the gradient's size, the
  step is too long by about 1 / (sqrt(n) |g|).
`universal_muon_stable` is the same idea without the two.

Jordan et al., "Muon", https://kellerjordan.github.io/posts/muon/; the iteration: Higham, "Functions of Matrices", 2008
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bench.optimizers.adam_moments import advance_, denominator
from bench.optimizers.groupwise import GroupwiseOptimizer, wide
from bench.optimizers.validation import require_adam_settings, require_choice, require_integer
from bench.spec import OptimizerSpec, learning_rate_search

ORTHO_MODES = ("auto", "always", "never", "preserve_magnitude")
SCALE_MODES = ("adaptive", "spectral", None)
FULL_SIZE = 256
SMALLEST_NORM = 1e-8


def orthogonalise(d: Tensor, *, iterations: int, eps: float) -> Tensor:
    """(d d^T)^(-1/2) d by the coupled Newton-Schulz iteration, or d where the Gram matrix has no trace. [m, n]"""
    wider = d.shape[0] <= d.shape[1]
    G = d @ d.T if wider else d.T @ d  # [k, k], k = min(m, n)
    identity = torch.eye(len(G), dtype=G.dtype, device=G.device)
    G = G + eps * identity
    trace = G.trace()
    s = (trace / len(G)).rsqrt()
    Y, Z = s**2 * G, identity
    for _ in range(iterations):
        T = Z @ Y
        Y, Z = 1.5 * Y - 0.5 * (Y @ T), 1.5 * Z - 0.5 * (T @ Z)
    return torch.where(trace <= 0, d, (s * Z) @ d if wider else d @ (s * Z))


def rescaled(x: Tensor, like: Tensor) -> Tensor:
    """x with the Frobenius norm of `like`, or x where its own norm is negligible."""
    norm = torch.linalg.vector_norm(x)
    return x * torch.where(norm > SMALLEST_NORM, torch.linalg.vector_norm(like) / norm, 1.0)


def step_scale(w: Tensor, scale_mode: str | None) -> float:
    """What multiplies the learning rate of a parameter of w's shape."""
    if w.ndim != 2 or scale_mode is None:
        return 1.0
    if scale_mode == "spectral":
        return max(w.shape) ** 0.5
    return min(1.0, (min(w.shape) / FULL_SIZE) ** 0.5)


def universal_muon_(w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """One in-place step on w and its state under the settings `group`; g is not modified."""
    lr, eps, mode = group["lr"], group["eps"], group["ortho_mode"]
    beta1, beta2 = group["betas"]
    m, v, t = advance_(state, g, beta1=beta1, beta2=beta2)
    d, D = m / (1 - beta1**t), denominator(v, t=t, beta2=beta2, eps=eps)
    large = w.ndim == 2 and min(w.shape) >= group["ortho_threshold"]
    if (mode == "always" and w.ndim == 2) or (mode in ("auto", "preserve_magnitude") and large):
        Q = orthogonalise(wide(d), iterations=group["ns_iters"], eps=eps)
        d = rescaled(Q, like=wide(d)) if mode == "preserve_magnitude" else Q
    if group["weight_decay"] != 0:
        w.mul_(1 - lr * group["weight_decay"])
    w.addcdiv_(d, D, value=-lr * step_scale(w, group["scale_mode"]))


class UniversalMuon(GroupwiseOptimizer):
    """UniversalMuon; raises ValueError for settings outside their range."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        ortho_mode: str = "auto",
        ortho_threshold: int = 128,
        ns_iters: int = 3,
        scale_mode: str | None = "adaptive",
    ) -> None:
        adam = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        ortho = {"ortho_mode": ortho_mode, "ortho_threshold": ortho_threshold, "ns_iters": ns_iters}
        super().__init__(params, {**adam, **ortho, "scale_mode": scale_mode})

    def _check_group(self, group: dict[str, Any]) -> None:
        require_adam_settings("UniversalMuon", group)
        require_choice("UniversalMuon", "ortho_mode", group["ortho_mode"], ORTHO_MODES)
        require_integer("UniversalMuon", "ortho_threshold", group["ortho_threshold"])
        require_integer("UniversalMuon", "ns_iters", group["ns_iters"])
        require_choice("UniversalMuon", "scale_mode", group["scale_mode"], SCALE_MODES)

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        for w, g in pairs:
            universal_muon_(w, g, self.state[w], group)


SPEC_AUTO = OptimizerSpec(
    name="universal_muon_auto",
    title="UniversalMuon (auto)",
    constructor=UniversalMuon,
    defaults={"lr": 1e-3, "ortho_mode": "auto"},
    documents={"lr": 1e-3, "ortho_mode": "auto", "ortho_threshold": 128, "scale_mode": "adaptive"},
    search=learning_rate_search(1e-3),
    reference="After Muon, https://kellerjordan.github.io/posts/muon/, as defined by the documents",
)

SPEC_PRESERVE = OptimizerSpec(
    name="universal_muon_preserve",
    title="UniversalMuon (preserve magnitude)",
    constructor=UniversalMuon,
    defaults={"lr": 1e-3, "ortho_mode": "preserve_magnitude"},
    documents={"lr": 1e-3, "ortho_mode": "preserve_magnitude", "ortho_threshold": 128, "scale_mode": "adaptive"},
    search=learning_rate_search(1e-3),
    reference="After Muon, https://kellerjordan.github.io/posts/muon/, as defined by the documents",
)
