"""The order in which an epoch visits the training samples, where a technique decides it; its length stays.

Shapes: N samples of an epoch.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.datasets import noise
from bench.datasets.samples import Dataset, SampleSource
from bench.protocol import Protocol
from bench.techniques.draws import Draw, drawn_order, keys
from bench.techniques.options import Curriculum

LOOKED_AT = 64  # ids that are tried for what is left of a batch


def decided_order(
    protocol: Protocol, dataset: Dataset, training: SampleSource, seed: int, epoch: int, *, done: int | None = None
) -> Tensor | None:
    """The order [N] of epoch `epoch` (from 1), whose samples are `training`; batches are its parts. On the CPU.

    `done` of the protocol's epochs are behind it, by default all before. None where no technique decides it.
    """
    curriculum, groups = protocol.techniques.curriculum, protocol.techniques.semantic_groups
    if curriculum is not None:
        words = dataset.words(training)
        assert words is not None  # looked at before anything ran
        weight_N = curriculum_weights(words.count_N, epoch - 1 if done is None else done, protocol.epochs, curriculum)
        return weighted_order(weight_N, seed, epoch)
    if groups is not None:
        return grouped_order(training.match_N.tolist(), protocol.batch_size, groups.size, seed, epoch)
    return None


# ---------------------------------------------------------------------- curriculum


def difficulty(words_N: Tensor, options: Curriculum) -> Tensor:
    """min(1, easiest + (1 − easiest) · words / most words), float64 [N]; 0.3 and 20 by default."""
    share_N = (words_N.double() / options.words).clamp(max=1)
    return options.easiest + (1 - options.easiest) * share_N


def threshold(done: int, epochs: int, options: Curriculum) -> float:
    """easiest + (1 − easiest) · min(1, done / (full_at · epochs)) after `done` of all epochs."""
    return options.easiest + (1 - options.easiest) * min(1.0, done / (options.full_at * epochs))


def curriculum_weights(words_N: Tensor, done: int, epochs: int, options: Curriculum) -> Tensor:
    """1 for samples that are no more difficult than the threshold, `weight_above` for the others; float64 [N]."""
    easy_N = difficulty(words_N, options) <= threshold(done, epochs, options)
    return torch.ones(len(words_N), dtype=torch.float64).masked_fill_(~easy_N, options.weight_above)


def weighted_order(weight_N: Tensor, seed: int, epoch: int) -> Tensor:
    """N samples drawn with replacement, each with a probability in proportion to its weight: as many as ever."""
    bounds_N = weight_N.cumsum(0)
    place_N = keys(seed, Draw.CURRICULUM, epoch, torch.arange(len(weight_N)))
    draw_N = noise.uniform(place_N, 1)[:, 0] * bounds_N[-1]
    return torch.searchsorted(bounds_N, draw_N, right=True).clamp(max=len(weight_N) - 1)


# ---------------------------------------------------------------------- semantic groups


def grouped_order(match_N: Sequence[int], batch_size: int, size: int, seed: int, epoch: int) -> Tensor:
    """An order of all N samples whose parts of `batch_size` hold groups of at least `size` samples of one match id.

    An id's samples come in groups of `size`, the last with what is left over; an id that has fewer comes as a whole.
    The group at a batch's end takes more of its id where that fills the batch. Where none of the next `LOOKED_AT`
    groups fits, one is divided between two batches: at most one group at each end of a batch is smaller for it.
    """
    members: dict[int, list[int]] = {}
    for sample in drawn_order(seed, Draw.MEMBERS, epoch, len(match_N)).tolist():
        members.setdefault(match_N[sample], []).append(sample)
    groups = [own for own in members.values() for _ in range(max(1, len(own) // size))]
    waiting = deque(groups[i] for i in drawn_order(seed, Draw.GROUPS, epoch, len(groups)).tolist())
    order: list[int] = []
    space = batch_size
    while waiting:
        place, count = _next_group(waiting, space, size)
        own = waiting[place]
        divided = count < _whole(len(own), size)
        order += own[:count]
        del own[:count]
        if not divided:
            del waiting[place]
        space = space - count or batch_size
    return torch.tensor(order, dtype=torch.int64)


def _whole(left: int, size: int) -> int:
    """How many samples the next group of an id has, of which so many are left."""
    return left if left < 2 * size else size


def _next_group(waiting: Sequence[list[int]], space: int, size: int) -> tuple[int, int]:
    """The place of the group that comes next, and how many samples it takes of a batch's `space`."""
    first_that_fits = None
    for place, own in enumerate(itertools.islice(waiting, LOOKED_AT)):
        whole = _whole(len(own), size)
        rest = space - whole
        if rest == 0 or rest >= size or not own:
            return place, whole
        if rest > 0 and len(own) - space >= size:
            return place, space
        if rest > 0 and first_that_fits is None:
            first_that_fits = place, whole
    return first_that_fits or (0, space)
