"""The baseline file: a snapshot as JSON that is committed, one line an entry, an environment and a run.

The block `derived` is for people who read the file; nothing reads it back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.check.snapshot import SCHEMA_VERSION, Snapshot, fault
from bench.errors import BadRecordError, UsageError
from bench.record import Outcome
from bench.store import write_atomic
from bench.summary import estimate


class NoBaselineError(UsageError):
    """The baseline is missing, or of a schema or protocol that this bench cannot compare with (exit code 4)."""


class _Version(BaseModel):
    """The one field that every version of the file has."""

    model_config = ConfigDict(strict=True, extra="ignore")
    schema_version: int


class _File(Snapshot):
    """A snapshot and what is written for people."""

    derived: tuple[Any, ...] = ()


Kind = TypeVar("Kind", bound=BaseModel)


def to_text(snap: Snapshot) -> str:
    """The file's content: the same bytes for the same runs, whatever order they were stored in."""
    content = json.loads(snap.model_dump_json())
    runs = sorted(content.pop("runs"), key=lambda run: (run["optimizer"], run["seed"]))
    entries = sorted(content.pop("entries"), key=lambda entry: entry["optimizer"])
    lines = [f'"{key}": {_line(value)}' for key, value in content.items() if key != "environments"]
    lines += [_block("environments", content["environments"]), _block("entries", entries), _block("runs", runs)]
    lines.append(_block("derived", derived(snap)))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _block(key: str, rows: list[Any]) -> str:
    return f'"{key}": [\n' + ",\n".join(_line(row) for row in rows) + "\n]"


def derived(snap: Snapshot) -> list[dict[str, Any]]:
    """Means for the eye; a check computes its own from the runs."""
    rows = []
    for name in sorted(snap.names):
        own = [run for run in snap.runs if run.optimizer == name]
        found = estimate(run.metrics[snap.metric.name] for run in own if run.outcome is Outcome.OK)
        mean, sd = (None, None) if found is None else (found.mean, found.sd)
        rows.append({
            "optimizer": name,
            "ok": sum(run.outcome is Outcome.OK for run in own),
            "runs": len(own),
            "mean": None if mean is None else round(mean, 4),
            "sd": None if sd is None else round(sd, 4),
        })  # fmt: skip
    return rows


def write_baseline(snap: Snapshot, path: Path) -> bool:
    """Write the file, atomically; False where it holds these bytes already."""
    text = to_text(snap)
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    write_atomic(path, text)
    return True


def read_baseline(path: Path) -> Snapshot:
    """The snapshot in a baseline file.

    Raises `NoBaselineError` where there is none or its schema or protocol is not this bench's, `BadRecordError` naming
    file and key where it is damaged.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise NoBaselineError(f"{path}: there is no such baseline; `bench baseline update` makes one") from None
    version = _read(_Version, text, path).schema_version
    if version > SCHEMA_VERSION:
        raise NoBaselineError(f"{path}: schema_version {version} is newer than this bench reads, which is up to "
                              f"{SCHEMA_VERSION}; update bench")  # fmt: skip
    if version < 1:
        raise BadRecordError(f"{path}: schema_version is {version}; allowed are 1 to {SCHEMA_VERSION}")
    found = _read(_File, text, path)
    if (own := found.protocol.hash) != found.protocol_hash:
        raise NoBaselineError(f"{path}: protocol_hash is {found.protocol_hash!r} and its protocol's is {own!r}: it was "
                              "edited, or another version of bench wrote it; make it anew")  # fmt: skip
    return Snapshot(**{key: getattr(found, key) for key in Snapshot.model_fields})


def _read(kind: type[Kind], text: bytes, path: Path) -> Kind:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise BadRecordError(f"{path}: {fault(error)}") from None
