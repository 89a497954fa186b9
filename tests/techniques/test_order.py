"""Orders of an epoch: the curriculum's weights by hand, and every property of batches made of groups."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets.samples import Samples
from bench.execution import execute
from bench.plan import Run
from bench.protocol import Protocol
from bench.protocols import changed
from bench.record import Outcome
from bench.registry import entry
from bench.runner import prepare
from bench.seeding import batch_order, order_fingerprint, role_seed
from bench.techniques.options import Curriculum
from bench.techniques.order import (
    curriculum_weights,
    decided_order,
    difficulty,
    grouped_order,
    threshold,
    weighted_order,
)

CPU = torch.device("cpu")

# ---- curriculum


def test_difficulty_and_threshold_as_worked_by_hand():
    """0.3 + 0.7 · 5/20 = 0.475; 20 words and more are 1. Of 20 epochs the first 14 raise the threshold to 1."""
    found = difficulty(torch.tensor([1, 5, 10, 20, 35]), Curriculum())
    torch.testing.assert_close(found, torch.tensor([0.335, 0.475, 0.65, 1.0, 1.0], dtype=torch.float64))
    assert [threshold(done, 20, Curriculum()) for done in (0, 2, 7, 14, 19)] == pytest.approx(
        [0.3, 0.4, 0.65, 1.0, 1.0]
    )


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        (0, [0.2, 0.2, 0.2, 0.2]),  # 0.3 is below them all: the first epoch draws all alike
        (2, [1.0, 0.2, 0.2, 0.2]),  # 0.4 against 0.335, 0.475, 0.65, 1
        (7, [1.0, 1.0, 1.0, 0.2]),  # 0.65, as difficult as ten words are
        (14, [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_weights_as_worked_by_hand(done: int, expected: list[float]):
    assert curriculum_weights(torch.tensor([1, 5, 10, 30]), done, 20, Curriculum()).tolist() == expected


def test_samples_are_drawn_as_often_as_they_weigh():
    """20,000 draws with replacement of weights 1, 0.2, 1, 0.2, repeated: 5/12, 1/12, …"""
    order = weighted_order(torch.tensor([1.0, 0.2, 1.0, 0.2]).repeat(5000).double(), seed=1, epoch=2)
    assert order.shape == (20000,) and int(order.min()) >= 0 and int(order.max()) < 20000
    shares = torch.bincount(order % 4, minlength=4) / 20000
    torch.testing.assert_close(shares, torch.tensor([5.0, 1.0, 5.0, 1.0]) / 12, rtol=0, atol=0.015)
    assert len(order.unique()) < 20000  # with replacement
    assert torch.equal(order, weighted_order(torch.tensor([1.0, 0.2, 1.0, 0.2]).repeat(5000).double(), 1, 2))
    assert not torch.equal(order, weighted_order(torch.tensor([1.0, 0.2, 1.0, 0.2]).repeat(5000).double(), 1, 3))


# ---- groups


def short_ids(batch: list[int], totals: Counter[int], size: int) -> list[int]:
    """Ids of a batch with fewer samples in it than the data would have for a group."""
    return [each for each, count in Counter(batch).items() if count < min(size, totals[each])]


@settings(deadline=None)
@given(
    ids=st.lists(st.integers(0, 12), min_size=1, max_size=120),
    size=st.integers(2, 5),
    room=st.integers(0, 9),
    seed=st.integers(0, 2**62),
    epoch=st.integers(1, 50),
)
def test_batches_are_full_of_groups_and_no_sample_is_lost(ids: list[int], size: int, room: int, seed: int, epoch: int):
    """Any ids. A group is divided only where a batch ends: one id there, and one at the beginning of the next."""
    batch_size = 2 * size + room
    order = grouped_order(ids, batch_size, size, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(ids)))
    totals = Counter(ids)
    for start in range(0, len(ids), batch_size):
        batch = [ids[i] for i in order[start : start + batch_size].tolist()]
        assert len(short_ids(batch, totals, size)) <= 2
    assert torch.equal(order, grouped_order(ids, batch_size, size, seed, epoch))


@settings(deadline=None)
@given(count=st.integers(1, 12), groups=st.integers(1, 4), size=st.integers(2, 5), seed=st.integers(0, 2**62))
def test_whole_groups_are_never_divided_where_batches_hold_them_exactly(count: int, groups: int, size: int, seed: int):
    ids = [i for i in range(count) for _ in range(size)]
    order = grouped_order(ids, groups * size, size, seed, 1).tolist()
    for start in range(0, len(order), groups * size):
        held = Counter(ids[i] for i in order[start : start + groups * size])
        assert set(held.values()) == {size}


@pytest.mark.parametrize(("captions", "batch_size", "size"), [(5, 32, 2), (200, 32, 5), (2, 32, 2)])
def test_groups_fill_batches_of_captions_and_classes(captions: int, batch_size: int, size: int):
    """Five captions an image, or classes: what is left of a batch goes to a group with as many, until few are left."""
    ids = [i for i in range(2000 // captions) for _ in range(captions)]
    order = grouped_order(ids, batch_size, size, 3, 1).tolist()
    totals = Counter(ids)
    starts = range(0, len(order) - batch_size + 1, batch_size)
    short = [len(short_ids([ids[i] for i in order[s : s + batch_size]], totals, size)) for s in starts]
    assert not any(short[:-5]) and sum(short) <= 2
    distinct = [len({ids[i] for i in order[s : s + batch_size]}) for s in starts]
    assert min(distinct) >= min(len(totals), batch_size // (2 * size))  # groups, not a batch of one id


def test_groups_are_other_ones_each_epoch():
    ids = [i // 5 for i in range(100)]
    first, second = (grouped_order(ids, 10, 2, 0, epoch) for epoch in (1, 2))
    assert not torch.equal(first, second)


# ---- in runs


class Scenes(torch.utils.data.Dataset):
    """Eight images of four captions each, of one to nine tokens."""

    def __init__(self, split: str) -> None:
        self.seed = {"training": 0, "validation": 1, "test": 2}[split]

    def __len__(self) -> int:
        return 32

    def __getitem__(self, i: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(1000 * self.seed + i // 4)
        image = torch.rand(3, 16, 16, generator=generator)
        return {"image": image, "text": torch.arange(1, 2 + i % 9), "match": i // 4}


@pytest.fixture
def scenes(tiny: Protocol) -> Protocol:
    own = {"dataset": "bench.datasets.own_dataset:OwnDataset", "modalities": ["text", "image"], "multi_positive": True,
           "dataset_options": {"reference": f"{__file__}:Scenes"}}  # fmt: skip
    return changed(tiny, {"workload": own, "primary_metric": "i2t_r1", "epochs": 2}, "test")


def planned(protocol: Protocol, technique: str, tmp_path: Any) -> Run:
    return prepare("adamw", protocol=protocol, techniques=[technique], results=tmp_path).runs[0]


def test_a_run_goes_through_groups(scenes: Protocol, tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    """Every batch of a real run holds two or more of each id; each sample comes once an epoch."""
    from bench.trainer import Trainer

    seen: list[list[int]] = []
    whole_step = Trainer._train_step

    def noted(trainer: Trainer, batch: Samples, *, watched: bool) -> Any:
        seen.append(batch.match_N.tolist())
        return whole_step(trainer, batch, watched=watched)

    monkeypatch.setattr(Trainer, "_train_step", noted)
    run = planned(scenes, "semantic_groups", tmp_path)
    assert execute(run, device=CPU).outcome is Outcome.OK
    assert len(seen) == 8 and all(set(Counter(batch).values()) <= {2, 4, 6, 8} for batch in seen)
    for epoch in range(2):
        assert Counter(i for batch in seen[4 * epoch : 4 * epoch + 4] for i in batch) == dict.fromkeys(range(8), 4)


def test_a_run_goes_through_a_curriculum(scenes: Protocol, tmp_path: Any):
    """Of two epochs the second's threshold is 0.3 + 0.7 · 1/1.4 = 0.8, where nine words are most: six words' 0.77."""
    run = planned(scenes, "curriculum.words=9", tmp_path)
    record = execute(run, device=CPU)
    assert record.outcome is Outcome.OK and record.steps == 8
    data = scenes.workload.build_dataset(None, CPU)
    samples, words = data.training(1, 0), [1 + i % 9 for i in range(32)]
    drawn = [decided_order(run.protocol, data, samples, seed, 2) for seed in range(100)]
    assert all(order is not None and len(order) == 32 for order in drawn)
    easy = sum(words[i] <= 6 for order in drawn if order is not None for i in order.tolist()) / 3200
    share = sum(count <= 6 for count in words) / 32
    assert easy == pytest.approx(share / (share + 0.2 * (1 - share)), abs=0.03)
    assert record.fingerprints is not None
    plain = execute(Run(**{**dict(run), "protocol": scenes}), device=CPU)
    assert plain.fingerprints is not None and plain.fingerprints.batch_order != record.fingerprints.batch_order


def test_a_plain_epoch_has_the_order_that_it_had(tiny: Protocol):
    data = tiny.workload.build_dataset(None, CPU)
    assert decided_order(tiny, data, data.training(1, 0), 5, 1) is None
    spec = entry("sgd")
    run = Run(protocol=tiny, optimizer="sgd", reference="sgd", hyperparameters=dict(spec.defaults), seed=4)
    found = execute(run, device=CPU).fingerprints
    assert found is not None
    assert found.batch_order == order_fingerprint(batch_order(role_seed(4, "order"), 1, 32))
