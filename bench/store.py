"""A study on disk: a directory a run, written so that a crash leaves the old file or the new one, never half of one.

results/<study>/protocols/<hash>.json      the full protocol of that hash
results/<study>/runs/<run_id>/run.json     the record, present exactly when the run has ended
results/<study>/runs/<run_id>/curve.jsonl  one line an epoch
results/<study>/logs/                      what worker processes printed
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BadRecordError, UsageError
from bench.protocol import Protocol
from bench.record import CurvePoint, RunRecord, read_curve_point, read_record


def write_atomic(path: Path, text: str) -> None:
    """Write `text` to `path` so that readers and crashes see the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def study_name(name: str) -> str:
    """`name`, checked to be a single plain folder name.

    Raises `UsageError` where it is not.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", name):
        raise UsageError(
            f"study {name!r}: allowed are letters, digits and . _ + - (at most 100, a letter or digit first)"
        )
    return name


@dataclass(frozen=True, slots=True)
class Store:
    """The records of one study."""

    path: Path

    def run_dir(self, run_id: str) -> Path:
        """The directory of a run."""
        return self.path / "runs" / run_id

    def write_protocol(self, protocol: Protocol) -> None:
        """Keep the full protocol; a second writer of the same hash writes the same content."""
        write_atomic(self.path / "protocols" / f"{protocol.hash}.json", protocol.model_dump_json(indent=2) + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the study's only writer.

        Raises `UsageError` where another process is.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"study {self.path}: another process is at work on it; wait, or use --study") from None
            yield

    def mark_used(self, protocol: Protocol) -> None:
        """Note that a study of this protocol was asked for last; `bench report` shows that one."""
        write_atomic(self.path / "last_used", protocol.hash + "\n")

    def last_used(self) -> str | None:
        """The protocol hash that was asked for last."""
        try:
            return (self.path / "last_used").read_text().strip()
        except FileNotFoundError:
            return None

    def read_protocol(self, protocol_hash: str) -> Protocol:
        """The protocol of that hash.

        Raises `BadRecordError` where the file is missing or holds something else.
        """
        path = self.path / "protocols" / f"{protocol_hash}.json"
        try:
            return Protocol.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise BadRecordError(f"{path}: {error}") from None

    def write_record(self, record: RunRecord) -> None:
        """Store a run's result; from here on the run is done."""
        write_atomic(self.run_dir(record.run_id) / "run.json", record.model_dump_json(indent=2) + "\n")

    def read_record(self, run_id: str) -> RunRecord | None:
        """A run's record, or None where it has not ended.

        Raises `BadRecordError` where the file cannot be read.
        """
        path = self.run_dir(run_id) / "run.json"
        try:
            return read_record(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None

    def start_curve(self, run_id: str) -> None:
        """Begin a run's curve anew."""
        path = self.run_dir(run_id) / "curve.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    def append_curve(self, run_id: str, point: CurvePoint) -> None:
        """Add an epoch to a run's curve."""
        with (self.run_dir(run_id) / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(point.model_dump_json() + "\n")

    def read_curve(self, run_id: str) -> list[CurvePoint]:
        """A run's curve in epoch order; a torn last line is left out, a missing file is an empty curve."""
        path = self.run_dir(run_id) / "curve.jsonl"
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return [read_curve_point(line, f"{path}:{i}") for i, line in enumerate(lines[:-1], 1)]

    def records(self) -> tuple[list[RunRecord], list[BadRecordError]]:
        """All readable records by run id, and the faults of those that are not."""
        good: list[RunRecord] = []
        bad: list[BadRecordError] = []
        for run_id in self._run_ids():
            try:
                record = self.read_record(run_id)
            except BadRecordError as error:
                bad.append(error)
                continue
            if record is not None:
                good.append(record)
        return good, bad

    def _run_ids(self) -> Iterator[str]:
        runs = self.path / "runs"
        if runs.is_dir():
            yield from sorted(entry.name for entry in runs.iterdir() if entry.is_dir())
