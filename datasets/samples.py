"""What a dataset hands to the trainer: samples as resident tensors, and the three splits of a workload."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

HeldOut = Literal["validation", "test"]
Split = Literal["training", "validation", "test"]

# A split's part in the keys of counter-based noise; the numbers are fixed for good, since they decide the bits.
SPLIT_KEYS: Mapping[Split, int] = {"training": 0, "validation": 1, "test": 2}


class DataError(ValueError):
    """A workload's files are missing, damaged or not what it expects; the message names the file and says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """N samples; a modality that a workload lacks is None.

    text_NL: int64 token ids. text_mask_NL: bool, True at real tokens; None where nothing is padded.
    image_N3HW, audio_N1FT: float32. label_N: int64 class. match_N: int64; samples of equal match id are mutual
    positives in retrieval (instance-level: all different).
    """

    label_N: Tensor
    match_N: Tensor
    text_NL: Tensor | None = None
    text_mask_NL: Tensor | None = None
    image_N3HW: Tensor | None = None
    audio_N1FT: Tensor | None = None

    def __len__(self) -> int:
        return len(self.match_N)

    def take(self, indices: Tensor | slice) -> Samples:
        """The samples at `indices` (int64, on the samples' device) or of a slice."""
        return self._each(lambda value: value[indices])

    def to(self, device: torch.device | str) -> Samples:
        """The same samples on `device`."""
        return self._each(lambda value: value.to(device))

    def inputs(self) -> dict[str, Tensor]:
        """The modalities that are present, by name: text ids, images, spectrograms."""
        named = {"text": self.text_NL, "image": self.image_N3HW, "audio": self.audio_N1FT}
        return {name: x for name, x in named.items() if x is not None}

    def _each(self, change: Callable[[Tensor], Tensor]) -> Samples:
        present = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        return replace(self, **{name: change(value) for name, value in present.items()})


class Dataset(ABC):
    """The three splits of a workload, resident on one device; disjoint and fixed but for training noise."""

    @property
    @abstractmethod
    def training_size(self) -> int:
        """Number of training samples."""

    @abstractmethod
    def training(self, epoch: int, noise_seed: int) -> Samples:
        """All training samples of an epoch (counted from 1), in index order.

        Recipes that re-noise draw from a counter-based stream keyed by (`noise_seed`, epoch, sample), so the same
        arguments give the same bits.
        """

    @abstractmethod
    def held_out(self, split: HeldOut) -> Samples:
        """The fixed validation or test samples."""

    def matcher_scores(self, split: HeldOut, first: str, second: str) -> Tensor | None:
        """The best possible matcher's score of item i of modality `first` with item j of `second`, [N, N].

        Ranking by it gives the ceiling of retrieval in that direction. None where no such matcher is known: 100 % is
        then not excluded.
        """
        del split, first, second
        return None

    def best_pair_loss(self, batch_size: int) -> float | None:
        """The lowest expected InfoNCE of one pair of modalities at `batch_size`, where the recipe gives one."""
        del batch_size
        return None

    @property
    def digest(self) -> str | None:
        """SHA-256 over the files read; None for a synthetic recipe."""
        return None
