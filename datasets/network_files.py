"""A dataset beside a network that is made of the user's files: their digests are part of the data's, and where an
encoder is frozen its results are computed once and handed out instead of its inputs.

Shapes: N samples, B of a batch, P things of one modality, W width of an encoder's results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from bench.datasets.rows import RowSamples
from bench.datasets.samples import Dataset, HeldOut, Modality, PixelLevels, Samples, SampleSource, Split, Words

ENCODED_AT_ONCE = 256  # things
SPLITS: tuple[Split, ...] = get_args(Split)
# The results [P, W] of one modality: of stored things by their place, else of each split's samples in their order.
Table = Mapping[Split, Tensor]
FIELDS = {"text": ("text_NL", "text_mask_NL"), "image": ("image_N3HW",), "audio": ("audio_N1FT", "audio_mask_NT")}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenEncoder:
    """An encoder that does not change in a run: encode(x, mask) to [B, W].

    `identity` is equal for encoders of equal results.
    """

    encode: Callable[[Tensor, Tensor | None], Tensor]
    identity: str


class WithNetworkFiles(Dataset):
    """`dataset` beside a network of `files` (SHA-256 by name), which are found from `data_dir`."""

    def __init__(
        self,
        dataset: Dataset,
        data_dir: Path | None,
        files: Mapping[str, str],
        *,
        remarks: Sequence[str] = (),
        tables: Mapping[str, Table] | None = None,
    ) -> None:
        self._dataset, self._data_dir, self._files, self._remarks = dataset, data_dir, files, remarks
        self._tables = tables or {}
        self._latest: dict[str, tuple[str, Table]] = {}  # of each modality: runs of a study often share theirs
        whole = json.dumps([dataset.digest, files], sort_keys=True)
        self._digest = hashlib.sha256(whole.encode()).hexdigest()

    def noting(self, remarks: Sequence[str]) -> WithNetworkFiles:
        """The same with more remarks."""
        return WithNetworkFiles(self._dataset, self._data_dir, self._files, remarks=(*self._remarks, *remarks))

    def changing(self, modalities: Sequence[str]) -> list[str]:
        """Those of the modalities whose things are not the same in every epoch."""
        return [name for name in modalities if self._dataset.fixed_items(name, "training") is None]

    @torch.no_grad()
    def encoded(
        self, encoders: Mapping[str, FrozenEncoder], within: Callable[[], AbstractContextManager[Any]]
    ) -> WithNetworkFiles:
        """The same with the results of frozen encoders for the modalities that do not change.

        They are computed in the context `within`, unless they are the latest that were asked for.
        """
        for name, encoder in encoders.items():
            if self.changing([name]) or self._latest.get(name, ("",))[0] == encoder.identity:
                continue
            with within():
                self._latest[name] = encoder.identity, _table(self._dataset, name, encoder)
        tables = {name: table for name, (_, table) in self._latest.items() if name in encoders}
        return WithNetworkFiles(self._dataset, self._data_dir, self._files, remarks=self._remarks, tables=tables)

    @property
    def training_size(self) -> int:
        return self._dataset.training_size

    def training(self, epoch: int, noise_seed: int) -> SampleSource:
        return self._with_results(self._dataset.training(epoch, noise_seed), "training")

    def held_out(self, split: HeldOut) -> SampleSource:
        return self._with_results(self._dataset.held_out(split), split)

    def pools(self, split: HeldOut) -> Sequence[SampleSource]:
        return [self._with_results(pool, split) for pool in self._dataset.pools(split)]

    def _with_results(self, source: SampleSource, split: Split) -> SampleSource:
        places = {name: place_N for name in self._tables if (place_N := _places(source, name)) is not None}
        if not places:
            return source
        results = {name: self._tables[name][split] for name in places}
        return EncodedSamples(source=_without(source, list(places)), places=places, results=results)

    def own_row(self, modality: Modality, source: str) -> tuple[Tensor, Tensor | None]:
        return self._dataset.own_row(modality, source)

    def captions(self, text_NL: Tensor, mask_NL: Tensor | None) -> list[str]:
        return self._dataset.captions(text_NL, mask_NL)

    def pixels(self, image_N3HW: Tensor) -> Tensor:
        return self._dataset.pixels(image_N3HW)

    def matcher_scores(self, split: HeldOut, first: str, second: str) -> Tensor | None:
        return self._dataset.matcher_scores(split, first, second)

    def best_pair_loss(self, batch_size: int) -> float | None:
        return self._dataset.best_pair_loss(batch_size)

    def fixed_items(self, modality: str, split: Split) -> SampleSource | None:
        return self._dataset.fixed_items(modality, split)

    def words(self, training: SampleSource) -> Words | None:
        return self._dataset.words(training.source if isinstance(training, EncodedSamples) else training)

    @property
    def pixel_levels(self) -> PixelLevels | None:
        return self._dataset.pixel_levels

    @property
    def augments(self) -> Mapping[str, str]:
        return self._dataset.augments

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def remarks(self) -> Sequence[str]:
        return (*self._dataset.remarks, *self._remarks)

    @property
    def network_options(self) -> Mapping[str, Any]:
        return {**self._dataset.network_options, "data_dir": self._data_dir, "digests": self._files}

    @property
    def network_files(self) -> Mapping[str, str]:
        return self._files


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSamples:
    """The samples of `source`, of which some modalities are results [P, W], sample i's that of place `places[i]`."""

    source: SampleSource
    places: Mapping[str, Tensor]
    results: Mapping[str, Tensor]

    @property
    def label_N(self) -> Tensor:
        return self.source.label_N

    @property
    def match_N(self) -> Tensor:
        return self.source.match_N

    def __len__(self) -> int:
        return len(self.source)

    def take(self, indices: Tensor | slice) -> Samples:
        """The samples at `indices` or of a slice; what is encoded already is not read again."""
        encoded = {name: self.results[name][place_N[indices]] for name, place_N in self.places.items()}
        return replace(self.source.take(indices), encoded=encoded)


def _table(dataset: Dataset, modality: str, encoder: FrozenEncoder) -> Table:
    """The results of every thing of one modality."""
    parts: dict[Split, tuple[Tensor, Tensor]] = {}
    stored = False
    for split in SPLITS:
        source = dataset.fixed_items(modality, split)
        assert source is not None
        stored = stored or isinstance(source, RowSamples)
        place_P = _places(source, modality)
        assert place_P is not None
        parts[split] = place_P, torch.cat([_encoded(source, modality, encoder, start)
                                           for start in range(0, len(source), ENCODED_AT_ONCE)])  # fmt: skip
    if not stored:
        return {split: results for split, (_, results) in parts.items()}
    places, results = (torch.cat(each) for each in zip(*parts.values(), strict=True))
    whole = results.new_zeros(int(places.max()) + 1, results.shape[1])
    whole[places] = results
    return dict.fromkeys(SPLITS, whole)


def _encoded(source: SampleSource, modality: str, encoder: FrozenEncoder, start: int) -> Tensor:
    batch = source.take(slice(start, start + ENCODED_AT_ONCE))
    return encoder.encode(batch.inputs()[modality], batch.masks().get(modality))


def _places(source: SampleSource, modality: str) -> Tensor | None:
    """Where each sample's thing stands among all; None where the samples lack the modality."""
    if isinstance(source, RowSamples):
        return source.places.get(modality)
    if isinstance(source, Samples) and modality in source.inputs():
        return torch.arange(len(source), device=source.match_N.device)
    return None


def _without(source: SampleSource, modalities: Sequence[str]) -> SampleSource:
    """The samples without some modalities, which are then not read either."""
    if isinstance(source, RowSamples):
        return replace(source, places={name: x for name, x in source.places.items() if name not in modalities})
    assert isinstance(source, Samples)
    return replace(source, **{field: None for name in modalities for field in FIELDS[name]})
