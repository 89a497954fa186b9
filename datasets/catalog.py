"""The sets of real data that can be read, by the name that `--protocol` files and `bench verify-data` use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.datasets import audiocaps, coco, common_voice, conceptual_captions, flickr8k, flickr30k, manifest
from bench.datasets.index import Index
from bench.datasets.samples import DataError


def _plain(read: Callable[..., Index]) -> Callable[..., Index]:
    """A reader whose rows are the same whichever modalities are asked for."""
    return lambda folder, wanted, **options: read(folder, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A set: its folder's usual name, what it offers, and its reader: (folder, modalities, **options) to an index."""

    name: str
    title: str
    modalities: Sequence[str]
    read: Callable[..., Index]

    def index(self, data_dir: Path | None, wanted: Set[str], options: Mapping[str, Any]) -> Index:
        """The index of the set in `data_dir`, or in its folder of the set's name.

        Raises `DataError` naming the folder that is missing, or file and line of what is wrong in it.
        """
        if data_dir is None:
            raise DataError(f"{self.name}: no data folder; pass --data-dir or set BENCH_DATA")
        folder = data_dir / self.name if (data_dir / self.name).is_dir() else data_dir
        if not folder.is_dir():
            raise DataError(f"{self.name}: {folder} is not a folder; pass --data-dir or set BENCH_DATA")
        return self.read(folder, wanted, **options)


TEXT_IMAGE, TEXT_AUDIO, ALL = ("text", "image"), ("text", "audio"), ("text", "image", "audio")

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="flickr8k",
            title="Flickr8k, with its spoken captions where audio is asked for",
            modalities=ALL,
            read=lambda folder, wanted, **options: flickr8k.read(folder, audio="audio" in wanted, **options),
        ),
        Kind(name="flickr30k", title="Flickr30k", modalities=TEXT_IMAGE, read=_plain(flickr30k.read)),
        Kind(name="coco", title="COCO captions of 2014 or 2017", modalities=TEXT_IMAGE, read=_plain(coco.read)),
        Kind(name="audiocaps", title="AudioCaps", modalities=TEXT_AUDIO, read=_plain(audiocaps.read)),
        Kind(name="common_voice", title="Common Voice", modalities=TEXT_AUDIO, read=_plain(common_voice.read)),
        Kind(
            name="conceptual_captions",
            title="Conceptual Captions",
            modalities=TEXT_IMAGE,
            read=_plain(conceptual_captions.read),
        ),
        Kind(
            name="manifest",
            title="a folder of your own with manifest.csv or manifest.jsonl",
            modalities=ALL,
            read=_plain(manifest.read),
        ),
    )
}
