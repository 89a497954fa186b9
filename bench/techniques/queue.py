"""Embeddings of earlier steps as further negatives: a ring of the last Q samples.

Shapes: B batch, D embedding, Q places, J kinds of ids, S sides (see `bench.techniques.contrastive`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bench.techniques.contrastive import sharing


class NegativeQueue(nn.Module):
    """Its buffers are part of a run's state. Nothing is read back from the device.

    Ids say what a sample is, whatever the modality; a mixed one is both its sides.
    """

    def __init__(self, modalities: Sequence[str], *, size: int, width: int, kinds: int, sides: int) -> None:
        super().__init__()
        for name in modalities:
            self.register_buffer(f"{name}_QD", torch.zeros(size, width))
        self.register_buffer("thing_SJQ", torch.zeros(sides, kinds, size, dtype=torch.int64))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))
        self.thing_SJQ: Tensor
        self.pushed: Tensor

    def earlier(self, name: str) -> Tensor:
        """A modality's unit vectors [Q, D], of empty places too."""
        return self.get_buffer(f"{name}_QD")

    def hidden(self, thing_SJB: Tensor) -> Tensor:
        """[B, Q]: −∞ where a place is empty or holds what shares an id with the sample, else 0."""
        places_Q = torch.arange(self.thing_SJQ.shape[2], device=self.pushed.device)
        left_out_BQ = (places_Q >= self.pushed).expand(thing_SJB.shape[2], -1)
        for thing_JB in thing_SJB:
            for thing_JQ in self.thing_SJQ:
                left_out_BQ = left_out_BQ | sharing(thing_JB, thing_JQ)
        return torch.zeros(left_out_BQ.shape, device=left_out_BQ.device).masked_fill_(left_out_BQ, -torch.inf)

    @torch.no_grad()
    def push(self, units: Mapping[str, Tensor], thing_SJB: Tensor) -> None:
        """Put a batch, or the last of it that there is room for, in the place of the oldest samples."""
        size, count = self.thing_SJQ.shape[2], thing_SJB.shape[2]
        kept = min(count, size)
        places = (self.pushed + torch.arange(count - kept, count, device=self.pushed.device)) % size
        for name, unit_BD in units.items():
            held_QD = self.earlier(name)
            held_QD.index_copy_(0, places, unit_BD[-kept:].to(held_QD.dtype))
        self.thing_SJQ.index_copy_(2, places, thing_SJB[:, :, -kept:].expand(len(self.thing_SJQ), -1, -1))
        self.pushed += count
