"""Stochastic gradient descent with momentum, from torch.optim.

    b <- mu b + g;  w <- w - lr b

Polyak, "Some methods of speeding up the convergence of iteration methods", 1964
"""

from __future__ import annotations

import torch

from bench.spec import OptimizerSpec, learning_rate_search

SPEC = OptimizerSpec(
    name="sgd",
    title="SGD with momentum",
    constructor=torch.optim.SGD,
    defaults={"lr": 1e-2, "momentum": 0.9},
    documents={"lr": 1e-2, "momentum": 0.9},
    search=learning_rate_search(1e-2),
    reference="Polyak, 1964, https://doi.org/10.1016/0041-5553(64)90137-5; torch.optim.SGD",
)
