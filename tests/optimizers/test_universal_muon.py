"""UniversalMuon against its formulas, and its two known pathologies."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from bench.optimizers.newton_schulz import rescaled
from bench.optimizers.universal_muon import UniversalMuon, orthogonalise, step_scale

SHAPES = [(), (5,), (4, 6), (6, 4), (5, 5), (2, 3), (2, 3, 2, 2)]


class Reference:
    """Section 4 of the definition, in float64, for one tensor."""

    def __init__(self, w, *, ortho_mode="auto", scale_mode="adaptive", weight_decay=0.0, ns_iters=3):
        self.w = np.array(w, dtype=np.float64)
        self.m, self.v, self.t = 0 * self.w, 0 * self.w, 0
        self.ortho_mode, self.scale_mode, self.weight_decay = ortho_mode, scale_mode, weight_decay
        self.ns_iters = ns_iters

    def step(self, g, lr=1e-3, b1=0.9, b2=0.999, eps=1e-8, threshold=4):
        self.t += 1
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        d = self.m / (1 - b1**self.t)
        size = lr / (np.sqrt(self.v / (1 - b2**self.t)) + eps)
        matrix = self.w.ndim == 2
        large = matrix and min(self.w.shape) >= threshold
        if (self.ortho_mode == "always" and matrix) or (self.ortho_mode in ("auto", "preserve_magnitude") and large):
            norm = np.linalg.norm(d)
            d = self.orthogonalise(d, eps)
            if self.ortho_mode == "preserve_magnitude" and np.linalg.norm(d) > 1e-8:
                d = d * norm / np.linalg.norm(d)
        if matrix and self.scale_mode == "adaptive" and min(self.w.shape) < 256:
            size = size * np.sqrt(min(self.w.shape) / 256)
        if matrix and self.scale_mode == "spectral":
            size = size * np.sqrt(max(self.w.shape))
        self.w = self.w * (1 - lr * self.weight_decay) - d * size

    def orthogonalise(self, d, eps):
        rows, columns = d.shape
        G = (d @ d.T if rows <= columns else d.T @ d) + eps * np.eye(min(rows, columns))
        s = (np.trace(G) / len(G)) ** -0.5
        Y, Z = s**2 * G, np.eye(len(G))
        for _ in range(self.ns_iters):
            T = Z @ Y
            Y, Z = 1.5 * Y - 0.5 * Y @ T, 1.5 * Z - 0.5 * T @ Z
        return s * Z @ d if rows <= columns else d @ (s * Z)


def orthogonalised(d: torch.Tensor, **settings) -> torch.Tensor:
    """One matrix as a batch of one."""
    return orthogonalise(d.unsqueeze(0), **settings).squeeze(0)


def dominated(n: int, generator: torch.Generator) -> torch.Tensor:
    """A matrix [n, n] with one large singular value, as momenta have: its square is nearly n times the mean square."""
    left, right = torch.randn(n, 1, generator=generator), torch.randn(1, n, generator=generator)
    return left @ right + 0.05 * torch.randn(n, n, generator=generator)


@pytest.mark.parametrize("scale_mode", ["adaptive", "spectral", None])
@pytest.mark.parametrize("ortho_mode", ["auto", "always", "never", "preserve_magnitude"])
def test_universal_muon_matches_the_formulas(ortho_mode, scale_mode):
    generator = np.random.default_rng(4)
    settings = {"ortho_mode": ortho_mode, "scale_mode": scale_mode, "weight_decay": 0.1}
    references = [Reference(generator.standard_normal(shape), **settings) for shape in SHAPES]
    parameters = [torch.nn.Parameter(torch.tensor(reference.w)) for reference in references]
    optimizer = UniversalMuon(parameters, ortho_threshold=4, **settings)
    for _ in range(25):
        for w, reference in zip(parameters, references, strict=True):
            g = generator.standard_normal(reference.w.shape)
            w.grad = torch.tensor(g)
            reference.step(g)
        optimizer.step()
        for w, reference in zip(parameters, references, strict=True):
            np.testing.assert_allclose(w.detach().numpy(), reference.w, rtol=1e-9, atol=1e-9)


def test_mode_never_without_scale_is_adam():
    generator = torch.Generator().manual_seed(5)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(w.detach().clone()) for w in ours]
    optimizers = UniversalMuon(ours, ortho_mode="never", scale_mode=None), torch.optim.Adam(theirs)
    for _ in range(20):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator, dtype=torch.float64)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_orthogonalise_by_hand():
    # d = diag(1, 3), eps = 0: G = diag(1, 9), trace / n = 5, s² = 1/5, Y = diag(0.2, 1.8), T = Y.
    # One iteration: Z = 1.5 - 0.5 T = diag(1.4, 0.6); result s Z d = diag(1.4, 1.8) / sqrt(5).
    d = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
    expected = torch.diag(torch.tensor([1.4, 1.8], dtype=torch.float64)) / 5**0.5
    torch.testing.assert_close(orthogonalised(d, iterations=1, eps=0.0), expected, rtol=1e-14, atol=0)
    # eps = 1: G = diag(2, 10), s² = 1/6, T = diag(1/3, 5/3), Z = diag(4/3, 2/3); result diag(4/3, 2) / sqrt(6).
    expected = torch.diag(torch.tensor([4 / 3, 2.0], dtype=torch.float64)) / 6**0.5
    torch.testing.assert_close(orthogonalised(d, iterations=1, eps=1.0), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_orthogonalise_finds_the_polar_factor_where_it_converges(shape):
    generator = torch.Generator().manual_seed(6)
    u, _, vh = torch.linalg.svd(torch.randn(shape, generator=generator, dtype=torch.float64), full_matrices=False)
    d = u @ torch.diag(torch.linspace(0.7, 1.3, min(shape), dtype=torch.float64)) @ vh
    torch.testing.assert_close(orthogonalised(d, iterations=12, eps=0.0), u @ vh, rtol=0, atol=1e-12)


def test_a_matrix_without_trace_is_returned():
    assert torch.equal(orthogonalised(torch.zeros(3, 4), iterations=3, eps=0.0), torch.zeros(3, 4))


def test_a_negligible_norm_is_not_rescaled():
    x = torch.full((2, 2), 1e-9)
    assert torch.equal(rescaled(x, like=torch.ones(2, 2)), x)
    assert torch.equal(rescaled(torch.ones(2, 2), like=3 * x), 3 * x)


def test_step_scale_by_hand():
    wide, large, vector = torch.Size((64, 400)), torch.Size((300, 400)), torch.Size((400,))
    assert [step_scale(w, "adaptive") for w in (wide, large, vector)] == [0.5, 1.0, 1.0]
    assert [step_scale(w, "spectral") for w in (wide, large, vector)] == [20.0, 20.0, 1.0]
    assert [step_scale(w, None) for w in (wide, large, vector)] == [1.0, 1.0, 1.0]


def test_an_eigenvalue_above_three_makes_the_iteration_grow():
    """Pathology 1: the largest eigenvalue of the normalised Gram matrix is near n, and convergence needs < 3."""
    d = dominated(128, torch.Generator().manual_seed(7)).double()
    eigenvalues = torch.linalg.eigvalsh(d @ d.T)
    assert eigenvalues[-1] / eigenvalues.mean() > 43
    orthogonal_norm = 128**0.5
    norms = [orthogonalised(d, iterations=k, eps=1e-8).norm().item() / orthogonal_norm for k in (1, 2, 3, 4)]
    assert norms[0] > 5
    assert all(after > 1e3 * before for before, after in pairwise(norms))


def test_auto_moves_the_weights_by_orders_of_magnitude_in_one_step():
    w = torch.nn.Parameter(torch.zeros(128, 128))
    w.grad = 1e-3 * dominated(128, torch.Generator().manual_seed(7))
    UniversalMuon([w], ortho_mode="auto").step()
    assert w.abs().max() > 1e6  # the learning rate is 1e-3


def test_preserve_magnitude_overflows_to_an_update_of_zero():
    w = torch.nn.Parameter(torch.ones(128, 128))
    w.grad = 1e-3 * dominated(128, torch.Generator().manual_seed(7))
    UniversalMuon([w], ortho_mode="preserve_magnitude").step()
    assert torch.equal(w, torch.ones(128, 128))


def test_an_orthogonal_direction_over_adams_denominator_is_too_long():
    """Pathology 2, apart from the first: a gradient that is orthogonal already, with entries near 1e-4."""
    generator = torch.Generator().manual_seed(8)
    q, _ = torch.linalg.qr(torch.randn(128, 128, generator=generator))
    w, twin = torch.nn.Parameter(torch.zeros(128, 128)), torch.nn.Parameter(torch.zeros(128, 128))
    w.grad, twin.grad = 1e-3 * q, 1e-3 * q
    UniversalMuon([w], ortho_mode="auto", scale_mode=None).step()
    UniversalMuon([twin], ortho_mode="never", scale_mode=None).step()
    # |orthogonal| / |gradient| = 1 / 1e-3.
    assert (w.norm() / twin.norm()).item() == pytest.approx(1e3, rel=0.05)
