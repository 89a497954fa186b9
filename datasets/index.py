"""The index of a folder of real data: which captions, images and clips belong together, as the set's own files say.

Readers (one module a set) turn annotation files into rows and read no image or clip. Every fault is a `DataError` that
names the set, the file and the line; what a set is known to get wrong is left out and remarked on.
"""

from __future__ import annotations

import csv
import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.datasets.samples import DataError, Split


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: `number` is a line from 1, or an entry of a JSON file from 1."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}, {'entry' if self.file.endswith('.json') else 'line'} {self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sample. Rows of equal `match` are each other's positives in retrieval.

    `image` and `audio` are paths under the index's folder, with "/" between their parts; rows may share them.
    """

    split: Split
    match: str
    place: Place
    text: str | None = None
    image: str | None = None
    audio: str | None = None


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that was left out or is odd, and why."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What the annotation files of `folder` list, in their order."""

    kind: str
    folder: Path
    rows: tuple[Row, ...]
    remarks: tuple[Remark, ...] = ()


def rows_digest(rows: Iterable[Row], digests: Iterable[str] = ()) -> str:
    """SHA-256 over which things belong together, in order, and `digests` of the things themselves."""
    total = hashlib.sha256("".join(digests).encode())
    for row in rows:
        total.update(json.dumps([row.split, row.match, row.text, row.image, row.audio]).encode())
    return total.hexdigest()


def fault(kind: str, place: Place | Path | str, text: str) -> DataError:
    """The error that names a set, a place in its files and what is wrong there."""
    return DataError(f"{kind}: {place}: {text}")


def first_of(kind: str, folder: Path, names: Sequence[str]) -> Path:
    """The first of `names` (relative paths) that is there; raises `DataError` that lists them where none is."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise DataError(f"{kind}: {folder} holds none of {', '.join(names)}; one of them is needed")


def relative(folder: Path, path: Path) -> str:
    """`path` as rows and places name it."""
    return path.relative_to(folder).as_posix()


def inside(kind: str, place: Place | str, name: object) -> str:
    """`name` as rows name a file: relative, without "." parts; raises `DataError` where it may leave the folder.

    Raises `ValueError` for an option, which `place` names, that is no text.
    """
    if not isinstance(name, str):
        raise ValueError(f"{kind}: {place} is {name!r}; allowed is text, the path of a file under the folder")
    # No pathlib: millions of names are read. A colon in the second place is a Windows drive.
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or name[1:2] == ":":
        raise fault(kind, place, f"{name!r} leaves the folder; expected a path under it with / between its parts")
    if not parts:
        raise fault(kind, place, f"{name!r} names no file; expected a path under the folder")
    return "/".join(parts)


def claim(kind: str, place: Place, name: str, split: Split, owners: dict[str, Split]) -> None:
    """Notes in `owners` that `name` is of `split`; raises `DataError` where it is of another one already."""
    owner = owners.setdefault(name, split)
    if owner != split:
        raise fault(kind, place, f"{name} is in {split} here, but in {owner} before; expected it in one split only")


def drawn(names: Iterable[str], count: int) -> set[str]:
    """The `count` names with the smallest SHA-256, whatever their order: a draw that is the same on every machine."""
    return set(heapq.nsmallest(count, set(names), key=_sha256))


def _sha256(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def read_lines(kind: str, folder: Path, path: Path) -> Iterator[tuple[Place, str]]:
    """The lines of a UTF-8 text that are not blank, without blanks and CR at their ends, and where each stands."""
    name = relative(folder, path)
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            place = Place(name, number)
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip()
            except UnicodeDecodeError as error:
                raise fault(kind, place, f"is not UTF-8 ({error.reason})") from None
            if line:
                yield place, line


def read_table(
    kind: str, folder: Path, path: Path, columns: Sequence[str], *, delimiter: str = ",", quoting: bool = True
) -> Iterator[tuple[Place, Mapping[str, str]]]:
    """The rows of a delimited text with a header (RFC 4180 where `quoting`), by column; each of `columns` must exist.

    A row's place is the line on which it ends.
    """
    name = relative(folder, path)
    quotes = csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, delimiter=delimiter, quoting=quotes, strict=True)
        try:
            yield from _table_rows(kind, name, table, columns)
        except UnicodeDecodeError as error:
            raise fault(kind, name, f"is not UTF-8 ({error.reason} at byte {error.start})") from None
        except csv.Error as error:
            raise fault(kind, Place(name, table.reader.line_num), f"is not a row that can be read ({error})") from None


def _table_rows(
    kind: str, name: str, table: csv.DictReader[str], columns: Sequence[str]
) -> Iterator[tuple[Place, Mapping[str, str]]]:
    found = table.fieldnames or ()
    if missing := [column for column in columns if column not in found]:
        raise fault(kind, Place(name, 1), f"has no column {', '.join(missing)}; columns are {', '.join(found)}")
    if twice := [column for column, count in Counter(found).items() if count > 1]:
        raise fault(kind, Place(name, 1), f"has more than one column {', '.join(twice)}; expected one of each")
    for row in table:
        place = Place(name, table.line_num)
        if None in row or None in row.values():
            extra = len(row.get(None) or ())  # pyright: ignore[reportArgumentType, reportCallIssue]
            count = len(found) + extra - sum(value is None for value in row.values())
            raise fault(kind, place, f"has {count} fields; expected {len(found)}")
        yield place, row


def read_json(kind: str, folder: Path, path: Path, *, unwanted: str | None = None) -> Any:
    """The content of a JSON file, in which no object keeps the key `unwanted`."""
    return parse_json(kind, relative(folder, path), path.read_bytes(), unwanted=unwanted)


def parse_json(kind: str, place: Place | str, text: str | bytes, *, unwanted: str | None = None) -> Any:
    """The content of a JSON text, in which no object keeps the key `unwanted`."""

    def without(content: dict[Any, Any]) -> dict[Any, Any]:
        content.pop(unwanted, None)
        return content

    try:
        return json.loads(text, object_hook=None if unwanted is None else without)
    except (ValueError, RecursionError) as error:  # also no UTF-8, a number of thousands of digits, endless nesting
        raise fault(kind, place, f"is not JSON ({error})") from None


def json_text(kind: str, place: Place | str, content: Mapping[str, Any], key: str) -> str | None:
    """The text that a JSON object has under `key`; None where it has none or null."""
    value = content.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise fault(kind, place, f"has {key} {value!r}; expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise fault(kind, place, f"has {key} {value!r}, which is not Unicode text ({error.reason})") from None
    return value
