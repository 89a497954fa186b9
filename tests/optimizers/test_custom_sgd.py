"""CustomSGD: the formula by hand, and the bits of torch.optim.SGD."""

from __future__ import annotations

import pytest
import torch

from bench.optimizers.custom_sgd import CustomSGD


def test_custom_sgd_matches_two_steps_by_hand():
    # lr = 0.1, mu = 0.5, wd = 0.25. w = 4, g = 1: b = 1 + 1 = 2, w = 3.8.
    # g = 2: b = 0.5 · 2 + 2 + 0.95 = 3.95, w = 3.8 - 0.395 = 3.405.
    w = torch.nn.Parameter(torch.tensor(4.0, dtype=torch.float64))
    optimizer = CustomSGD([w], lr=0.1, momentum=0.5, weight_decay=0.25)
    for g, value in ((1.0, 3.8), (2.0, 3.405)):
        w.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        assert w.item() == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 0.1}])
def test_custom_sgd_has_the_bits_of_torch_sgd(settings):
    generator = torch.Generator().manual_seed(2)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(), (7,), (6, 5), (2, 3, 3, 3)]]
    theirs = [torch.nn.Parameter(w.detach().clone()) for w in ours]
    optimizers = CustomSGD(ours, lr=0.02, **settings), torch.optim.SGD(theirs, lr=0.02, **settings)
    for _ in range(200):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
