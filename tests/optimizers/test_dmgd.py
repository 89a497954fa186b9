"""DMGD: the step by hand, the network against autograd, and one network a tensor."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from bench.optimizers.dmgd import DMGD, HIDDEN, dmgd_, gates_, initial_mlp


def float64(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def test_dmgd_matches_a_step_by_hand():
    # m = 4, beta = 0.5, g = 2, s = 0.5: u = 2 + 1 = 3; lr = 0.1: w = 1 - 0.3.
    w, g, m, s = float64(1.0, 2.0, 4.0, 0.5)
    dmgd_(w, g, m, s, lr=0.1, beta=0.5, signed_sqrt=False)
    assert (w.item(), m.item()) == (pytest.approx(0.7, rel=1e-14), 3.0)


@pytest.mark.parametrize(("m", "u", "w"), [(-10.0, -4.0, 1.2), (6.0, 4.0, 0.8), (-2.0, 0.0, 1.0)])
def test_the_signed_square_root_is_of_the_step_and_not_of_the_momentum(m, u, w):
    # beta = 0.5, g = 2, s = 0.5: u = m / 2 + 1; lr = 0.1: w = 1 - 0.1 sign(u) sqrt|u|.
    weight, g, momentum, s = float64(1.0, 2.0, m, 0.5)
    dmgd_(weight, g, momentum, s, lr=0.1, beta=0.5, signed_sqrt=True)
    assert momentum.item() == u
    assert weight.item() == pytest.approx(w, rel=1e-14)


def test_the_network_is_trained_as_autograd_would():
    """Three tensors, each with its own network, over five steps; the same formulas differentiated by torch."""
    mlps = torch.stack([initial_mlp(seed) for seed in range(3)])
    networks = []
    for row in mlps:
        network = torch.nn.Sequential(torch.nn.Linear(1, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, 1)).double()
        torch.nn.utils.vector_to_parameters(row.clone(), network.parameters())
        networks.append(network)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        mean, target = torch.randn(2, 3, generator=generator, dtype=torch.float64).unbind()
        s = gates_(mlps, mean, target.abs(), mlp_lr=0.1)
        for i, network in enumerate(networks):
            expected = torch.nn.functional.softplus(network(mean[i].view(1, 1))).squeeze()
            torch.testing.assert_close(s[i], expected, rtol=1e-12, atol=1e-12)
            gradients = torch.autograd.grad((expected - target[i].abs()).square(), list(network.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
            after = torch.nn.utils.parameters_to_vector(network.parameters())
            torch.testing.assert_close(mlps[i], after, rtol=1e-12, atol=1e-12)


def test_the_gate_learns_the_size_of_the_gradient():
    w = torch.nn.Parameter(torch.zeros(4))
    optimizer = DMGD([w], lr=1e-3, mlp_lr=0.1)
    g = torch.tensor([0.5, -0.25, 0.125, 0.125])  # mean 0.125, mean of absolute values 0.25
    for _ in range(3000):
        w.grad = g.clone()
        optimizer.step()
    # m = s g / (1 - beta) in the end
    assert (optimizer.state[w]["momentum_buffer"][0] * 0.1 / 0.5).item() == pytest.approx(0.25, rel=1e-2)


def parameters_of(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(), (5,), (3, 4), (0, 3)]]


def run(optimizer, parameters, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(100 + step)
        for w in parameters:
            w.grad = torch.randn(w.shape, generator=generator)
        optimizer.step()


def test_networks_are_resumed_bit_for_bit_also_for_a_tensor_that_comes_late():
    whole, parts = parameters_of(), parameters_of()
    optimizer, first = DMGD(whole, seed=7), DMGD(parts, seed=7)
    for each, parameters in ((optimizer, whole), (first, parts)):
        run(each, parameters[:2], range(6))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = DMGD(parts, seed=1)  # the saved seed replaces it
    second.load_state_dict(torch.load(file, weights_only=True))
    run(optimizer, whole, range(6, 12))
    run(second, parts, range(6, 12))
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(optimizer.state[a]["mlp"], second.state[b]["mlp"])


def test_the_generator_is_the_optimizers_own():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(initial_mlp(3), initial_mlp(3)) and not torch.equal(initial_mlp(3), initial_mlp(4))
    assert torch.equal(torch.get_rng_state(), before)
    bound = torch.cat([torch.ones(2 * HIDDEN), torch.full((HIDDEN + 1,), HIDDEN**-0.5)])
    assert (initial_mlp(5).abs() <= bound).all()


def test_a_copy_has_its_own_networks():
    parameters = parameters_of()
    optimizer = DMGD(parameters)
    run(optimizer, parameters, range(3))
    others, other = copy.deepcopy((parameters, optimizer))
    before = optimizer.state[parameters[1]]["mlp"].clone()
    run(other, others, range(3, 6))
    assert torch.equal(optimizer.state[parameters[1]]["mlp"], before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1}, "DMGD: lr is -1"),
        ({"beta": 1.0}, "DMGD: beta is 1.0"),
        ({"mlp_lr": float("nan")}, "DMGD: mlp_lr is nan"),
        ({"signed_sqrt": 1}, "DMGD: signed_sqrt is 1"),
        ({"seed": -3}, "DMGD: seed is -3"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DMGD(parameters_of(), **settings)
