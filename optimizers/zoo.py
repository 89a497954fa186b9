"""Modern optimizers from libraries: the entries of the extra `zoo`, imported on first use.

Settings are those that the paper or the library recommends. What differs from the class's own default is in `defaults`,
with the reason beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.spec import Need, OptimizerSpec, ParameterGroups, by_matrix_role, learning_rate_search, one_group


def _entry(
    name: str,
    title: str,
    constructor: str,
    lr: float,
    reference: str,
    settings: Mapping[str, Any] | None = None,
    groups: ParameterGroups = one_group,
    needs: frozenset[Need] = frozenset(),
    matrix_algorithm: bool = False,
    packages: tuple[str, ...] = (),
) -> OptimizerSpec:
    return OptimizerSpec(
        name=name, title=title, constructor=constructor, defaults={"lr": lr, **(settings or {})},
        search=learning_rate_search(lr), groups=groups, needs=needs, matrix_algorithm=matrix_algorithm,
        extra="zoo", packages=packages, reference=reference,
    )  # fmt: skip


SPECS = (
    _entry(
        "schedule_free_adamw",
        "Schedule-Free AdamW",
        "schedulefree:AdamWScheduleFree",
        2.5e-3,
        "Defazio et al., 2024, https://arxiv.org/abs/2405.15682; schedulefree.AdamWScheduleFree, whose lr this is",
        needs=frozenset({Need.TRAIN_EVAL_SWITCH}),
    ),
    _entry(
        "soap",
        "SOAP",
        "pytorch_optimizer:SOAP",
        3e-3,
        "Vyas et al., 2024, https://arxiv.org/abs/2409.11321; the paper's and pytorch_optimizer's lr",
        # No dimension is at most 0: plain Adam.
        groups=by_matrix_role(matrix={}, other={"max_precondition_dim": 0}),
        matrix_algorithm=True,
    ),
    _entry(
        "shampoo",
        "Shampoo grafted on AdaGrad",
        "pytorch_optimizer:ScalableShampoo",
        1e-3,
        "Gupta et al., 2018, https://arxiv.org/abs/1802.09568; Anil et al., 2020, https://arxiv.org/abs/2002.09018; "
        "pytorch_optimizer.ScalableShampoo, whose lr this is",
        # AdaGrad's step lengths are Anil et al.'s. The class computes the roots every 1000 steps, which in a run of a
        # thousand steps would mean never; 10 is the interval of SOAP. Which dimensions it preconditions is a setting of
        # the whole optimizer, hence one group.
        settings={"graft_type": 2, "preconditioning_compute_steps": 10},
        matrix_algorithm=True,
    ),
    _entry(
        "lion",
        "Lion",
        "pytorch_optimizer:Lion",
        1e-4,
        "Chen et al., 2023, https://arxiv.org/abs/2302.06675; pytorch_optimizer.Lion, whose lr this is",
    ),
    _entry(
        "prodigy",
        "Prodigy",
        "pytorch_optimizer:Prodigy",
        1.0,
        "Mishchenko & Defazio, 2023, https://arxiv.org/abs/2306.06101; the paper's lr, a factor on its own estimate",
    ),
    _entry(
        "sophia",
        "Sophia-H",
        "pytorch_optimizer:SophiaH",
        6e-2,
        "Liu et al., 2023, https://arxiv.org/abs/2305.14342; pytorch_optimizer.SophiaH, whose lr this is: with updates "
        "clipped to p = 0.01 the paper's 6e-4",
        needs=frozenset({Need.SECOND_ORDER}),
    ),
    _entry(
        "mars",
        "MARS-AdamW",
        "pytorch_optimizer:MARS",
        3e-3,
        "Yuan et al., 2024, https://arxiv.org/abs/2411.10438; pytorch_optimizer.MARS, whose lr this is (vectors have "
        "lr_1d = 3e-3)",
        # In its AdamW form the update is elementwise, embeddings and heads included: no matrix algorithm.
    ),
    _entry(
        "ademamix",
        "AdEMAMix",
        "pytorch_optimizer:AdEMAMix",
        1e-3,
        "Pagliardini et al., 2024, https://arxiv.org/abs/2409.03137; pytorch_optimizer.AdEMAMix, whose lr this is",
    ),
    _entry(
        "lamb",
        "LAMB",
        "pytorch_optimizer:Lamb",
        1e-3,
        "You et al., 2019, https://arxiv.org/abs/1904.00962; pytorch_optimizer.Lamb, whose lr this is",
    ),
    _entry(
        "adan",
        "Adan",
        "pytorch_optimizer:Adan",
        1e-3,
        "Xie et al., 2022, https://arxiv.org/abs/2208.06677; pytorch_optimizer.Adan, whose lr this is",
    ),
    _entry(
        "psgd_kron",
        "PSGD Kron",
        "pytorch_optimizer:Kron",
        1e-3,
        "Li, 2015, https://arxiv.org/abs/1512.04202; Pooladzandi & Li, 2024, https://arxiv.org/abs/2402.04553; "
        "pytorch_optimizer.Kron, whose lr this is",
        # Dimensions over 0, hence all, get a diagonal preconditioner.
        groups=by_matrix_role(matrix={}, other={"max_size_triangular": 0}),
        matrix_algorithm=True,
        # Without it, torch.einsum multiplies the factors with each other first: gigabytes for a matrix of width 256.
        packages=("opt_einsum",),
    ),
)
