"""The loss of a step of continual learning: cross-entropy among the classes seen so far, + weight · contrastive.

Shapes: B images, replayed ones included, C prompts of the classes seen, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from bench.datasets.samples import Dataset
from bench.datasets.task_sequence import TaskDataset
from bench.errors import UsageError
from bench.objective import pair_losses
from bench.protocol import Protocol
from bench.techniques.objective import Objective, Targets

ALLOWED = frozenset({"classification"})


class ContinualObjective(Objective):
    """`Objective` with other terms of a batch, the weight that of the protocol's technique `classification`.

    The terms by which that technique classifies embeddings are not built: this network has logits.
    """

    def __init__(self, protocol: Protocol, network: nn.Module, dataset: Dataset) -> None:
        """Raises `UsageError` where the data come in no tasks, the epochs are not theirs, or a technique is on that
        does not go with them."""
        require_tasks(protocol, dataset)
        super().__init__(protocol.model_copy(update={"techniques": type(protocol.techniques)()}), network, dataset)
        classification = protocol.techniques.classification
        assert classification is not None
        self._weight, self._of_cosines = classification.contrastive_weight, protocol.workload.temperature

    def of_batch(self, embeddings: Mapping[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """`classification`, and `contrastive` of images and the prompts of their classes; all images of a class are
        positives of its prompt."""
        label_B = targets.label_B
        named = {"image": embeddings["image"], "text": embeddings["text"][label_B]}
        pair = pair_losses(named, label_B, temperature=self._of_cosines, multi_positive=True)
        return {
            "classification": F.cross_entropy(embeddings["logits"].float(), label_B),
            "contrastive": self._weight * pair["image_text"],
        }


def require_tasks(protocol: Protocol, dataset: Dataset) -> TaskDataset:
    """The data, as what comes in tasks; raises `UsageError` as `ContinualObjective` does."""
    who = f"protocol {protocol.name!r}"
    if not isinstance(dataset, TaskDataset):
        raise UsageError(f"{who}: data {protocol.workload.dataset} come in no tasks; allowed is a TaskDataset")
    sequence = dataset.sequence
    if protocol.epochs != sequence.epochs:
        raise UsageError(f"{who}: epochs is {protocol.epochs}; allowed is {sequence.epochs}: {sequence.tasks} tasks of "
                         f"{sequence.epochs_per_task} epochs, dataset_options.epochs_per_task")  # fmt: skip
    if set(protocol.techniques.on) != ALLOWED:
        raise UsageError(f"{who}: techniques {', '.join(protocol.techniques.on) or 'none'}; allowed with tasks is "
                         "classification alone, which they need")  # fmt: skip
    return dataset
