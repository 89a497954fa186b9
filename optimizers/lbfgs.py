"""L-BFGS, a quasi-Newton direction from the last differences of weights and gradients; from torch.optim.

A step makes up to 20 iterations on its batch, each with a line search that satisfies the strong Wolfe conditions, and
evaluates loss and gradients up to 25 times: compare it by seconds or evaluations, not by steps. Without the line search
(torch's default) nothing keeps a step of `lr` = 1 from going uphill.

Liu & Nocedal, "On the limited memory BFGS method for large scale optimization", 1989
"""

from __future__ import annotations

import torch

from bench.spec import Need, OptimizerSpec, learning_rate_search

SPEC = OptimizerSpec(
    name="lbfgs",
    title="L-BFGS",
    constructor=torch.optim.LBFGS,
    defaults={"lr": 1.0, "line_search_fn": "strong_wolfe"},
    search=learning_rate_search(1.0),
    needs=frozenset({Need.CLOSURE}),
    reference="Liu & Nocedal, 1989, https://doi.org/10.1007/BF01589116; torch.optim.LBFGS, whose lr this is",
)
