"""Files of a study as what they hold, one by one: what cannot be read is named, and the rest is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from bench.errors import BadRecordError

Kind = TypeVar("Kind", bound=BaseModel)


def read_stored(path: Path, kind: type[Kind]) -> Kind:
    """The content of a file.

    Raises `BadRecordError` that begins with the path where it is of another kind, broken or gone.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "content"
        raise BadRecordError(f"{path}: {place}: {first['msg']}") from None
    except OSError as error:
        raise BadRecordError(f"{path}: {error.strerror or error}") from None


def read_each(paths: Iterable[Path], kind: type[Kind]) -> tuple[dict[Path, Kind], list[BadRecordError]]:
    """What could be read, by path in sorted order, and the faults of the rest."""
    good: dict[Path, Kind] = {}
    bad: list[BadRecordError] = []
    for path in sorted(paths):
        try:
            good[path] = read_stored(path, kind)
        except BadRecordError as error:
            bad.append(error)
    return good, bad
