"""A study on disk: a directory a run, written so that a crash leaves the old file or the new one, never half of one.

results/<study>/protocols/<hash>.json      the full protocol of that hash
results/<study>/runs/<run_id>/run.json     the record, present exactly when the run has ended
results/<study>/runs/<run_id>/curve.jsonl  one line an epoch
results/<study>/runs/<run_id>/.lock        locked by the process that is at work on the run
results/<study>/logs/                      what happened, and what worker processes printed
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BadRecordError, StorageError, UsageError
from bench.protocol import Protocol
from bench.record import FAILURES, CurvePoint, RunRecord, read_curve_point, read_record, record_text

if TYPE_CHECKING:
    from bench.placement import Placement

TEMPORARY = "*.tmp"
STALE_SECONDS = 3600.0  # no write takes so long: a temporary file of that age is the rest of a crash


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` so that readers and crashes see the old content or the new one.

    Raises `StorageError` where it cannot be written; the old content is whole then.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Make what a file holds, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(file: int) -> bool:
    """Lock an open file for as long as it is open; False where another has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns what the system says of a change to `path` into `StorageError`."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}; everything stored before is whole, and the same "
                           "command goes on from there") from error  # fmt: skip


def study_name(name: str) -> str:
    """`name`, checked to be a single plain folder name.

    Raises `UsageError` where it is not.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", name):
        raise UsageError(
            f"study {name!r}: allowed are letters, digits and . _ + - (at most 100, a letter or digit first)"
        )
    return name


def open_own(path: Path, flags: int) -> int:
    """A descriptor of a file, made where there is none; `OSError` where it is a link, which may lead anywhere."""
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666)


def require_hash(text: str, source: str) -> str:
    """`text`, checked to be a protocol's hash: as part of a path it could lead anywhere.

    Raises `BadRecordError` that begins with `source` where it is none.
    """
    if not re.fullmatch("[0-9a-f]{12}", text):
        raise BadRecordError(f"{source}: protocol hash {text!r}: allowed are 12 hexadecimal digits")
    return text


def require_own(found: str, run_id: str, source: str) -> None:
    """Raise `BadRecordError` where the record in a run's folder is that of another run."""
    if found != run_id:
        raise BadRecordError(f"{source}: run_id: it is the record of {found!r}, in the folder of another run")


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
    def claim(self, run_id: str) -> Iterator[bool]:
        """Be the run's only writer for as long as the block lasts; False where another process is.

        The lock goes with the process, however it ends. What a crashed writer left half-written is removed.
        """
        folder = self.run_dir(run_id)
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if folder.is_symlink():
                raise StorageError(f"{folder}: is a link, and runs are written in folders of the study; remove it")
            file = os.fdopen(open_own(folder / ".lock", os.O_WRONLY), "w")
        with file:
            with storing(folder):
                mine = _lock(file.fileno())
                for rest in folder.glob(f".{TEMPORARY}") if mine else ():
                    rest.unlink(missing_ok=True)
            yield mine

    def is_claimed(self, run_id: str) -> bool:
        """Whether a process is at work on the run."""
        try:
            with (self.run_dir(run_id) / ".lock").open() as file:  # shared: several may ask at once, also over NFS
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def set_aside(self, run_id: str) -> Path | None:
        """Give a run's record another name, so that the run can be done again; None where it has none."""
        folder = self.run_dir(run_id)
        names = (folder / f"run.set-aside-{number}.json" for number in itertools.count(1))
        with storing(folder / "run.json"):
            try:
                return (folder / "run.json").rename(next(path for path in names if not os.path.lexists(path)))
            except FileNotFoundError:
                return None

    def remove_leftovers(self) -> None:
        """Remove what crashed writers left beside the runs; those of a run go when it is claimed."""
        for path in (*self.path.glob(f".{TEMPORARY}"), *self.path.glob(f"*/.{TEMPORARY}"),
                     *self.path.glob(f"searches/*/.{TEMPORARY}")):  # fmt: skip
            with contextlib.suppress(FileNotFoundError):  # its writer has just ended, or another process removed it
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def mark_used(self, protocol: Protocol) -> None:
        """Note that a study of this protocol was asked for last; `bench report` shows that one."""
        write_atomic(self.path / "last_used", protocol.hash + "\n")

    def last_used(self) -> str | None:
        """The protocol hash that was asked for last."""
        try:
            return (self.path / "last_used").read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return None

    def read_protocol(self, protocol_hash: str) -> Protocol:
        """The protocol of that hash.

        Raises `BadRecordError` where the file is missing or holds something else.
        """
        path = self.path / "protocols" / f"{require_hash(protocol_hash, str(self.path))}.json"
        try:
            return Protocol.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise BadRecordError(f"{path}: {error}") from None

    def write_record(self, record: RunRecord) -> None:
        """Store a run's result; from here on the run is done."""
        with storing(self._curve(record.run_id)):
            record = record.model_copy(update={"curve_sha256": self._curve_digest(record.run_id)})
        write_atomic(self.run_dir(record.run_id) / "run.json", record_text(record))

    def read_record(self, run_id: str) -> RunRecord | None:
        """A run's record, or None where it has not ended.

        Raises `BadRecordError` where the file cannot be read or holds the record of another run.
        """
        path = self.run_dir(run_id) / "run.json"
        try:
            record = read_record(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadRecordError(f"{path}: {error.strerror or error}") from None
        require_own(record.run_id, run_id, str(path))
        return record

    def why_missing(self, run_id: str, placement: Placement) -> str | None:
        """Why the run has to be done: no record, one that cannot be read, or one to be made again; None: it need not.

        One line, which names files from the study's folder on.
        """
        try:
            record = self.read_record(run_id)
        except BadRecordError as error:
            return str(error).replace(f"{self.path}{os.sep}", "")
        if record is None:
            return "no record"
        if placement.repeat:
            return "asked to be repeated"
        if placement.retry_failed and record.outcome in FAILURES:
            return f"it ended in {record.outcome}"
        return None

    def start_curve(self, run_id: str, points: Sequence[CurvePoint] = ()) -> None:
        """Begin a run's curve anew, with the epochs it has behind it."""
        write_atomic(self._curve(run_id), "".join(_line(point) for point in points))

    def append_curve(self, run_id: str, point: CurvePoint) -> None:
        """Add an epoch to a run's curve."""
        path = self._curve(run_id)
        with storing(path), path.open("a", encoding="utf-8") as file:
            file.write(_line(point))

    def read_curve(self, run_id: str, digest: str | None = None) -> list[CurvePoint]:
        """A run's curve in epoch order; a torn last line is left out, a missing file is an empty curve.

        Raises `BadRecordError` where the file is not what its record's `digest` says, or a line is no epoch.
        """
        path = self._curve(run_id)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise BadRecordError(f"{path}: {error.strerror or error}") from None
        if digest is not None and digest != hashlib.sha256(content).hexdigest():
            raise BadRecordError(f"{path}: not what its record says it is (SHA-256); the file was changed")
        return [read_curve_point(line, f"{path}:{i}") for i, line in enumerate(content.split(b"\n")[:-1], 1)]

    def _curve(self, run_id: str) -> Path:
        return self.run_dir(run_id) / "curve.jsonl"

    def _curve_digest(self, run_id: str) -> str | None:
        """SHA-256 of a run's curve, which survives a power cut from here on; None without one."""
        try:
            _sync(self._curve(run_id))
            return hashlib.sha256(self._curve(run_id).read_bytes()).hexdigest()
        except FileNotFoundError:
            return None

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


def _line(point: CurvePoint) -> str:
    return point.model_dump_json() + "\n"
