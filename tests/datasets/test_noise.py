"""Counter-based noise: the published generator, the right distributions, and the same bits in any order."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.datasets import noise

SEEDED = settings(derandomize=True, deadline=None, database=None, max_examples=50)
MASK = (1 << 64) - 1
PARTS = st.lists(st.integers(-(1 << 63), (1 << 64) - 1), min_size=1, max_size=4)


def splitmix64(state: int, count: int) -> list[int]:
    """The generator as published, on Python's integers."""
    outputs = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        outputs.append(z ^ (z >> 31))
    return outputs


def words(key: int, count: int) -> list[int]:
    return [word & MASK for word in noise._words(torch.tensor([key]), count)[0].tolist()]


def test_stream_of_key_0_is_splitmix64_seeded_0():
    assert words(0, 3) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@SEEDED
@given(key=st.integers(-(1 << 63), (1 << 63) - 1), count=st.integers(1, 40))
def test_stream_of_any_key_is_splitmix64_seeded_with_it(key: int, count: int):
    assert words(key, count) == splitmix64(key & MASK, count)


@SEEDED
@given(parts=PARTS, index=st.integers(0, 1 << 40))
def test_key_folds_its_parts_in_order_and_then_the_index(parts: list[int], index: int):
    def mix(x: int) -> int:
        return splitmix64(x - 0x9E3779B97F4A7C15, 1)[0]

    key = 0
    for part in parts:
        key = splitmix64(key + part, 1)[0]
    expected = mix(splitmix64(key, 1)[0] + index)
    assert noise.sample_keys(*parts, indices=torch.tensor([index])).tolist() == [noise._int64(expected)]


@SEEDED
@given(parts=PARTS, order=st.permutations(range(12)), batch=st.integers(1, 12), n=st.integers(1, 9))
def test_sample_has_the_same_bits_alone_in_any_order_and_in_any_batch(
    parts: list[int], order: list[int], batch: int, n: int
):
    indices = torch.tensor(order)
    batches = [noise.sample_keys(*parts, indices=part) for part in indices.split(batch)]
    draws = {
        "normal": lambda keys: noise.normal(keys, n, 2),
        "uniform": lambda keys: noise.uniform(keys, n),
        "integers": lambda keys: noise.integers(keys, n, 1000),
    }
    for draw in draws.values():
        together = torch.cat([draw(keys) for keys in batches])
        for row, index in enumerate(order):
            alone = draw(noise.sample_keys(*parts, indices=torch.tensor([index])))
            torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=0)


@SEEDED
@given(n=st.integers(1, 50), more=st.integers(0, 50))
def test_shorter_draw_is_the_beginning_of_a_longer_one(n: int, more: int):
    keys = noise.sample_keys(3, indices=torch.arange(4))
    torch.testing.assert_close(noise.normal(keys, n + more)[:, :n], noise.normal(keys, n), rtol=0, atol=0)
    torch.testing.assert_close(noise.uniform(keys, n + more)[:, :n], noise.uniform(keys, n), rtol=0, atol=0)


@SEEDED
@given(parts=PARTS, other=PARTS)
def test_different_parts_give_different_keys(parts: list[int], other: list[int]):
    same = [p & MASK for p in parts] == [p & MASK for p in other]
    indices = torch.arange(64)
    shared = set(noise.sample_keys(*parts, indices=indices).tolist()) & set(
        noise.sample_keys(*other, indices=indices).tolist()
    )
    assert len(shared) == (64 if same else 0)


def test_order_and_number_of_parts_matter():
    indices = torch.arange(1000)
    keys = [noise.sample_keys(*parts, indices=indices) for parts in [(), (0,), (0, 0), (1, 2), (2, 1), (1, 2, 0)]]
    assert len(torch.cat(keys).unique()) == 6000


def test_mix_is_one_to_one_on_consecutive_integers():
    assert len(noise.mix(torch.arange(-50_000, 50_000)).unique()) == 100_000


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state(), repr(np.random.get_state())
    noise.normal(noise.sample_keys(1, indices=torch.arange(3)), 5)
    torch.testing.assert_close(torch.get_rng_state(), before[0], rtol=0, atol=0)
    assert repr(np.random.get_state()) == before[1]


# Moments of a million seeded draws; the tolerance is five standard errors of each.
DRAWS = 1_000_000
KEYS = noise.sample_keys(11, 5, indices=torch.arange(1000))


@pytest.mark.parametrize(("power", "moment", "variance"), [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)])
def test_normal_has_the_moments_of_a_standard_normal(power: int, moment: float, variance: float):
    x = noise.normal(KEYS, 1000).to(torch.float64)
    assert abs(x.pow(power).mean().item() - moment) < 5 * math.sqrt(variance / DRAWS)


def test_normal_has_the_distribution_of_a_standard_normal():
    x = noise.normal(KEYS, 1000).flatten().numpy().astype(np.float64)
    assert stats.kstest(x[:100_000], "norm").pvalue > 0.001
    assert np.abs(x).max() < 4.33


def test_quantile_table_is_symmetric_and_of_unit_variance():
    table = noise._quantiles(torch.device("cpu")).to(torch.float64)
    torch.testing.assert_close(table, -table.flip(0), rtol=1e-6, atol=0)  # float32 rounding
    assert abs(table.square().mean().item() - 1) < 1e-4  # cells' midpoints lose a little of the tails


def test_uniform_is_uniform_on_0_to_1():
    x = noise.uniform(KEYS, 100).flatten().numpy()
    assert x.dtype == np.float64
    assert x.min() >= 0
    assert x.max() < 1
    assert stats.kstest(x, "uniform").pvalue > 0.001


@SEEDED
@given(high=st.integers(1, 1 << 53))
def test_largest_uniform_stays_below_any_high(high: int):
    assert int((1 - 2.0**-53) * high) < high


def test_integers_are_uniform():
    counts = torch.bincount(noise.integers(KEYS, 100, 7).flatten(), minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts.numpy()).pvalue > 0.001


def test_neighbouring_samples_epochs_and_draws_are_uncorrelated():
    indices = torch.arange(1000)
    first, second = (noise.normal(noise.sample_keys(0, epoch, indices=indices), 100) for epoch in (1, 2))
    pairs = [(first, second), (first[:-1], first[1:]), (first[:, :-1], first[:, 1:])]
    for x, y in pairs:
        r = np.corrcoef(x.flatten().numpy(), y.flatten().numpy())[0, 1]
        assert abs(r) < 5 / math.sqrt(x.numel())


@pytest.mark.parametrize("shape", [(5,), (3, 7), (3, 64, 64)])
def test_add_normal_equals_the_plain_sum(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    keys = noise.sample_keys(4, indices=torch.arange(23))
    x = torch.linspace(-1, 1, 23 * math.prod(shape)).view(23, *shape)
    plain = x + 0.1 * noise.normal(keys, *shape)
    for at_once in (1, 5 * math.prod(shape) + 1, 1 << 30):
        monkeypatch.setattr(noise, "CACHED_VARIATES", at_once)
        torch.testing.assert_close(noise.add_normal_(x.clone(), keys, 0.1), plain, rtol=0, atol=0)


def test_add_normal_works_in_place_and_on_no_samples():
    keys = noise.sample_keys(4, indices=torch.arange(2))
    x = torch.zeros(2, 3)
    assert noise.add_normal_(x, keys, 1.0) is x
    torch.testing.assert_close(x, noise.normal(keys, 3), rtol=0, atol=0)
    assert noise.add_normal_(torch.zeros(0, 3), keys[:0], 1.0).shape == (0, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_bits_are_the_same_on_a_cuda_device():
    indices = torch.arange(50)
    here, there = (noise.sample_keys(1, -2, 3, indices=indices.to(device)) for device in ("cpu", "cuda"))
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=0)
    torch.testing.assert_close(noise.normal(there, 77).cpu(), noise.normal(here, 77), rtol=0, atol=0)
    torch.testing.assert_close(noise.uniform(there, 77).cpu(), noise.uniform(here, 77), rtol=0, atol=0)
    torch.testing.assert_close(noise.integers(there, 77, 1000).cpu(), noise.integers(here, 77, 1000), rtol=0, atol=0)
    x = torch.linspace(0, 1, 50 * 64).view(50, 64)
    added = noise.add_normal_(x.cuda(), there, 0.1).cpu()
    torch.testing.assert_close(added, noise.add_normal_(x.clone(), here, 0.1), rtol=0, atol=0)
