"""What a workload asks of a run: its loss, when and how it is scored, and what the record says of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from bench.datasets.samples import Dataset, HeldOut
    from bench.protocol import Protocol
    from bench.techniques.objective import Objective
    from bench.trainer import Trainer


class Kind(ABC):
    """A kind of workload, of which there is one object; see `bench.kinds`."""

    @abstractmethod
    def metric_names(self, protocol: Protocol, dataset: Dataset) -> list[str]:
        """What may be the protocol's primary metric."""

    @abstractmethod
    def objective(self, protocol: Protocol, network: nn.Module, dataset: Dataset) -> Objective:
        """The loss; raises `UsageError` where protocol, network and data do not go together."""

    @abstractmethod
    def evaluation_due(self, trainer: Trainer) -> bool:
        """Whether the epoch that has just ended is scored though the protocol's cadence does not ask for it."""

    @abstractmethod
    def scores(self, trainer: Trainer, split: HeldOut) -> dict[str, float]:
        """Metrics of a held-out split at the present weights.

        Raises `NonFiniteEmbeddingError` where what the network gives is not finite.
        """

    @abstractmethod
    def class_scores(self, trainer: Trainer) -> dict[str, float]:
        """The test split's metrics where every item of the query's class counts as found; {} where that is no other."""

    @abstractmethod
    def findings(self, trainer: Trainer) -> dict[str, Any]:
        """Fields of the record: what the scores lie between, and what they were measured on."""

    @abstractmethod
    def figures(self, trainer: Trainer) -> dict[str, float]:
        """Further figures of the record, by name."""
