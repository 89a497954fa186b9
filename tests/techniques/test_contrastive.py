"""Losses of a pair of modalities: known answers, and the plain losses as cases of the general form."""

from dataclasses import replace
from math import exp, log
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.objective import info_nce, multi_positive_info_nce
from bench.techniques.contrastive import (
    Items,
    Rows,
    averaged_loss,
    distillation_loss,
    hardest,
    logits,
    mean_of_directions,
    pooled_loss,
    rows,
    semi_hard,
    sigmoid_loss,
)
from bench.techniques.queue import NegativeQueue
from bench.techniques.targets import text_ids

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
PLACES = [torch.arange(4)]
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-12}


def vectors(count: int, seed: int, width: int = 5) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def items(x_BD: Tensor, positive: list[Tensor], earlier_QD: Tensor | None = None) -> Items:
    """Of one kind of ids; `positive` has a tensor of ids a side."""
    earlier_QD = None if earlier_QD is None else F.normalize(earlier_QD, dim=1)
    return Items(unit_BD=F.normalize(x_BD, dim=1), positive_SKB=torch.stack([ids[None] for ids in positive]),
                 earlier_QD=earlier_QD)  # fmt: skip


def pooled(seen: Rows) -> Tensor:
    return pooled_loss(logits(seen, 1 / 0.07), seen.positive_BB)


def seen(cosines: list[list[float]]) -> Rows:
    """Rows that each belong to the column of their number."""
    return Rows(cosine_BB=torch.tensor(cosines, **DOUBLE), positive_BB=torch.eye(len(cosines), dtype=torch.bool))


# ---------------------------------------------------------------------- the plain losses are cases


@given(st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_with_a_place_as_id_it_is_info_nce(count: int, seed: int):
    a, b = vectors(count, seed), vectors(count, seed + 1)
    both = [items(x, [torch.arange(count)]) for x in (a, b)]
    for loss in (pooled, lambda each: averaged_loss(logits(each, 1 / 0.07), each.positive_BB)):
        torch.testing.assert_close(mean_of_directions(both[0], both[1], loss), info_nce(a, b, 0.07), **EXACT)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_with_match_ids_it_is_multi_positive_info_nce(ids: list[int], seed: int):
    a, b, match = vectors(len(ids), seed), vectors(len(ids), seed + 1), torch.tensor(ids)
    found = mean_of_directions(items(a, [match]), items(b, [match]), pooled)
    torch.testing.assert_close(found, multi_positive_info_nce(a, b, 0.07, match), **EXACT)


@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_places_of_a_queue_that_hold_nothing_change_nothing(count: int, size: int, seed: int):
    a, b, ids = vectors(count, seed), vectors(count, seed + 1), torch.arange(count)
    queue = NegativeQueue(["text"], size=size, width=5, kinds=1, sides=1).double()
    both = [items(x, [ids], queue.earlier("text")) for x in (a, b)]
    found = mean_of_directions(both[0], both[1], pooled, hidden_BQ=queue.hidden(ids[None, None]))
    torch.testing.assert_close(found, info_nce(a, b, 0.07), **EXACT)


def test_hard_negatives_that_count_once_change_nothing():
    each = seen([[0.9, 0.75], [0.7, 0.8]])
    plain = logits(each, 3.0)
    assert torch.equal(logits(each, 3.0, semi_hard(each, 0.2), factor=1.0), plain)


# ---------------------------------------------------------------------- queue


def test_earlier_items_are_further_negatives_of_their_modality():
    """Orthonormal a = b, one earlier b orthogonal to all: rows of a see e against 1 + 1, rows of b e against 1."""
    eye = torch.eye(3, **DOUBLE)
    a, b = items(eye[:2], [torch.arange(2)]), items(eye[:2], [torch.arange(2)], eye[2:])
    found = mean_of_directions(a, b, lambda each: pooled_loss(logits(each, 1.0), each.positive_BB),
                               hidden_BQ=torch.zeros(2, 1, **DOUBLE))  # fmt: skip
    assert found.item() == pytest.approx((log(1 + 2 / exp(1)) + log(1 + 1 / exp(1))) / 2, abs=1e-12)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.lists(st.integers(0, 3), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_an_earlier_copy_of_an_item_is_no_negative_of_it(ids: list[int], queued: list[int]):
    """Against a loop over rows that leaves such columns out."""
    count, q = len(ids), vectors(len(queued), 3)
    queue = NegativeQueue(["text"], size=7, width=5, kinds=1, sides=1).double()
    queue.push({"text": F.normalize(q, dim=1)}, torch.tensor(queued)[None, None])
    a, b = items(vectors(count, 1), [torch.arange(count)]), items(vectors(count, 2), [torch.arange(count)])
    b = items(b.unit_BD, [torch.arange(count)], queue.earlier("text"))
    found = pooled(rows(a, b, 0, queue.hidden(torch.tensor(ids)[None, None])))
    expected = []
    for i in range(count):
        others = [a.unit_BD[i] @ b.unit_BD[j] for j in range(count)]
        others += [a.unit_BD[i] @ F.normalize(q, dim=1)[j] for j in range(len(queued)) if queued[j] != ids[i]]
        expected.append(torch.stack(others).mul(1 / 0.07).logsumexp(dim=0) - others[i] / 0.07)
    torch.testing.assert_close(found, torch.stack(expected).mean(), **EXACT)


def push(queue: NegativeQueue, values: range) -> None:
    x = torch.tensor([[float(v), 1.0] for v in values])
    queue.push({"text": x, "image": -x}, torch.tensor(list(values))[None, None])


def test_a_full_queue_forgets_the_oldest():
    """Room for five: 0 to 2, then 3 to 5, whose last takes the place of 0; then eight at once, of which five stay."""
    queue, stranger = NegativeQueue(["text", "image"], size=5, width=2, kinds=1, sides=1), torch.tensor([[[99]]])
    push(queue, range(3))
    assert queue.hidden(stranger).tolist() == [[0, 0, 0, -torch.inf, -torch.inf]]
    assert queue.thing_SJQ[0, 0, :3].tolist() == [0, 1, 2]
    push(queue, range(3, 6))
    assert queue.hidden(stranger).tolist() == [[0] * 5] and queue.thing_SJQ[0, 0].tolist() == [5, 1, 2, 3, 4]
    assert queue.earlier("text").tolist() == [[5, 1], [1, 1], [2, 1], [3, 1], [4, 1]]
    assert torch.equal(queue.earlier("image"), -queue.earlier("text"))
    push(queue, range(6, 14))
    assert sorted(queue.thing_SJQ[0, 0].tolist()) == sorted(queue.earlier("text")[:, 0].tolist()) == [9, 10, 11, 12, 13]


def test_both_sides_of_what_was_mixed_are_known():
    """Image 0 was mixed with 5, then 5 with 0: neither is a negative of 5, nor of what is mixed with 5 now."""
    queue = NegativeQueue(["image"], size=4, width=5, kinds=1, sides=2)
    own, partner = torch.tensor([0, 5, 8]), torch.tensor([5, 0, 8])
    queue.push({"image": vectors(3, 0).float()}, torch.stack([own[None], partner[None]]))
    out = -torch.inf
    assert queue.hidden(torch.tensor([[[5, 7]]])).tolist() == [[out, out, 0, out], [0, 0, 0, out]]
    assert queue.hidden(torch.tensor([[[7]], [[5]]])).tolist() == [[out, out, 0, out]]


# ---------------------------------------------------------------------- hard negatives


def test_semi_hard_negatives_count_twice():
    """The mean positive is 0.8, so 0.75 and 0.65 lie in (0.6, 0.8); 0.85 is too hard, 0.6 is at the margin."""
    each = seen([[0.9, 0.75, 0.1], [0.85, 0.8, 0.65], [0.6, -0.2, 0.7]])
    assert semi_hard(each, 0.2).tolist() == [[False, True, False], [False, False, True], [False, False, False]]
    found = pooled_loss(logits(each, 1.0, semi_hard(each, 0.2), factor=2.0), each.positive_BB)
    shares = [exp(0.9) / (exp(0.9) + 2 * exp(0.75) + exp(0.1)), exp(0.8) / (exp(0.85) + exp(0.8) + 2 * exp(0.65)),
              exp(0.7) / (exp(0.6) + exp(-0.2) + exp(0.7))]  # fmt: skip
    assert found.item() == pytest.approx(-sum(map(log, shares)) / 3, abs=1e-12)


def test_the_hardest_share_of_each_row_counts_twice():
    """Half of three negatives is two (1.5, to the even number), of which the second is tied with the third in row 1."""
    each = seen([[0.9, 0.5, 0.1, 0.3], [0.2, 0.8, 0.6, 0.2], [0.1, 0.2, 0.3, 0.4], [0.0, -0.5, -0.1, 0.9]])
    expected = [[0, 1, 0, 1], [1, 0, 1, 1], [0, 1, 0, 1], [1, 0, 1, 0]]
    assert hardest(each, 0.5).int().tolist() == expected
    assert hardest(each, 0.01).sum(dim=1).tolist() == [1, 1, 1, 1]


def test_what_is_hidden_is_neither_hard_nor_counted():
    """The row sees three earlier items; the first is hidden. With all hidden there is nothing to choose from."""
    hidden = torch.tensor([[-torch.inf, 0, 0]])
    each = Rows(cosine_BB=torch.tensor([[0.9]]), positive_BB=torch.tensor([[True]]),
                cosine_BQ=torch.tensor([[0.8, 0.7, 0.2]]), hidden_BQ=hidden)  # fmt: skip
    assert hardest(each, 0.5).tolist() == semi_hard(each, 0.5).tolist() == [[False, False, True, False]]
    share = exp(0.9) / (exp(0.9) + 2 * exp(0.7) + exp(0.2))
    found = pooled_loss(logits(each, 1.0, hardest(each, 0.5), factor=2.0), each.positive_BB)
    assert found.item() == pytest.approx(-log(share), abs=1e-6)
    assert not hardest(replace(each, hidden_BQ=hidden - torch.inf), 0.1).any()


# ---------------------------------------------------------------------- positives, sigmoid, mixed targets


def test_supervised_is_the_published_formula():
    """−1/|P(i)| Σ_p ln(exp(z_i·z_p/τ) / Σ_a exp(z_i·z_a/τ)), a over all items of the other modality."""
    labels, tau = [0, 1, 0, 2, 0], 0.1
    a, b = F.normalize(vectors(5, 3), dim=1), F.normalize(vectors(5, 4), dim=1)
    expected = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(5):
            positives = [p for p in range(5) if labels[p] == labels[i]]
            below = sum(exp((x[i] @ y[k]).item() / tau) for k in range(5))
            expected -= sum(log(exp((x[i] @ y[p]).item() / tau) / below) for p in positives) / len(positives) / 10
    ids = [torch.tensor(labels)]
    found = mean_of_directions(items(a, ids), items(b, ids),
                               lambda each: averaged_loss(logits(each, 1 / tau), each.positive_BB))  # fmt: skip
    assert found.item() == pytest.approx(expected, abs=1e-10)


def test_the_sigmoid_loss_at_its_start():
    """Scale 10, bias −10: a pair of cosine 1 has logit 0, another of cosine 0 has −10."""
    found = sigmoid_loss(seen([[1.0, 0.0], [0.0, 1.0]]), 10.0, -10.0)
    assert found.item() == pytest.approx(log(2) + log(1 + exp(-10)), abs=1e-12)


@given(st.permutations(range(5)), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_mixed_targets_are_the_mix_of_two_losses(order: list[int], share: float):
    a, b, partner = vectors(5, 5), vectors(5, 6), torch.tensor(order)
    images, texts = items(a, [torch.arange(5), partner]), items(b, [torch.arange(5)])
    expected = share * info_nce(a, b, 0.07) + (1 - share) * info_nce(a, b[partner], 0.07)
    for pair in ((images, texts), (texts, images)):
        torch.testing.assert_close(mean_of_directions(*pair, pooled, share), expected, **EXACT)


# ---------------------------------------------------------------------- distillation


def test_a_student_that_has_the_teachers_similarities_has_nothing_to_learn():
    a, b = vectors(4, 7), vectors(4, 8)
    turned = torch.linalg.qr(vectors(5, 9)).Q  # another basis, and longer vectors: the same cosines
    assert distillation_loss((a, b), (3 * a @ turned, b @ turned), 1 / 0.07, 2.0).item() == pytest.approx(0, abs=1e-12)
    assert distillation_loss((a, b), (b, a), 1 / 0.07, 2.0) > 0.01


def test_distillation_from_a_teacher_of_another_width():
    """Teacher: cosines 1 and 0, so p = e^½ / (e^½ + 1) at T = 2; the student knows nothing: 4 · (ln 2 − H(p))."""
    student, teacher = torch.ones(2, 3, **DOUBLE), torch.eye(2, **DOUBLE)
    p = exp(0.5) / (exp(0.5) + 1)
    expected = 4 * (log(2) + p * log(p) + (1 - p) * log(1 - p))
    found = distillation_loss((student, student), (teacher, teacher), 1.0, 2.0)
    assert found.item() == pytest.approx(expected, abs=1e-12)


# ---------------------------------------------------------------------- gradients and ids


def _queued(a: Tensor, b: Tensor, scale: Tensor, averaged: bool) -> Tensor:
    hidden = torch.zeros(4, 3, **DOUBLE)
    hidden[0, 0] = hidden[:, 2] = -torch.inf
    both = [items(x, [torch.tensor([0, 1, 0, 2])], vectors(3, 12)) for x in (a, b)]

    def loss(each: Rows) -> Tensor:
        found = logits(each, scale, hardest(each, 0.4), factor=2.0)
        return (averaged_loss if averaged else pooled_loss)(found, each.positive_BB)

    return mean_of_directions(both[0], both[1], loss, hidden_BQ=hidden)


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b, scale: _queued(a, b, scale, averaged=False),
        lambda a, b, scale: _queued(a, b, scale, averaged=True),
        lambda a, b, scale: sigmoid_loss(rows(items(a, PLACES), items(b, PLACES), 0), scale, -scale),
        lambda a, b, scale: distillation_loss((a, b), (vectors(4, 13), vectors(4, 14)), 5.0, 2.0) * scale,
    ],
    ids=["pooled", "averaged", "sigmoid", "distillation"],
)  # fmt: skip
def test_gradients_are_those_of_finite_differences(loss):
    inputs = (*(vectors(4, seed).requires_grad_() for seed in (10, 11)),
              torch.tensor(3.0, requires_grad=True, **DOUBLE))  # fmt: skip
    assert torch.autograd.gradcheck(loss, inputs)


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=2, max_size=8))
@settings(max_examples=40, deadline=None)
def test_texts_have_one_id_where_they_are_equal(texts: list[list[int]]):
    ids = text_ids(torch.tensor(texts), None)
    for i, one in enumerate(texts):
        assert [bool(same) for same in ids == ids[i]] == [one == other for other in texts]


def test_padding_is_no_part_of_a_text():
    text, mask = torch.tensor([[4, 7, 0], [4, 7, 3], [4, 0, 0]]), torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 0]]).bool()
    first, second, third = text_ids(text, mask).tolist()
    assert first == second != third
