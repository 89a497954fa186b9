"""A user's own folder: a manifest that lists its samples, and the images and clips that the manifest names.

    manifest.csv       RFC 4180 with a header; an empty field is a value that is not there
    manifest.jsonl     an object a line; a key that is missing, null or "" is a value that is not there

Columns or keys: `split` (training or train; validation, val or dev; test), at least two of `text`, `image` and `audio`,
the same ones in every row, and `match` where it is wanted. `image` and `audio` are paths relative to the folder, with /
between their parts; each may be used by several rows, but in one split only.

Rows of equal `match` are each other's positives in retrieval. Rows without it are so where they share an image or an
audio file, be it through other such rows; their `match` becomes the first of these rows' image or, without one, audio.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from bench.datasets.index import (
    Index,
    Place,
    Remark,
    Row,
    claim,
    fault,
    first_of,
    inside,
    json_text,
    parse_json,
    read_lines,
    read_table,
    relative,
)
from bench.datasets.samples import DataError, Split

KIND = "manifest"
FILES = ("manifest.csv", "manifest.jsonl")
SPLITS: Mapping[str, Split] = {
    "training": "training",
    "train": "training",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
MEDIA: tuple[Literal["image", "audio"], ...] = ("image", "audio")
MODALITIES = ("text", *MEDIA)
COLUMNS = ("split", *MODALITIES, "match")


def read(folder: Path, *, file: str | None = None) -> Index:
    """The samples of `folder` by its manifest, which is `file` (.csv or .jsonl) or the one of `FILES` that is there.

    Columns of other names are ignored, with one remark.
    """
    path = _locate(folder, file)
    read_values = _read_csv if path.suffix == ".csv" else _read_jsonl
    unknown: dict[str, Place] = {}
    splits: dict[str, Split] = {}  # by image or clip
    rows: list[Row] = []
    for place, values in read_values(folder, path):
        for column in values:
            if column not in COLUMNS:
                unknown.setdefault(column, place)
        row = _row(place, values)
        if rows and (expected := _modalities(rows[0])) != (found := _modalities(row)):
            raise fault(KIND, place, f"has {found}; {rows[0].place} has {expected}, and all rows must have the same")
        for name in filter(None, (row.image, row.audio)):
            claim(KIND, place, name, row.split, splits)
        rows.append(row)
    if missing := sorted(set(SPLITS.values()) - {row.split for row in rows}):
        raise fault(KIND, relative(folder, path), f"has no rows of {', '.join(missing)}; each split needs some")
    text = f"ignored: {', '.join(map(repr, unknown))}; columns are {', '.join(COLUMNS)}"
    remarks = [Remark(place, text) for place in list(unknown.values())[:1]]
    return Index(kind=KIND, folder=folder, rows=tuple(_with_matches(rows)), remarks=tuple(remarks))


def _locate(folder: Path, file: str | None) -> Path:
    if file is None:
        path = first_of(KIND, folder, FILES)
        if all((folder / name).exists() for name in FILES):
            raise DataError(f"{KIND}: {folder} holds both {' and '.join(FILES)}; name one of them")
        return path
    path = first_of(KIND, folder, [inside(KIND, "the manifest's name", file)])
    if path.suffix not in (".csv", ".jsonl"):
        raise DataError(f"{KIND}: {file} is of an unknown kind; allowed are .csv and .jsonl")
    return path


def _read_csv(folder: Path, path: Path) -> Iterator[tuple[Place, Mapping[str, str]]]:
    for place, row in read_table(KIND, folder, path, ["split"]):
        yield place, {column: value.strip() for column, value in row.items()}


def _read_jsonl(folder: Path, path: Path) -> Iterator[tuple[Place, Mapping[str, str]]]:
    for place, line in read_lines(KIND, folder, path):
        content = parse_json(KIND, place, line)
        if not isinstance(content, dict):
            raise fault(KIND, place, f"is no JSON object; expected one with keys of {', '.join(COLUMNS)}")
        if type(content.get("match")) is int:
            content["match"] = str(content["match"])
        known = {key: (json_text(KIND, place, content, key) or "").strip() for key in COLUMNS if key in content}
        yield place, dict.fromkeys(content, "") | known


def _row(place: Place, values: Mapping[str, str]) -> Row:
    """One row, whose `match` is "" where the manifest has none."""
    split = SPLITS.get(values.get("split", ""))
    if split is None:
        raise fault(KIND, place, f"has split {values.get('split', '')!r}; allowed are {', '.join(SPLITS)}")
    paths = {name: inside(KIND, place, values[name]) for name in MEDIA if values.get(name)}
    row = Row(split=split, match=values.get("match", ""), place=place, text=values.get("text") or None, **paths)
    if sum(getattr(row, name) is not None for name in MODALITIES) < 2:
        raise fault(KIND, place, f"has {_modalities(row)}; at least two of {', '.join(MODALITIES)} are needed")
    return row


def _modalities(row: Row) -> str:
    return " and ".join(name for name in MODALITIES if getattr(row, name) is not None) or "nothing"


def _with_matches(rows: list[Row]) -> Iterator[Row]:
    """The rows, those without a `match` with the first path that they are tied to by shared images and clips."""
    order: dict[str, int] = {}
    ties: dict[str, str] = {}  # from a path to one of lower order in its group; a group's first has itself

    def first_path(path: str) -> str:
        while ties[path] != path:
            ties[path] = path = ties[ties[path]]
        return path

    for row in rows:
        if not row.match:
            paths = [path for path in (row.image, row.audio) if path]
            for path in paths:
                ties.setdefault(path, path)
                order.setdefault(path, len(order))
            first, *others = sorted(map(first_path, paths), key=order.__getitem__)
            ties.update((other, first) for other in others)
    for row in rows:
        yield row if row.match else replace(row, match=first_path(row.image or row.audio or ""))
