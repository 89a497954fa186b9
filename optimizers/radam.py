"""RAdam, Adam whose second moment is used only once its variance is small enough, and rectified then; torch.optim.

    rho_t = rho - 2 t b2^t / (1 - b2^t),  rho = 2 / (1 - b2) - 1
    w <- w - lr m̂ r_t sqrt(1 - b2^t) / (sqrt(v) + eps)  if rho_t > 5, else  w <- w - lr m̂

Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", https://arxiv.org/abs/1908.03265
"""

from __future__ import annotations

import torch

from bench.spec import OptimizerSpec, learning_rate_search

SPEC = OptimizerSpec(
    name="radam",
    title="RAdam",
    constructor=torch.optim.RAdam,
    defaults={"lr": 1e-3},
    search=learning_rate_search(1e-3),
    reference="Liu et al., 2019, https://arxiv.org/abs/1908.03265; torch.optim.RAdam, whose lr this is",
)
