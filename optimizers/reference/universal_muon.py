"""UniversalMuon, plainly; see bench.optimizers.universal_muon."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.optimizers.reference.plain import PlainOptimizer, decay_, moments


def orthogonalised(d: Tensor, *, iterations: int, eps: float) -> Tensor:
    """(d d^T)^(-1/2) d by the coupled Newton-Schulz iteration. [m, n]"""
    wider = d.shape[0] <= d.shape[1]
    n = min(d.shape)
    identity = torch.eye(n, dtype=d.dtype, device=d.device)
    G = (d @ d.T if wider else d.T @ d) + eps * identity  # [n, n]
    if G.trace() <= 0:
        return d
    s = (G.trace() / n) ** -0.5
    Y, Z = s**2 * G, identity
    for _ in range(iterations):
        T = Z @ Y
        Y, Z = 1.5 * Y - 0.5 * Y @ T, 1.5 * Z - 0.5 * T @ Z
    return s * Z @ d if wider else d @ (s * Z)


class PlainUniversalMuon(PlainOptimizer):
    """w <- w - scale · lr · d / D, where d is orthogonalised as the mode asks"""

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        for w, g in pairs:
            update = self._update(w, g, group)
            decay_(w, group)
            w.add_(update)

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> Tensor:
        beta1, beta2 = group["betas"]
        m, v, t = moments(self.state[w], g, beta1=beta1, beta2=beta2)
        d, D = m / (1 - beta1**t), (v / (1 - beta2**t)).sqrt() + group["eps"]
        mode, scale = group["ortho_mode"], 1.0
        if w.ndim == 2:
            smallest, largest = min(w.shape), max(w.shape)
            if mode == "always" or (mode in ("auto", "preserve_magnitude") and smallest >= group["ortho_threshold"]):
                norm = d.norm()
                d = orthogonalised(d, iterations=group["ns_iters"], eps=group["eps"])
                if mode == "preserve_magnitude" and d.norm() > 1e-8:
                    d = d * (norm / d.norm())
            if group["scale_mode"] == "adaptive" and smallest < 256:
                scale = (smallest / 256) ** 0.5
            if group["scale_mode"] == "spectral":
                scale = largest**0.5
        return -scale * group["lr"] * d / D
