"""Retrieval metrics: known answers, ties by expected value, chunks, and properties."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench import metrics
from bench.metrics import (
    NonFiniteEmbeddingError,
    chance,
    directions,
    embedding_scores,
    hit_probability,
    metric_names,
    retrieval,
    scores_of_matcher,
    scores_of_similarities,
)

# Six texts (rows) against three images; texts 0, 1 belong to image 0, texts 2, 3 to image 1, texts 4, 5 to image 2.
SIMILARITY = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.8, 0.1], [0.2, 0.7, 0.6],
                           [0.5, 0.4, 0.1], [0.1, 0.2, 0.9], [0.6, 0.3, 0.5]])  # fmt: skip
POSITIVE = torch.tensor([0, 0, 1, 1, 2, 2])[:, None] == torch.arange(3)


def score(similarity: Tensor, positive: Tensor, at: tuple[int, ...] = (1, 2)) -> dict[str, float]:
    return scores_of_similarities(iter([(similarity, positive)]), at=at)


def test_text_to_image_known_answers():
    result = score(SIMILARITY, POSITIVE)
    assert result == pytest.approx({"r1": 50, "r2": 100, "mrr": 75, "mean_rank": 1.5, "median_rank": 1})


def test_image_to_text_known_answers():
    result = score(SIMILARITY.T, POSITIVE.T)
    assert result["r1"] == pytest.approx(200 / 3)
    assert result["r2"] == 100


@pytest.mark.parametrize("n", [1, 2, 7, 500])
def test_constant_similarities_give_k_of_n(n: int):
    result = chance(torch.arange(n))
    for k in (1, 5, 10):
        assert result[f"r{k}"] == pytest.approx(100 * min(1, k / n), abs=1e-9)
    assert result["mrr"] == pytest.approx(100 * sum(1 / r for r in range(1, n + 1)) / n)
    assert result["mean_rank"] == pytest.approx((n + 1) / 2)


def brute_force(similarity: list[int], positive: list[bool], k: int) -> tuple[float, float, float]:
    """hit@k, E[rank] and E[1/rank] of the best positive over all orders of equal similarities."""
    ranks = []
    for order in itertools.permutations(range(len(similarity))):
        ranked = sorted(order, key=lambda i: -similarity[i])  # stable: `order` breaks the ties
        ranks.append(1 + next(place for place, i in enumerate(ranked) if positive[i]))
    return (
        sum(rank <= k for rank in ranks) / len(ranks),
        sum(ranks) / len(ranks),
        sum(1 / rank for rank in ranks) / len(ranks),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6).filter(
        lambda items: any(positive for _, positive in items)
    ),
    st.integers(1, 4),
)
def test_ties_are_the_mean_over_all_orders(items: list[tuple[int, bool]], k: int):
    similarity, positive = [s for s, _ in items], [p for _, p in items]
    result = score(torch.tensor([similarity]).float(), torch.tensor([positive]), at=(k,))
    hit, rank, reciprocal = brute_force(similarity, positive, k)
    assert result[f"r{k}"] == pytest.approx(100 * hit)
    assert result["mean_rank"] == pytest.approx(rank)
    assert result["mrr"] == pytest.approx(100 * reciprocal)


def test_hit_probability_is_the_formula():
    for g, e, p, k in itertools.product(range(4), range(4), range(1, 4), (1, 2, 5)):
        expected = 0.0 if g >= k else 1.0 if g + e + p <= k else 1 - math.comb(e, k - g) / math.comb(e + p, k - g)
        found = hit_probability(torch.tensor(g), torch.tensor(e), torch.tensor(p), k).item()
        assert found == pytest.approx(expected, abs=1e-12), (g, e, p, k)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_pool_does_not_matter(seed: int):
    generator = torch.Generator().manual_seed(seed)
    query, pool = (torch.randn(12, 5, generator=generator, dtype=torch.float64).float() for _ in range(2))
    ids = torch.randint(0, 4, (12,), generator=generator)
    order = torch.randperm(12, generator=generator)
    straight, shuffled = retrieval(query, pool, ids, ids), retrieval(query, pool[order], ids, ids[order])
    assert straight == pytest.approx(shuffled, abs=1e-9)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(0)
    query, pool = (torch.randn(50, 8, generator=generator) for _ in range(2))
    ids = torch.arange(50)
    whole = retrieval(query, pool, ids, ids)
    monkeypatch.setattr(metrics, "CHUNK_ELEMENTS", 7 * 50)
    assert retrieval(query, pool, ids, ids) == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_embeddings_have_no_score(bad: float):
    good, ids = torch.eye(4), torch.arange(4)
    broken = good.clone()
    broken[2, 1] = bad
    with pytest.raises(NonFiniteEmbeddingError, match="query embeddings hold 1 non-finite values"):
        retrieval(broken, good, ids, ids)
    with pytest.raises(NonFiniteEmbeddingError, match="pool"):
        retrieval(good, broken, ids, ids)


def test_zero_embeddings_score_at_chance():
    ids = torch.arange(20)
    assert retrieval(torch.zeros(20, 3), torch.zeros(20, 3), ids, ids)["r1"] == pytest.approx(5.0)


def test_perfect_embeddings_score_hundred_in_every_direction():
    embedding = torch.eye(12)
    result = embedding_scores({"text": embedding, "image": embedding, "audio": embedding}, torch.arange(12))
    assert all(result[f"{d}_r1"] == 100 for d in ("i2t", "t2i", "i2a", "a2i", "t2a", "a2t"))
    assert result["avg_r1"] == 100
    assert set(result) == set(metric_names(("text", "image", "audio")))


def test_average_is_over_the_directions_that_exist():
    generator = torch.Generator().manual_seed(0)
    embeddings = {m: torch.randn(30, 4, generator=generator) for m in ("text", "image")}
    result = embedding_scores(embeddings, torch.arange(30))
    assert result["avg_r5"] == pytest.approx((result["i2t_r5"] + result["t2i_r5"]) / 2)
    assert set(directions(("text", "image"))) == {"i2t", "t2i"}
    assert set(result) == set(metric_names(("text", "image")))


def test_many_positives_count_as_one_hit():
    labels = torch.tensor([0, 0, 0, 1])
    scores = torch.tensor([[0.1, 0.2, 0.9, 0.8]] * 3 + [[0.1, 0.2, 0.9, 0.8]])
    result = scores_of_matcher(scores, labels)
    assert result["r1"] == 75  # the three zeros find item 2; the one finds a zero first
    assert result["mrr"] == pytest.approx(100 * np.mean([1, 1, 1, 1 / 2]))
