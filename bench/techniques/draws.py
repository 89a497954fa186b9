"""What techniques draw: from a block's seed and what a draw is for, so that every optimizer of a block meets the same.

Nothing is kept from draw to draw: a run that goes on in the middle of an epoch draws what it would have drawn.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from bench.datasets import noise

# In the place that a split has in the keys of datasets, which draw from the same seed; no split has this number.
TECHNIQUES = 3


class Draw(IntEnum):
    """What is drawn; the numbers are fixed for good, since they decide the bits."""

    IMAGE = 0
    TEXT = 1
    SPECTROGRAM = 2
    PARTNER = 3
    SHARE = 4
    CURRICULUM = 5
    MEMBERS = 6
    GROUPS = 7


def keys(seed: int, draw: Draw, time: int, indices: Tensor) -> Tensor:
    """A key of `bench.datasets.noise` for each of `indices` (samples, or places) at a time: an epoch or a step."""
    return noise.sample_keys(seed, TECHNIQUES, draw, time, indices=indices)


def drawn_order(seed: int, draw: Draw, time: int, count: int) -> Tensor:
    """0 … count − 1 in a random order; on the CPU."""
    return keys(seed, draw, time, torch.arange(count)).argsort(stable=True)
