"""Adafactor, second moments of matrices kept as row and column means alone, from torch.optim.

    R <- b2_t R + (1 - b2_t) rowmean(g²);  C likewise by columns;  v = R C / mean(R);  b2_t = 1 - t^b2_decay
    w <- w - lr_t max(eps2, rms(w)) u / max(1, rms(u) / d),  u = g / sqrt(v),  lr_t = min(lr, 1 / sqrt(t))

Shazeer & Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", https://arxiv.org/abs/1804.04235
"""

from __future__ import annotations

import torch

from bench.spec import OptimizerSpec, learning_rate_search

SPEC = OptimizerSpec(
    name="adafactor",
    title="Adafactor",
    constructor=torch.optim.Adafactor,
    defaults={"lr": 1e-2},
    search=learning_rate_search(1e-2),
    reference="Shazeer & Stern, 2018, https://arxiv.org/abs/1804.04235; torch.optim.Adafactor, whose lr this is",
)
