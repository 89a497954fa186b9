"""Samples as rows that lead to stored files: several captions share an image, and nothing is decoded twice.

Shapes: N rows, B of a batch, L tokens, S pixels of a stored side, F mel bands, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from bench.datasets import audio, images, noise
from bench.datasets.options import MaskOptions
from bench.datasets.samples import SPLIT_KEYS, Samples
from bench.datasets.tokenizers import Tokenizer
from bench.datasets.words import TextWords

RESIDENT_SHARE = 0.4  # of a GPU's free memory that stored files may take


class Draw(IntEnum):
    """What a key of training draws; its last part, after seed, split and epoch."""

    CROP = 0
    SPECTROGRAM = 1
    CAPTION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the rows of all splits lead to, and how a batch is made of it.

    text_NL: token ids, length_N of them real. pixels_N3SS: uint8, larger than `image_size` where training crops.
    spectra_NFT: float16, frames_N of them real. Files stay where they are mapped unless `resident` moved them.
    """

    device: torch.device
    text_NL: Tensor | None = None
    length_N: Tensor | None = None
    pixels_N3SS: Tensor | None = None
    image_size: int = 0
    spectra_NFT: Tensor | None = None
    frames_N: Tensor | None = None
    spec_augment: MaskOptions | None = None

    def resident(self) -> Stored:
        """With the files on the device, where it has room for them."""
        files = [x for x in (self.pixels_N3SS, self.spectra_NFT) if x is not None]
        if self.device.type != "cuda":
            return self
        free, _ = torch.cuda.mem_get_info(self.device)
        if sum(x.nbytes for x in files) > RESIDENT_SHARE * free:
            return self
        moved = {name: x.to(self.device) for name in ("pixels_N3SS", "spectra_NFT", "frames_N")
                 if (x := getattr(self, name)) is not None}  # fmt: skip
        return replace(self, **moved)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSamples:
    """N rows; `places` says for each modality which stored item a row has. All on the stored things' device.

    `augment` (noise seed, epoch) marks rows of training, whose images and spectrograms are changed by streams keyed
    by (seed, epoch, `row_N`).
    """

    stored: Stored
    label_N: Tensor
    match_N: Tensor
    row_N: Tensor
    places: Mapping[str, Tensor]
    augment: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.match_N)

    def take(self, indices: Tensor | slice) -> Samples:
        """The samples at `indices` (int64, on the samples' device) or of a slice, read and prepared."""
        rows = self.select(indices)
        samples = Samples(label_N=rows.label_N, match_N=rows.match_N)
        if "text" in rows.places:
            samples = replace(samples, **rows._text(rows.places["text"]))
        if "image" in rows.places:
            samples = replace(samples, image_N3HW=rows._images(rows.places["image"]))
        if "audio" in rows.places:
            samples = replace(samples, **rows._audio(rows.places["audio"]))
        return samples

    def select(self, indices: Tensor | slice) -> RowSamples:
        """Fewer rows, nothing read yet."""
        places = {name: place_N[indices] for name, place_N in self.places.items()}
        return replace(self, label_N=self.label_N[indices], match_N=self.match_N[indices], row_N=self.row_N[indices],
                       places=places)  # fmt: skip

    def items(self, modality: str) -> RowSamples:
        """The distinct stored things of one modality, each as its first row."""
        place_N = self.places[modality]
        _, first_N = np.unique(place_N.cpu().numpy(), return_index=True)
        rows = self.select(torch.from_numpy(np.sort(first_N)).to(place_N.device))
        return replace(rows, places={modality: rows.places[modality]})

    def to(self, device: torch.device) -> RowSamples:
        """The rows, not what they lead to, on `device`."""
        places = {name: place_N.to(device) for name, place_N in self.places.items()}
        return replace(self, label_N=self.label_N.to(device), match_N=self.match_N.to(device),
                       row_N=self.row_N.to(device), places=places)  # fmt: skip

    def _text(self, place_B: Tensor) -> dict[str, Tensor]:
        text_NL, length_N = self.stored.text_NL, self.stored.length_N
        assert text_NL is not None and length_N is not None
        real_BL = torch.arange(text_NL.shape[1], device=length_N.device) < length_N[place_B, None]
        return {"text_NL": text_NL[place_B].long(), "text_mask_NL": real_BL}

    def _images(self, place_B: Tensor) -> Tensor:
        pixels_N3SS, size = self.stored.pixels_N3SS, self.stored.image_size
        assert pixels_N3SS is not None
        pixels = pixels_N3SS[place_B.to(pixels_N3SS.device)].to(self.stored.device, non_blocking=True)
        if pixels.shape[-1] > size:
            keys = self.keys(Draw.CROP)
            pixels = images.middle(pixels, size) if keys is None else images.random_crops(pixels, keys, size)
        return images.normalised(pixels)

    def _audio(self, place_B: Tensor) -> dict[str, Tensor]:
        spectra_NFT, frames_N, masks = self.stored.spectra_NFT, self.stored.frames_N, self.stored.spec_augment
        assert spectra_NFT is not None and frames_N is not None
        there_B, device = place_B.to(spectra_NFT.device), self.stored.device
        audio_B1FT = spectra_NFT[there_B].to(device, non_blocking=True).float().unsqueeze(1)
        frames_B = frames_N[there_B].to(device).long()
        if masks is not None and (keys := self.keys(Draw.SPECTROGRAM)) is not None:
            audio_B1FT = audio.spec_augment(audio_B1FT, frames_B, keys, **masks.model_dump())
        real_BT = torch.arange(audio_B1FT.shape[-1], device=device) < frames_B[:, None]
        return {"audio_N1FT": audio_B1FT, "audio_mask_NT": real_BT}

    def words(self, texts: Sequence[str], tokenizer: Callable[[], Tokenizer]) -> TextWords | None:
        """The rows' words, where they have captions: `texts` are all that are stored, in that order."""
        text_NL = self.stored.text_NL
        if text_NL is None or "text" not in self.places:
            return None
        length = text_NL.shape[1]
        return TextWords(texts=texts, place_N=self.places["text"].cpu(),
                         encode=lambda text: tokenizer().encode_batch([text], length))  # fmt: skip

    def keys(self, draw: Draw) -> Tensor | None:
        """A key a row for one draw of training; None where nothing is drawn."""
        if self.augment is None:
            return None
        seed, epoch = self.augment
        return noise.sample_keys(seed, SPLIT_KEYS["training"], epoch, draw, indices=self.row_N)


def one_caption_each(rows: RowSamples) -> RowSamples:
    """One row of every match id, drawn by the epoch's stream; in order of match id."""
    keys_N = rows.keys(Draw.CAPTION)
    assert keys_N is not None
    order_N = noise.uniform(keys_N, 1)[:, 0].argsort(stable=True)  # rows of each id in drawn order
    order_N = order_N[rows.match_N[order_N].argsort(stable=True)]
    match_N = rows.match_N[order_N]
    first_N = torch.ones_like(match_N, dtype=torch.bool)
    first_N[1:] = match_N[1:] != match_N[:-1]
    return rows.select(order_N[first_N])
