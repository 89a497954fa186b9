"""DMGD, deep momentum gradient descent: how much of a gradient enters the momentum is learned by a small network.

    s = softplus(MLP(mean g));  u = beta m + s g;  m <- u;  w <- w - lr u    (or w - lr sign(u) sqrt|u|)
    MLP(x) = w2 · tanh(w1 x + b1) + b2, 8 hidden units, one gradient step of rate `mlp_lr` on (s - mean|g|)² after use

Each tensor has an MLP of its own, so that its steps depend on its own gradients alone. All of a group start from the
same weights, drawn as torch.nn.Linear draws them by a generator seeded with the group's `seed`. Nothing else is drawn:
the seed, which is in `state_dict` as the MLPs are, is all of the generator's state.

The target makes s about as large as the gradient itself, so that u falls with its square: the signed square root
undoes that.

After Behrouz et al., "Nested Learning", https://abehrouz.github.io/files/NL.pdf
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.optimizer import ParamsT

from bench.optimizers.flat import wide
from bench.optimizers.groupwise import GroupwiseOptimizer, by_dtype_and_device
from bench.optimizers.validation import require_choice, require_integer, require_number
from bench.spec import OptimizerSpec, learning_rate_search

HIDDEN = 8


def dmgd_(w: Tensor, g: Tensor, m: Tensor, s: Tensor, *, lr: float, beta: float, signed_sqrt: bool) -> None:
    """One in-place step on w and m; g is not modified. s is a scalar."""
    m.mul_(beta).add_(g * s)
    u = m.abs().sqrt_().copysign_(m) if signed_sqrt else m
    w.add_(u, alpha=-lr)


def initial_mlp(seed: int) -> Tensor:
    """The weights (w1, b1, w2, b2) [3 HIDDEN + 1] of an MLP that has learned nothing, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(3 * HIDDEN + 1, generator=generator, dtype=torch.float64) * 2 - 1
    uniform[2 * HIDDEN :] /= HIDDEN**0.5  # the bound is 1 / sqrt(inputs)
    return uniform


def gates_(mlps: Tensor, mean: Tensor, target: Tensor, *, mlp_lr: float) -> Tensor:
    """s [P] of P tensors from their mean gradients [P], and one in-place step of their MLPs [P, 3 HIDDEN + 1]."""
    w1, b1, w2, b2 = mlps.split([HIDDEN, HIDDEN, HIDDEN, 1], dim=1)
    x = mean[:, None]
    h = torch.tanh(w1 * x + b1)  # [P, HIDDEN]
    z = (w2 * h).sum(dim=1, keepdim=True) + b2  # [P, 1]
    s = F.softplus(z)
    dz = 2 * (s - target[:, None]) * torch.sigmoid(z)
    dh = dz * w2 * (1 - h.square())
    mlps.sub_(torch.cat([dh * x, dh, dz * h, dz], dim=1), alpha=mlp_lr)
    return s[:, 0]


class DMGD(GroupwiseOptimizer):
    """Deep momentum gradient descent; raises ValueError for settings outside their range."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        beta: float = 0.9,
        mlp_lr: float = 1e-2,
        signed_sqrt: bool = False,
        seed: int = 0,
    ) -> None:
        settings = {"beta": beta, "mlp_lr": mlp_lr, "signed_sqrt": signed_sqrt, "seed": seed}
        super().__init__(params, {"lr": lr, **settings})

    def _check_group(self, group: dict[str, Any]) -> None:
        require_number("DMGD", "lr", group["lr"])
        require_number("DMGD", "beta", group["beta"], below=1.0)
        require_number("DMGD", "mlp_lr", group["mlp_lr"])
        require_choice("DMGD", "signed_sqrt", group["signed_sqrt"], (True, False))
        require_integer("DMGD", "seed", group["seed"])

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        settings = {key: group[key] for key in ("lr", "beta", "signed_sqrt")}
        for alike in by_dtype_and_device(pairs):  # their MLPs are one batch
            states = [self.state[w] for w, _ in alike]
            for (w, g), state in zip(alike, states, strict=True):
                if "mlp" not in state:
                    state["mlp"] = initial_mlp(group["seed"]).to(w.device, w.dtype)
                    state["momentum_buffer"] = torch.zeros_like(g, memory_format=torch.preserve_format)
            gradients, mlps = [wide(g) for _, g in alike], [state["mlp"] for state in states]
            mean = torch.stack([g.sum() / max(1, g.numel()) for g in gradients])
            target = torch.stack([g.abs().sum() / max(1, g.numel()) for g in gradients])
            batch = wide(torch.stack(mlps))  # a copy
            gates = gates_(batch, mean, target, mlp_lr=group["mlp_lr"])
            torch._foreach_copy_(mlps, list(batch.unbind()))  # pyright: ignore[reportPrivateImportUsage]
            for (w, g), state, s in zip(alike, states, gates.unbind(), strict=True):
                dmgd_(w, g, state["momentum_buffer"], s, **settings)


SPEC = OptimizerSpec(
    name="dmgd",
    title="deep momentum gradient descent",
    constructor=DMGD,
    defaults={"lr": 1e-3},
    search=learning_rate_search(1e-3),
    reference="Behrouz et al., 2025, Nested Learning, https://abehrouz.github.io/files/NL.pdf; own code",
)
