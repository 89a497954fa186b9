"""The synthetic recipe of the documents' study: three modalities that share a class and nothing else.

A sample's label c is uniform on K classes. Text: a prototype of tokens from ids 10c … 10c + 9, each position replaced
with probability 0.2 by any id. Image: channel c mod 3 at 0.8, plus 0.3 sin(x) cos(y) on every channel,
x, y in [0, 2π(c + 1)]. Audio: (sin(i f/10) + cos(j f/15))/2, f = 3(c + 1), min–max to [0, 1]. Image and audio are
clipped to [0, 1] before and after N(0, 0.1²) is added.

Nothing ties a sample's text to its image but the class, so a pool with n_c samples of class c allows an expected hit@k
of min(1, k/n_c) and no more: R@1 is K/N at best, 5 % for 200 samples, whatever the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from bench.datasets import noise
from bench.datasets.samples import (
    MODALITIES,
    SPLIT_KEYS,
    Dataset,
    HeldOut,
    PixelLevels,
    Samples,
    SampleSource,
    Split,
    require_modalities,
)
from bench.datasets.words import TokenWords, token_words

# C classes, L tokens, H × W pixels, F frequency rows × T time columns, N samples.
IDS_PER_CLASS = 10
REPLACED = 0.2
BAND_LEVEL = 0.8
PATTERN_LEVEL = 0.3
NOISE_DEVIATION = 0.1


class Stream(IntEnum):
    """What a key draws; the last part of every key of this recipe, after seed and split (and epoch)."""

    LABEL = 0
    TEXT = 1
    IMAGE = 2
    AUDIO = 3
    PROTOTYPE = 4


def text_prototypes(classes: int, tokens: int, data_seed: int) -> Tensor:
    """Each class's token ids, drawn with replacement from its own ten; int64 [C, L]."""
    class_C = torch.arange(classes)
    keys_C = noise.sample_keys(data_seed, Stream.PROTOTYPE, indices=class_C)
    return IDS_PER_CLASS * class_C[:, None] + noise.integers(keys_C, tokens, IDS_PER_CLASS)


def image_prototypes(classes: int, image_size: int) -> Tensor:
    """Each class's image without noise: x runs along the width, y along the height; float32 [C, 3, H, W]."""
    image_C3HW = np.zeros((classes, 3, image_size, image_size))
    for c in range(classes):
        angle = np.linspace(0, 2 * np.pi * (c + 1), image_size)
        image_C3HW[c, c % 3] = BAND_LEVEL
        image_C3HW[c] += PATTERN_LEVEL * np.cos(angle)[:, None] * np.sin(angle)[None, :]
    return torch.from_numpy(image_C3HW.clip(0, 1).astype(np.float32))


def audio_prototypes(classes: int, audio_size: int) -> Tensor:
    """Each class's spectrogram without noise: i counts the rows, j the columns; float32 [C, 1, F, T]."""
    step = np.arange(audio_size)
    audio_C1FT = np.empty((classes, 1, audio_size, audio_size))
    for c in range(classes):
        f = 3 * (c + 1)
        pattern = (np.sin(step * f / 10)[:, None] + np.cos(step * f / 15)[None, :]) / 2
        audio_C1FT[c, 0] = (pattern - pattern.min()) / (pattern.max() - pattern.min())
    return torch.from_numpy(audio_C1FT.astype(np.float32))


def expected_log_same_class(batch_size: int, classes: int) -> float:
    """E[ln M], M = 1 + Binomial(batch_size − 1, 1/classes): a batch's samples of a sample's class, itself included.

    It is the lowest expected InfoNCE (in nats) of encoders that can tell nothing but the class.
    """
    if batch_size < 1 or classes < 1:
        raise ValueError(f"expected_log_same_class: {batch_size=} and {classes=} must be at least 1")
    if classes == 1:
        return math.log(batch_size)
    others = batch_size - 1
    log_factorial = [math.lgamma(n + 1) for n in range(batch_size)]

    def probability(same: int) -> float:
        ways = log_factorial[others] - log_factorial[same] - log_factorial[others - same]
        return math.exp(ways - same * math.log(classes) + (others - same) * math.log1p(-1 / classes))

    return math.fsum(probability(same) * math.log1p(same) for same in range(batch_size))


class DocumentsData(Dataset):
    """The recipe of the documents' study, resident on `device`; training samples are re-noised every epoch.

    Labels and prototypes are fixed by `data_seed` alone, held-out samples with their noise too. Every sample is its
    own match (instance-level retrieval).
    """

    def __init__(
        self,
        *,
        classes: int = 10,
        training: int = 1000,
        validation: int = 200,
        test: int = 200,
        tokens: int = 16,
        vocab_size: int = 1000,
        image_size: int = 64,
        audio_size: int = 64,
        data_seed: int = 0,
        modalities: Sequence[str] = MODALITIES,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes = {"classes": classes, "training": training, "validation": validation, "test": test, "tokens": tokens}
        too_small = {name: value for name, value in sizes.items() if value < 1}
        too_small |= {n: v for n, v in {"image_size": image_size, "audio_size": audio_size}.items() if v < 2}
        if too_small:
            raise ValueError(f"DocumentsData: {too_small} is too small; counts start at 1, sizes at 2")
        if vocab_size < IDS_PER_CLASS * classes:
            raise ValueError(f"DocumentsData: {vocab_size=} is too small; {IDS_PER_CLASS * classes} ids are needed")
        self._classes, self._vocab_size, self._data_seed = classes, vocab_size, data_seed
        self._modalities = require_modalities(modalities)
        self._text_CL = text_prototypes(classes, tokens, data_seed).to(device)
        self._image_C3HW = image_prototypes(classes, image_size).to(device)
        self._audio_C1FT = audio_prototypes(classes, audio_size).to(device)
        counts: dict[Split, int] = {"training": training, "validation": validation, "test": test}
        self._labels = {split: self._draw_labels(split, count) for split, count in counts.items()}
        self._held_out = {
            split: self._render(self._labels[split], data_seed, SPLIT_KEYS[split]) for split in ("validation", "test")
        }

    @property
    def training_size(self) -> int:
        return len(self._labels["training"])

    def training(self, epoch: int, noise_seed: int) -> Samples:
        return self._render(self._labels["training"], noise_seed, SPLIT_KEYS["training"], epoch)

    def held_out(self, split: HeldOut) -> Samples:
        return self._held_out[split]

    def words(self, training: SampleSource) -> TokenWords | None:
        """A token is a word: its id in digits."""
        return token_words(training, self._vocab_size)

    @property
    def pixel_levels(self) -> PixelLevels:
        """Pixels are clipped to [0, 1]."""
        return PixelLevels()

    def matcher_scores(self, split: HeldOut, first: str, second: str) -> Tensor:
        """1 where the classes are equal: a query cannot tell the samples of its class in the pool apart."""
        del first, second
        labels_N = self._labels[split]
        return (labels_N[:, None] == labels_N[None, :]).float()

    def best_pair_loss(self, batch_size: int) -> float:
        return expected_log_same_class(batch_size, self._classes)

    def _draw_labels(self, split: Split, count: int) -> Tensor:
        indices_N = torch.arange(count, device=self._text_CL.device)
        keys_N = noise.sample_keys(self._data_seed, SPLIT_KEYS[split], Stream.LABEL, indices=indices_N)
        return noise.integers(keys_N, 1, self._classes)[:, 0]

    def _render(self, labels_N: Tensor, *key: int) -> Samples:
        """The samples of `labels_N` with the noise of `key` (seed, split and, in training, epoch)."""
        indices_N = torch.arange(len(labels_N), device=labels_N.device)
        samples = Samples(label_N=labels_N, match_N=indices_N)
        if "text" in self._modalities:
            keys_N = noise.sample_keys(*key, Stream.TEXT, indices=indices_N)
            samples = replace(samples, text_NL=_replace_tokens(self._text_CL[labels_N], keys_N, self._vocab_size))
        if "image" in self._modalities:
            keys_N = noise.sample_keys(*key, Stream.IMAGE, indices=indices_N)
            samples = replace(samples, image_N3HW=_noisy(self._image_C3HW[labels_N], keys_N))
        if "audio" in self._modalities:
            keys_N = noise.sample_keys(*key, Stream.AUDIO, indices=indices_N)
            samples = replace(samples, audio_N1FT=_noisy(self._audio_C1FT[labels_N], keys_N))
        return samples


def _noisy(x: Tensor, keys_N: Tensor) -> Tensor:
    """`x` with normal noise, clipped; it is overwritten."""
    return noise.add_normal_(x, keys_N, NOISE_DEVIATION).clamp_(0, 1)


def _replace_tokens(text_NL: Tensor, keys_N: Tensor, vocab_size: int) -> Tensor:
    """Each token replaced with probability 0.2 by an id uniform on the whole vocabulary."""
    tokens = text_NL.shape[1]
    uniform_N2L = noise.uniform(keys_N, 2 * tokens)
    replacement_NL = (uniform_N2L[:, tokens:] * vocab_size).to(torch.int64)
    return torch.where(uniform_N2L[:, :tokens] < REPLACED, replacement_NL, text_NL)
