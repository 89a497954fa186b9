"""Karpathy's splits: dataset_flickr8k.json, dataset_flickr30k.json and dataset_coco.json.

    {"images": [{"filename", "filepath"?, "split", "sentences": [{"raw", "tokens", "sentid"}, …]}, …]}

`train` and `restval` are training, `val` is validation, `test` is test; a caption's text is its `raw`. `filepath` is
the folder of the image, which COCO's file alone gives. Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for
Generating Image Descriptions", https://arxiv.org/abs/1412.2306
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.datasets.captions import Caption, Captions, Member, Members, name_of, text_of, values_of
from bench.datasets.index import Place, fault, read_json, relative
from bench.datasets.samples import Split

SPLITS: Mapping[str, Split] = {"train": "training", "restval": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image of the file; `place` counts images from 1."""

    place: Place
    name: str
    folder: str | None
    split: Split
    captions: tuple[str, ...]


def read_karpathy(kind: str, folder: Path, path: Path) -> tuple[Entry, ...]:
    """The images of `path`, in its order, each name once; raises `DataError` that names the entry at fault."""
    name = relative(folder, path)
    content = read_json(kind, folder, path, unwanted="tokens")  # half of the memory that COCO's file takes
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise fault(kind, name, 'has no list "images"; expected {"images": [{"filename", "split", "sentences"}]}')
    entries: dict[str, Entry] = {}
    for number, image in enumerate(images, start=1):
        entry = _entry(kind, Place(name, number), image)
        if (earlier := entries.get(entry.name)) is not None:
            raise fault(kind, entry.place, f"is {entry.name}, as {earlier.place} is; expected each image once")
        entries[entry.name] = entry
    return tuple(entries.values())


def captions_of(entries: Iterable[Entry], limit: int | None = None) -> Captions:
    """The captions of each image, or its first `limit`, numbered by their order."""
    return {
        entry.name: {number: Caption(entry.place, text) for number, text in enumerate(entry.captions[:limit])}
        for entry in entries
    }


def members_of(entries: Iterable[Entry]) -> Members:
    """The split of each image."""
    return {entry.name: Member(entry.split, entry.place) for entry in entries}


def _entry(kind: str, place: Place, image: object) -> Entry:
    name, split, sentences = values_of(kind, place, image, "filename", "split", "sentences")
    if not isinstance(split, str) or split not in SPLITS:
        raise fault(kind, place, f"has the split {reprlib.repr(split)}; allowed are {', '.join(SPLITS)}")
    if not isinstance(sentences, list) or not sentences:
        raise fault(kind, place, f"has {reprlib.repr(sentences)} for sentences; expected a list of one or more")
    folder = image.get("filepath") if isinstance(image, dict) else None
    return Entry(
        place=place,
        name=name_of(kind, place, name, "filename"),
        folder=None if folder is None else name_of(kind, place, folder, "filepath"),
        split=SPLITS[split],
        captions=tuple(text_of(kind, place, values_of(kind, place, s, "raw")[0], "raw") for s in sentences),
    )
