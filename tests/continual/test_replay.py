"""What a buffer keeps, and what joins a batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from bench.datasets.replay import buffer, replayed

LABELS = torch.arange(60) // 20  # three classes of twenty
ROWS = torch.arange(60) + 100


def of_first(row: int) -> Tensor:
    return torch.tensor([row])


@pytest.mark.parametrize(("size", "kept"), [(5, 5), (20, 20), (30, 20)])
def test_a_balanced_buffer_has_as_many_of_every_class(size: int, kept: int):
    found = buffer("balanced", LABELS, ROWS, size=size, classes=5, seed=0)
    assert found.shape == (3, kept)
    for label, rows in enumerate(found):
        assert len(rows.unique()) == kept and (LABELS[rows - 100] == label).all()
    assert not torch.equal(found, buffer("balanced", LABELS, ROWS, size=size, classes=5, seed=1))


def test_a_balanced_buffer_of_uneven_classes_has_as_many_as_the_smallest():
    assert buffer("balanced", LABELS[:45], ROWS[:45], size=9, classes=3, seed=0).shape == (3, 5)


@settings(max_examples=50)
@given(count=st.integers(0, 40), first=st.integers(0, 1000), epoch=st.integers(1, 50), seed=st.integers(0, 2**62))
def test_every_class_gives_as_many_or_one_more(count: int, first: int, epoch: int, seed: int):
    kept = buffer("balanced", LABELS, ROWS, size=5, classes=3, seed=seed)
    rows = replayed(kept, count, of_first(first), seed=seed, epoch=epoch)
    counts = torch.bincount(LABELS[rows - 100], minlength=3)
    assert len(rows) == count and counts.max() - counts.min() <= 1
    assert len(rows.unique()) == min(count, 15)  # twice only where the buffer has fewer
    assert torch.equal(rows, replayed(kept, count, of_first(first), seed=seed, epoch=epoch))


def test_other_batches_epochs_and_seeds_meet_other_samples():
    kept = buffer("balanced", LABELS, ROWS, size=20, classes=3, seed=0)
    drawn = {tuple(replayed(kept, 10, of_first(first), seed=seed, epoch=epoch).tolist())
             for first in range(4) for epoch in range(4) for seed in range(4)}  # fmt: skip
    assert len(drawn) == 64


def test_a_reservoir_is_a_uniform_sample():
    """Of 60 rows 12 are kept, 1,000 times: counts of sampling without replacement have the variance E (1 − 12/60)."""
    seeds, kept = 1000, 12
    counts = torch.zeros(60)
    for seed in range(seeds):
        rows = buffer("reservoir", LABELS, ROWS, size=4, classes=3, seed=seed)
        assert rows.shape == (1, kept) and len(rows.unique()) == kept
        counts[rows[0] - 100] += 1
    expected = seeds * kept / 60
    statistic = float(((counts - expected) ** 2).sum() / (expected * (1 - kept / 60))) * 59 / 60
    assert 0.001 < stats.chi2.sf(statistic, 59) < 0.999


def test_a_reservoir_takes_nothing_back():
    """Rows that came before, and are kept later, were kept before: the stream needs no second look."""
    for seed in range(20):
        early = buffer("reservoir", LABELS[:40], ROWS[:40], size=4, classes=3, seed=seed)[0]
        late = buffer("reservoir", LABELS, ROWS, size=4, classes=3, seed=seed)[0]
        assert set(late[late < 140].tolist()) <= set(early.tolist())
        assert len(late) == len(early) == 12


def test_every_kept_row_is_drawn_as_often():
    """Over 900 batches of 4 from 12, two of each class or one; the same test as of the reservoir."""
    kept = buffer("balanced", LABELS, ROWS, size=4, classes=3, seed=0)
    counts = torch.zeros(60)
    for first in range(900):
        counts[replayed(kept, 4, of_first(first), seed=0, epoch=1) - 100] += 1
    drawn = counts[kept.flatten() - 100]
    assert drawn.sum() == 3600
    assert stats.chisquare(drawn.numpy()).pvalue > 0.001
