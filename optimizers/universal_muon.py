"""UniversalMuon: Adam's second moment with conditional orthogonalisation of the first.

    m, v as in Adam;  d = m / (1 - b1^t);  D = sqrt(v / (1 - b2^t)) + eps;  w <- w (1 - lr wd)
    d <- orthogonalised d, where w is a matrix and the mode asks for it
    w <- w - scale · lr · d / D

    mode:   always | auto and preserve_magnitude: min(rows, columns) >= ortho_threshold | never
            preserve_magnitude rescales the result to the Frobenius norm that d had
    scale:  matrices only; adaptive: min(1, sqrt(min(rows, columns) / 256)) | spectral: sqrt(max(rows, columns)) | None

Two properties of this algorithm are known and kept as they are, because the entries stand for it as published:
* The coupled Newton-Schulz iteration converges where the eigenvalues of its input are below 3. Dividing the Gram matrix
  by its mean eigenvalue bounds the mean, not the largest: with one dominant direction the largest is near n, and the
  result grows without bound. In `preserve_magnitude` its norm overflows, and the update is then zero or not finite.
* An orthogonal d has entries near 1/sqrt(n) whatever the gradient's size; divided by D, of the gradient's size, the
  step is too long by about 1 / (sqrt(n) |g|).
`universal_muon_stable` is the same idea without the two.

Jordan et al., "Muon", https://kellerjordan.github.io/posts/muon/; the iteration: Higham, "Functions of Matrices", 2008
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from bench.optimizers.adam_moments import MOMENTS, adam_step, denominator
from bench.optimizers.flat import FlatState, wide
from bench.optimizers.groupwise import FlatOptimizer, apply_
from bench.optimizers.newton_schulz import rescaled
from bench.optimizers.validation import require_adam_settings, require_choice, require_integer
from bench.spec import Observation, OptimizerSpec, learning_rate_search

ORTHO_MODES = ("auto", "always", "never", "preserve_magnitude")
SCALE_MODES = ("adaptive", "spectral", None)
NS_DTYPES = ("bfloat16", None)
FULL_SIZE = 256
CONVERGENCE_LIMIT = 3.0  # of the eigenvalues of the iteration's input


def orthogonalise(d: Tensor, *, iterations: int, eps: float) -> Tensor:
    """(d d^T)^(-1/2) d by the coupled Newton-Schulz iteration, or d where the Gram matrix has no trace. [tensors, m, n]

    Products that do not change the result are left out: T = Y in the first iteration, where Z = I, and Y in the last.
    """
    wider = d.shape[-2] <= d.shape[-1]
    G = d @ d.mT if wider else d.mT @ d  # [tensors, k, k], k = min(m, n)
    G.diagonal(dim1=-2, dim2=-1).add_(eps)
    trace = G.diagonal(dim1=-2, dim2=-1).sum(-1, dtype=wide(G).dtype)[..., None, None]
    s = (trace / G.shape[-1]).rsqrt()
    identity = torch.eye(G.shape[-1], dtype=d.dtype, device=d.device)
    Y, Z = (s**2 * G).to(d.dtype), identity
    for i in range(iterations):
        T = Y if i == 0 else Z @ Y
        Z = 1.5 * Z - 0.5 * T if i == 0 else torch.baddbmm(Z, T, Z, beta=1.5, alpha=-0.5)
        if i + 1 < iterations:
            Y = torch.baddbmm(Y, Y, T, beta=1.5, alpha=-0.5)
    root = torch.where(trace <= 0, identity, (s * Z).to(d.dtype))
    return root @ d if wider else d @ root


def is_orthogonalised(shape: torch.Size, group: dict[str, Any]) -> bool:
    """Whether the group's mode asks for it for parameters of this shape."""
    if len(shape) != 2 or group["ortho_mode"] == "never":
        return False
    return group["ortho_mode"] == "always" or min(shape) >= group["ortho_threshold"]


def step_scale(shape: torch.Size, scale_mode: str | None) -> float:
    """What multiplies the learning rate of a parameter of this shape."""
    if len(shape) != 2 or scale_mode is None:
        return 1.0
    if scale_mode == "spectral":
        return max(shape) ** 0.5
    return min(1.0, (min(shape) / FULL_SIZE) ** 0.5)


def orthogonal_step(m: Tensor, v: Tensor, group: dict[str, Any], t: int, out: Tensor) -> None:
    """-lr d / D for matrices of one shape, d orthogonalised, from their moments, to `out`. [tensors, m, n]"""
    beta1, beta2 = group["betas"]
    d = wide(m) / (1 - beta1**t)
    working = d.bfloat16() if group["ns_dtype"] == "bfloat16" else d
    Q = orthogonalise(working, iterations=group["ns_iters"], eps=group["eps"])
    if group["ortho_mode"] == "preserve_magnitude":
        Q = rescaled(Q.to(d.dtype), like=d)
    out.copy_((Q / denominator(v, t=t, beta2=beta2, eps=group["eps"])).mul_(-group["lr"]))


class UniversalMuon(FlatOptimizer):
    """UniversalMuon; raises ValueError for settings outside their range.

    `ns_dtype` "bfloat16" runs the orthogonalisation in that precision, None in the parameter's, float32 at least.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        ortho_mode: str = "auto",
        ortho_threshold: int = 128,
        ns_iters: int = 3,
        scale_mode: str | None = "adaptive",
        ns_dtype: str | None = None,
    ) -> None:
        adam = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        ortho = {"ortho_mode": ortho_mode, "ortho_threshold": ortho_threshold, "ns_iters": ns_iters}
        super().__init__(params, {**adam, **ortho, "scale_mode": scale_mode, "ns_dtype": ns_dtype})

    def _check_group(self, group: dict[str, Any]) -> None:
        require_adam_settings("UniversalMuon", group)
        require_choice("UniversalMuon", "ortho_mode", group["ortho_mode"], ORTHO_MODES)
        require_integer("UniversalMuon", "ortho_threshold", group["ortho_threshold"])
        require_integer("UniversalMuon", "ns_iters", group["ns_iters"])
        require_choice("UniversalMuon", "scale_mode", group["scale_mode"], SCALE_MODES)
        require_choice("UniversalMuon", "ns_dtype", group["ns_dtype"], NS_DTYPES)

    def _vectors(self, group: dict[str, Any]) -> Mapping[str, tuple[int, ...]]:
        return MOMENTS

    def _step_flat(self, group: dict[str, Any], flat: FlatState) -> None:
        for r in flat.ranges:
            (g,) = flat.scratch(r, 1)
            adam_step(flat, r, flat.gradient(r, out=g), group, out=r.of(flat.work))
        for stack in flat.stacks:
            step, scale = stack.of(flat.work), step_scale(stack.shape, group["scale_mode"])
            if is_orthogonalised(stack.shape, group):
                m, v = (stack.of(flat.vectors[name]) for name in MOMENTS)
                for part in stack.parts(flat.limit):
                    orthogonal_step(m[part], v[part], group, flat.t(stack), out=step[part])
            if scale != 1:
                step.mul_(scale)
        for r in flat.ranges:
            apply_(flat, r, r.of(flat.work), group)


def _orthogonalised_gradients(optimizer: Optimizer) -> list[tuple[Tensor, dict[str, Any]]]:
    """The gradients, other than zero and finite, of the parameters whose updates are orthogonalised; with the group."""
    found = []
    for group in optimizer.param_groups:
        for w in group["params"]:
            if w.grad is None or not is_orthogonalised(w.shape, group):
                continue
            if 0 < torch.linalg.vector_norm(w.grad) < float("inf"):
                found.append((wide(w.grad), group))
    return found


def examine(optimizer: Optimizer) -> list[Observation]:
    """How far the normalised Gram matrices of the present gradients lie from the iteration's region of convergence."""
    largest, overflowing = [], 0
    for d, group in _orthogonalised_gradients(optimizer):
        singular = torch.linalg.svdvals(d)
        largest.append(float(singular[0] ** 2 * len(singular) / singular.square().sum()))
        Q = orthogonalise(d.unsqueeze(0), iterations=group["ns_iters"], eps=group["eps"])
        overflowing += not torch.linalg.vector_norm(Q).isfinite()
    if not largest:
        return [Observation(text="no gradient is orthogonalised here: every update is Adam's", figures={})]
    low, middle, high = min(largest), statistics.median(largest), max(largest)
    outside = sum(x >= CONVERGENCE_LIMIT for x in largest)
    text = (
        f"the coupled Newton-Schulz iteration converges where the largest eigenvalue of s²G is below "
        f"{CONVERGENCE_LIMIT:g}; over {len(largest)} matrices it is {low:.3g} / {middle:.3g} / {high:.3g} "
        f"(min / median / max): it diverges on {outside} of them, and on {overflowing} the norm of its result overflows"
    )
    figures = {"matrices": len(largest), "diverging": outside, "overflowing": overflowing,
               "eigenvalue_min": low, "eigenvalue_median": middle, "eigenvalue_max": high}  # fmt: skip
    return [Observation(text=text, figures=figures, warning=outside > 0)]


SPEC_AUTO = OptimizerSpec(
    name="universal_muon_auto",
    title="UniversalMuon (auto)",
    constructor=UniversalMuon,
    defaults={"lr": 1e-3, "ortho_mode": "auto"},
    documents={"lr": 1e-3, "ortho_mode": "auto", "ortho_threshold": 128, "scale_mode": "adaptive"},
    search=learning_rate_search(1e-3),
    matrix_algorithm=True,  # on every matrix, as the documents have it: embeddings and heads included
    examine=examine,
    revision=2,
    reference="After Muon, https://kellerjordan.github.io/posts/muon/, as defined by the documents",
)

SPEC_PRESERVE = OptimizerSpec(
    name="universal_muon_preserve",
    title="UniversalMuon (preserve magnitude)",
    constructor=UniversalMuon,
    defaults={"lr": 1e-3, "ortho_mode": "preserve_magnitude"},
    documents={"lr": 1e-3, "ortho_mode": "preserve_magnitude", "ortho_threshold": 128, "scale_mode": "adaptive"},
    search=learning_rate_search(1e-3),
    matrix_algorithm=True,  # on every matrix, as the documents have it: embeddings and heads included
    examine=examine,
    revision=2,
    reference="After Muon, https://kellerjordan.github.io/posts/muon/, as defined by the documents",
)
