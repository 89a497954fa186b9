"""Training samples that arrive changed: images, captions and spectrograms, each by its own technique.

A change is drawn by (the block's seed, epoch, sample), so it does not depend on the batch a sample is in, on the run
beside it, or on where a run was stopped. A sample that is drawn twice in an epoch is changed alike.
Shapes: B batch, F mel bands, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.datasets.audio import masked_places
from bench.datasets.samples import Dataset, PixelLevels, Samples, SampleSource, Words
from bench.techniques.draws import Draw, keys
from bench.techniques.image_augmentation import changed_images, draw_images
from bench.techniques.options import SpecAugment, Techniques
from bench.techniques.text_augmentation import changed_texts

CHANGES = ("image_augmentation", "text_augmentation", "spec_augment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmented:
    """The samples of `source` as the techniques change them in an epoch; ids stay."""

    source: SampleSource
    techniques: Techniques
    seed: int
    epoch: int
    levels: PixelLevels | None
    words: Words | None

    @property
    def label_N(self) -> Tensor:
        """See `SampleSource`."""
        return self.source.label_N

    @property
    def match_N(self) -> Tensor:
        """See `SampleSource`."""
        return self.source.match_N

    def __len__(self) -> int:
        return len(self.source)

    def take(self, indices: Tensor | slice, /) -> Samples:
        """The samples at `indices` (int64, on the samples' device) or of a slice, changed."""
        batch = self.source.take(indices)
        if isinstance(indices, slice):
            indices = torch.arange(len(self), device=batch.match_N.device)[indices]
        for change in (self._images, self._texts, self._spectrograms):
            batch = change(batch, indices)
        return batch

    def _images(self, batch: Samples, index_B: Tensor) -> Samples:
        options, images = self.techniques.image_augmentation, batch.image_N3HW
        if options is None:
            return batch
        assert images is not None  # looked at before anything ran
        draws = draw_images(self._keys(Draw.IMAGE, index_B), images.shape[-2], images.shape[-1], options)
        return replace(batch, image_N3HW=changed_images(images, draws, options, self.levels))

    def _texts(self, batch: Samples, index_B: Tensor) -> Samples:
        options = self.techniques.text_augmentation
        if options is None:
            return batch
        assert self.words is not None
        return changed_texts(batch, index_B, self._keys(Draw.TEXT, index_B), self.words, options)

    def _spectrograms(self, batch: Samples, index_B: Tensor) -> Samples:
        options, audio_B1FT = self.techniques.spec_augment, batch.audio_N1FT
        if options is None:
            return batch
        assert audio_B1FT is not None
        keys_B = self._keys(Draw.SPECTROGRAM, index_B)
        return replace(batch, audio_N1FT=masked_spectrograms(audio_B1FT, batch.audio_mask_NT, keys_B, options))

    def _keys(self, draw: Draw, index_B: Tensor) -> Tensor:
        return keys(self.seed, draw, self.epoch, index_B)


def masked_spectrograms(audio_B1FT: Tensor, mask_BT: Tensor | None, keys_B: Tensor, options: SpecAugment) -> Tensor:
    """Spectrograms with runs of frames and bands set to the mean of their own real part; padding stays.

    A mask's width is uniform on 0 … its share of the real frames, which `mask_BT` has first, or of the bands.
    """
    batch, _, bands, frames = audio_B1FT.shape
    if mask_BT is None:
        mask_BT = torch.ones(batch, frames, dtype=torch.bool, device=audio_B1FT.device)
    frames_B = mask_BT.sum(dim=1)
    longest_B = (frames_B.double() * options.time_width).long()
    masked_B1FT = masked_places(
        audio_B1FT, frames_B, keys_B, time_masks=options.time_masks, longest_N=longest_B,
        frequency_masks=options.frequency_masks, frequency_width=int(bands * options.frequency_width),
    )  # fmt: skip
    real_B11T = mask_BT[:, None, None, :]
    mean_B = (audio_B1FT * real_B11T).sum(dim=(1, 2, 3)) / (bands * frames_B).clamp(min=1)
    return torch.where(masked_B1FT & real_B11T, mean_B[:, None, None, None], audio_B1FT)


def augmented(source: SampleSource, dataset: Dataset, techniques: Techniques, seed: int, epoch: int) -> SampleSource:
    """The training samples of an epoch as the techniques change them; `source` itself where none does."""
    if not set(CHANGES) & set(techniques.on):
        return source
    words = dataset.words(source) if techniques.text_augmentation is not None else None
    return Augmented(source=source, techniques=techniques, seed=seed, epoch=epoch, levels=dataset.pixel_levels,
                     words=words)  # fmt: skip
