"""Retrieval metrics over a full pool, with ties by expected value.

Shapes: Q queries, N candidates in the pool.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

RECALL_AT = (1, 5, 10)
CHUNK_ELEMENTS = 1 << 24  # similarities held at once: 64 MB of float32
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
    reciprocal = torch.zeros_like(above)
    first = p / (e + p)  # P(no tied negative comes before the first positive)
    for j in range(int(e.max()) + 1):
        reciprocal += first / (above + 1 + j)
        first = first * ((e - j) / (e + p - j - 1).clamp_min(1)).clamp_min(0)
    return reciprocal


def scores_of_similarities(
    chunks: Iterator[tuple[Tensor, Tensor]], at: tuple[int, ...] = RECALL_AT
) -> dict[str, float]:
    """Metrics of one direction from chunks of (similarity [q, N], positive [q, N] bool), in percent but for the rank.

    Keys: r1, r5, r10 (hit@k of any positive), mrr, mean_rank, median_rank. Every query needs a positive.
    """
    hits: dict[int, list[Tensor]] = {k: [] for k in at}
    ranks, reciprocals = [], []
    for similarity, positive in chunks:
        best = similarity.masked_fill(~positive, -math.inf).amax(dim=1, keepdim=True)
        above = ((similarity > best) & ~positive).sum(dim=1)
        tied = similarity == best
        e, p = (tied & ~positive).sum(dim=1), (tied & positive).sum(dim=1)
        for k in at:
            hits[k].append(hit_probability(above, e, p, k))
        g, e, p = above.double(), e.double(), p.double()
        ranks.append(_expected_rank(g, e, p))
        reciprocals.append(_expected_reciprocal_rank(g, e, p))
    result = {f"r{k}": 100 * torch.cat(parts).mean().item() for k, parts in hits.items()}
    result["mrr"] = 100 * torch.cat(reciprocals).mean().item()
    all_ranks = torch.cat(ranks)
    result["mean_rank"] = all_ranks.mean().item()
    result["median_rank"] = all_ranks.median().item()  # of an even number the lower, as retrieval papers do
    return result


def _chunks(
    similarity: Callable[[slice], Tensor], query_ids: Tensor, pool_ids: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(1, CHUNK_ELEMENTS // len(pool_ids))
    for start in range(0, len(query_ids), rows):
        part = slice(start, start + rows)
        yield similarity(part), query_ids[part, None] == pool_ids[None, :]


def retrieval(query_QD: Tensor, pool_ND: Tensor, query_ids: Tensor, pool_ids: Tensor) -> dict[str, float]:
    """Metrics of one direction by cosine similarity; equal ids are positives.

    Raises `NonFiniteEmbeddingError` where an embedding is not finite: arg-max over NaN would score 1/N.
    """
    for name, x in (("query", query_QD), ("pool", pool_ND)):
        if not torch.isfinite(x).all():
            raise NonFiniteEmbeddingError(f"{name} embeddings hold {int((~torch.isfinite(x)).sum())} non-finite values")
    query, pool = F.normalize(query_QD.float(), dim=1), F.normalize(pool_ND.float(), dim=1)
    return scores_of_similarities(_chunks(lambda part: query[part] @ pool.T, query_ids, pool_ids))


def scores_of_matcher(score_QN: Tensor, ids_N: Tensor) -> dict[str, float]:
    """Metrics of one direction by a given score matrix; equal ids are positives."""
    return scores_of_similarities(_chunks(lambda part: score_QN[part], ids_N, ids_N))


def all_directions(score: Callable[[str, str], dict[str, float]], modalities: tuple[str, ...]) -> dict[str, float]:
    """`score(first, second)` for every direction as flat names (i2t_r1, …), and avg_r1, avg_r5, avg_r10 over them."""
    table = {name: score(*pair) for name, pair in directions(modalities).items()}
    flat = {f"{name}_{metric}": value for name, row in table.items() for metric, value in row.items()}
    averages = {f"avg_r{k}": sum(row[f"r{k}"] for row in table.values()) / len(table) for k in RECALL_AT}
    return averages | flat


def chance(ids_N: Tensor) -> dict[str, float]:
    """Each metric of one direction when all similarities are equal, with `ids_N` on both sides."""
    constant = _chunks(lambda part: ids_N.new_zeros(len(ids_N[part]), len(ids_N), dtype=torch.float32), ids_N, ids_N)
    return scores_of_similarities(constant)


def embedding_scores(embeddings: Mapping[str, Tensor], ids_N: Tensor) -> dict[str, float]:
    """`all_directions` of the embeddings [N, D] of each modality; row i of all of them belongs to item `ids_N[i]`."""
    modalities = tuple(embeddings)
    return all_directions(lambda a, b: retrieval(embeddings[a], embeddings[b], ids_N, ids_N), modalities)
