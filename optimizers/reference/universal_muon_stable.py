"""UniversalMuonStable, plainly; see bench.optimizers.universal_muon_stable."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bench.optimizers.reference.plain import PlainOptimizer, adam_step, decay_


def orthogonalised(d: Tensor, *, iterations: int, eps: float) -> Tensor:
    """Close to the nearest semi-orthogonal matrix, by the quintic Newton-Schulz iteration. [m, n]"""
    X = d / max(d.norm(), eps)
    for _ in range(iterations):
        G = X @ X.T if d.shape[0] <= d.shape[1] else X.T @ X  # [k, k], k = min(m, n)
        P = -4.7750 * G + 2.0315 * G @ G
        X = 3.4445 * X + (P @ X if d.shape[0] <= d.shape[1] else X @ P)
    return X


class PlainUniversalMuonStable(PlainOptimizer):
    """w <- w - lr Q |u| / |Q| for large matrices, Q the orthogonalised m̂ and u Adam's update; w <- w - lr u else"""

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        for w, g in pairs:
            f = adam_step(self.state[w], g, group)
            if group["orthogonalise"] and w.ndim == 2 and min(w.shape) >= group["ortho_threshold"]:
                m, t = self.state[w]["m"], self.state[w]["t"]
                Q = orthogonalised(m / (1 - group["betas"][0] ** t), iterations=group["ns_iters"], eps=group["eps"])
                f = -Q * (f.norm() / Q.norm()) if Q.norm() > 0 else 0 * f
            decay_(w, group)
            w.add_(f)
