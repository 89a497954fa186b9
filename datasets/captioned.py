"""Real data: captions with their images, clips or both, from any set that a reader can index.

Rows come from the set's own annotation files, decoded things from the cache. A pool of retrieval holds every caption,
and every image and clip once, however many captions share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.datasets import queries
from bench.datasets.catalog import KINDS
from bench.datasets.images import NORMALISED
from bench.datasets.index import Index, Row, rows_digest
from bench.datasets.media import Media, decoded_clips, decoded_images
from bench.datasets.options import AudioOptions, ImageOptions, RowOptions, read_options
from bench.datasets.rows import RowSamples, Stored, one_caption_each
from bench.datasets.samples import (
    MODALITIES,
    Dataset,
    HeldOut,
    Modality,
    PixelLevels,
    SampleSource,
    Split,
    require_modalities,
)
from bench.datasets.selection import (
    MEDIA,
    SPLITS,
    MediaName,
    absent_files,
    distinct,
    file_of,
    first_captions,
    limited,
    require_whole,
    without,
)
from bench.datasets.text import tokenised
from bench.datasets.tokenizers import CharacterTokenizer, SubwordTokenizer, Tokenizer
from bench.datasets.words import TextWords


class CaptionedData(Dataset):
    """A set of `catalog.KINDS`, indexed and decoded at construction.

    `reader` are the options of the set's reader, `tokenizer` those of `tokenizer_from`, `image` and `audio` those of
    `ImageOptions` and `AudioOptions`; captions, absent and limit those of `RowOptions`. Raises `DataError` naming file
    and line of what is missing or broken, `ValueError` for an option that is not allowed.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None,
        kind: str,
        modalities: Sequence[str] = MODALITIES,
        reader: Mapping[str, Any] | None = None,
        tokenizer: Mapping[str, Any] | None = None,
        text_length: int = 77,
        image: Mapping[str, Any] | None = None,
        audio: Mapping[str, Any] | None = None,
        captions: str = "all",
        absent: str = "error",
        limit: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; allowed are {', '.join(KINDS)}")
        self._tokenizer: str | None = None
        policy = {"captions": captions, "absent": absent, "limit": limit, "text_length": text_length}
        self._kind, self._policy = kind, read_options(RowOptions, "", policy)
        wanted = require_modalities(modalities, KINDS[kind].modalities)
        pictures = read_options(ImageOptions, "image", image) if "image" in wanted else None
        clips = read_options(AudioOptions, "audio", audio) if "audio" in wanted else None
        self._modalities = tuple(name for name in MODALITIES if name in wanted)
        self._augments = _augments(pictures, clips)
        augmented = {"image_augmentation": "image", "spec_augment": "audio"}
        self._fixed = set(wanted) - {augmented[name] for name in self._augments}
        index = KINDS[kind].index(data_dir, wanted, reader or {})
        self._remarks = [str(remark) for remark in index.remarks]
        rows, media = self._decode(index, pictures, clips)
        stored = _stored(media, pictures, clips, torch.device(device))
        self._pictures, self._clips = pictures, clips
        digests = [each.digest for each in media.values()]
        self._network_options: dict[str, int] = {}
        self._texts: list[str] = []
        if "text" in wanted:
            assert data_dir is not None  # the index has been read
            self._texts = [row.text or "" for row in rows]
            tokens = tokenised(kind, rows, tokenizer or {"kind": "character"}, text_length, data_dir)
            stored = replace(stored, text_NL=tokens.ids_NL.to(device), length_N=tokens.length_N.to(device))
            self._network_options, self._tokenizer = {"vocab_size": tokens.vocab_size}, tokens.tokenizer
            digests.append(tokens.digest)
        self._digest = rows_digest(rows, digests)
        stored = stored.resident()
        self._rows = {split: _row_samples(rows, split, media, stored) for split in SPLITS}
        self._pools = {split: [held.items(name) for name in self._modalities] for split, held in self._rows.items()}

    @property
    def training_size(self) -> int:
        rows = self._rows["training"]
        return len(rows.match_N.unique()) if self._policy.captions == "one" else len(rows)

    def training(self, epoch: int, noise_seed: int) -> RowSamples:
        rows = replace(self._rows["training"], augment=(noise_seed, epoch))
        return one_caption_each(rows) if self._policy.captions == "one" else rows

    def held_out(self, split: HeldOut) -> RowSamples:
        return self._rows[split]

    def pools(self, split: HeldOut) -> Sequence[RowSamples]:
        return self._pools[split]

    def words(self, training: SampleSource) -> TextWords | None:
        assert isinstance(training, RowSamples)
        return training.words(self._texts, self._text_tokenizer)

    @property
    def pixel_levels(self) -> PixelLevels:
        return NORMALISED

    @property
    def augments(self) -> Mapping[str, str]:
        return self._augments

    def own_row(self, modality: Modality, source: str) -> tuple[Tensor, Tensor | None]:
        if modality == "image" and self._pictures is not None:
            return queries.imagenet_row(Path(source), self._pictures.size, self._pictures.stored_size), None
        if modality == "audio" and self._clips is not None:
            return queries.audio_row(Path(source), self._clips.log_mel, self._clips.frames)
        return queries.text_row(self._text_tokenizer(), source, self._policy.text_length)

    def captions(self, text_NL: Tensor, mask_NL: Tensor | None) -> list[str]:
        return queries.captions(self._text_tokenizer(), text_NL, mask_NL)

    def pixels(self, image_N3HW: Tensor) -> Tensor:
        return queries.imagenet_pixels(image_N3HW)

    def _text_tokenizer(self) -> Tokenizer:
        return CharacterTokenizer() if self._tokenizer is None else SubwordTokenizer.from_json(self._tokenizer)

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def network_options(self) -> Mapping[str, int]:
        return self._network_options

    def fixed_items(self, modality: str, split: Split) -> RowSamples | None:
        return self._rows[split].items(modality) if modality in self._fixed else None

    @property
    def remarks(self) -> Sequence[str]:
        return self._remarks

    def _decode(
        self, index: Index, image: ImageOptions | None, audio: AudioOptions | None
    ) -> tuple[list[Row], dict[MediaName, Media]]:
        """The rows whose files are whole, and the decoded files by modality."""
        names: list[MediaName] = [name for name in MEDIA if name in self._modalities]
        rows = limited(index.rows, self._policy.limit)
        rows = self._without(rows, absent_files(index.folder, rows, names))
        files: dict[MediaName, list[str]] = {name: distinct(file_of(row, name) for row in rows) for name in names}
        media: dict[MediaName, Media] = {}
        if image is not None:
            media["image"] = decoded_images(self._kind, index.folder, files["image"], image.stored_size)
        if audio is not None:
            media["audio"] = decoded_clips(self._kind, index.folder, files["audio"], audio.log_mel, audio.frames)
        rows = self._without(rows, {each.file: each.reason for m in media.values() for each in m.broken})
        if self._policy.captions == "first":
            rows = first_captions(rows)
        require_whole(self._kind, index.folder, rows)
        return rows, media

    def _without(self, rows: Sequence[Row], faults: Mapping[str, str]) -> list[Row]:
        return without(self._kind, rows, faults, self._policy.absent, self._remarks)


def _augments(image: ImageOptions | None, audio: AudioOptions | None) -> dict[str, str]:
    """See `Dataset.augments`."""
    found = {}
    if image is not None and image.augment != "none":
        found["image_augmentation"] = f'image.augment = "{image.augment}"'
    if audio is not None and (masks := audio.spec_augment) is not None and masks.time_masks + masks.frequency_masks:
        found["spec_augment"] = f"audio.spec_augment of {masks.time_masks} + {masks.frequency_masks} masks"
    return found


def _stored(
    media: Mapping[MediaName, Media],
    image: ImageOptions | None,
    audio: AudioOptions | None,
    device: torch.device,
) -> Stored:
    """The decoded files, and how batches are made of them."""
    stored = Stored(device=device)
    if image is not None:
        stored = replace(stored, pixels_N3SS=media["image"].arrays["pixels"], image_size=image.size)
    if audio is not None:
        clips = media["audio"].arrays
        stored = replace(
            stored, spectra_NFT=clips["spectra"], frames_N=clips["frames"], spec_augment=audio.spec_augment
        )
    return stored


def _row_samples(rows: Sequence[Row], split: Split, media: Mapping[MediaName, Media], stored: Stored) -> RowSamples:
    """The rows of one split."""
    own = [i for i, row in enumerate(rows) if row.split == split]
    row_N = torch.tensor(own)
    places: dict[str, Tensor] = {} if stored.text_NL is None else {"text": row_N}
    for name, each in media.items():
        place = {file: i for i, file in enumerate(each.files)}
        places[name] = torch.tensor([place[file_of(rows[i], name)] for i in own])
    number: dict[str, int] = {}
    match_N = torch.tensor([number.setdefault(rows[i].match, len(number)) for i in own])
    return RowSamples(stored=stored, label_N=match_N, match_N=match_N, row_N=row_N, places=places).to(stored.device)
