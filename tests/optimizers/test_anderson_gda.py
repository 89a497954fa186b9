"""AndersonGDA against its formulas: worked by hand, and in numpy by the normal equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.optimizers.anderson_gda import AndersonGDA, mixed_step

SHAPES = [(), (5,), (4, 3), (2, 3, 2, 2)]


class Reference:
    """The definition in float64, for one tensor; the mixing as a least-squares problem with rows sqrt(eps) I."""

    def __init__(self, w, *, lr=1e-3, beta=0.0, anderson_m=3, eps=1e-8):
        self.w = np.array(w, dtype=np.float64)
        self.lr, self.beta, self.anderson_m, self.eps = lr, beta, anderson_m, eps
        self.previous = None
        self.residuals: list[np.ndarray] = []
        self.mixed = 0

    def step(self, g):
        previous = g if self.previous is None else self.previous
        x = np.ravel(-self.lr * g - self.beta * self.lr * (g - previous))
        step = x
        if self.anderson_m > 0 and len(self.residuals) >= 2:
            R = np.array(self.residuals).T
            system = np.vstack([R, np.sqrt(self.eps) * np.eye(R.shape[1])])
            c, *_ = np.linalg.lstsq(system, np.concatenate([x, np.zeros(R.shape[1])]), rcond=None)
            step = R @ c
            self.mixed += 1
        self.residuals = [*self.residuals, x][-self.anderson_m :] if self.anderson_m else []
        self.previous = g
        self.w = self.w + step.reshape(self.w.shape)


@pytest.mark.parametrize(
    "settings",
    [{}, {"lr": 0.1, "beta": 0.5}, {"lr": 0.05, "anderson_m": 2}, {"anderson_m": 1}, {"anderson_m": 0, "beta": 0.3}],
)
def test_anderson_gda_matches_the_formulas(settings):
    generator = np.random.default_rng(14)
    references = [Reference(generator.standard_normal(shape), **settings) for shape in SHAPES]
    parameters = [torch.nn.Parameter(torch.tensor(reference.w)) for reference in references]
    optimizer = AndersonGDA(parameters, **settings)
    for _ in range(25):
        for w, reference in zip(parameters, references, strict=True):
            g = reference.w - 1 + 0.2 * generator.standard_normal(reference.w.shape)
            w.grad = torch.tensor(g)
            reference.step(g)
        optimizer.step()
        for w, reference in zip(parameters, references, strict=True):
            # The normal equations have the square of the condition number of the least-squares form.
            np.testing.assert_allclose(w.detach().numpy(), reference.w, rtol=1e-7, atol=1e-7)
    assert references[0].mixed == (23 if settings.get("anderson_m", 3) >= 2 else 0)


def test_anderson_gda_matches_three_steps_by_hand():
    # lr = 1, beta = 0.5, m = 2, eps = 1. g = (1, 0): x = (-1, 0), applied.
    # g = (1, 2): x = (-1, -2) - 0.5 (0, 2) = (-1, -3), applied.
    # g = (0, 2): x = (0, -2) - 0.5 (-1, 0) = (0.5, -2). R R^T + I = [[2, 1], [1, 11]], R x = (-0.5, 5.5):
    # c = (11 · -0.5 - 5.5, 2 · 5.5 + 0.5) / 21 = (-11, 11.5) / 21; step = (11 - 11.5, -34.5) / 21.
    w = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = AndersonGDA([w], lr=1.0, beta=0.5, anderson_m=2, eps=1.0)
    expected = [(-1.0, 0.0), (-2.0, -3.0), (-2.0 - 0.5 / 21, -3.0 - 34.5 / 21)]
    for g, value in zip([(1.0, 0.0), (1.0, 2.0), (0.0, 2.0)], expected, strict=True):
        w.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        assert w.tolist() == pytest.approx(value, rel=1e-13)


def test_an_unsolvable_system_applies_the_residual():
    x = torch.tensor([1.0, 2.0])
    assert torch.equal(mixed_step(x, torch.zeros(2, 2), eps=0.0), x)
    assert torch.equal(mixed_step(x, torch.full((2, 2), torch.nan), eps=1e-8), x)
