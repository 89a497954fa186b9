"""The hook of a tracker, and how one finds its library."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.plan import Run
from bench.record import CurvePoint, RunRecord


class Tracker:
    """Shows runs elsewhere; every method may be left as it is.

    Many runs are under way at once. A run that goes on, or is tried again after its worker died, is started again. All
    calls come from one thread, and not the main one; whatever a method raises switches the tracker off. The constructor
    is called before anything runs: it raises `UsageError` where the tracker cannot work, and must not wait for a
    network.
    """

    label = "tracker"  # how warnings name it

    def __init__(self, target: str | None, study: Path) -> None:
        """`target` is what the user gave with the tracker's name, `study` the study's folder, which may not exist."""

    def on_run_start(self, run: Run) -> None:
        """A run has begun or goes on."""

    def on_epoch(self, run: Run, point: CurvePoint) -> None:
        """An epoch of a run that was started has ended."""

    def on_run_end(self, run: Run, record: RunRecord) -> None:
        """A run that was started has ended, however it did."""

    def close(self) -> None:
        """No more calls follow; runs that were started and have not ended may go on another time."""


def library(module: str, tracker: str) -> Any:
    """A module of the library of the built-in tracker of that name; the extra that brings it has the same name.

    Raises `UsageError` where it cannot be imported.
    """
    cure = f"pip install 'optimizer-bench[{tracker}]'"
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        found = None
    except ImportError as error:
        raise UsageError(f"--tracker {tracker}: {' '.join(str(error).split())}; {cure}") from None
    if found is None or found.__file__ is None:  # a folder of that name, as W&B leaves one, is imported as well
        raise UsageError(f"--tracker {tracker}: needs the extra: {cure}")
    return found
