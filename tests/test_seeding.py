"""Streams by role."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.seeding import batch_order, order_fingerprint, role_seed, torch_seeded, weights_fingerprint

ROLES = ("init", "order", "augmentation", "dropout", "optimizer")


@given(st.integers(0, 2**63 - 1))
def test_roles_have_streams_of_their_own(seed: int):
    seeds = [role_seed(seed, role) for role in ROLES]
    assert len(set(seeds)) == len(ROLES)
    assert seeds == [role_seed(seed, role) for role in ROLES]
    assert all(0 <= s < 2**63 for s in seeds)


def test_role_seeds_are_fixed_for_good():
    """Records depend on these numbers; a change of them is a change of every result."""
    assert [role_seed(0, role) for role in ROLES] == [
        4334430513956379144,
        2440950710608614359,
        8226343694796210948,
        6619194650426729951,
        8366031049750315900,
    ]


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(1, 200))
def test_batch_order_visits_every_sample_once(seed: int, epoch: int, samples: int):
    assert batch_order(seed, epoch, samples).sort().values.tolist() == list(range(samples))


def test_batch_order_differs_by_epoch_and_seed():
    orders = {tuple(batch_order(s, e, 50).tolist()) for s in range(3) for e in range(1, 4)}
    assert len(orders) == 9
    assert order_fingerprint(batch_order(0, 1, 50)) == order_fingerprint(batch_order(0, 1, 50))
    assert order_fingerprint(batch_order(0, 1, 50)) != order_fingerprint(batch_order(1, 1, 50))


def test_global_generator_is_put_back():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with torch_seeded(7):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with torch_seeded(7):
        assert torch.equal(torch.rand(3), first)


def test_weights_fingerprint_sees_values_names_and_buffers():
    model = torch.nn.BatchNorm1d(3)
    before = weights_fingerprint(model)
    assert model.running_mean is not None
    model.running_mean[0] = 1
    assert weights_fingerprint(model) != before
    model.running_mean[0] = 0
    assert weights_fingerprint(model) == before
