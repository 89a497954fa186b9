"""What turns text, images and spectrograms into the tokens of NL-MM.

Shapes: B batch, L tokens, D width, P patch, F mel bins, T frames, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _positions(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(count, width) * 0.02)


def _with_positions(tokens_BLD: Tensor, positions_LD: Tensor, what: str) -> Tensor:
    L = tokens_BLD.shape[1]
    if len(positions_LD) < L:
        raise ValueError(f"{L} {what} are more than the {len(positions_LD)} that have a position")
    return tokens_BLD + positions_LD[:L]


class TextTokens(nn.Module):
    """Token ids [B, L]: embedding + positions."""

    def __init__(self, *, vocab_size: int, width: int, positions: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = _positions(positions, width)

    def forward(self, text_BL: Tensor) -> Tensor:
        """[B, L, D]."""
        return _with_positions(self.embedding(text_BL), self.positions, "tokens")


class ImageTokens(nn.Module):
    """Images [B, 3, H, W]: a convolution over P × P patches + positions."""

    def __init__(self, *, patch_size: int, width: int, positions: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.positions = _positions(positions, width)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """[B, L, D], row by row."""
        P = self.patches.kernel_size[0]
        # A convolution of stride P is one matrix product over the pixels of each patch.
        grid = image_B3HW.unflatten(3, (-1, P)).unflatten(2, (-1, P))  # [B, 3, rows, P, columns, P]
        pixels = grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        patches_BLD = F.linear(pixels, self.patches.weight.flatten(1), self.patches.bias)
        return _with_positions(patches_BLD, self.positions, "patches")


class AudioTokens(nn.Module):
    """Spectrograms [B, 1, F, T]: two 3 × 3 convolutions, the mean over mel bins, a projection; a token a frame."""

    def __init__(self, *, width: int, positions: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1) for i, o in ((1, width // 4), (width // 4, width // 2))
        )
        self.projection = nn.Linear(width // 2, width)
        self.positions = _positions(positions, width)

    def forward(self, audio_B1FT: Tensor, mask_BT: Tensor | None) -> Tensor:
        """[B, T, D]; frames whose mask is False are silence to the frames beside them."""
        x = audio_B1FT
        for convolution in self.convolutions:
            if mask_BT is not None:
                x = x * mask_BT[:, None, None, :].to(x.dtype)
            x = F.gelu(convolution(x))
        tokens_BTD = self.projection(x.mean(dim=2).transpose(1, 2))
        return _with_positions(tokens_BTD, self.positions, "frames")
