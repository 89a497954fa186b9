"""What a dataset hands to the trainer: samples as resident tensors, and the three splits of a workload."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Modality = Literal["text", "image", "audio"]
MODALITIES: tuple[Modality, ...] = ("text", "image", "audio")
HeldOut = Literal["validation", "test"]
Split = Literal["training", "validation", "test"]

# A split's part in the keys of counter-based noise; the numbers are fixed for good, since they decide the bits.
SPLIT_KEYS: Mapping[Split, int] = {"training": 0, "validation": 1, "test": 2}


class DataError(ValueError):
    """A workload's files are missing, damaged or not what it expects; the message names the file and says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """N samples; a modality that a workload lacks is None.

    text_NL: int64 token ids. image_N3HW, audio_N1FT: float32. text_mask_NL, audio_mask_NT: bool, True at real tokens
    and frames; None where nothing is padded. label_N: int64 class. match_N: int64; samples of equal match id are
    mutual positives in retrieval (instance-level: all different). encoded: by modality the results [N, W] of a frozen
    encoder, which stand for its inputs.
    """

    label_N: Tensor
    match_N: Tensor
    text_NL: Tensor | None = None
    text_mask_NL: Tensor | None = None
    image_N3HW: Tensor | None = None
    audio_N1FT: Tensor | None = None
    audio_mask_NT: Tensor | None = None
    encoded: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.match_N)

    def take(self, indices: Tensor | slice) -> Samples:
        """The samples at `indices` (int64, on the samples' device) or of a slice."""
        if isinstance(indices, slice):
            return self._each(lambda value: value[indices])
        return self._each(lambda value: value.index_select(0, indices))  # three times as fast as indexing

    def to(self, device: torch.device | str) -> Samples:
        """The same samples on `device`."""
        return self._each(lambda value: value.to(device))

    def inputs(self) -> dict[str, Tensor]:
        """The modalities that are present, by name: text ids, images, spectrograms, or what encoders made of them."""
        named = {"text": self.text_NL, "image": self.image_N3HW, "audio": self.audio_N1FT, **(self.encoded or {})}
        return {name: x for name, x in named.items() if x is not None}

    def masks(self) -> dict[str, Tensor]:
        """By modality what of its input is real: tokens [N, L], frames [N, T]; absent where all of it is."""
        named = {"text": self.text_mask_NL, "audio": self.audio_mask_NT}
        return {name: mask for name, mask in named.items() if mask is not None}

    def _each(self, change: Callable[[Tensor], Tensor]) -> Samples:
        present = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        encoded = None if self.encoded is None else {name: change(value) for name, value in self.encoded.items()}
        return replace(self, encoded=encoded, **{name: change(value) for name, value in present.items()})


class SampleSource(Protocol):
    """N samples that are taken as they are needed: `Samples` themselves, or rows that lead to stored files."""

    @property
    def label_N(self) -> Tensor: ...
    @property
    def match_N(self) -> Tensor: ...
    def __len__(self) -> int: ...
    def take(self, indices: Tensor | slice, /) -> Samples:
        """The samples at `indices` (int64, on the samples' device) or of a slice."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelLevels:
    """How images' values come from levels between 0, black, and 1, white: (level − mean) / deviation by channel."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)


class Words(Protocol):
    """The captions of an epoch's training samples in words, for techniques that count or change words."""

    @property
    def count_N(self) -> Tensor:
        """Every caption's number of words, int64 on the CPU."""
        ...

    def of(self, indices_B: Tensor) -> list[list[str]]:
        """The words of the captions at `indices_B`."""
        ...

    def tokens(self, words: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask [L] of a caption of these words, as wide as the samples' and cut to it; on the CPU.

        Raises `ValueError` for words of which no token is left, or which are none of the data's.
        """
        ...


class Dataset(ABC):
    """The three splits of a workload; disjoint and fixed but for training noise. Samples arrive on one device."""

    @property
    @abstractmethod
    def training_size(self) -> int:
        """Number of training samples."""

    @abstractmethod
    def training(self, epoch: int, noise_seed: int) -> SampleSource:
        """All training samples of an epoch (counted from 1), in index order.

        Recipes that re-noise, augment or choose draw from a counter-based stream keyed by (`noise_seed`, epoch,
        sample), so the same arguments give the same bits.
        """

    @abstractmethod
    def held_out(self, split: HeldOut) -> SampleSource:
        """The fixed validation or test samples."""

    def pools(self, split: HeldOut) -> Sequence[SampleSource]:
        """What is retrieved from: the split's samples, or, where samples share an image or a clip, each thing once.

        Every modality is in one of them; match ids lead from one to the other.
        """
        return (self.held_out(split),)

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

    def words(self, training: SampleSource) -> Words | None:
        """The words of the captions of `training`, which `training` has given; None where none are known."""
        del training
        return None

    @property
    def pixel_levels(self) -> PixelLevels | None:
        """What black and white are in its images; None where that is not known."""
        return None

    @property
    def augments(self) -> Mapping[str, str]:
        """Techniques of a protocol that options of the data carry out in training themselves, with those options."""
        return {}

    def own_row(self, modality: Modality, source: str) -> tuple[Tensor, Tensor | None]:
        """A user's own text, or image or sound file, as one row of that modality's input, and its mask.

        Raises `DataError` where it cannot be read, or the data are made by a recipe that knows no such thing.
        """
        raise DataError(f"{type(self).__name__} takes no {modality} of your own ({source!r}); allowed is an item of "
                        "its test split")  # fmt: skip

    def captions(self, text_NL: Tensor, mask_NL: Tensor | None) -> list[str]:
        """Token ids as people read them; runs of one id as id×count, where no tokenizer made them."""
        real_NL = torch.ones_like(text_NL, dtype=torch.bool) if mask_NL is None else mask_NL
        runs = [(ids[real].unique_consecutive(return_counts=True)) for ids, real in zip(text_NL, real_NL, strict=True)]
        return [" ".join(f"{i}×{n}" if n > 1 else str(i) for i, n in zip(ids.tolist(), counts.tolist(), strict=True))
                for ids, counts in runs]  # fmt: skip

    def pixels(self, image_N3HW: Tensor) -> Tensor:
        """Images [N, 3, H, W] as people see them, between 0 and 1; each stretched to its own range by default."""
        low, high = (x.view(-1, 1, 1, 1) for x in image_N3HW.flatten(1).aminmax(dim=1))
        return (image_N3HW - low) / (high - low).clamp_min(1e-6)

    @property
    def digest(self) -> str | None:
        """SHA-256 over the files read; None for a synthetic recipe."""
        return None

    @property
    def remarks(self) -> Sequence[str]:
        """What was left out or is odd, a line each."""
        return ()

    @property
    def network_options(self) -> Mapping[str, Any]:
        """What the data decides of the network, such as the size of a fitted vocabulary; {} where nothing."""
        return {}

    def fixed_items(self, modality: str, split: Split) -> SampleSource | None:
        """Every thing of one modality that an epoch may take of a split, in the form in which it always takes it.

        None where training changes them, as augmentation does, or where that is not known.
        """
        del modality, split
        return None

    @property
    def network_files(self) -> Mapping[str, str]:
        """The SHA-256 of the files that the network is made of, by name; {} where it is made of none."""
        return {}


def ids_by_modality(pools: Sequence[SampleSource], kind: Literal["match", "label"]) -> dict[str, Tensor]:
    """The match ids, or labels, of the items of every modality."""
    ids = [pool.match_N if kind == "match" else pool.label_N for pool in pools]
    return {name: own for pool, own in zip(pools, ids, strict=True) for name in pool.take(slice(0, 1)).inputs()}


def require_modalities(modalities: Sequence[str], offered: Sequence[str] = MODALITIES) -> frozenset[str]:
    """`modalities` as a set; raises `ValueError` where there are fewer than two, or one that is not offered."""
    if len(set(modalities)) < 2 or not set(modalities) <= set(offered):
        raise ValueError(f"modalities are {', '.join(modalities) or 'none'}; allowed are two or more of "
                         f"{', '.join(offered)}")  # fmt: skip
    return frozenset(modalities)
