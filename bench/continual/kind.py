"""Workloads of continual learning: tasks in sequence, scored by the accuracy of every task after each of them.

An image is classified among all classes seen so far (class-incremental); besides, among those of its own task
(task-incremental). Images of tasks to come are not looked at: none of their prompts is there, so their accuracy is 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.continual.figures import PRIMARY, TITLES, WITHIN_TASK, accuracy_names, all_figures, entries
from bench.continual.objective import ContinualObjective, require_tasks
from bench.datasets.samples import Dataset, HeldOut
from bench.datasets.task_sequence import TaskDataset, TaskSequence
from bench.kind import Kind
from bench.metrics import NonFiniteEmbeddingError
from bench.models.multimodal_memory import NO_DROPOUT
from bench.protocol import Protocol
from bench.record import CurvePoint
from bench.step import autocast

if TYPE_CHECKING:
    from bench.trainer import Trainer

EVALUATION_BATCH = 500


class Continual(Kind):
    """See `Kind`."""

    def metric_names(self, protocol: Protocol, dataset: Dataset) -> list[str]:
        tasks = require_tasks(protocol, dataset).sequence.tasks
        return [*TITLES, WITHIN_TASK, *accuracy_names(tasks)]

    def objective(self, protocol: Protocol, network: nn.Module, dataset: Dataset) -> ContinualObjective:
        return ContinualObjective(protocol, network, dataset)

    def evaluation_due(self, trainer: Trainer) -> bool:
        """At the end of every task: forgetting is measured from there."""
        return trainer.epoch % _tasks_of(trainer).sequence.epochs_per_task == 0

    def scores(self, trainer: Trainer, split: HeldOut) -> dict[str, float]:
        """In percent. Of the validation split, which is looked at in the end alone, accuracies and no figure of change.

        At the end of a task they are of its row of the matrix and those before; within a task, of the row under way.
        """
        dataset = _tasks_of(trainer)
        task = dataset.sequence.task(trainer.epoch)
        row, within = _accuracies(trainer, dataset, split, task)
        if split == "validation":
            average = sum(row) / len(row)
            return {PRIMARY: average, WITHIN_TASK: within, **dict(zip(accuracy_names(len(row)), row, strict=True))}
        earlier = matrix(trainer.curve, dataset.sequence)[:task]
        return {**all_figures([*earlier, row]), WITHIN_TASK: within}

    def class_scores(self, trainer: Trainer) -> dict[str, float]:
        del trainer
        return {}

    def findings(self, trainer: Trainer) -> dict[str, Any]:
        sequence = _tasks_of(trainer).sequence
        names = [PRIMARY, *accuracy_names(sequence.tasks)]
        chance = {**dict.fromkeys(names, 100 / sequence.classes), WITHIN_TASK: 100 / sequence.classes_per_task}
        return {"chance": chance}

    def figures(self, trainer: Trainer) -> dict[str, float]:
        """The accuracy matrix as far as it goes."""
        return entries(matrix(trainer.curve, _tasks_of(trainer).sequence))


def matrix(curve: Iterable[CurvePoint], sequence: TaskSequence) -> list[list[float]]:
    """The rows of the accuracy matrix of the tasks that have ended."""
    names, each = accuracy_names(sequence.tasks), sequence.epochs_per_task
    return [[point.metrics[name] for name in names] for point in curve if point.epoch % each == 0 and point.metrics]


def _tasks_of(trainer: Trainer) -> TaskDataset:
    assert isinstance(trainer.dataset, TaskDataset)  # the objective has seen to it
    return trainer.dataset


@torch.inference_mode()
def _accuracies(trainer: Trainer, dataset: TaskDataset, split: HeldOut, task: int) -> tuple[list[float], float]:
    """The percentage right of every task's images, 0 of those after `task`; and their mean within the own task."""
    trainer.model.eval()
    samples, sequence = dataset.seen(split, task), dataset.sequence
    right: list[Tensor] = []  # [K = 2, n]: among all classes seen, and among the task's
    for start in range(0, len(samples), EVALUATION_BATCH):
        batch = samples.take(slice(start, start + EVALUATION_BATCH))
        with autocast(trainer.protocol, trainer.device):
            logits_BC = trainer.model(batch.inputs(), batch.masks(), NO_DROPOUT)["logits"].float()
        right.append(_right(logits_BC, batch.label_N, sequence.classes_per_task))
    task_N, right_KN = samples.label_N // sequence.classes_per_task, torch.cat(right, dim=1)
    among, within = ([100 * row[task_N == i].double().mean().item() for i in range(task + 1)] for row in right_KN)
    unseen = [0.0] * (sequence.tasks - task - 1)
    return [*among, *unseen], sum(within) / sequence.tasks


def _right(logits_BC: Tensor, label_B: Tensor, classes_per_task: int) -> Tensor:
    """[2, B]: whether the label has the highest logit of all, and of those of its own task.

    Raises `NonFiniteEmbeddingError` where a logit is not finite.
    """
    if not torch.isfinite(logits_BC).all():
        raise NonFiniteEmbeddingError(f"logits hold {int((~torch.isfinite(logits_BC)).sum())} non-finite values")
    of_task_C = torch.arange(logits_BC.shape[1], device=label_B.device) // classes_per_task
    other_BC = of_task_C[None] != (label_B // classes_per_task)[:, None]
    inside_BC = logits_BC.masked_fill(other_BC, -torch.inf)
    return torch.stack([logits_BC.argmax(dim=1) == label_B, inside_BC.argmax(dim=1) == label_B])
