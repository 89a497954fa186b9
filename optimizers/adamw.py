"""AdamW, Adam with decoupled weight decay, from torch.optim.

    w <- w (1 - lr wd), then Adam's step on the gradient of the loss alone

Loshchilov & Hutter, "Decoupled Weight Decay Regularization", https://arxiv.org/abs/1711.05101
"""

from __future__ import annotations

import torch

from bench.spec import OptimizerSpec, learning_rate_search

SPEC = OptimizerSpec(
    name="adamw",
    title="AdamW",
    constructor=torch.optim.AdamW,
    defaults={"lr": 1e-3, "weight_decay": 1e-2, "fused": True},
    documents={"lr": 1e-3, "weight_decay": 1e-4, "fused": True},
    search=learning_rate_search(1e-3),
    reference="Loshchilov & Hutter, 2017, https://arxiv.org/abs/1711.05101; torch.optim.AdamW",
)
