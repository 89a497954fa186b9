"""COCO captions: 123,287 photographs with five captions or a few more each, of which the first five are taken.

    annotations/captions_{train,val}{2014,2017}.json, or at the root      the captions; images of 2014 or 2017
    dataset_coco.json                                                     or Karpathy's, with his splits
    train2017/, val2017/, or under images/                                the photographs, likewise 2014

The test images' captions are not public. So the official validation images are the test split, and the validation
split is 5,000 of the training images (a tenth of fewer than 50,000), drawn by SHA-256 of their names. Chen et al.,
"Microsoft COCO Captions", https://arxiv.org/abs/1504.00325
"""

from __future__ import annotations

import gc
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.datasets.captions import (
    CAPTIONS_AN_IMAGE,
    Caption,
    Captions,
    Member,
    Members,
    assign,
    name_of,
    remarks_on,
    rows_of,
    text_of,
    values_of,
)
from bench.datasets.index import Index, Place, Remark, drawn, fault, first_of, read_json, relative
from bench.datasets.karpathy import captions_of, members_of, read_karpathy

KIND = "coco"
YEARS = (2017, 2014)
ANNOTATIONS = ("captions", "karpathy")
TEXT_FOLDERS = ("annotations/", "")
IMAGE_FOLDERS = ("", "images/")
KARPATHY = tuple(f"{prefix}dataset_coco.json" for prefix in ("", "annotations/"))
KARPATHY_YEAR = 2014
VALIDATION, ENOUGH_FOR_VALIDATION = 5000, 50_000


def read(folder: Path, *, year: int | None = None, annotations: str | None = None) -> Index:
    """A row a caption, of the first five of each image.

    `annotations`: "captions" (the official files) or "karpathy", by default the first that is there; `year`: 2017 or
    2014, by default likewise. Karpathy's file is of the images of 2014.
    """
    if year is not None and year not in YEARS:
        raise ValueError(f"{KIND}: year is {year!r}; allowed are {', '.join(map(str, YEARS))}")
    if annotations is not None and annotations not in ANNOTATIONS:
        raise ValueError(f"{KIND}: annotations is {annotations!r}; allowed are {', '.join(ANNOTATIONS)}")
    if annotations == "karpathy" and year not in (None, KARPATHY_YEAR):
        raise ValueError(f"{KIND}: year is {year}; Karpathy's splits are of the images of {KARPATHY_YEAR}")
    official = {name: y for y in YEARS if year in (None, y) for name in _official("train", y)}
    names = [
        *(official if annotations != "karpathy" else ()),
        *(KARPATHY if annotations != "captions" and year in (None, KARPATHY_YEAR) else ()),
    ]
    path = first_of(KIND, folder, names)
    found = official.get(relative(folder, path))
    with _collection_paused():
        return _read_karpathy(folder, path) if found is None else _read_official(folder, path, found)


@contextmanager
def _collection_paused() -> Iterator[None]:
    """No garbage collection: with millions of new objects, none of them garbage, it takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _official(part: str, year: int) -> list[str]:
    return [f"{prefix}captions_{part}{year}.json" for prefix in TEXT_FOLDERS]


def _image_folder(folder: Path, name: str) -> str:
    """Where the folder `name` of images lies; the first place if in none: its files will be found missing."""
    return next((prefix + name for prefix in IMAGE_FOLDERS if (folder / prefix / name).is_dir()), name)


def _read_karpathy(folder: Path, path: Path) -> Index:
    entries = read_karpathy(KIND, folder, path)
    for entry in entries:
        if entry.folder is None:
            raise fault(KIND, entry.place, f"{entry.name} has no filepath; expected the folder of the image")
    folders = {name: _image_folder(folder, name) for name in {entry.folder for entry in entries} if name is not None}
    paths = {entry.name: f"{folders[entry.folder or '']}/{entry.name}" for entry in entries}
    beyond = sum(max(0, len(entry.captions) - CAPTIONS_AN_IMAGE) for entry in entries)
    captions = captions_of(entries, CAPTIONS_AN_IMAGE)
    return _index(folder, captions, members_of(entries), paths, _remarks_beyond(relative(folder, path), beyond))


def _read_official(folder: Path, training: Path, year: int) -> Index:
    held_out = first_of(KIND, folder, _official("val", year))
    captions: Captions = {}
    members: Members = {}
    paths: dict[str, str] = {}
    remarks: list[Remark] = []
    for path, part in ((training, "train"), (held_out, "val")):
        images = _read_images_and_captions(folder, path, captions, remarks)
        validation: set[str] = set()
        if part == "train":
            count = VALIDATION if len(images) >= ENOUGH_FOR_VALIDATION else max(1, len(images) // 10)
            validation = drawn(images, count)
        prefix = _image_folder(folder, f"{part}{year}")
        for image, place in images.items():
            split = "test" if part == "val" else "validation" if image in validation else "training"
            assign(KIND, members, image, Member(split, place))
            paths[image] = f"{prefix}/{image}"
    return _index(folder, captions, members, paths, remarks)


def _read_images_and_captions(folder: Path, path: Path, captions: Captions, remarks: list[Remark]) -> dict[str, Place]:
    """Enters a file's captions into `captions`, in its order; returns where it lists its images.

    {"images": [{"id", "file_name"}, …], "annotations": [{"image_id", "caption"}, …]}; entries count from 1.
    """
    name = relative(folder, path)
    images, annotations = values_of(KIND, name, read_json(KIND, folder, path), "images", "annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise fault(KIND, name, "has images or annotations that are no list; expected two lists")
    names = _names_by_id(name, images)
    beyond = 0
    for number, annotation in enumerate(annotations, start=1):
        place = Place(name, number)
        image_id, text = values_of(KIND, place, annotation, "image_id", "caption")
        if type(image_id) is not int or image_id not in names:
            raise fault(KIND, place, f"is of the image {reprlib.repr(image_id)}; expected the id of one of the images")
        numbered = captions.setdefault(names[image_id][0], {})
        if len(numbered) == CAPTIONS_AN_IMAGE:
            beyond += 1
        else:
            numbered[len(numbered)] = Caption(place, text_of(KIND, place, text, "caption"))
    remarks += _remarks_beyond(name, beyond)
    return dict(names.values())


def _names_by_id(file: str, images: list[object]) -> dict[int, tuple[str, Place]]:
    names: dict[int, tuple[str, Place]] = {}
    places: dict[str, Place] = {}
    for number, image in enumerate(images, start=1):
        place = Place(file, number)
        image_id, value = values_of(KIND, place, image, "id", "file_name")
        if type(image_id) is not int:
            raise fault(KIND, place, f"has the id {reprlib.repr(image_id)}; expected an integer")
        if image_id in names:
            raise fault(KIND, place, f"has the id {image_id}, as {names[image_id][1]} has; expected each id once")
        image_name = name_of(KIND, place, value, "file_name")
        if image_name in places:
            raise fault(KIND, place, f"is {image_name}, as {places[image_name]} is; expected each image once")
        places[image_name] = place
        names[image_id] = (image_name, place)
    return names


def _remarks_beyond(file: str, count: int) -> list[Remark]:
    text = f"{count} captions beyond the first {CAPTIONS_AN_IMAGE} of their image; left out"
    return [Remark(Place(file, 1), text)] if count else []


def _index(folder: Path, captions: Captions, members: Members, paths: dict[str, str], remarks: list[Remark]) -> Index:
    rows = tuple(rows_of(KIND, captions, members, paths.__getitem__))
    return Index(kind=KIND, folder=folder, rows=rows, remarks=(*remarks, *remarks_on(captions, members)))
