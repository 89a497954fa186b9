"""The losses of all pairs of modalities under a protocol's techniques: scale, positives, hard negatives, queue.

Shapes: B batch, D embedding, Q earlier samples, K kinds of ids, S sides (see `bench.techniques.contrastive`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UsageError
from bench.models.multimodal_memory import at_least_float32
from bench.objective import PAIR_ORDER, pair_losses
from bench.protocol import Protocol
from bench.techniques.contrastive import (
    Items,
    Rows,
    averaged_loss,
    hardest,
    logits,
    mean_of_directions,
    pooled_loss,
    semi_hard,
    sigmoid_loss,
)
from bench.techniques.options import HardNegatives, Techniques
from bench.techniques.queue import NegativeQueue
from bench.techniques.targets import Targets


class PairLosses(nn.Module):
    """The loss of every pair by name, as image_text; without a technique of its own, bit by bit `pair_losses`.

    `width` is that of the embeddings.
    """

    def __init__(self, protocol: Protocol, width: int) -> None:
        super().__init__()
        on = self._techniques = protocol.techniques
        self._temperature = protocol.workload.temperature
        self._kinds = _positives(on, multi_positive=protocol.workload.multi_positive)
        # What an earlier item must not share to be a negative: the item itself, and whatever makes a positive.
        self._things = tuple(dict.fromkeys(("match", *(kind for kind in self._kinds if kind != "place"))))
        self._log_limit = math.inf
        if on.learned_temperature is not None:
            self._add_scale(1 / self._temperature, on.learned_temperature.max_scale)
        if on.siglip is not None:
            self._add_scale(on.siglip.initial_scale)
            self.bias = nn.Parameter(torch.tensor([on.siglip.initial_bias]))
        if on.queue is not None:
            self.queue = NegativeQueue(protocol.workload.modalities, size=on.queue.size, width=width,
                                       kinds=len(self._things), sides=1 if on.mixup is None else 2)  # fmt: skip

    def _add_scale(self, scale: float, most: float = math.inf) -> None:
        """A trained factor of cosines, by its logarithm."""
        if scale > most:
            raise UsageError(f"technique learned_temperature: temperature {self._temperature:g} is a scale of "
                             f"{scale:g}; allowed is at most max_scale, {most:g}")  # fmt: skip
        self._log_limit = math.log(most)
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))

    @property
    def reads_texts(self) -> bool:
        """Whether equal texts count, so that targets need their ids."""
        return "text" in self._kinds

    def forward(self, embeddings: Mapping[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """Losses of embeddings [B, D], in float32 or better."""
        if not _changes_pairs(self._techniques) and targets.mixed is None:
            return pair_losses(embeddings, targets.match_B, temperature=self._temperature,
                               multi_positive=self._kinds == ("match",))  # fmt: skip
        items = self._items(embeddings, targets)
        hidden_BQ = None if self._techniques.queue is None else self.queue.hidden(self._ids(self._things, targets))
        hard, share = self._techniques.hard_negatives, 1.0 if targets.mixed is None else targets.mixed.share
        if hard is not None and targets.progress < hard.from_progress:
            hard = None
        names = [name for name in PAIR_ORDER if name in items]
        return {f"{a}_{b}": mean_of_directions(items[a], items[b], lambda rows: self._loss(rows, hard), share,
                                               hidden_BQ) for a, b in combinations(names, 2)}  # fmt: skip

    def _loss(self, seen: Rows, hard: HardNegatives | None) -> Tensor:
        if self._techniques.siglip is not None:
            return sigmoid_loss(seen, self._scale(), self.bias)
        hard_BC, factor = None, 1.0
        if hard is not None:
            by_strategy = {"semi_hard": (semi_hard, hard.margin), "hardest": (hardest, hard.share)}
            select, limit = by_strategy[hard.strategy]
            hard_BC, factor = select(seen, limit), hard.factor
        logits_BC = logits(seen, self._scale(), hard_BC, factor)
        averaged = self._techniques.supervised is not None
        return (averaged_loss if averaged else pooled_loss)(logits_BC, seen.positive_BB)

    def _scale(self) -> Tensor | float:
        on = self._techniques
        if on.learned_temperature is None and on.siglip is None:
            return 1 / self._temperature
        return self.log_scale.clamp(max=self._log_limit).exp()

    def _items(self, embeddings: Mapping[str, Tensor], targets: Targets) -> dict[str, Items]:
        """The modalities of a batch; images alone have two sides where they are mixed."""
        positive_SKB, has_queue = self._ids(self._kinds, targets), self._techniques.queue is not None
        return {name: Items(unit_BD=F.normalize(at_least_float32(x), dim=1),
                            positive_SKB=positive_SKB if name == "image" else positive_SKB[:1],
                            earlier_QD=self.queue.earlier(name) if has_queue else None)
                for name, x in embeddings.items()}  # fmt: skip

    @staticmethod
    def _ids(kinds: tuple[str, ...], targets: Targets) -> Tensor:
        """[S, K, B]: a batch's ids of some kinds, with those of the partners where images are mixed."""
        ids = {"place": torch.arange(len(targets.match_B), device=targets.match_B.device),
               "match": targets.match_B, "label": targets.label_B, "text": targets.text_B}  # fmt: skip
        own_KB = torch.stack([_known(ids[kind]) for kind in kinds])
        return own_KB[None] if targets.mixed is None else torch.stack([own_KB, own_KB[:, targets.mixed.partner_B]])

    @torch.no_grad()
    def end_step(self, embeddings: Mapping[str, Tensor], targets: Targets) -> None:
        """Bring the scale back to its limit, and put a step's embeddings into the queue."""
        if self._techniques.learned_temperature is not None:
            self.log_scale.clamp_(max=self._log_limit)
        if self._techniques.queue is not None:
            units = {name: F.normalize(at_least_float32(x), dim=1) for name, x in embeddings.items()}
            self.queue.push(units, self._ids(self._things, targets))


def _changes_pairs(on: Techniques) -> bool:
    """Whether the loss of a pair is another than that of `bench.objective`."""
    own = (on.learned_temperature, on.queue, on.hard_negatives, on.supervised, on.multi_positive, on.siglip)
    return any(each is not None for each in own)


def _positives(on: Techniques, *, multi_positive: bool) -> tuple[str, ...]:
    """The kinds of ids by which two items of a batch are positives: their place in it, or what they are."""
    if on.supervised is not None:
        return ("label",)
    if on.multi_positive is not None:
        return on.multi_positive.equal
    # Under a curriculum a batch may hold a sample twice, which is no negative of itself.
    return ("match",) if multi_positive or on.semantic_groups or on.curriculum else ("place",)


def _known(id_B: Tensor | None) -> Tensor:
    assert id_B is not None, "targets lack the ids of texts"
    return id_B
