"""Test-time training: what retrieval gains when a network's memories adapt to what they are shown, and back again.

snapshot → embed the split in its fixed order, once as it is and once adapting → compare → restore to the last bit.

Shapes: N items, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from bench.datasets.samples import Dataset, HeldOut, SampleSource, ids_by_modality
from bench.errors import UsageError
from bench.metrics import directions, embedding_scores, query_scores
from bench.models.multimodal_memory import NO_DROPOUT
from bench.statistics.bootstrap import bootstrap_means

BATCH = 32  # items that the memories take in at once: as many as the standard protocols train on


@runtime_checkable
class Adapting(Protocol):
    """A network that can change while it is used.

    test_time_tensors: all that may change. forward_adapting: the embeddings of a batch as in evaluation, then one
    update of those tensors in place, without gradient.
    """

    def test_time_tensors(self) -> list[Tensor]: ...
    def forward_adapting(self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TestTimeEffect:
    """A metric without and with test-time training, in percent.

    `low` and `high` bound the difference at 95 % by the paired bootstrap over items: what another test set of this size
    could give, of this network. `change` is ‖Δ‖ of all tensors that may change, `relative_change` that over their norm,
    None where that was 0.
    """

    metric: str
    off: float
    on: float
    difference: float
    low: float
    high: float
    queries: int
    batch: int
    change: float
    relative_change: float | None
    metrics_off: dict[str, float]
    metrics_on: dict[str, float]

    __test__ = False  # no test, whatever its name begins with

    def figures(self) -> dict[str, float]:
        """What a record keeps of it."""
        names = ("off", "on", "difference", "low", "high", "change")
        return {f"test_time_{name}": getattr(self, name) for name in names}


@torch.no_grad()
def test_time_effect(
    network: nn.Module,
    dataset: Dataset,
    split: HeldOut,
    precision: Callable[[], AbstractContextManager[object]],
    *,
    metric: str = "avg_r1",
    batch: int = BATCH,
) -> TestTimeEffect:
    """What test-time training changes on a held-out split; the network is afterwards as it was, to the last bit.

    `precision` gives the context of forward passes; `metric` is a recall or an MRR. Items come pool by pool, in order,
    `batch` at a time: the memories' course depends on both. Raises `UsageError` where the network cannot adapt, or has
    not (‖Δ‖ = 0): then there is no effect to speak of.
    """
    adapting, pools = _adapting(network), dataset.pools(split)
    _require_batches(pools, split, batch)
    ids = ids_by_modality(pools, "match")
    with _unchanged(network, adapting.test_time_tensors()) as before:

        def plain(inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return network(inputs, masks, NO_DROPOUT)

        off = _embeddings(plain, pools, precision, batch)
        on = _embeddings(adapting.forward_adapting, pools, precision, batch)
        change, size = _norms(before, adapting.test_time_tensors())
    if not change > 0:
        raise UsageError(f"test-time training: nothing of {type(network).__name__} has changed over the {split} split: "
                         f"‖Δ‖ is {change:g}; allowed is more than 0")  # fmt: skip
    scores = [embedding_scores(each, ids) for each in (off, on)]
    difference, low, high = _interval(metric, off, on, ids, single_pool=len(pools) == 1)
    return TestTimeEffect(
        metric=metric, off=scores[0][metric], on=scores[1][metric], difference=difference, low=low, high=high,
        queries=sum(len(own) for own in ids.values()), batch=batch, change=change,
        relative_change=change / size if size else None,
        metrics_off=scores[0], metrics_on=scores[1],
    )  # fmt: skip


def _adapting(network: nn.Module) -> Adapting:
    if not isinstance(network, Adapting):
        raise UsageError(f"test-time training: {type(network).__name__} has nothing that changes at test time; allowed "
                         "are networks with test_time_tensors and forward_adapting")  # fmt: skip
    return network


def _require_batches(pools: Sequence[SampleSource], split: HeldOut, batch: int) -> None:
    """Raise `UsageError` where nothing is embedded after the first update."""
    if sum(-(-len(pool) // batch) for pool in pools) < 2:
        raise UsageError(f"test-time training: the {split} split's {len(pools[0])} items are one batch of {batch}, so "
                         "nothing is embedded after an update; allowed are two batches or more")  # fmt: skip


@contextmanager
def _unchanged(network: nn.Module, tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Evaluation mode, and copies of the tensors, which are put back at the end whatever happens."""
    copies, training = [tensor.detach().clone() for tensor in tensors], network.training
    network.eval()
    try:
        yield copies
    finally:
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.copy_(copy)
        network.train(training)


def _embeddings(
    forward: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]],
    pools: Sequence[SampleSource],
    precision: Callable[[], AbstractContextManager[object]],
    batch: int,
) -> dict[str, Tensor]:
    """Embeddings [N, D] of every modality's items, pool by pool."""
    parts: dict[str, list[Tensor]] = {}
    for pool in pools:
        for start in range(0, len(pool), batch):
            samples = pool.take(slice(start, start + batch))
            with precision():
                found = forward(samples.inputs(), samples.masks())
            for name, x in found.items():
                parts.setdefault(name, []).append(x.float())
    return {name: torch.cat(xs) for name, xs in parts.items()}


def _norms(before: Sequence[Tensor], after: Sequence[Tensor]) -> tuple[float, float]:
    """‖after − before‖ and ‖before‖ over all tensors."""
    squares = [((b - a).double().square().sum().item(), a.double().square().sum().item())
               for a, b in zip(before, after, strict=True)]  # fmt: skip
    changes, sizes = zip(*squares, strict=True)
    return math.sqrt(math.fsum(changes)), math.sqrt(math.fsum(sizes))


def _interval(
    metric: str, off: Mapping[str, Tensor], on: Mapping[str, Tensor], ids: Mapping[str, Tensor], *, single_pool: bool
) -> tuple[float, float, float]:
    """The metric's difference and its interval.

    Rows of one pool are items with all their modalities; of several pools a match id says what belongs together.
    """
    place, _, kind = metric.partition("_")
    every = directions(tuple(ids))
    chosen = list(every.values()) if place == "avg" else [every[place]]
    differences, groups = [], []
    for a, b in chosen:
        own = [query_scores(each[a], each[b], ids[a], ids[b], kind) for each in (on, off)]
        differences.append((own[0] - own[1]).cpu().numpy())
        groups.append(np.arange(len(ids[a])) if single_pool else ids[a].cpu().numpy())
    return bootstrap_means(differences, groups)
