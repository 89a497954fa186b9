"""CustomAdam: the formula by hand, and the bits of torch.optim.Adam."""

from __future__ import annotations

import pytest
import torch

from bench.optimizers.custom_adam import CustomAdam

SHAPES = [(), (7,), (6, 5), (3, 2, 4), (2, 3, 3, 3)]


def test_custom_adam_matches_two_steps_by_hand():
    # b1 = 0.5, b2 = 0.75, eps = 0, lr = 0.1, no decay.
    # t = 1, g = 2: m = 1, v = 1; m̂ = 1 / 0.5 = 2, v̂ = 1 / 0.25 = 4; step 0.1 · 2 / 2 = 0.1.
    # t = 2, g = -1: m = 0.5 - 0.5 = 0, so the step is 0 whatever v.
    # t = 3, g = 3: m = 1.5, v = 0.75 (0.75 + 0.25) + 2.25 = 3; m̂ = 1.5 / 0.875, v̂ = 3 / (1 - 0.421875).
    w = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = CustomAdam([w], lr=0.1, betas=(0.5, 0.75), eps=0.0)
    expected = [0.9, 0.9, 0.9 - 0.1 * (1.5 / 0.875) / (3 / 0.578125) ** 0.5]
    for g, value in zip([2.0, -1.0, 3.0], expected, strict=True):
        w.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        assert w.item() == pytest.approx(value, rel=1e-14)


def test_custom_adam_couples_its_decay():
    # g = 0, wd = 0.5, w = 4: the gradient is 2, and a first step of Adam has the length lr.
    w = torch.nn.Parameter(torch.tensor([4.0], dtype=torch.float64))
    w.grad = torch.zeros(1, dtype=torch.float64)
    CustomAdam([w], lr=0.1, eps=0.0, weight_decay=0.5).step()
    assert w.item() == pytest.approx(3.9, rel=1e-14)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"betas": (0.8, 0.95), "eps": 1e-3, "lr": 0.03}])
def test_custom_adam_has_the_bits_of_torch_adam(settings):
    generator = torch.Generator().manual_seed(1)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(w.detach().clone()) for w in ours]
    optimizers = CustomAdam(ours, **settings), torch.optim.Adam(theirs, **settings, fused=True)
    for step in range(400):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator) * 10.0 ** (step % 5 - 3)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] *= 0.999
            optimizer.step()
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b), f"step {step + 1}"
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(optimizers[0].state[a]["exp_avg"], optimizers[1].state[b]["exp_avg"])
        assert torch.equal(optimizers[0].state[a]["exp_avg_sq"], optimizers[1].state[b]["exp_avg_sq"])
