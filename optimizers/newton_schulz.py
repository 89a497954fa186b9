"""Muon's orthogonalisation: the quintic Newton-Schulz iteration.

    X <- X / |X|_F;  repeatedly X <- a X + (b G + c G²) X, G = X X^T

Each time it multiplies small singular values by a = 3.4; it does not converge but brings those from 0.0015 of the
Frobenius norm up, in five iterations, to between 0.68 and 1.21, which is enough for Muon. None ends above 1.21.

Jordan et al., "Muon", https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)
NEGLIGIBLE_NORM = 1e-8


def orthogonalise(d: Tensor, *, iterations: int, eps: float) -> Tensor:
    """Close to the nearest semi-orthogonal matrices to d: their singular values lie in [0, 1.21]. [tensors, m, n]

    A d shorter than eps is divided by eps, and so stays shorter than 1: zero gives zero.
    """
    a, b, c = QUINTIC
    X = d / torch.linalg.matrix_norm(d, keepdim=True).clamp_min(eps)
    if taller := d.shape[-2] > d.shape[-1]:
        X = X.mT
    for _ in range(iterations):
        G = X @ X.mT  # [tensors, k, k], k = min(m, n)
        X = torch.baddbmm(X, torch.baddbmm(G, G, G, beta=b, alpha=c), X, beta=a)
    return X.mT if taller else X


def rescaled(x: Tensor, like: Tensor) -> Tensor:
    """x with the Frobenius norm of `like`, or x where its own norm is negligible. [..., m, n]"""
    norm = torch.linalg.matrix_norm(x, keepdim=True)
    return x * torch.where(norm > NEGLIGIBLE_NORM, torch.linalg.matrix_norm(like, keepdim=True) / norm, 1.0)
