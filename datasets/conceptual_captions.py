"""Conceptual Captions: 3.3 million images of the web and their cleaned alternative texts.

The set publishes captions and addresses; everyone downloads the images. For `train` and `validation`, either

    <split>_paths.tsv                 path<TAB>caption, without header; paths are relative to the folder
    <split>/00000/000000123.jpg       as img2dataset's output format "files" writes them (.jpg, .jpeg, .png or .webp),
    <split>/00000/000000123.json      with {"caption", "url", "key", "status"} beside it, or only a .txt, the caption

and beside the latter, where it is there, the set's own list, caption<TAB>url without header: Train_GCC-training.tsv or
train.tsv, Validation_GCC-1.1.0-Validation.tsv or validation.tsv. It says how many images could not be downloaded, which
is normal, and which do not belong there.

The set publishes no test split. Here test is the published validation list, and validation is drawn from the training
list: one of twenty that were downloaded, at most 5,000, those whose address (or path, where no address is known) has
the smallest SHA-256. An address that is in both lists is left out of training.

Sharma et al., "Conceptual Captions: A Cleaned, Hypernymed, Image Alt-text Dataset For Automatic Image Captioning",
https://aclanthology.org/P18-1238/
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from bench.datasets.index import (
    Index,
    Place,
    Remark,
    Row,
    drawn,
    fault,
    first_of,
    inside,
    json_text,
    read_json,
    read_lines,
    relative,
)
from bench.datasets.samples import DataError, Split

KIND = "conceptual_captions"
LISTS: Mapping[str, tuple[str, ...]] = {
    "train": ("Train_GCC-training.tsv", "train.tsv"),
    "validation": ("Validation_GCC-1.1.0-Validation.tsv", "validation.tsv"),
}
HEADER = "caption\turl"  # img2dataset needs it, so some copies of the lists have it
IMAGES = (".jpg", ".jpeg", ".png", ".webp")
SIDECARS = (".json", ".txt")
VALIDATION_PART, VALIDATION_MOST = 20, 5000

# Rows left out, by reason: where first, and how many.
Counts = dict[str, tuple[Place, int]]


def read(folder: Path) -> Index:
    """The images of `folder` that have a caption; a row's `match` is the image's address or, without one, its path.

    What is left out is remarked on once a reason, with the count and the first place.
    """
    counts: Counts = {}
    training = _read_published(folder, "train", "training", counts)
    test = _read_published(folder, "validation", "test", counts)
    also_test = {row.match for row in test}
    training = _without(training, also_test, "train images that are in the validation list too", counts)
    rows = (*_draw_validation(folder, training), *test)
    remarks = (Remark(place, f"the first of {n:,} {reason}; left out") for reason, (place, n) in counts.items())
    return Index(kind=KIND, folder=folder, rows=rows, remarks=tuple(remarks))


def _count(counts: Counts, reason: str, place: Place) -> None:
    first, count = counts.get(reason, (place, 0))
    counts[reason] = (first, count + 1)


def _without(rows: list[Row], matches: Collection[str], reason: str, counts: Counts) -> list[Row]:
    """The rows that have none of `matches`; the others are counted."""
    for row in rows:
        if row.match in matches:
            _count(counts, reason, row.place)
    return [row for row in rows if row.match not in matches]


def _draw_validation(folder: Path, training: list[Row]) -> list[Row]:
    matches = {row.match for row in training}
    held_out = drawn(matches, min(len(matches) // VALIDATION_PART, VALIDATION_MOST))
    if not held_out:
        raise DataError(
            f"{KIND}: {folder} has {len(matches)} training images with a caption; {VALIDATION_PART} are needed to draw"
            " a validation split"
        )
    return [replace(row, split="validation") if row.match in held_out else row for row in training]


def _read_published(folder: Path, name: str, split: Split, counts: Counts) -> list[Row]:
    """The rows of what the set publishes as `name`, from its list of paths or, where there is none, its folder."""
    path = first_of(KIND, folder, [f"{name}_paths.tsv", name])
    if path.name != name:
        rows = list(_read_paths(folder, path, split))
    else:
        rows = list(_read_shards(folder, path, split, counts))
        if captions := next((folder / file for file in LISTS[name] if (folder / file).exists()), None):
            rows = _check_list(folder, captions, rows, name, counts)
    if not rows:
        found = "".join(f"; {n:,} {reason}" for reason, (_, n) in counts.items() if reason.startswith(name))
        raise DataError(
            f"{KIND}: {path} has no image with a caption{found}; expected lines path<TAB>caption in {name}_paths.tsv,"
            f" or {name}/00000/000000000.jpg with .json or .txt beside it"
        )
    return rows


def _read_pairs(folder: Path, path: Path, expected: str) -> Iterator[tuple[Place, str, str]]:
    """The lines of two fields, which `expected` names."""
    for place, line in read_lines(KIND, folder, path):
        if place.number == 1 and line == HEADER:
            continue
        fields = line.split("\t")
        if len(fields) != 2:
            raise fault(KIND, place, f"has {len(fields)} fields; expected {expected}")
        yield place, fields[0].strip(), fields[1].strip()


def _read_paths(folder: Path, path: Path, split: Split) -> Iterator[Row]:
    for place, name, caption in _read_pairs(folder, path, "path<TAB>caption"):
        image = inside(KIND, place, name)
        yield Row(split=split, match=image, place=place, text=caption, image=image)


def _read_shards(folder: Path, path: Path, split: Split, counts: Counts) -> Iterator[Row]:
    """The images of img2dataset's shards, by shard and key."""
    for shard in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        suffixes: dict[str, set[str]] = {}
        for entry in shard.iterdir():
            key, dot, suffix = entry.name.rpartition(".")
            if dot + suffix in (*IMAGES, *SIDECARS) and not entry.name.startswith("."):
                suffixes.setdefault(key, set()).add(dot + suffix)
        for key in sorted(suffixes):
            row = _read_image(folder, f"{relative(folder, shard)}/{key}", suffixes[key], split, counts)
            if row is not None:
                yield row


def _read_image(folder: Path, key: str, suffixes: set[str], split: Split, counts: Counts) -> Row | None:
    """The image of a key, whose files have `suffixes`; None, counted, where it or its caption is missing."""
    place = Place(key + next(s for s in (*SIDECARS, *IMAGES) if s in suffixes), 1)
    name = key.partition("/")[0]
    image = next((key + suffix for suffix in IMAGES if suffix in suffixes), None)
    content = _read_sidecar(folder, key) if ".json" in suffixes else {}
    if image is None or content.get("status", "success") != "success":
        _count(counts, f"{name} images that were not downloaded", place)
        return None
    caption = content.get("caption")
    if not caption and ".txt" in suffixes:
        caption = " ".join(line for _, line in read_lines(KIND, folder, folder / f"{key}.txt"))
    if not caption:
        _count(counts, f"{name} images without a caption", place)
        return None
    return Row(split=split, match=content.get("url") or image, place=place, text=caption, image=image)


def _read_sidecar(folder: Path, key: str) -> dict[str, str]:
    """Caption, url and status, those that are there and not blank."""
    name = f"{key}.json"
    content = read_json(KIND, folder, folder / name)
    if not isinstance(content, dict):
        raise fault(KIND, name, "is no JSON object; expected one with caption, url, key and status")
    found = {field: (json_text(KIND, name, content, field) or "").strip() for field in ("caption", "url", "status")}
    return {field: value for field, value in found.items() if value}


def _check_list(folder: Path, path: Path, rows: list[Row], name: str, counts: Counts) -> list[Row]:
    """The rows whose address the published list has, or that have no address; counts what was not downloaded."""
    found = {row.match for row in rows if row.match != row.image}
    foreign = set(found)
    reason = f"{name} images that were not downloaded"
    missing: Counts = {}
    for place, _, url in _read_pairs(folder, path, "caption<TAB>url"):
        if url in found:
            foreign.discard(url)
        else:
            _count(missing, reason, place)
    first, count = missing.get(reason, (None, 0))
    count -= sum(row.match == row.image for row in rows)
    if first and count > 0:
        counts[reason] = (first, count)
    return _without(rows, foreign, f"{name} images whose address is not in {path.name}", counts)
