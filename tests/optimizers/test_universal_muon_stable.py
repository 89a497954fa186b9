"""UniversalMuonStable: its formula, and that it has neither pathology of UniversalMuon."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.optimizers.newton_schulz import orthogonalise
from bench.optimizers.universal_muon import UniversalMuon
from bench.optimizers.universal_muon_stable import UniversalMuonStable

# The quintic maps [0, 1.2024] into itself: its largest value there is 1.20237.
LARGEST_SINGULAR_VALUE = 1.2024


def orthogonalised(d: torch.Tensor, **settings) -> torch.Tensor:
    """One matrix as a batch of one."""
    return orthogonalise(d.unsqueeze(0), **settings).squeeze(0)


def dominated(n: int, generator: torch.Generator) -> torch.Tensor:
    """A matrix [n, n] with one large singular value, as momenta have."""
    left, right = torch.randn(n, 1, generator=generator), torch.randn(1, n, generator=generator)
    return left @ right + 0.05 * torch.randn(n, n, generator=generator)


def reference_step(w, m, v, g, t, *, lr, weight_decay):
    """One step in float64, the orthogonalisation by way of the singular values."""
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    m_hat = m / (1 - 0.9**t)
    u = m_hat / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    left, sigma, right = np.linalg.svd(m_hat, full_matrices=False)
    sigma = sigma / np.linalg.norm(m_hat)
    for _ in range(5):
        sigma = 3.4445 * sigma - 4.7750 * sigma**3 + 2.0315 * sigma**5
    q = left * sigma @ right
    return w * (1 - lr * weight_decay) - lr * q * np.linalg.norm(u) / np.linalg.norm(q), m, v


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
def test_universal_muon_stable_matches_its_formula(shape):
    generator = np.random.default_rng(9)
    expected = generator.standard_normal(shape)
    w = torch.nn.Parameter(torch.tensor(expected))
    optimizer = UniversalMuonStable([w], lr=0.01, weight_decay=0.1, ortho_threshold=6)
    m, v = np.zeros(shape), np.zeros(shape)
    for t in range(1, 26):
        g = generator.standard_normal(shape)
        w.grad = torch.tensor(g)
        optimizer.step()
        expected, m, v = reference_step(expected, m, v, g, t, lr=0.01, weight_decay=0.1)
        np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_singular_values_are_bounded_whatever_the_matrix(scale):
    generator = torch.Generator().manual_seed(7)
    for d in (dominated(128, generator), torch.randn(128, 300, generator=generator), torch.ones(130, 128)):
        before = torch.linalg.svdvals(d.double())
        after = torch.linalg.svdvals(orthogonalised(scale * d, iterations=5, eps=1e-8).double())
        assert after.max() <= LARGEST_SINGULAR_VALUE
        large_enough = (before >= 0.0015 * before.norm()).sum()
        assert (after >= 0.68).sum() >= large_enough
        more = orthogonalised(scale * d, iterations=50, eps=1e-8)
        assert torch.linalg.svdvals(more.double()).max() <= LARGEST_SINGULAR_VALUE


def test_the_update_has_the_length_of_adams():
    generator = torch.Generator().manual_seed(10)
    ours, theirs = torch.nn.Parameter(torch.zeros(128, 160)), torch.nn.Parameter(torch.zeros(128, 160))
    optimizers = UniversalMuonStable([ours]), torch.optim.Adam([theirs])
    for _ in range(20):
        ours.grad = 1e-4 * torch.randn(128, 160, generator=generator)
        theirs.grad = ours.grad.clone()
        before = ours.detach().clone(), theirs.detach().clone()
        for optimizer in optimizers:
            optimizer.step()
        lengths = [(w.detach() - old).norm().item() for w, old in zip((ours, theirs), before, strict=True)]
        assert lengths[0] == pytest.approx(lengths[1], rel=1e-5)
    assert not torch.allclose(ours, theirs, rtol=0.1)


def test_the_update_opposes_the_momentum():
    w = torch.nn.Parameter(torch.zeros(128, 128))
    w.grad = dominated(128, torch.Generator().manual_seed(11))
    UniversalMuonStable([w]).step()
    assert (w.detach() * w.grad).sum() < 0


def test_a_zero_gradient_gives_a_zero_update():
    w = torch.nn.Parameter(torch.ones(128, 128))
    w.grad = torch.zeros(128, 128)
    UniversalMuonStable([w]).step()
    assert torch.equal(w, torch.ones(128, 128))


def test_small_matrices_and_other_shapes_take_adams_step():
    generator = torch.Generator().manual_seed(12)
    ours = [
        torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(), (200,), (127, 300), (2, 3, 4)]
    ]
    theirs = [torch.nn.Parameter(w.detach().clone()) for w in ours]
    optimizers = UniversalMuonStable(ours, weight_decay=0.1), torch.optim.AdamW(theirs, weight_decay=0.1)
    for _ in range(20):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_it_trains_where_auto_diverges():
    """Least squares with correlated inputs, whose gradients have one dominant direction."""
    generator = torch.Generator().manual_seed(13)
    inputs = torch.randn(256, 128, generator=generator) * 0.1 + torch.randn(256, 1, generator=generator)
    targets = inputs @ torch.randn(128, 128, generator=generator) / 128**0.5
    losses = {}
    for constructor in (UniversalMuon, UniversalMuonStable):
        w = torch.nn.Parameter(torch.zeros(128, 128))
        optimizer = constructor([w], lr=1e-2)
        loss = torch.tensor(0.0)
        for _ in range(60):
            optimizer.zero_grad()
            loss = (inputs @ w - targets).square().mean()
            loss.backward()
            optimizer.step()
        losses[constructor] = loss.item()
    start = targets.square().mean().item()
    assert losses[UniversalMuonStable] < 0.1 * start
    assert not losses[UniversalMuon] < 1e6 * start
