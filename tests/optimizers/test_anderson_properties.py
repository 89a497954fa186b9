"""Anderson acceleration on a quadratic with full history, where one step is exact: what the papers prove."""

from __future__ import annotations

import itertools

import torch

from bench.optimizers.gda2 import coefficients
from bench.optimizers.universal_anderson_gda import coefficients as pair_coefficients


def quadratic(n, seed=0):
    """Hessian [n, n] with eigenvalues from 0.1 to 100 and the minimum [n]."""
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    H = Q @ torch.diag(torch.logspace(-1, 2, n, dtype=torch.float64)) @ Q.T
    return H, torch.randn(n, generator=generator, dtype=torch.float64)


def test_gda2s_correction_leads_to_the_minimum_once_there_are_n_transitions():
    """f = -lr H (x - x*) is linear, so that F = -lr H S: F theta = f means S theta = x - x*."""
    n, lr = 6, 1e-3
    H, minimum = quadratic(n)
    generator = torch.Generator().manual_seed(1)
    x = [torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(n + 1)]
    f = [-lr * H @ (point - minimum) for point in x]
    S = torch.stack([b - a for a, b in itertools.pairwise(x)])
    F = torch.stack([b - a for a, b in itertools.pairwise(f)])
    ones = torch.ones(n, dtype=torch.float64)
    history = {"FF": F @ F.T, "ss": ones, "sy": ones, "yy": ones}
    settings = {"reg": 1e-22, "nu": 0.0, "cos_shift": 0.1, "w_clip": (0.1, 10.0)}
    theta = coefficients(history, F @ f[-1], n, settings)
    torch.testing.assert_close(x[-1] - theta @ S, minimum, rtol=1e-5, atol=1e-5)


def test_fewer_transitions_are_exact_where_the_error_lies_in_their_span():
    n, q, lr = 8, 3, 1e-3
    H, minimum = quadratic(n)
    generator = torch.Generator().manual_seed(2)
    S = torch.randn(q, n, generator=generator, dtype=torch.float64)
    x = minimum + torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64) @ S
    F, f, ones = -lr * S @ H, -lr * H @ (x - minimum), torch.ones(q, dtype=torch.float64)
    history = {"FF": F @ F.T, "ss": ones, "sy": ones, "yy": ones}
    theta = coefficients(history, F @ f, q, {"reg": 1e-22, "nu": 0.0, "cos_shift": 0.1, "w_clip": (0.1, 10.0)})
    torch.testing.assert_close(x - theta @ S, minimum, rtol=1e-6, atol=1e-6)


def test_universal_anderson_gdas_correction_is_the_projection_on_its_differences():
    """With n differences it is f - last step itself, whatever they are; with fewer, what lies in their span."""
    generator = torch.Generator().manual_seed(3)
    difference = torch.randn(5, generator=generator, dtype=torch.float64)
    for q in (5, 2):
        R = torch.randn(q, 5, generator=generator, dtype=torch.float64)
        theta = pair_coefficients((R @ R.T).unsqueeze(0), (R @ difference).unsqueeze(0), 0.0)[0]
        projection = torch.linalg.lstsq(R.T, difference.unsqueeze(-1)).solution.squeeze(-1) @ R
        torch.testing.assert_close(theta @ R, projection, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(R @ (difference - theta @ R), torch.zeros(q, dtype=torch.float64), atol=1e-9, rtol=0)
    R = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    theta = pair_coefficients((R @ R.T).unsqueeze(0), (R @ difference).unsqueeze(0), 0.0)[0]
    torch.testing.assert_close(theta @ R, difference, rtol=1e-8, atol=1e-8)
