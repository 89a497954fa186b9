"""Retrieval metrics over a full pool, with ties by expected value.

Shapes: Q queries, N candidates in the pool.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

RECALL_AT = (1, 5, 10)
CHUNK_ELEMENTS = 1 << 24  # similarities held at once: 64 MB of float32
BLOCK_ELEMENTS = 1 << 20  # of them compared at once: 4 MB, near what a processor caches
FEW_TIES = 64  # up to so many tied negatives all queries go through the sum over ties together
LETTERS = {"text": "t", "image": "i", "audio": "a"}
DIRECTIONS = {f"{LETTERS[a]}2{LETTERS[b]}": (a, b) for a, b in permutations(("image", "text", "audio"), 2)}


class NonFiniteEmbeddingError(ArithmeticError):
    """An embedding holds NaN or infinity: the run has diverged and has no retrieval score."""


def directions(modalities: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """The retrieval directions among `modalities`: i2t, t2i, i2a, a2i, t2a, a2t as far as they exist."""
    return {name: pair for name, pair in DIRECTIONS.items() if set(pair) <= set(modalities)}


def metric_names(modalities: tuple[str, ...]) -> list[str]:
    """Every metric's flat name: avg_r1, …, i2t_r1, …, i2t_mrr, i2t_mean_rank, …"""
    kinds = [*(f"r{k}" for k in RECALL_AT), "mrr", "mean_rank", "median_rank"]
    return [*(f"avg_r{k}" for k in RECALL_AT), *(f"{d}_{kind}" for d in directions(modalities) for kind in kinds)]


def hit_probability(above: Tensor, tied_negatives: Tensor, tied_positives: Tensor, k: int) -> Tensor:
    """P(a positive among the top k) over random tie-breaking.

    With g negatives strictly above the best positive, e negatives and p positives equal to it: 0 if g ≥ k; 1 if
    g + e + p ≤ k; else 1 − C(e, k − g) / C(e + p, k − g). All integer tensors of one shape; float64 out.
    """
    if not tied_negatives.any():
        return (above < k).to(torch.float64)
    g, e, p = (x.to(torch.float64) for x in (above, tied_negatives, tied_positives))
    miss = torch.ones_like(g)  # C(e, k − g) / C(e + p, k − g), factor by factor
    for i in range(k):
        miss = torch.where(i < k - g, miss * (e - i).clamp_min(0) / (e + p - i).clamp_min(1), miss)
    return torch.where(g >= k, 0.0, 1 - miss)


def _expected_rank(above: Tensor, e: Tensor, p: Tensor) -> Tensor:
    """Expected rank (from 1) of the best positive: g + 1 + e / (p + 1)."""
    return above + 1 + e / (p + 1)


def _expected_reciprocal_rank(above: Tensor, e: Tensor, p: Tensor) -> Tensor:
    """E[1 / rank of the best positive]: the sum over j of P(j tied negatives come first) / (g + 1 + j)."""
    few = e <= FEW_TIES
    reciprocal = torch.empty_like(above)
    reciprocal[few] = _few_ties(above[few], e[few], p[few])
    if not few.all():  # thousands of ties, but few different cases: collapsed embeddings have one for all queries
        cases, case_of = torch.stack([above[~few], e[~few], p[~few]], dim=1).unique(dim=0, return_inverse=True)
        values = torch.tensor([_many_ties(*case) for case in cases.tolist()], dtype=above.dtype, device=above.device)
        reciprocal[~few] = values[case_of]
    return reciprocal


def _few_ties(above: Tensor, e: Tensor, p: Tensor) -> Tensor:
    reciprocal = torch.zeros_like(above)
    first = p / (e + p)  # P(no tied negative comes before the first positive)
    for j in range(int(e.max()) + 1 if len(e) else 0):
        reciprocal += first / (above + 1 + j)
        first = first * ((e - j) / (e + p - j - 1).clamp_min(1)).clamp_min(0)
    return reciprocal


def _many_ties(above: float, e: float, p: float) -> float:
    """The same sum for one query, all its terms at once."""
    j = torch.arange(int(e), dtype=torch.float64)
    first = torch.cat([torch.ones(1, dtype=torch.float64), ((e - j) / (e + p - j - 1)).cumprod(dim=0)]) * (p / (e + p))
    return (first / (above + 1 + torch.arange(int(e) + 1))).sum().item()


def scores_of_similarities(
    chunks: Iterable[tuple[Tensor, Tensor]], at: tuple[int, ...] = RECALL_AT
) -> dict[str, float]:
    """Metrics of one direction from chunks of (similarity [q, N], positive [q, N] bool), in percent but for the rank.

    Keys: r1, r5, r10 (hit@k of any positive), mrr, mean_rank, median_rank. Every query needs a positive.
    """
    return _scores(_all_counts(chunks), at)


def _all_counts(chunks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Every query's `_counts`, [Q, 3]."""
    # Numbers, not tensors: a small tensor kept behind every freed block keeps the allocator from using it again.
    counts: list[list[int]] = []
    for block in _blocks(chunks):
        counts.extend(torch.stack(_counts(*block), dim=1).tolist())
    return torch.tensor(counts)


def _blocks(chunks: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The same rows in blocks whose intermediate results stay in a processor's cache."""
    for similarity, positive in chunks:
        rows = max(1, BLOCK_ELEMENTS // similarity.shape[1])
        yield from zip(similarity.split(rows), positive.split(rows), strict=True)


def _counts(similarity: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By query, how many are above the best positive, and how many negatives and positives are equal to it: g, e, p."""
    best = torch.where(positive, similarity, -math.inf).amax(dim=1, keepdim=True)
    above = (similarity > best).sum(dim=1, dtype=torch.int32)  # no positive is above the best of them
    tied = similarity == best
    p = (tied & positive).sum(dim=1, dtype=torch.int32)
    return above, tied.sum(dim=1, dtype=torch.int32) - p, p


def _scores(counts_Q3: Tensor, at: tuple[int, ...]) -> dict[str, float]:
    """The metrics from every query's g, e, p."""
    above, e, p = counts_Q3.unbind(dim=1)
    if (p == 0).any():
        raise ValueError(f"query {int((p == 0).nonzero()[0])} has no positive in the pool; every query needs one")
    result = {f"r{k}": 100 * hit_probability(above, e, p, k).mean().item() for k in at}
    g, e, p = above.double(), e.double(), p.double()
    result["mrr"] = 100 * _expected_reciprocal_rank(g, e, p).mean().item()
    ranks = _expected_rank(g, e, p)
    result["mean_rank"] = ranks.mean().item()
    result["median_rank"] = ranks.median().item()  # of an even number the lower, as retrieval papers do
    return result


def true_recall(chunks: Iterable[tuple[Tensor, Tensor]], k: int) -> float:
    """The mean over queries of (positives among the top k) / (all its positives), in percent.

    Ties by expected value: with g items strictly above the k-th highest similarity and t equal to it, each of the t
    is among the top k with probability (k − g) / t. A pool of fewer than k is taken whole.
    """
    return _percent(_true_recall(*block, k) for block in _blocks(chunks))


def _true_recall(similarity: Tensor, positive: Tensor, k: int) -> Tensor:
    k = min(k, similarity.shape[1])
    kth = similarity.topk(k, dim=1).values[:, -1:]
    above, tied = similarity > kth, similarity == kth
    share = (k - above.sum(dim=1)).double() / tied.sum(dim=1)
    found = (above & positive).sum(dim=1) + share * (tied & positive).sum(dim=1)
    return found / _positives(positive)


def mean_average_precision(chunks: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The mean over queries of the mean over its positives of the precision at their ranks, in percent.

    Ties by expected value, in closed form (McSherry & Najork, "Computing Information Retrieval Performance Measures
    Efficiently in the Presence of Tied Scores", ECIR 2008): of t items of equal similarity, p of them positive, with g
    items above them, q of those positive, each of the p stands at place s = 1 … t with probability 1 / t, where
    the expected precision is (q + 1 + (s − 1)(p − 1) / (t − 1)) / (g + s).
    """
    return _percent(_average_precision(*block) for block in _blocks(chunks))


def _average_precision(similarity: Tensor, positive: Tensor) -> Tensor:
    pool, count = similarity.shape[1], _positives(positive)
    most = int(count.max())
    ordered = similarity.sort(dim=1).values.contiguous()
    # Every query's positives, lowest first; the rows with fewer begin with −inf.
    value = torch.where(positive, similarity, -math.inf).topk(most, dim=1).values.flip(1).contiguous()
    missing = (most - count)[:, None]
    end, own_end = torch.searchsorted(ordered, value, right=True), torch.searchsorted(value, value, right=True)
    own_start = torch.maximum(torch.searchsorted(value, value), missing)
    g, t = (pool - end).double(), (end - torch.searchsorted(ordered, value)).double()
    q, p = (most - own_end).double(), (own_end - own_start).double()
    harmonic = torch.digamma(g + t + 1) - torch.digamma(g + 1)  # the sum over s of 1 / (g + s)
    between = (p - 1) / (t - 1).clamp_min(1)
    precision = ((q + 1) * harmonic + between * (t - (g + 1) * harmonic)) / t
    return torch.where(torch.arange(most, device=value.device) >= missing, precision, 0.0).sum(dim=1) / count


def _positives(positive: Tensor) -> Tensor:
    count = positive.sum(dim=1)
    if (count == 0).any():
        raise ValueError("a query has no positive in the pool; every query needs one")
    return count


def _percent(parts: Iterable[Tensor]) -> float:
    values = [value for part in parts for value in part.tolist()]
    return 100 * math.fsum(values) / len(values)


def _chunks(
    similarity: Callable[[slice], Tensor], query_ids: Tensor, pool_ids: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Similarities of many queries at a time, as matrix products want it, handed on in blocks with their positives."""
    rows, block = (max(1, elements // len(pool_ids)) for elements in (CHUNK_ELEMENTS, BLOCK_ELEMENTS))
    for start in range(0, len(query_ids), rows):
        part = slice(start, start + rows)
        for scores, ids in zip(similarity(part).split(block), query_ids[part].split(block), strict=True):
            yield scores, ids[:, None] == pool_ids[None, :]


def retrieval(query_QD: Tensor, pool_ND: Tensor, query_ids: Tensor, pool_ids: Tensor) -> dict[str, float]:
    """Metrics of one direction by cosine similarity; equal ids are positives.

    Raises `NonFiniteEmbeddingError` where an embedding is not finite: arg-max over NaN would score 1/N.
    """
    return mean_retrieval([(query_QD, pool_ND)], query_ids, pool_ids)


def mean_retrieval(pairs: Sequence[tuple[Tensor, Tensor]], query_ids: Tensor, pool_ids: Tensor) -> dict[str, float]:
    """`retrieval` by the mean of several networks' cosine similarities, each of its own queries and pool."""
    (query, pool), *others = [(unit_rows("query", query), unit_rows("pool", pool)) for query, pool in pairs]

    def similarity(part: slice) -> Tensor:
        total = query[part] @ pool.T
        for other_query, other_pool in others:
            total += other_query[part] @ other_pool.T
        return total / len(pairs) if others else total

    return scores_of_similarities(_chunks(similarity, query_ids, pool_ids))


def query_scores(query_QD: Tensor, pool_ND: Tensor, query_ids: Tensor, pool_ids: Tensor, kind: str) -> Tensor:
    """Each query's own score, [Q] float64, of a metric that is the mean over queries: rK or mrr, in percent."""
    query, pool = unit_rows("query", query_QD), unit_rows("pool", pool_ND)
    g, e, p = _all_counts(_chunks(lambda part: query[part] @ pool.T, query_ids, pool_ids)).unbind(dim=1)
    if kind == "mrr":
        return 100 * _expected_reciprocal_rank(g.double(), e.double(), p.double())
    return 100 * hit_probability(g, e, p, int(kind.removeprefix("r")))


def unit_rows(name: str, x_ND: Tensor) -> Tensor:
    """Every row at length 1, float32; `name` is for the `NonFiniteEmbeddingError` where one is not finite."""
    if not torch.isfinite(x_ND).all():
        raise NonFiniteEmbeddingError(f"{name} embeddings hold {int((~torch.isfinite(x_ND)).sum())} non-finite values")
    return F.normalize(x_ND.float(), dim=1)


def scores_of_matcher(score_QN: Tensor, ids_N: Tensor) -> dict[str, float]:
    """Metrics of one direction by a given score matrix; equal ids are positives."""
    return scores_of_similarities(_chunks(lambda part: score_QN[part], ids_N, ids_N))


def all_directions(score: Callable[[str, str], dict[str, float]], modalities: tuple[str, ...]) -> dict[str, float]:
    """`score(first, second)` for every direction as flat names (i2t_r1, …), and avg_r1, avg_r5, avg_r10 over them."""
    table = {name: score(*pair) for name, pair in directions(modalities).items()}
    flat = {f"{name}_{metric}": value for name, row in table.items() for metric, value in row.items()}
    averages = {f"avg_r{k}": sum(row[f"r{k}"] for row in table.values()) / len(table) for k in RECALL_AT}
    return averages | flat


def chance(query_ids: Tensor, pool_ids: Tensor | None = None) -> dict[str, float]:
    """Each metric of one direction when all similarities are equal; without `pool_ids` the queries are the pool."""
    pool_ids = query_ids if pool_ids is None else pool_ids
    ordered = pool_ids.sort().values
    p = torch.searchsorted(ordered, query_ids, right=True) - torch.searchsorted(ordered, query_ids)
    return _scores(torch.stack([torch.zeros_like(p), len(pool_ids) - p, p], dim=1), RECALL_AT)


def embedding_scores(embeddings: Mapping[str, Tensor], ids: Tensor | Mapping[str, Tensor]) -> dict[str, float]:
    """`all_directions` of the embeddings of each modality; row i of a modality belongs to item `ids[i]` of it.

    Pools of unlike sizes, such as five captions an image, have their ids by modality; one tensor serves all alike.
    """
    return ensemble_scores([embeddings], ids)


def ensemble_scores(members: Sequence[Mapping[str, Tensor]], ids: Tensor | Mapping[str, Tensor]) -> dict[str, float]:
    """`embedding_scores` of several networks, which rank by the mean of their similarities."""
    names = tuple(members[0])
    by_modality = ids if isinstance(ids, Mapping) else dict.fromkeys(names, ids)
    for embeddings in members:
        if set(by_modality) != set(embeddings):
            raise ValueError(f"ids are of {', '.join(by_modality)}; embeddings are of {', '.join(embeddings)}")
        for name, x in embeddings.items():
            if len(x) != len(by_modality[name]):
                raise ValueError(f"{name}: {len(x)} embeddings have {len(by_modality[name])} ids; one each is needed")
    return all_directions(
        lambda a, b: mean_retrieval([(each[a], each[b]) for each in members], by_modality[a], by_modality[b]), names
    )
