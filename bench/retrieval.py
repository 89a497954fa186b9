"""Workloads of retrieval: embeddings of modalities that shall be near each other, scored by R@k in all directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from bench.bounds import ceiling, chance_level
from bench.datasets.samples import Dataset, HeldOut, ids_by_modality
from bench.kind import Kind
from bench.metrics import embedding_scores, metric_names
from bench.protocol import Protocol
from bench.techniques.objective import Objective

if TYPE_CHECKING:
    from bench.trainer import Trainer


class Retrieval(Kind):
    """See `Kind`."""

    def metric_names(self, protocol: Protocol, dataset: Dataset) -> list[str]:
        del dataset
        return [name for name in metric_names(protocol.workload.modalities) if not name.endswith("_rank")]

    def objective(self, protocol: Protocol, network: nn.Module, dataset: Dataset) -> Objective:
        return Objective(protocol, network, dataset)

    def evaluation_due(self, trainer: Trainer) -> bool:
        del trainer
        return False

    def scores(self, trainer: Trainer, split: HeldOut) -> dict[str, float]:
        """Instance-level, in percent."""
        return embedding_scores(trainer.embeddings(split), ids_by_modality(trainer.dataset.pools(split), "match"))

    def class_scores(self, trainer: Trainer) -> dict[str, float]:
        labels = ids_by_modality(trainer.dataset.pools("test"), "label")
        return embedding_scores(trainer.embeddings("test"), labels)

    def findings(self, trainer: Trainer) -> dict[str, Any]:
        dataset, modalities = trainer.dataset, trainer.protocol.workload.modalities
        return {
            "pools": {name: len(ids) for name, ids in ids_by_modality(dataset.pools("test"), "match").items()},
            "chance": chance_level(dataset, "test", modalities, "match"),
            "class_chance": chance_level(dataset, "test", modalities, "label"),
            "ceiling": ceiling(dataset, "test", modalities),
        }

    def figures(self, trainer: Trainer) -> dict[str, float]:
        del trainer
        return {}
