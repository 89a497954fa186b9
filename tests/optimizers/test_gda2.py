"""GDA2 against its formulas: worked by hand, and in numpy with the history as plain lists."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from bench.optimizers.gda2 import GDA2, coefficients, share, solve, transition_weights

SHAPES = [(), (5,), (4, 3), (2, 3, 2, 2)]


class Reference:
    """Section 3 of the definition, in float64, for one group; `hits` counts the branches taken."""

    def __init__(self, w, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, history_size=5, reg=1e-2):
        self.w = [x.copy() for x in w]
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.history_size, self.reg = history_size, reg
        self.nu, self.tau, self.interval, self.cos_shift, self.w_clip = 0.5, 1.5, 1, 0.1, (0.1, 10.0)
        self.m, self.v, self.t = [0 * x for x in w], [0 * x for x in w], [0 for _ in w]
        self.hits: Counter[str] = Counter()
        self.restart()

    def restart(self):
        self.k, self.f, self.g, self.applied = 0, [], [], []

    def step(self, gradients):
        """Gradients, None where a parameter has none; a changed set of these must be announced by `restart`."""
        present = [i for i, g in enumerate(gradients) if g is not None]
        b1, b2 = self.betas
        f = []
        for i in present:
            g = gradients[i]
            self.t[i] += 1
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            m_hat, v_hat = self.m[i] / (1 - b1 ** self.t[i]), self.v[i] / (1 - b2 ** self.t[i])
            f.append((-self.lr * m_hat / (np.sqrt(v_hat) + self.eps)).ravel())
        step = self.mix(np.concatenate(f), np.concatenate([gradients[i].ravel() for i in present]))
        for i in present:
            part, step = step[: self.w[i].size], step[self.w[i].size :]
            self.w[i] = self.w[i] * (1 - self.lr * self.weight_decay) + part.reshape(self.w[i].shape)

    def mix(self, f, g):
        self.k += 1
        self.f, self.g = [*self.f, f], [*self.g, g]
        applied = f
        if self.k > 1 and self.k % self.interval == 0:
            applied = self.anderson(f, g)
        self.applied = [*self.applied, applied]
        return applied

    def anderson(self, f, g):
        self.hits["mixing"] += 1
        norm = np.linalg.norm
        q = min(self.k - 1, self.history_size)
        newest = len(self.f) - 1
        transitions = range(newest - q + 1, newest + 1)  # j stands for the transition j - 1 -> j
        df = [self.f[j] - self.f[j - 1] for j in transitions]
        s = [self.applied[j - 1] for j in transitions]
        y = [self.g[j] - self.g[j - 1] for j in transitions]
        weights = []
        for a, b in zip(s, y, strict=True):
            cosine = a @ b / (norm(a) * norm(b))
            self.hits["weight at its floor"] += cosine + self.cos_shift <= 0
            self.hits["ratio clipped"] += not self.w_clip[0] < norm(a) / norm(b) < self.w_clip[1]
            weights.append(max(1e-8, max(0, cosine + self.cos_shift) * np.clip(norm(a) / norm(b), *self.w_clip)))
        w = np.array(weights) / np.mean(weights)
        kappa = np.mean([norm(b) / norm(a) for a, b in zip(s, y, strict=True)])
        matrix = np.array([[a @ b for b in df] for a in df]) + self.reg * (1 + self.nu * kappa) * np.diag(1 / w)
        theta = np.linalg.solve(matrix, np.array([a @ f for a in df]))
        c = sum(t * a for t, a in zip(theta, s, strict=True))
        if norm(c) > self.tau * norm(f):
            self.hits["trust region"] += 1
            c = c * self.tau * norm(f) / norm(c)
        if g @ (f - c) >= 0:
            self.hits["descent check"] += 1
            return f
        self.hits["mixed"] += 1
        return f - c


def gradients_of(w, generator, noise):
    """Those of an ill-conditioned quadratic with its optimum at 1, with noise."""
    scales = [np.linspace(0.1, 3.0, max(1, x.size)).reshape(x.shape) for x in w]
    return [s * (x - 1) + noise * generator.standard_normal(x.shape) for s, x in zip(scales, w, strict=True)]


STRONG = {"lr": 0.05, "reg": 1e-7, "nu": 2.0, "tau": 3.0, "cos_shift": -0.05, "w_clip": (0.2, 2.0), "history_size": 3}
CASES = {
    "default": {},
    "weak regularisation": {"lr": 0.02, "reg": 1e-6, "weight_decay": 0.1},
    "all branches": STRONG,
    "every third step": {**STRONG, "interval": 3},
    "one transition": {**STRONG, "history_size": 1},
}


def pair_of(settings, seed=0):
    generator = np.random.default_rng(seed)
    start = [generator.standard_normal(shape) * np.ones(shape) for shape in SHAPES]
    parameters = [torch.nn.Parameter(torch.tensor(x, dtype=torch.float64)) for x in start]
    reference = Reference([np.asarray(x) for x in start])
    for name, value in settings.items():
        setattr(reference, name, value)
    return parameters, GDA2(parameters, **settings), reference, generator


def set_gradients(parameters, gradients):
    for w, g in zip(parameters, gradients, strict=True):
        w.grad = None if g is None else torch.tensor(np.asarray(g), dtype=w.dtype)


def assert_close(parameters, reference, rtol):
    for w, expected in zip(parameters, reference.w, strict=True):
        np.testing.assert_allclose(w.detach().numpy(), expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_gda2_matches_the_formulas(settings):
    parameters, optimizer, reference, generator = pair_of(settings)
    for _ in range(40):
        gradients = gradients_of(reference.w, generator, noise=0.3)
        set_gradients(parameters, gradients)
        optimizer.step()
        reference.step(gradients)
        # Float64 rounding, amplified by 40 steps of a system regularised by as little as 1e-7.
        assert_close(parameters, reference, rtol=1e-11)
    assert reference.hits["mixing"] == (13 if settings.get("interval") == 3 else 39)
    assert reference.hits["mixed"] > 0
    if settings == STRONG:
        assert all(reference.hits[x] for x in ("trust region", "descent check", "weight at its floor", "ratio clipped"))


def test_gda2_in_float32_stays_near_the_formulas():
    parameters, optimizer, reference, generator = pair_of({})
    parameters = [torch.nn.Parameter(w.detach().float()) for w in parameters]
    optimizer = GDA2(parameters)
    for _ in range(40):
        gradients = gradients_of(reference.w, generator, noise=0.3)
        set_gradients(parameters, gradients)
        optimizer.step()
        reference.step(gradients)
    assert_close(parameters, reference, rtol=1e-6)


def test_gda2_matches_two_steps_by_hand():
    # b1 = 0.5, b2 = 0, eps = 0, lr = 0.9; g = 1, then 3.
    # k = 1: f = -0.9, applied. k = 2: m̂ = 1.75 / 0.75 = 7/3, sqrt(v̂) = 3, f = -0.9 · 7/9 = -0.7.
    # F = 0.2, s = -0.9, y = 2; one transition has weight 1; kappa = 2 / 0.9; lambda = 0.05 (1 + 0.5 · 20/9) = 0.95/9.
    # theta = 0.2 · (-0.7) / (0.04 + 0.95/9); c = -0.9 theta = 0.8656... <= 1.5 · 0.7; f - c = -1.5656..., downhill.
    w = torch.nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
    optimizer = GDA2([w], lr=0.9, betas=(0.5, 0.0), eps=0.0, reg=0.05, nu=0.5)
    for g in (1.0, 3.0):
        w.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
    assert w.item() == pytest.approx(-0.9 - 0.7 - 0.9 * 0.14 / (0.04 + 0.95 / 9), rel=1e-12)


def test_transition_weights_by_hand():
    # s = (1, 0), y = (2, 0): cos 1, ratio 0.5: 1.1 · 0.5 = 0.55. s = (0, 3), y = (0.1, 0): cos 0, ratio 30 -> 10: 1.0.
    # s = (1, 0), y = (-1, 0): cos -1: 1e-8. Their mean is 1.55 / 3 to 1e-8; curvature (2 + 1/30 + 1) / 3.
    S = torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 0.0]], dtype=torch.float64)
    Y = torch.tensor([[2.0, 0.0], [0.1, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    products = (S * S).sum(1), (S * Y).sum(1), (Y * Y).sum(1)
    weight, curvature = transition_weights(*products, cos_shift=0.1, w_clip=(0.1, 10.0))
    expected = torch.tensor([0.55, 1.0, 1e-8], dtype=torch.float64) / ((1.55 + 1e-8) / 3)
    torch.testing.assert_close(weight, expected, rtol=1e-12, atol=0)
    assert curvature.item() == pytest.approx((2 + 1 / 30 + 1) / 3, rel=1e-12)


def test_solve_adds_a_ridge_to_a_singular_system_alone():
    b = torch.tensor([1.0, 2.0], dtype=torch.float64)
    zero, regular = torch.zeros(2, 2, dtype=torch.float64), torch.diag(torch.tensor([2.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(solve(zero, b), b * 1e6, rtol=1e-12, atol=0)
    assert torch.equal(solve(regular, b), torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_coefficients_that_are_not_finite_give_way_to_none():
    pair = torch.ones(2)
    history = {"FF": torch.full((2, 2), torch.nan), "ss": pair, "sy": pair, "yy": pair}
    settings = {"reg": 1e-2, "nu": 0.5, "cos_shift": 0.1, "w_clip": (0.1, 10.0)}
    assert torch.equal(coefficients(history, pair, 2, settings), torch.zeros(2))


@pytest.mark.parametrize(
    ("cc", "gc", "expected"),
    # |f| = 2 and tau = 1.5, so that c may be 3 long; f · g = -4.
    [(4.0, 1.0, 1.0), (36.0, 1.0, 0.5), (4.0, -4.0, 0.0), (36.0, -7.0, 0.5), (torch.nan, torch.nan, 0.0)],
    ids=["whole", "shortened", "uphill", "downhill once shortened", "not finite"],
)
def test_the_share_of_the_correction_by_hand(cc, gc, expected):
    factor = share(torch.tensor(cc), torch.tensor(gc), torch.tensor(4.0), torch.tensor(-4.0), tau=1.5)
    assert factor.item() == expected


def test_another_set_of_gradients_restarts_the_history_and_keeps_the_moments():
    parameters, optimizer, reference, generator = pair_of(STRONG)
    missing = {6: 0, 7: 0, 8: 0, 14: 2}  # step -> the parameter without a gradient
    previous = None
    for step in range(24):
        gradients = gradients_of(reference.w, generator, noise=0.3)
        if step in missing:
            gradients[missing[step]] = None
        if missing.get(step) != previous:
            reference.restart()
        previous = missing.get(step)
        set_gradients(parameters, gradients)
        optimizer.step()
        reference.step(gradients)
        assert_close(parameters, reference, rtol=1e-11)
        assert sum("history" in optimizer.state[w] for w in parameters if w in optimizer.state) == 1
    assert reference.hits["mixed"] > 0


def test_without_history_gda2_is_adamw():
    parameters, _, reference, generator = pair_of({})
    twins = [torch.nn.Parameter(w.detach().clone()) for w in parameters]
    optimizers = (
        GDA2(parameters, lr=0.01, weight_decay=0.1, history_size=0),
        torch.optim.AdamW(twins, lr=0.01, weight_decay=0.1),
    )
    for _ in range(20):
        gradients = gradients_of(reference.w, generator, noise=1.0)
        set_gradients(parameters, gradients)
        set_gradients(twins, gradients)
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(parameters, twins, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_group_of_two_dtypes_is_refused():
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))]
    with pytest.raises(ValueError, match=r"GDA2: one group holds parameters of .*float32.*float64.*one dtype"):
        GDA2(parameters)
    groups = [{"params": [w]} for w in parameters]
    assert len(GDA2(groups).param_groups) == 2
