"""Embeddings of earlier steps as further negatives: a ring of the last Q items, the same places in every modality.

Shapes: B batch, D embedding, Q places, J kinds of ids, S sides (see `bench.techniques.contrastive`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bench.techniques.contrastive import Earlier, Items


class NegativeQueue(nn.Module):
    """Its buffers are part of a run's state. Nothing is read back from the device."""

    def __init__(self, modalities: Sequence[str], *, size: int, width: int, kinds: int, sides: int) -> None:
        super().__init__()
        self._size = size
        for name in modalities:
            self.register_buffer(f"{name}_unit_QD", torch.zeros(size, width))
            self.register_buffer(f"{name}_thing_SJQ", torch.zeros(sides, kinds, size, dtype=torch.int64))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))
        self.pushed: Tensor

    def earlier(self, name: str) -> Earlier:
        """What a modality's places hold."""
        places_Q = torch.arange(self._size, device=self.pushed.device)
        return Earlier(unit_QD=self.get_buffer(f"{name}_unit_QD"), thing_SJQ=self.get_buffer(f"{name}_thing_SJQ"),
                       filled_Q=places_Q < self.pushed)  # fmt: skip

    @torch.no_grad()
    def push(self, items: Mapping[str, Items]) -> None:
        """Put a batch, or the last of it that there is room for, in the place of the oldest items."""
        count = len(next(iter(items.values())).unit_BD)
        kept = min(count, self._size)
        new = torch.arange(count - kept, count, device=self.pushed.device)
        places = (self.pushed + new) % self._size
        for name, each in items.items():
            units, things = self.get_buffer(f"{name}_unit_QD"), self.get_buffer(f"{name}_thing_SJQ")
            units.index_copy_(0, places, each.unit_BD[-kept:].to(units.dtype))
            things.index_copy_(2, places, each.thing_SJB[:, :, -kept:].expand(len(things), -1, -1))
        self.pushed += count
