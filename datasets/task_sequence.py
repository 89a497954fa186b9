"""Classes that are learned in tasks, one after the other, and data that comes so."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from bench.datasets.samples import Dataset, HeldOut, SampleSource


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSequence:
    """`classes` in tasks of `classes_per_task`; a label is a class's place in the order in which they are learned."""

    classes: int
    classes_per_task: int
    epochs_per_task: int

    def __post_init__(self) -> None:
        if not 1 <= self.classes_per_task <= self.classes or self.classes % self.classes_per_task:
            raise ValueError(f"classes_per_task is {self.classes_per_task}; allowed are divisors of the "
                             f"{self.classes} classes")  # fmt: skip
        if self.epochs_per_task < 1:
            raise ValueError(f"epochs_per_task is {self.epochs_per_task}; allowed is a count >= 1")

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return self.classes // self.classes_per_task

    @property
    def epochs(self) -> int:
        """Epochs of all tasks together."""
        return self.tasks * self.epochs_per_task

    def task(self, epoch: int) -> int:
        """The task, from 0, that epoch `epoch` (from 1) belongs to."""
        if not 1 <= epoch <= self.epochs:
            raise ValueError(f"epoch is {epoch}; allowed are 1 to {self.epochs}, those of {self.tasks} tasks")
        return (epoch - 1) // self.epochs_per_task

    def seen(self, task: int) -> int:
        """How many classes have been seen once `task` has begun: those of labels below it."""
        return (task + 1) * self.classes_per_task


class TaskDataset(Dataset):
    """Data whose epochs belong to tasks; `Dataset.training` has the new samples of the epoch's task alone.

    A batch's text is a prompt of each class seen so far, in the order of labels, and not of its samples: what is drawn
    of training joins replayed samples to it. Labels are those of a `TaskSequence`.
    """

    @property
    @abstractmethod
    def sequence(self) -> TaskSequence:
        """The tasks."""

    @abstractmethod
    def seen(self, split: HeldOut, task: int) -> SampleSource:
        """The held-out samples of all tasks up to `task` (from 0), with the prompts of their classes."""
