"""Towers: encoders of one modality, in the one form in which a network uses them.

Shapes: B batch, L tokens, N tokens or places of a result, W width of a tower's result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.multimodal_memory import Dropout

# What images of this project's datasets are normalised with, and so arrive with.
ARRIVING_MEAN, ARRIVING_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Tower(nn.Module):
    """An encoder: forward(x, mask, dropout) to [B, width]; the mask is True at real tokens or frames.

    `draws`: whether it may draw from the global generator in training.
    """

    draws = True

    def __init__(self, network: nn.Module, width: int) -> None:
        super().__init__()
        self.network, self.width = network, width


class BuiltinTower(Tower):
    """An encoder of this project; its dropout is the run's own."""

    draws = False

    def __init__(self, network: nn.Module, width: int, *, masked: bool) -> None:
        super().__init__(network, width)
        self._masked = masked

    def forward(self, x: Tensor, mask: Tensor | None, dropout: Dropout) -> Tensor:
        return self.network(x, mask, dropout) if self._masked else self.network(x, dropout)


class OwnTower(Tower):
    """A module of the user's, called with (x, mask)."""

    def forward(self, x: Tensor, mask: Tensor | None, dropout: Dropout) -> Tensor:
        del dropout
        return self.network(x, mask)


class Renormalised(nn.Module):
    """Images with another mean and deviation of the channels than those that they arrive with; unchanged for None."""

    def __init__(self, mean: Sequence[float] | None, deviation: Sequence[float] | None) -> None:
        super().__init__()
        to_mean = torch.tensor(ARRIVING_MEAN if mean is None else mean)
        to_deviation = torch.tensor(ARRIVING_DEVIATION if deviation is None else deviation)
        scale, shift = torch.tensor(ARRIVING_DEVIATION) / to_deviation, (torch.tensor(ARRIVING_MEAN) - to_mean)
        self.register_buffer("scale", scale.view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (shift / to_deviation).view(3, 1, 1), persistent=False)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        return torch.addcmul(self.get_buffer("shift"), image_B3HW, self.get_buffer("scale"))


class PixelTower(Tower):
    """A network from [B, 3, H, W] to [B, W]; a spectrogram's one channel stands for all three."""

    def __init__(self, network: nn.Module, width: int, pixels: Renormalised) -> None:
        super().__init__(network, width)
        self.pixels = pixels

    def forward(self, x: Tensor, mask: Tensor | None, dropout: Dropout) -> Tensor:
        del mask, dropout
        return self.network(x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else self.pixels(x))


class TokenTower(Tower):
    """A transformers model of text or images, whose tokens [B, N, W] become one vector: their mean, or the first."""

    def __init__(self, network: nn.Module, width: int, pooling: str, pixels: Renormalised | None) -> None:
        super().__init__(network, width)
        self._pooling, self.pixels = pooling, pixels

    def forward(self, x: Tensor, mask: Tensor | None, dropout: Dropout) -> Tensor:
        del dropout
        if self.pixels is None:
            tokens_BNW = self.network(input_ids=x, attention_mask=None if mask is None else mask.long())[0]
        else:
            tokens_BNW = self.network(pixel_values=self.pixels(x))[0]
        if tokens_BNW.dim() != 3:
            raise ValueError(f"{type(self.network).__name__} gives {list(tokens_BNW.shape)}; expected tokens [B, N, W]")
        if self._pooling == "cls":
            return tokens_BNW[:, 0]
        if mask is None:
            return tokens_BNW.mean(dim=1)
        weight_BN1 = mask.unsqueeze(-1).to(tokens_BNW.dtype)
        return (tokens_BNW * weight_BN1).sum(dim=1) / weight_BN1.sum(dim=1).clamp_min(1)


class ClipTextTower(Tower):
    """The text half of an open_clip model, which takes texts of one length, padded with its own padding."""

    def __init__(self, network: Any, width: int, *, length: int, pad_id: int) -> None:
        super().__init__(network, width)
        self._length, self._pad_id = length, pad_id

    def forward(self, x: Tensor, mask: Tensor | None, dropout: Dropout) -> Tensor:
        del dropout
        if x.shape[1] > self._length:
            raise ValueError(f"text_length is {x.shape[1]}; this open_clip model takes at most {self._length} tokens")
        ids_BL = x if mask is None else x.masked_fill(~mask, self._pad_id)
        ids_BL = nn.functional.pad(ids_BL, (0, self._length - ids_BL.shape[1]), value=self._pad_id)
        network: Any = self.network
        return network.encode_text(ids_BL)
