"""M3: the formula by hand, the orthogonalisation, and what happens at the end of a chunk."""

from __future__ import annotations

import io
import math

import pytest
import torch

from bench.optimizers.m3 import M3, SPEC, orthogonalised
from bench.spec import Role, RoledParameter


def test_m3_matches_five_steps_by_hand():
    # lr = 0.1, betas = (0.5, 0.25, 0.5), alpha = 0.5, chunk = 2, eps = 0, g = 2, -2, 4, 4, 2.
    # t  M1  V   sum      M2   step = 0.1 (M1 + M2 / 2) / sqrt(V)
    # 1  1   1   2        0    0.1
    # 2  0   2   0 -> 0   0    0
    # 3  2   6   4        0    0.2 / sqrt(6)
    # 4  4   10  8 -> 0   4    0.6 / sqrt(10)
    # 5  5   11  2        4    0.7 / sqrt(11)
    w = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = M3([w], lr=0.1, betas=(0.5, 0.25, 0.5), alpha=0.5, chunk=2, eps=0.0)
    expected = 1.0
    steps = [0.1, 0.0, 0.2 / math.sqrt(6), 0.6 / math.sqrt(10), 0.7 / math.sqrt(11)]
    for g, step in zip([2.0, -2.0, 4.0, 4.0, 2.0], steps, strict=True):
        w.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        expected -= step
        assert w.item() == pytest.approx(expected, rel=1e-14)


def test_an_iteration_is_the_quintic_of_the_singular_values():
    # diag(3, 4) has norm 5: x = 0.6, 0.8. One iteration: 3.4445 x - 4.775 x³ + 2.0315 x⁵
    # = 2.0667 - 1.0314 + 0.1579694 = 1.1932694 (0.6); 2.7556 - 2.4448 + 0.6656819 = 0.9764819 (0.8).
    expected = torch.tensor([1.1932694, 0.9764819], dtype=torch.float64)
    once = orthogonalised(torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64), steps=1)
    torch.testing.assert_close(once.diagonal(), expected, rtol=0, atol=1e-6)
    assert once[0, 1] == once[1, 0] == 0


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6), (1, 4)])
def test_enough_iterations_are_nearly_orthogonal(shape):
    M = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    singular = torch.linalg.svdvals(orthogonalised(M, steps=8))
    assert 0.6 < singular.min() <= singular.max() < 1.3  # Muon's coefficients aim at a band around 1
    torch.testing.assert_close(orthogonalised(M.T, steps=3), orthogonalised(M, steps=3).T)
    assert torch.equal(orthogonalised(torch.zeros(3, 4), steps=3), torch.zeros(3, 4))


def step_of(w, **settings):
    w = torch.nn.Parameter(w)
    before = w.detach().clone()
    optimizer = M3([w], lr=1.0, **settings)
    w.grad = torch.full_like(w, 3.0)
    optimizer.step()
    return before - w.detach()


def test_only_matrices_are_orthogonalised_and_only_where_the_group_says_so():
    # All entries 3: one singular value, hence NS(M1) = q / sqrt(6) with q the quintic iterated from 1; V = 9 · 0.999.
    q = 1.0
    for _ in range(3):
        q = 3.4445 * q - 4.775 * q**3 + 2.0315 * q**5
    denominator = 3 * math.sqrt(0.999)
    matrix = step_of(torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(matrix, torch.full_like(matrix, q / math.sqrt(6) / denominator), rtol=1e-7, atol=0)
    for other in (
        step_of(torch.zeros(6, dtype=torch.float64)),
        step_of(torch.zeros(1, 2, 3, dtype=torch.float64)),
        step_of(torch.zeros(2, 3, dtype=torch.float64), orthogonalise=False),
    ):
        torch.testing.assert_close(other, torch.full_like(other, 0.9 * 3 / denominator), rtol=1e-7, atol=0)


def test_the_entry_orthogonalises_hidden_matrices():
    roles = [Role.HIDDEN_MATRIX, Role.EMBEDDING, Role.BIAS]
    roled = [RoledParameter(name=r, parameter=torch.nn.Parameter(torch.zeros(2, 2)), role=r) for r in roles]
    groups = SPEC.build(roled, SPEC.defaults).param_groups
    assert [(len(group["params"]), group["orthogonalise"]) for group in groups] == [(1, True), (2, False)]


@pytest.mark.parametrize("steps", [3, 4, 5])
def test_a_run_is_resumed_before_at_and_after_the_end_of_a_chunk(steps):
    def parameters():
        generator = torch.Generator().manual_seed(0)
        return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(4, 3), (5,), ()]]

    def run(optimizer, parameters, steps):
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for w in parameters:
                w.grad = torch.randn(w.shape, generator=generator)
            optimizer.step()

    whole, parts = parameters(), parameters()
    run(M3(whole, lr=0.01, chunk=4), whole, range(10))
    first = M3(parts, lr=0.01, chunk=4)
    run(first, parts, range(steps))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = M3(parts, lr=0.01, chunk=4)
    second.load_state_dict(torch.load(file, weights_only=True))
    run(second, parts, range(steps, 10))
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1}, "M3: lr is -1"),
        ({"betas": (0.9, 0.999)}, r"M3: betas is \(0.9, 0.999\); allowed: 3 finite"),
        ({"betas": (0.9, -1, 0.9)}, r"M3: betas is \(0.9, -1, 0.9\)"),
        ({"alpha": "1"}, "M3: alpha is '1'"),
        ({"ns_steps": 2.5}, "M3: ns_steps is 2.5"),
        ({"chunk": 0}, "M3: chunk is 0"),
        ({"orthogonalise": None}, "M3: orthogonalise is None"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        M3([torch.nn.Parameter(torch.zeros(2, 2))], **settings)
