"""NAdam, Adam with Nesterov momentum, from torch.optim.

    mu_t = b1 (1 - 0.5 · 0.96^(t psi));  m̂ = mu_(t+1) m / (1 - prod_1^(t+1) mu) + (1 - mu_t) g / (1 - prod_1^t mu)
    w <- w - lr m̂ / (sqrt(v̂) + eps)

Dozat, "Incorporating Nesterov Momentum into Adam", https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
"""

from __future__ import annotations

import torch

from bench.spec import OptimizerSpec, learning_rate_search

SPEC = OptimizerSpec(
    name="nadam",
    title="NAdam",
    constructor=torch.optim.NAdam,
    defaults={"lr": 2e-3},
    search=learning_rate_search(2e-3),
    reference="Dozat, 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ; torch.optim.NAdam, whose lr this is",
)
