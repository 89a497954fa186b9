"""What Flickr8k and Flickr30k share: the form of their captions and split lists, and where the files may lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.datasets.captions import (
    CAPTIONS_AN_IMAGE,
    Caption,
    Captions,
    Member,
    Members,
    add,
    assign,
    draw,
    name_of,
    text_of,
)
from bench.datasets.index import Place, Remark, fault, first_of, read_lines, relative
from bench.datasets.karpathy import captions_of, members_of, read_karpathy
from bench.datasets.samples import DataError, Split

NUMBERS = re.compile(f"[0-{CAPTIONS_AN_IMAGE - 1}]")
SPLITS = ("lists", "karpathy", "drawn")

Reader = Callable[[str, Path, Path], tuple[Captions, list[Remark]]]  # of a set's name, its folder and the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a set is laid out. All names are tried in order; `text_folders` are prefixes, the root's is empty.

    `annotations` are the forms of the captions, the one called "karpathy" also a form of the splits; `test` and
    `validation` in `of` images are drawn.
    """

    kind: str
    annotations: Mapping[str, tuple[str, Reader]]
    lists: Mapping[Split, str]
    text_folders: Sequence[str]
    image_folders: Sequence[str]
    test: int
    validation: int
    of: int

    def image_prefix(self, folder: Path) -> str:
        """The first image folder that is there, else the first spelling: its files will be found missing."""
        return next((name for name in self.image_folders if (folder / name).is_dir()), self.image_folders[0])

    def paths(self, name: str) -> list[str]:
        """Where a file of annotations may lie."""
        return [prefix + name for prefix in self.text_folders]


def read_captions(layout: Layout, folder: Path, annotations: str | None) -> tuple[Captions, list[Remark]]:
    """The captions in the form `annotations`, or in the first form that is there; at least one."""
    if annotations is not None and annotations not in layout.annotations:
        allowed = ", ".join(layout.annotations)
        raise ValueError(f"{layout.kind}: annotations is {annotations!r}; allowed are {allowed}")
    forms = [annotations] if annotations is not None else list(layout.annotations)
    names = {form: layout.paths(layout.annotations[form][0]) for form in forms}
    path = first_of(layout.kind, folder, [name for paths in names.values() for name in paths])
    form = next(form for form, paths in names.items() if relative(folder, path) in paths)
    captions, remarks = layout.annotations[form][1](layout.kind, folder, path)
    if not captions:
        raise fault(layout.kind, relative(folder, path), "has no captions; expected one or more")
    return captions, remarks


def read_members(layout: Layout, folder: Path, splits: str | None, captions: Captions) -> Members:
    """The images of the three splits; `splits` is one of SPLITS, or None for the lists, else Karpathy's file."""
    if splits is not None and splits not in SPLITS:
        raise ValueError(f"{layout.kind}: splits is {splits!r}; allowed are {', '.join(SPLITS)}")
    if splits == "drawn":
        return draw(layout.kind, captions, test=layout.test, validation=layout.validation, of=layout.of)
    lists = [name for file in layout.lists.values() for name in layout.paths(file)]
    karpathy = layout.paths(layout.annotations["karpathy"][0])
    if splits == "lists" or (splits is None and any((folder / name).is_file() for name in lists)):
        return _read_lists(layout, folder)
    if splits == "karpathy" or any((folder / name).is_file() for name in karpathy):
        return members_of(read_karpathy(layout.kind, folder, first_of(layout.kind, folder, karpathy)))
    needed = f"{', '.join(layout.lists.values())} or {karpathy[0]}"
    raise DataError(f'{layout.kind}: {folder} has no splits; expected {needed}, or splits = "drawn" to draw them')


def read_token(kind: str, folder: Path, path: Path) -> tuple[Captions, list[Remark]]:
    """Lines of <image>#<0-4><tab><caption>."""
    captions: Captions = {}
    for place, line in read_lines(kind, folder, path):
        key, tab, text = line.partition("\t")
        image, _, number = key.rpartition("#")
        if not tab or not image:
            raise fault(kind, place, f"is {line!r:.80}; expected <image>#<0-4><tab><caption>")
        add_numbered(kind, captions, place, image, number, text)
    return captions, []


def read_karpathy_captions(kind: str, folder: Path, path: Path) -> tuple[Captions, list[Remark]]:
    """The captions of Karpathy's file, numbered by their order."""
    return captions_of(read_karpathy(kind, folder, path)), []


def add_numbered(kind: str, captions: Captions, place: Place, image: str, number: str, text: str) -> None:
    """Enters a caption whose number is text."""
    name = name_of(kind, place, image, "the image")
    add(kind, captions, name, number_of(kind, place, number), Caption(place, text_of(kind, place, text, "the caption")))


def number_of(kind: str, place: Place, text: str) -> int:
    """A caption's number, from 0."""
    if NUMBERS.fullmatch(text) is None:
        raise fault(kind, place, f"has the caption number {text!r:.80}; allowed are 0 to {CAPTIONS_AN_IMAGE - 1}")
    return int(text)


def _read_lists(layout: Layout, folder: Path) -> Members:
    """Lists of file names, one a line; names without an ending are those of JPEG files, as in Flickr30k Entities."""
    members: Members = {}
    for split, file in layout.lists.items():
        for place, line in read_lines(layout.kind, folder, first_of(layout.kind, folder, layout.paths(file))):
            name = name_of(layout.kind, place, line, "the image")
            assign(layout.kind, members, name if "." in name else f"{name}.jpg", Member(split, place))
    return members
