"""What belongs together in a batch, as the terms of a loss need it. Shapes: B batch, L tokens, D embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """Images of a batch that were mixed: image i is `share` of its own and the rest of image `partner_B[i]`.

    `partner_B` is a permutation of the batch.
    """

    partner_B: Tensor
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What belongs together in a batch. `progress` is the share of the run's epochs that are done, in [0, 1).

    `text_B`, equal for equal texts, and a teacher's embeddings [B, D] are there where a technique asks for them.
    """

    match_B: Tensor
    label_B: Tensor
    progress: float = 0.0
    mixed: Mixed | None = None
    text_B: Tensor | None = None
    teacher: Mapping[str, Tensor] | None = None


def text_ids(text_BL: Tensor, mask_BL: Tensor | None) -> Tensor:
    """[B] int64: equal for equal texts, and by chance for two others in fewer than one of 10¹² pairs.

    A sum of tokens, each times a number of its place, modulo 2⁶⁴: ids stay comparable from batch to batch.
    """
    generator = torch.Generator().manual_seed(0)
    place_L = torch.randint(-(1 << 63), (1 << 63) - 1, text_BL.shape[1:], generator=generator)
    tokens_BL = text_BL + 1 if mask_BL is None else (text_BL + 1) * mask_BL
    return (tokens_BL * place_L.to(text_BL.device)).sum(dim=1)
