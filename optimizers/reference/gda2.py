"""GDA2, plainly; see bench.optimizers.gda2."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from bench.optimizers.reference.plain import PlainOptimizer, adam_step, decay_

SMALLEST_NORM = 1e-16


class PlainGDA2(PlainOptimizer):
    """applied step = f - c, c the weighted Anderson correction from the last transitions of all parameters together"""

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        f = torch.cat([adam_step(self.state[w], g, group).flatten() for w, g in pairs])  # [n]
        g = torch.cat([g.flatten() for _, g in pairs])
        history = self.state[pairs[0][0]].setdefault("history", {"k": 0, "f": [], "g": [], "s": []})
        history["k"] += 1
        mixes = history["f"] and history["k"] % group["interval"] == 0
        applied = mixed(f, g, history, group) if mixes else f
        for name, x in (("f", f), ("g", g), ("s", applied)):
            history[name] = [*history[name], x][-group["history_size"] :] if group["history_size"] > 0 else []
        for (w, _), step in zip(pairs, applied.split([w.numel() for w, _ in pairs]), strict=True):
            decay_(w, group)
            w.add_(step.view_as(w))


def mixed(f: Tensor, g: Tensor, history: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """The step to apply [n] at step k, from f_k, g_k and those of the steps before it with the steps applied."""
    fs, gs, s = [*history["f"], f], [*history["g"], g], history["s"]
    F = torch.stack([new - old for old, new in itertools.pairwise(fs)])  # [q, n]
    y = [new - old for old, new in itertools.pairwise(gs)]
    weight, curvature = [], []
    for s_j, y_j in zip(s, y, strict=True):
        s_norm, y_norm = max(s_j.norm().item(), SMALLEST_NORM), max(y_j.norm().item(), SMALLEST_NORM)
        cosine = s_j.dot(y_j).item() / s_norm / y_norm
        low, high = group["w_clip"]
        weight.append(max(1e-8, max(0.0, cosine + group["cos_shift"]) * min(max(s_norm / y_norm, low), high)))
        curvature.append(y_norm / s_norm)
    w = torch.tensor(weight, dtype=f.dtype, device=f.device)
    w = w / w.mean()
    ridge = group["reg"] * (1 + group["nu"] * sum(curvature) / len(curvature))
    A = F @ F.T + torch.diag(ridge / w)
    try:
        theta = torch.linalg.solve(A, F @ f)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        theta = torch.linalg.solve(A + 1e-6 * torch.eye(len(A), dtype=f.dtype, device=f.device), F @ f)
    c = theta @ torch.stack(s)
    if c.norm() > group["tau"] * f.norm():
        c = c * (group["tau"] * f.norm() / c.norm())
    return f - c if g.dot(f - c) < 0 else f
