"""Figures of an accuracy matrix A [t, T]: row s is after task s, column i is task i; tasks not yet seen are at 0.

Lopez-Paz and Ranzato, "Gradient Episodic Memory", https://arxiv.org/abs/1706.08840 (backward transfer); Chaudhry et
al., "Riemannian Walk", https://arxiv.org/abs/1801.10112 (forgetting). With fewer rows than columns, they are those of
the tasks learned so far. Accuracies may be shares or percent: the figures have their unit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean

Matrix = Sequence[Sequence[float]]

PRIMARY = "average_accuracy"
# The figures of a run with their short names, in the order of tables.
TITLES = {PRIMARY: "accuracy", "forgetting": "forgetting", "backward_transfer": "transfer"}
WITHIN_TASK = "task_incremental_accuracy"
# What a run that failed scores in a figure that guessing does not have.
WORST = {"forgetting": 100.0, "backward_transfer": -100.0}


def accuracy_names(tasks: int) -> list[str]:
    """accuracy_1 … accuracy_T: of each task's test images after the latest task."""
    return [f"accuracy_{i}" for i in range(1, tasks + 1)]


def average_accuracy(accuracy: Matrix) -> float:
    """The mean of the last row, over all T tasks."""
    _require(accuracy)
    return fmean(accuracy[-1])


def forgetting(accuracy: Matrix) -> float:
    """The mean over all tasks but the latest of the best row's accuracy − the last row's; 0 after a first task."""
    learned = _require(accuracy)
    last = accuracy[-1]
    return fmean(max(row[i] for row in accuracy) - last[i] for i in range(learned - 1)) if learned > 1 else 0.0


def backward_transfer(accuracy: Matrix) -> float:
    """The mean over all tasks but the latest of the last row's accuracy − that right after the task; 0 after a first.

    Below 0 where later tasks have cost earlier ones.
    """
    learned = _require(accuracy)
    last = accuracy[-1]
    return fmean(last[i] - accuracy[i][i] for i in range(learned - 1)) if learned > 1 else 0.0


def all_figures(accuracy: Matrix) -> dict[str, float]:
    """The three figures, and every task's accuracy in the last row, by name."""
    figures = (average_accuracy, forgetting, backward_transfer)
    last = dict(zip(accuracy_names(len(accuracy[-1])), accuracy[-1], strict=True))
    return {**dict(zip(TITLES, (figure(accuracy) for figure in figures), strict=True)), **last}


def entries(accuracy: Matrix) -> dict[str, float]:
    """The matrix by name: accuracy_t_i, both counted from 1."""
    return {f"accuracy_{t}_{i}": value for t, row in enumerate(accuracy, 1) for i, value in enumerate(row, 1)}


def is_entry(name: str) -> bool:
    """Whether a figure of a record is one of a matrix's T² entries."""
    return re.fullmatch(r"accuracy_\d+_\d+", name) is not None


def _require(accuracy: Matrix) -> int:
    """The number of tasks learned; raises `ValueError` where the rows are none, uneven, or more than the tasks."""
    widths = {len(row) for row in accuracy}
    if len(widths) != 1 or not 1 <= len(accuracy) <= min(widths):
        raise ValueError(f"accuracy matrix of {len(accuracy)} rows of {sorted(widths)} tasks; allowed are 1 to T rows "
                         "of T tasks each")  # fmt: skip
    return len(accuracy)
