"""Which rows of an index take part: limits, caption policies, and files that are missing or broken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from bench.datasets.index import Row, fault
from bench.datasets.media import missing
from bench.datasets.samples import DataError, Split

MediaName = Literal["image", "audio"]
MEDIA: tuple[MediaName, ...] = ("image", "audio")
SPLITS: tuple[Split, ...] = ("training", "validation", "test")
NAMED = 3  # files that a message names; the rest are counted


def limited(rows: Iterable[Row], limit: int | None) -> list[Row]:
    """The rows of the first `limit` match ids of each split."""
    if limit is None:
        return list(rows)
    kept: dict[Split, set[str]] = {split: set() for split in SPLITS}
    chosen = []
    for row in rows:
        seen = kept[row.split]
        if row.match in seen or len(seen) < limit:
            seen.add(row.match)
            chosen.append(row)
    return chosen


def first_captions(rows: Iterable[Row]) -> list[Row]:
    """One row of every split and match id: the first."""
    first: dict[tuple[Split, str], Row] = {}
    for row in rows:
        first.setdefault((row.split, row.match), row)
    return list(first.values())


def file_of(row: Row, modality: MediaName) -> str:
    """The row's file of a modality; raises `DataError` where it has none."""
    name = row.image if modality == "image" else row.audio
    if name is None:
        raise DataError(f"{row.place}: has no {modality}")
    return name


def distinct(names: Iterable[str]) -> list[str]:
    """Each name once, in order of its first place."""
    return list(dict.fromkeys(names))


def absent_files(folder: Path, rows: Sequence[Row], media: Sequence[MediaName]) -> dict[str, str]:
    """The rows' files that do not exist, and why they cannot be used."""
    names = distinct(file_of(row, modality) for modality in media for row in rows)
    return dict.fromkeys(missing(folder, names), "is missing")


def without(
    kind: str,
    rows: Sequence[Row],
    faults: Mapping[str, str],
    absent: Literal["error", "excluded"],
    remarks: list[str],
) -> list[Row]:
    """The rows whose files are without faults; adds what was left out to `remarks`.

    Raises `DataError` that names the first faulty file and where it is listed, unless `absent` says "excluded".
    """
    if not faults:
        return list(rows)
    bad = [(row, name) for row in rows for name in (row.image, row.audio) if name is not None and name in faults]
    if absent == "error":
        row, name = bad[0]
        others = f" (and {len(faults) - 1:,} other files)" if len(faults) > 1 else ""
        raise fault(kind, row.place, f'{name} {faults[name]}{others}; absent = "excluded" leaves such samples out')
    left_out = {id(row) for row, _ in bad}
    names = distinct(name for _, name in bad)
    shown = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
    files = f"{len(names):,} file{'s' if len(names) > 1 else ''}"
    remarks.append(f"{kind}: {len(left_out):,} of {len(rows):,} samples left out: {files} missing or broken ({shown})")
    return [row for row in rows if id(row) not in left_out]


def require_whole(kind: str, folder: Path, rows: Sequence[Row]) -> None:
    """What retrieval needs of the rows.

    Raises `DataError` where a split has fewer than two match ids, so that nothing could be told apart, and where a
    file is in two splits or belongs to two match ids.
    """
    ids = {split: {row.match for row in rows if row.split == split} for split in SPLITS}
    if few := [f"{split} has {len(found)}" for split, found in ids.items() if len(found) < 2]:
        raise DataError(f"{kind}: {folder}: {', '.join(few)}; each split needs two images or clips at least")
    owner: dict[str, Row] = {}
    for row in rows:
        for name in (row.image, row.audio):
            first = row if name is None else owner.setdefault(name, row)
            if (first.split, first.match) != (row.split, row.match):
                here, there = (f"{each.split} and matches {each.match!r}" for each in (row, first))
                raise fault(kind, row.place, f"{name} is {here} here, but {there} at {first.place}; a file is in one "
                                             "split and has one match")  # fmt: skip
