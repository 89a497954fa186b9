"""UniversalAndersonGDA, plainly; see bench.optimizers.universal_anderson_gda."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from bench.optimizers.reference.plain import PlainOptimizer, adam_step, decay_

SMALL = 1e-8


class PlainUniversalAndersonGDA(PlainOptimizer):
    """applied step = f - c, c the weighted Anderson correction from the last applied steps and gradients of a tensor"""

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        for w, g in pairs:
            state = self.state[w]
            f = adam_step(state, g, group).flatten()  # [n]
            g = g.flatten()
            steps, gradients = state.setdefault("steps", []), state.setdefault("gradients", [])
            applied = f if len(steps) < 2 or group["anderson_m"] == 0 else accelerated(f, g, steps, gradients, group)
            decay_(w, group)
            w.add_(applied.view_as(w))
            state["steps"] = [*steps, applied][-(group["anderson_m"] + 1) :]
            state["gradients"] = [*gradients, g.clone()][-(group["anderson_m"] + 1) :]


def accelerated(f: Tensor, g: Tensor, steps: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> Tensor:
    """The step to apply [n] from f, g and at least two applied steps and their gradients, oldest first."""
    r = [new - old for old, new in itertools.pairwise(steps)]
    y = [new - old for old, new in itertools.pairwise(gradients)]
    R = torch.stack(r)  # [q, n]
    ridge = torch.full((len(r),), group["anderson_reg"], dtype=f.dtype, device=f.device)
    if group["use_weighting"]:
        weight = torch.tensor([pair_weight(*pair) for pair in zip(r, y, strict=True)], dtype=f.dtype, device=f.device)
        weight = weight / (weight.mean() + SMALL)
        ridge = group["anderson_reg"] / (weight + SMALL)
    try:
        theta = torch.linalg.solve(R @ R.T + torch.diag(ridge), R @ (f - steps[-1]))
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        return f
    c = theta @ R
    if c.norm() > group["trust_region"] * f.norm() and f.norm() > SMALL:
        c = c * (group["trust_region"] * f.norm() / c.norm())
    return f - c if g.dot(f - c) < 0 else f


def pair_weight(r: Tensor, y: Tensor) -> float:
    """max(1e-8, max(0, cos(r, y)) · clip(|r| / |y|, 0.1, 10)), or 1e-8 where a norm is negligible."""
    if r.norm() <= SMALL or y.norm() <= SMALL:
        return SMALL
    cosine = r.dot(y).item() / (r.norm().item() * y.norm().item())
    ratio = r.norm().item() / y.norm().item()
    return max(SMALL, max(0.0, cosine) * min(max(ratio, 0.1), 10.0))
