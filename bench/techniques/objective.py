"""The loss of a step under a protocol's techniques: what it learns, and what it keeps from step to step.

Two kinds of terms. Those of a batch compare embeddings with each other; those of a sample are means over samples, so
that a part of a batch has a part of them. Shapes: B batch, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from bench.datasets.samples import Dataset, Samples
from bench.models.multimodal_memory import Dropout
from bench.objective import pair_losses
from bench.protocol import Protocol
from bench.spec import RoledParameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """Images of a batch that were mixed: image i is `share` of its own and the rest of image `partner_B[i]`."""

    partner_B: Tensor
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What belongs together in a batch. `progress` is the share of the run's epochs that are done, in [0, 1)."""

    match_B: Tensor
    label_B: Tensor
    progress: float = 0.0
    mixed: Mixed | None = None


class Objective(nn.Module):
    """The terms of a protocol's loss; its parameters are trained with the network's."""

    def __init__(self, protocol: Protocol, network: nn.Module, dataset: Dataset) -> None:
        """Raises `UsageError` where a technique that is on does not suit the network or the data."""
        super().__init__()
        del network, dataset
        self._workload, self._techniques = protocol.workload, protocol.techniques

    def roled_parameters(self) -> list[RoledParameter]:
        """What is trained of the loss itself; empty where its figures are fixed."""
        return []

    def of_batch(self, embeddings: Mapping[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """Terms by name of the embeddings [B, D] of a whole batch, in float32 or better."""
        return pair_losses(embeddings, targets.match_B, temperature=self._workload.temperature,
                           multi_positive=self._workload.multi_positive)  # fmt: skip

    def of_samples(
        self, network: nn.Module, batch: Samples, embeddings: Mapping[str, Tensor], dropout: Dropout
    ) -> dict[str, Tensor]:
        """Terms by name that are means over the samples of a batch, or of a part of one."""
        del network, batch, embeddings, dropout
        return {}

    def end_step(self, embeddings: Mapping[str, Tensor], targets: Targets) -> None:
        """Keep of a step's embeddings, which are detached, what later steps need; once a step."""
        del embeddings, targets
