"""Replay: earlier samples that join a batch of new ones, as a pure function of seed, epoch and the batch's first row.

Nothing is kept from step to step, so that a run that is taken up again meets the same samples. A buffer keeps the rows
of the smallest random keys: of a stream that only grows, that is a uniform sample at each of its points, as a reservoir
draws it (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006, with equal weights).

Shapes: N rows, K classes, M kept rows a class, R replayed rows.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

import torch
from torch import Tensor

from bench.datasets import noise

Sampling = Literal["balanced", "reservoir"]


class Draw(IntEnum):
    """What a key draws; its second part, after the seed."""

    KEPT = 0
    ROWS = 1
    CLASSES = 2


def buffer(sampling: Sampling, label_N: Tensor, row_N: Tensor, *, size: int, classes: int, seed: int) -> Tensor:
    """The rows that are kept of these: [K, M] of each of the K labels that occur, or [1, M] of all of them together.

    "balanced" keeps `size` of every class, "reservoir" `size` · `classes` in all, however many classes it has seen;
    all where there are fewer, of a balanced buffer as many as the smallest class has.
    """
    key_N = noise.uniform(noise.sample_keys(seed, Draw.KEPT, indices=row_N), 1)[:, 0]
    if sampling == "reservoir":
        return row_N[key_N.argsort(stable=True)[: size * classes]][None]
    own = [(label_N == label).nonzero()[:, 0] for label in label_N.unique().tolist()]
    kept = min(size, *(len(each) for each in own))
    return torch.stack([row_N[each[key_N[each].argsort(stable=True)[:kept]]] for each in own])


def replayed(buffer_KM: Tensor, count: int, first_row: Tensor, *, seed: int, epoch: int) -> Tensor:
    """`count` rows [R] of a buffer for the batch that begins with row `first_row` [1] of an epoch.

    Each of the K classes gives as many, or one more; which of its rows, and which classes give more, is drawn. Rows
    come twice only where the buffer has fewer than `count`.
    """
    K, M = buffer_KM.shape
    order_KM = noise.uniform(noise.sample_keys(seed, Draw.ROWS, epoch, indices=first_row), K * M).view(K, M).argsort(1)
    class_K = noise.uniform(noise.sample_keys(seed, Draw.CLASSES, epoch, indices=first_row), K)[0].argsort()
    # By turns a row of each class.
    turns = buffer_KM.gather(1, order_KM)[class_K].T.flatten()
    return turns[torch.arange(count, device=turns.device) % len(turns)]
