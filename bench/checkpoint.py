"""A run's state in mid-run: files that a crash cannot spoil, and the rules of when one is written.

results/<study>/runs/<run_id>/checkpoint-<step>.pt         plain data, loaded with `weights_only=True`
results/<study>/runs/<run_id>/checkpoint-<step>.pt.sha256  as `sha256sum` prints it; a flipped byte loads silently

The two newest are kept. One that is torn, changed or foreign is left out, and the one before it serves.
"""

from __future__ import annotations

import hashlib
import io
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.errors import StorageError
from bench.store import storing, write_atomic

if TYPE_CHECKING:
    from bench.ddp import Ranks

KEPT = 2


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints in a run's folder."""

    folder: Path

    def write(self, step: int, state: Mapping[str, Any]) -> None:
        """Keep the state at `step`, and the one before it.

        Raises `StorageError` where there is no room; those from before are whole then.
        """
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content = buffer.getvalue()
        path = self.folder / f"checkpoint-{step:09d}.pt"
        write_atomic(path, content)
        write_atomic(_digest_of(path), f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")
        before = [old for old in self._newest_first() if old < path]
        for old in {*self._newest_first()} - {path, *before[: KEPT - 1]}:  # later ones are of a run that began anew
            _remove(old)

    def read(self) -> dict[str, Any] | None:
        """The newest whole state, its tensors on the CPU; None where there is none."""
        for path in self._newest_first():
            state = _read(path)
            if state is not None:
                return state
        return None

    def clear(self) -> None:
        """Remove all of them, and what interrupted writes left."""
        for path in self._newest_first():
            _remove(path)
        for path in self.folder.glob("checkpoint-*.sha256"):
            with storing(path):
                path.unlink(missing_ok=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.pt"), reverse=True)


def _digest_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _read(path: Path) -> dict[str, Any] | None:
    """The state in a file that agrees with its digest."""
    try:
        content = path.read_bytes()
        digest = _digest_of(path).read_text().split()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return None
    if digest != hashlib.sha256(content).hexdigest():
        return None
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # whatever torch finds wrong with a foreign file that has a digest of its own
        return None
    return state if isinstance(state, dict) else None


def _remove(path: Path) -> None:
    with storing(path):
        _digest_of(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


class StoppedError(Exception):
    """A run was asked to end early; its state is kept."""


class TimedOutError(Exception):
    """A run has reached its time limit."""


class Keeper:
    """When a run's state is kept, and when the run has to end before its last epoch.

    `steps`: also every so many steps within an epoch. `stopping` is asked at the same places. With `ranks`, the first
    of a run's processes decides for all and is the only one that writes.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None = None,
        *,
        seconds: float = float("inf"),
        steps: int | None = None,
        time_limit: float | None = None,
        stopping: Callable[[], bool] = lambda: False,
        ranks: Ranks | None = None,
    ) -> None:
        self._checkpoints, self._seconds, self.steps = checkpoints, seconds, steps
        self._time_limit, self._stopping, self._ranks = time_limit, stopping, ranks
        self._kept, self._checked = time.monotonic(), False
        self._deadline = float("inf") if time_limit is None else self._kept + time_limit

    def restored(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The state to go on from: the newest whole one whose entries equal those of `key`."""
        state = self._checkpoints.read() if self._checkpoints else None
        if state is not None and any(state.get(name) != value for name, value in key.items()):
            state = None
        if self._ranks is not None and not self._ranks.have(-1 if state is None else state["step"]):
            return None  # one that some process cannot read is of no use to the others
        return state

    def _decided(self, own: bool) -> bool:
        return own if self._ranks is None else self._ranks.decided(own)

    def count(self, seconds: float) -> None:
        """Count what an earlier process spent on the run towards its time limit."""
        self._deadline -= seconds

    def check_time(self) -> None:
        """Raises `TimedOutError` where the run's seconds, those before a restart included, are over the limit."""
        if self._time_limit is not None and self._decided(time.monotonic() > self._deadline):
            raise TimedOutError(f"over the time limit of {self._time_limit:g} s")

    def _keep(self, checkpoints: Checkpoints, step: int, state: Callable[[], Mapping[str, Any]]) -> None:
        """Keep the state; say so, and keep none from here on, where an optimizer holds what is no plain data."""
        try:
            checkpoints.write(step, state())
            whole = self._checked or checkpoints.read() is not None
        except (StorageError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception:  # whatever a user's optimizer says when its state is asked for, or pickle of what it gives
            whole = False
        if not whole:
            print(f"{checkpoints.folder.name}: its state holds more than plain data and tensors, and cannot be loaded "
                  "again; interrupted, this run begins anew", file=sys.stderr)  # fmt: skip
            checkpoints.clear()
            self._checkpoints = None
        self._kept, self._checked = time.monotonic(), True

    def at_a_stop(self, step: int, state: Callable[[], Mapping[str, Any]]) -> None:
        """Keep the state where it is time to.

        Raises `StoppedError` where the run is to end here.
        """
        stopping = self._decided(self._stopping())
        due = self.steps is not None or time.monotonic() - self._kept >= self._seconds
        writes = self._ranks is None or self._ranks.first
        if self._checkpoints and writes and (stopping or due):
            self._keep(self._checkpoints, step, state)
        if stopping:
            raise StoppedError
