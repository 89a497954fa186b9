"""UniversalAndersonGDA against its formulas: worked by hand, and in numpy with the history as plain lists."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from bench.optimizers.universal_anderson_gda import UniversalAndersonGDA, coefficients, pair_weights

SHAPES = [(), (5,), (4, 3), (2, 3, 2, 2)]


class Reference:
    """Section 5 of the definition, in float64, for one tensor; `hits` counts the branches taken."""

    def __init__(self, w):
        self.w = np.array(w, dtype=np.float64)
        self.lr, self.betas, self.eps, self.weight_decay = 1e-3, (0.9, 0.999), 1e-8, 0.0
        self.anderson_m, self.anderson_reg, self.trust_region, self.use_weighting = 3, 1e-3, 1.5, True
        self.m, self.v, self.t = 0 * self.w, 0 * self.w, 0
        self.history: list[tuple[np.ndarray, np.ndarray]] = []
        self.hits: Counter[str] = Counter()

    def step(self, g):
        b1, b2 = self.betas
        self.t += 1
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        f = -self.lr * (self.m / (1 - b1**self.t)) / (np.sqrt(self.v / (1 - b2**self.t)) + self.eps)
        f, flat_g = np.ravel(f), np.ravel(g)
        mixes = self.anderson_m > 0 and self.t > 1 and len(self.history) >= 2
        step = self.anderson(f, flat_g) if mixes else f
        self.history = [*self.history, (flat_g, step)][-(self.anderson_m + 1) :]
        self.w = self.w * (1 - self.lr * self.weight_decay) + step.reshape(self.w.shape)

    def weight(self, r, y):
        r_norm, y_norm = np.linalg.norm(r), np.linalg.norm(y)
        if r_norm <= 1e-8 or y_norm <= 1e-8:
            self.hits["small norm"] += 1
            return 1e-8
        self.hits["negative cosine"] += r @ y <= 0
        self.hits["ratio clipped"] += not 0.1 < r_norm / y_norm < 10
        return max(1e-8, max(0, r @ y / (r_norm * y_norm)) * np.clip(r_norm / y_norm, 0.1, 10))

    def anderson(self, f, g):
        self.hits["mixing"] += 1
        q = min(len(self.history) - 1, self.anderson_m)
        pairs = list(zip(self.history[-q - 1 :], self.history[-q:], strict=False))  # oldest first
        R = np.array([new[1] - old[1] for old, new in pairs])
        Y = np.array([new[0] - old[0] for old, new in pairs])
        ridge = np.ones(q)
        if self.use_weighting:
            w = np.array([self.weight(r, y) for r, y in zip(R, Y, strict=True)])
            ridge = 1 / (w / (np.mean(w) + 1e-8) + 1e-8)
        theta = np.linalg.solve(R @ R.T + self.anderson_reg * np.diag(ridge), R @ (f - self.history[-1][1]))
        c = theta @ R
        c_norm, f_norm = np.linalg.norm(c), np.linalg.norm(f)
        if c_norm > self.trust_region * f_norm and f_norm > 1e-8:
            self.hits["trust region"] += 1
            c = c * self.trust_region * f_norm / c_norm
        if g @ (f - c) >= 0:
            self.hits["descent check"] += 1
            return f
        self.hits["mixed"] += 1
        return f - c


STRONG: dict[str, Any] = {"lr": 0.05, "anderson_reg": 1e-7}
CASES = {
    "default": {},
    "no weighting": {"use_weighting": False, "anderson_reg": 1e-4},
    "all branches": STRONG,
    "decay and a short trust region": {**STRONG, "weight_decay": 0.1, "trust_region": 0.5, "anderson_m": 2},
    "one pair": {**STRONG, "anderson_m": 1},
    "no history": {"anderson_m": 0},
}


def start(settings, seed=0):
    generator = np.random.default_rng(seed)
    references = [Reference(generator.standard_normal(shape)) for shape in SHAPES]
    for reference in references:
        for name, value in settings.items():
            setattr(reference, name, value)
    parameters = [torch.nn.Parameter(torch.tensor(reference.w)) for reference in references]
    return parameters, references, generator


def gradient_at(reference, generator):
    """That of an ill-conditioned quadratic with its optimum at 1, with noise."""
    scale = np.linspace(0.1, 3.0, max(1, reference.w.size)).reshape(reference.w.shape)
    return scale * (reference.w - 1) + 0.3 * generator.standard_normal(reference.w.shape)


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_universal_anderson_gda_matches_the_formulas(settings):
    parameters, references, generator = start(settings)
    optimizer = UniversalAndersonGDA(parameters, **settings)
    for _ in range(40):
        for w, reference in zip(parameters, references, strict=True):
            g = gradient_at(reference, generator)
            w.grad = torch.tensor(g)
            reference.step(g)
        optimizer.step()
        for w, reference in zip(parameters, references, strict=True):
            # Float64 rounding, amplified by systems regularised by as little as 1e-7.
            np.testing.assert_allclose(w.detach().numpy(), reference.w, rtol=1e-10, atol=1e-10)
    hits = sum((reference.hits for reference in references), Counter())
    assert hits["mixing"] == (0 if settings.get("anderson_m") == 0 else 38 * len(SHAPES))
    if settings == STRONG:
        branches = ("trust region", "descent check", "mixed", "negative cosine", "ratio clipped")
        assert all(hits[branch] > 0 for branch in branches), hits


def test_constant_gradients_take_the_branch_of_small_norms():
    w = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer, reference = UniversalAndersonGDA([w]), Reference(np.ones(4))
    for _ in range(20):
        w.grad = torch.full((4,), 0.25, dtype=torch.float64)
        optimizer.step()
        reference.step(np.full(4, 0.25))
    assert reference.hits["small norm"] > 0
    np.testing.assert_allclose(w.detach().numpy(), reference.w, rtol=1e-12)


def test_universal_anderson_gda_in_float32_stays_near_the_formulas():
    parameters, references, generator = start({})
    parameters = [torch.nn.Parameter(w.detach().float()) for w in parameters]
    optimizer = UniversalAndersonGDA(parameters)
    for _ in range(40):
        for w, reference in zip(parameters, references, strict=True):
            g = gradient_at(reference, generator)
            w.grad = torch.tensor(g, dtype=torch.float32)
            reference.step(g)
        optimizer.step()
    for w, reference in zip(parameters, references, strict=True):
        np.testing.assert_allclose(w.detach().numpy(), reference.w, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("weighted", "tolerance"), [(False, 1e-13), (True, 1e-6)])
def test_universal_anderson_gda_matches_three_steps_by_hand(weighted, tolerance):
    # b1 = 0.5, b2 = 0, eps = 0, lr = 0.9, rho = 0.06; g = 1, 3, 1.
    # Steps 1 and 2 apply f = -0.9 and f = -0.9 · (1.75 / 0.75) / 3 = -0.7.
    # Step 3: m̂ = 1.375 / 0.875 = 11/7, f = -9.9/7. r = 0.2, y = 2: the one weight is 0.1 / (0.1 + 1e-8), 1 to 1e-7.
    # theta = 0.2 (f + 0.7) / (0.04 + 0.06) = -10/7; c = -2/7; f - c = -7.9/7, downhill.
    w = torch.nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
    optimizer = UniversalAndersonGDA([w], lr=0.9, betas=(0.5, 0.0), eps=0.0, anderson_reg=0.06, use_weighting=weighted)
    for g, value in ((1.0, -0.9), (3.0, -1.6), (1.0, -1.6 - 7.9 / 7)):
        w.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        assert w.item() == pytest.approx(value, rel=tolerance)


def test_pair_weights_by_hand():
    # cos 1, ratio 0.5: 0.5. cos 1, ratio 30 -> 10: 10. cos -1: 1e-8. A norm of 1e-9: 1e-8. Mean 10.50000002 / 4.
    r = torch.tensor([1.0, 3.0, 1.0, 1e-9], dtype=torch.float64)
    y = torch.tensor([2.0, 0.1, 1.0, 1.0], dtype=torch.float64)
    ry = torch.tensor([2.0, 0.3, -1.0, 1e-9], dtype=torch.float64)
    expected = torch.tensor([0.5, 10.0, 1e-8, 1e-8], dtype=torch.float64) / (10.50000002 / 4 + 1e-8)
    torch.testing.assert_close(pair_weights(r, y, ry), expected, rtol=1e-12, atol=0)


def test_an_unsolvable_system_leaves_its_neighbours_alone():
    A = torch.stack([torch.zeros(2, 2), torch.eye(2), torch.full((2, 2), torch.nan)])
    theta = coefficients(A, torch.ones(3, 2), 0.0)
    assert torch.equal(theta, torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))


def test_an_unsolvable_system_applies_the_base_step():
    # Without regularisation, a history of equal steps makes a zero matrix: lr = 0 gives such steps.
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = UniversalAndersonGDA([w], lr=0.0, anderson_reg=0.0, use_weighting=False)
    twin = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([twin], lr=0.0)
    for step in range(6):
        for each in (optimizer, adam):
            each.param_groups[0]["lr"] = 0.1 * (step == 5)
        w.grad = torch.tensor([1.0, -2.0, 3.0]) * (step + 1)
        twin.grad = w.grad.clone()
        optimizer.step()
        adam.step()
    assert (w != 1).all()
    torch.testing.assert_close(w, twin, rtol=1e-6, atol=0)


def test_tensors_do_not_see_each_other():
    """A tensor's bits are the same alone and in a group whose other tensors are older, younger or not finite."""
    together, _, generator = start(STRONG)
    alone = torch.nn.Parameter(together[2].detach().clone())
    optimizers = UniversalAndersonGDA(together, **STRONG), UniversalAndersonGDA([alone], **STRONG)
    for step in range(20):
        for position, w in enumerate(together):
            g = torch.tensor(generator.standard_normal(w.shape))
            w.grad = g.fill_(torch.nan) if position == 1 and step == 9 else g
            if (position == 2 and step < 3) or (position == 0 and step in (5, 6)):
                w.grad = None
        alone.grad = None if together[2].grad is None else together[2].grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(together[2], alone)
