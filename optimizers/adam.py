"""Adam, from torch.optim.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g²;  w <- w - lr m / ((1 - b1^t) (sqrt(v / (1 - b2^t)) + eps))

Kingma & Ba, "Adam: A Method for Stochastic Optimization", https://arxiv.org/abs/1412.6980
"""

from __future__ import annotations

import torch

from bench.spec import OptimizerSpec, learning_rate_search

SPEC = OptimizerSpec(
    name="adam",
    title="Adam",
    constructor=torch.optim.Adam,
    defaults={"lr": 1e-3, "fused": True},
    documents={"lr": 1e-3, "fused": True},
    search=learning_rate_search(1e-3),
    reference="Kingma & Ba, 2014, https://arxiv.org/abs/1412.6980; torch.optim.Adam",
)
