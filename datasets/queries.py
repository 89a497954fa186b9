"""A user's own text, image or clip as a row of a workload's input, and rows as people see them.

torchvision is imported when an image is asked for.

Shapes: N rows, L tokens, S pixels a side, F mel bands, T frames.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bench.datasets import audio
from bench.datasets.samples import DataError
from bench.datasets.tokenizers import Tokenizer


def text_row(tokenizer: Tokenizer, text: str, length: int) -> tuple[Tensor, Tensor]:
    """Ids and mask [1, L] of a text, cut to `length` tokens.

    Raises `DataError` where no token is left of it.
    """
    try:
        return tokenizer.encode_batch([text], length)
    except ValueError as error:
        raise DataError(f"text {text!r}: {error}") from None


def captions(tokenizer: Tokenizer, text_NL: Tensor, mask_NL: Tensor | None) -> list[str]:
    """The texts that ids stand for."""
    real_NL = torch.ones_like(text_NL, dtype=torch.bool) if mask_NL is None else mask_NL
    return [tokenizer.decode(ids[real].tolist()) for ids, real in zip(text_NL.cpu(), real_NL.cpu(), strict=True)]


def decoded_image(path: Path) -> Tensor:
    """An image file, uint8 RGB [3, H, W]; raises `DataError` where it cannot be read."""
    from bench.datasets import images

    return images.decode(path)


def image_row(path: Path, size: int) -> Tensor:
    """The square in the middle of an image file, uint8 [1, 3, S, S]; raises `DataError` where it cannot be read."""
    from bench.datasets import images

    return images.square(images.decode(path), size).unsqueeze(0)


def imagenet_row(path: Path, size: int, stored_size: int) -> Tensor:
    """The middle of an image that is stored larger, as of a held-out one, normalised as ImageNet's are; float32."""
    from bench.datasets import images

    return images.normalised(images.middle(image_row(path, stored_size), size))


def audio_row(path: Path, settings: audio.LogMel, frames: int) -> tuple[Tensor, Tensor]:
    """The spectrogram [1, 1, F, T] and the mask [1, T] of a sound file; raises `DataError` where it cannot be read."""
    audio.import_libraries("audio")
    spectrum, frames_N = audio.log_mel([audio.read_clip(path, settings.rate)], settings, frames)
    return spectrum, torch.arange(frames) < frames_N[:, None]
