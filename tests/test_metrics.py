"""Retrieval metrics: known answers, ties by expected value, chunks, and properties."""

import itertools
import math
import os
import subprocess
import sys

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
    mean_average_precision,
    metric_names,
    retrieval,
    scores_of_matcher,
    scores_of_similarities,
    true_recall,
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


def test_true_recall_known_answers():
    found = [true_recall([(SIMILARITY.T, POSITIVE.T)], k) for k in (1, 2, 3, 6, 10)]
    assert found == pytest.approx([100 / 3, 50, 250 / 3, 100, 100])
    assert [true_recall([(SIMILARITY, POSITIVE)], k) for k in (1, 2)] == pytest.approx([50, 100])


def test_mean_average_precision_known_answers():
    # Image to text, the positives' ranks: 1, 4 and 2, 3 and 1, 3: (1 + 2/4) / 2, (1/2 + 2/3) / 2, (1 + 2/3) / 2.
    assert mean_average_precision([(SIMILARITY.T, POSITIVE.T)]) == pytest.approx(72.222, abs=1e-3)
    # Text to image has one positive a query: the mean reciprocal rank.
    assert mean_average_precision([(SIMILARITY, POSITIVE)]) == pytest.approx(75)


@pytest.mark.parametrize("n", [1, 2, 7, 500])
def test_constant_similarities_give_k_of_n(n: int):
    result = chance(torch.arange(n))
    for k in (1, 5, 10):
        assert result[f"r{k}"] == pytest.approx(100 * min(1, k / n), abs=1e-9)
    assert result["mrr"] == pytest.approx(100 * sum(1 / r for r in range(1, n + 1)) / n)
    assert result["mean_rank"] == pytest.approx((n + 1) / 2)


@pytest.mark.parametrize(("n", "p"), [(3, 1), (12, 5), (500, 7), (40, 40)])
def test_constant_similarities_with_several_positives_are_hypergeometric(n: int, p: int):
    query_ids, pool_ids = torch.tensor([7, 7]), torch.tensor([7] * p + [8] * (n - p))
    result = chance(query_ids, pool_ids)
    for k in (1, 5, 10):
        miss = math.comb(n - p, k) / math.comb(n, k) if k <= n else 0
        assert result[f"r{k}"] == pytest.approx(100 * (1 - miss), abs=1e-9)
    assert result["mean_rank"] == pytest.approx((n + 1) / (p + 1))
    constant = [(torch.zeros(2, n), query_ids[:, None] == pool_ids)]
    assert result == scores_of_similarities(constant)
    assert true_recall(constant, 5) == pytest.approx(100 * min(5, n) / n)


def brute_force(similarity: list[int], positive: list[bool], k: int) -> dict[str, float]:
    """Each metric's mean over all orders of equal similarities; of the best positive, but for true recall and AP."""
    rows = []
    for order in itertools.permutations(range(len(similarity))):
        ranked = sorted(order, key=lambda i: -similarity[i])  # stable: `order` breaks the ties
        ranks = [place for place, i in enumerate(ranked, start=1) if positive[i]]
        precisions = [found / rank for found, rank in enumerate(ranks, start=1)]
        rows.append((100 * (ranks[0] <= k), 100 / ranks[0], ranks[0], 100 * np.mean([rank <= k for rank in ranks]),
                     100 * np.mean(precisions)))  # fmt: skip
    return dict(zip((f"r{k}", "mrr", "mean_rank", "true_recall", "map"), np.mean(rows, axis=0), strict=True))


ITEMS = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6).filter(
    lambda items: any(positive for _, positive in items)
)


@pytest.mark.parametrize("few_ties", [0, 64])
@settings(max_examples=60, deadline=None)
@given(items=ITEMS, k=st.integers(1, 7))
def test_ties_are_the_mean_over_all_orders(few_ties: int, items: list[tuple[int, bool]], k: int):
    similarity, positive = [s for s, _ in items], [p for _, p in items]
    chunk = (torch.tensor([similarity]).float(), torch.tensor([positive]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "FEW_TIES", few_ties)
        result = score(*chunk, at=(k,))
    del result["median_rank"]
    result |= {"true_recall": true_recall([chunk], k), "map": mean_average_precision([chunk])}
    assert result == pytest.approx(brute_force(similarity, positive, k))


def test_infinite_similarities_are_similarities():
    chunk = (
        torch.tensor([[-math.inf, 1, -math.inf], [0, 1, math.inf]]),
        torch.tensor([[True, True, False], [True] * 3]),
    )
    # The first query's positives: rank 1, and rank 2 or 3 alike.
    assert mean_average_precision([chunk]) == pytest.approx(100 * ((1 + (2 / 2 + 2 / 3) / 2) / 2 + 1) / 2)
    assert true_recall([chunk], 2) == pytest.approx(100 * (3 / 4 + 2 / 3) / 2)
    assert score(*chunk)["r1"] == 100


@settings(max_examples=30, deadline=None)
@given(g=st.integers(0, 3000), e=st.integers(0, 3000), p=st.integers(1, 50))
def test_thousands_of_ties_at_once_are_the_sum_term_by_term(g: int, e: int, p: int):
    counts = [torch.tensor([float(x)], dtype=torch.float64) for x in (g, e, p)]
    assert metrics._many_ties(g, e, p) == pytest.approx(metrics._few_ties(*counts).item(), rel=1e-11)


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


@pytest.mark.parametrize(("chunk", "block"), [(7 * 50, 1 << 20), (1 << 24, 3 * 50), (20 * 50, 9 * 50), (1, 1)])
def test_chunks_change_nothing(chunk: int, block: int, monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(0)
    query, pool = (torch.randn(50, 8, generator=generator) for _ in range(2))
    ids = torch.arange(50) // 3
    similarity, positive = (query @ pool.T).round(), ids[:, None] == ids
    whole, parts = [(similarity, positive)], list(zip(similarity.split(7), positive.split(7), strict=True))

    def everything(chunks: list[tuple[Tensor, Tensor]]) -> list[object]:
        return [scores_of_similarities(chunks), true_recall(chunks, 5), mean_average_precision(chunks)]

    expected, retrieved = everything(whole), retrieval(query, pool, ids, ids)
    monkeypatch.setattr(metrics, "CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", block)
    assert everything(whole) == everything(parts) == expected
    assert retrieval(query, pool, ids, ids) == pytest.approx(retrieved, abs=1e-9)


def test_a_query_without_a_positive_is_refused():
    similarity, positive = torch.zeros(2, 3), torch.tensor([[True, False, False], [False] * 3])
    with pytest.raises(ValueError, match="query 1 has no positive in the pool"):
        score(similarity, positive)
    with pytest.raises(ValueError, match="query 1 has no positive in the pool"):
        chance(torch.tensor([0, 5]), torch.tensor([0, 1]))
    for metric in (
        lambda: true_recall([(similarity, positive)], 1),
        lambda: mean_average_precision([(similarity, positive)]),
    ):
        with pytest.raises(ValueError, match="a query has no positive in the pool"):
            metric()


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


def test_ids_by_modality_equal_one_tensor_of_the_same():
    generator = torch.Generator().manual_seed(0)
    embeddings = {m: torch.randn(30, 4, generator=generator) for m in ("text", "image", "audio")}
    ids = torch.arange(30) // 2
    assert embedding_scores(embeddings, dict.fromkeys(embeddings, ids)) == embedding_scores(embeddings, ids)


def test_pools_of_unlike_sizes_have_their_own_ids():
    generator = torch.Generator().manual_seed(0)
    embeddings = {"text": torch.randn(20, 4, generator=generator), "image": torch.randn(4, 4, generator=generator)}
    ids = {"text": torch.arange(20) // 5, "image": torch.arange(4)}
    result = embedding_scores(embeddings, ids)
    to_image = retrieval(embeddings["text"], embeddings["image"], ids["text"], ids["image"])
    to_text = retrieval(embeddings["image"], embeddings["text"], ids["image"], ids["text"])
    assert result["t2i_r1"] == to_image["r1"]
    assert result["i2t_mrr"] == to_text["mrr"]
    assert result["avg_r5"] == (to_image["r5"] + to_text["r5"]) / 2


def test_ids_must_fit_the_embeddings():
    embeddings = {"text": torch.eye(4), "image": torch.eye(4)}
    with pytest.raises(ValueError, match="ids are of text; embeddings are of text, image"):
        embedding_scores(embeddings, {"text": torch.arange(4)})
    with pytest.raises(ValueError, match="image: 4 embeddings have 3 ids"):
        embedding_scores(embeddings, {"text": torch.arange(4), "image": torch.arange(3)})


FULL_POOL = """
import resource, torch
from bench.metrics import embedding_scores

def peak_MB():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

embeddings = {"text": torch.ones(25_000, 64), "image": torch.ones(5_000, 64)}
before = peak_MB()
result = embedding_scores(embeddings, {"text": torch.arange(25_000) // 5, "image": torch.arange(5_000)})
print(peak_MB() - before, result["t2i_r1"], result["i2t_r10"])
"""


@pytest.mark.slow
def test_25000_captions_and_5000_images_need_little_memory_with_everything_tied():
    run = subprocess.run(
        [sys.executable, "-c", FULL_POOL],
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # threads that wait for each other wait long on a busy machine
        capture_output=True,
        text=True,
        check=True,
    )
    beyond, text_to_image, image_to_text = (float(number) for number in run.stdout.split())
    assert beyond < 400  # 180 are seen; importing PyTorch takes another 500
    assert text_to_image == pytest.approx(100 / 5000)
    assert image_to_text == pytest.approx(100 * (1 - math.comb(24_995, 10) / math.comb(25_000, 10)))
