"""M3, multi-scale momentum Muon: a fast and a slow sum of gradients, both orthogonalised, over AdaGrad's denominator.

    M1 <- M1 + b1 g;  V <- V + b2 g²;  every `chunk` steps: M2 <- M2 + b3 (the sum of the chunk's gradients)
    w <- w - lr (NS(M1) + alpha NS(M2)) / (sqrt(V) + eps)

NS is Muon's quintic Newton-Schulz iteration, `ns_steps` times, here in float32 or wider. Where a group says
`orthogonalise=False`, as the entry's does for all but the hidden matrices, and where a tensor is no matrix, NS(M) = M.
The gradient of step t, t a multiple of `chunk`, ends a chunk, and M2 changes in this step already. NS(M2) is kept from
one chunk's end to the next.

The formulas are the published ones, unscaled, with their consequences. The sums do not decay: b1 and b2 are factors,
not memories. An orthogonal NS(M1), of entries about 1/sqrt(n) whatever the gradient, is divided by a denominator as
large as the gradient, so that matrices move the farther the smaller the gradients are. No rate is published; 1e-5 is
the largest power of ten at which the loss of the mini protocol falls for more than an epoch.

Behrouz et al., "Nested Learning", https://abehrouz.github.io/files/NL.pdf;
Jordan et al., "Muon", https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bench.optimizers.flat import wide
from bench.optimizers.groupwise import GroupwiseOptimizer
from bench.optimizers.newton_schulz import orthogonalise as orthogonalise_matrices
from bench.optimizers.validation import require_choice, require_factors, require_integer, require_number
from bench.spec import OptimizerSpec, by_matrix_role, learning_rate_search

NS_EPS = 1e-7  # torch.optim.Muon's


def orthogonalised(M: Tensor, *, steps: int) -> Tensor:
    """NS(M) of a matrix [m, n], in the dtype of M."""
    return orthogonalise_matrices(wide(M).unsqueeze(0), iterations=steps, eps=NS_EPS).squeeze(0).to(M.dtype)


def m3_(
    w: Tensor,
    g: Tensor,
    state: dict[str, Any],
    *,
    lr: float,
    betas: tuple[float, float, float],
    alpha: float,
    eps: float,
    ns_steps: int,
    chunk: int,
    orthogonalise: bool,
) -> None:
    """One in-place step on w and its state; g is not modified."""
    beta1, beta2, beta3 = betas

    def direction_of(M: Tensor) -> Tensor:
        return orthogonalised(M, steps=ns_steps) if orthogonalise and M.ndim == 2 else M

    state["step"] += 1
    state["momentum"].add_(g, alpha=beta1)
    state["square_sum"].addcmul_(g, g, value=beta2)
    state["chunk_sum"].add_(g)
    if state["step"] % chunk == 0:
        state["slow_momentum"].add_(state["chunk_sum"], alpha=beta3)
        state["chunk_sum"].zero_()
        state["slow_direction"].copy_(direction_of(state["slow_momentum"]))
    direction = direction_of(state["momentum"]).add(state["slow_direction"], alpha=alpha)
    w.add_(wide(direction) / wide(state["square_sum"]).sqrt().add_(eps), alpha=-lr)  # eps is 0 in float16


class M3(GroupwiseOptimizer):
    """Multi-scale momentum Muon; raises ValueError for settings outside their range."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-5,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9),
        alpha: float = 1.0,
        eps: float = 1e-8,
        ns_steps: int = 3,
        chunk: int = 100,
        orthogonalise: bool = True,
    ) -> None:
        settings = {"betas": betas, "alpha": alpha, "eps": eps, "ns_steps": ns_steps, "chunk": chunk}
        super().__init__(params, {"lr": lr, **settings, "orthogonalise": orthogonalise})

    def _check_group(self, group: dict[str, Any]) -> None:
        for name in ("lr", "alpha", "eps"):
            require_number("M3", name, group[name])
        require_factors("M3", "betas", group["betas"], count=3)
        require_integer("M3", "ns_steps", group["ns_steps"])
        require_integer("M3", "chunk", group["chunk"], at_least=1)
        require_choice("M3", "orthogonalise", group["orthogonalise"], (True, False))

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        names = ("lr", "betas", "alpha", "eps", "ns_steps", "chunk", "orthogonalise")
        settings = {name: group[name] for name in names}
        for w, g in pairs:
            state = self.state[w]
            if not state:
                state["step"] = 0
                for name in ("momentum", "square_sum", "chunk_sum", "slow_momentum", "slow_direction"):
                    state[name] = torch.zeros_like(g, memory_format=torch.preserve_format)
            m3_(w, g, state, **settings)


SPEC = OptimizerSpec(
    name="m3",
    title="multi-scale momentum Muon",
    constructor=M3,
    defaults={"lr": 1e-5},
    search=learning_rate_search(1e-5),
    groups=by_matrix_role(matrix={}, other={"orthogonalise": False}),
    matrix_algorithm=True,
    reference="Behrouz et al., 2025, Nested Learning, https://abehrouz.github.io/files/NL.pdf; own code",
)
