"""What `--tracker` selects: built-in trackers, and classes of the user's own."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.spec import resolve
from bench.suggestions import unknown
from bench.trackers.tracker import Tracker

# Imported when they are asked for, each with its library.
TRACKERS = {
    "mlflow": "bench.trackers.mlflow:MlflowTracker",
    "tensorboard": "bench.trackers.tensorboard:TensorBoardTracker",
    "trackio": "bench.trackers.trackio:TrackioTracker",
    "wandb": "bench.trackers.wandb:WandbTracker",
}
# What somebody else's code may raise when it is imported or called.
PLUGIN_FAULTS = (Exception,)


def trackers(texts: Sequence[str], study: Path) -> list[Tracker]:
    """The trackers that `texts` name, each NAME or NAME=TARGET, for the study in the folder `study`.

    NAME is built in, or `module:Class`, or `file.py:Class`, whose code is run: such a name may come from the command
    line alone. Raises `UsageError` where there is no such tracker, or it cannot work.
    """
    return [_tracker(text, study) for text in texts]


def _tracker(text: str, study: Path) -> Tracker:
    name, equals, target = text.partition("=")
    if not name or (equals and not target):
        raise UsageError(f"--tracker {text!r}: allowed is NAME or NAME=TARGET, as {', '.join(TRACKERS)}")
    constructor = resolve(TRACKERS[name]) if name in TRACKERS else _own_class(name)
    try:
        made = constructor(target or None, study)
    except UsageError:
        raise
    except PLUGIN_FAULTS as error:
        raise UsageError(f"--tracker {name}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    made.label = f"--tracker {name}"
    return made


def _own_class(reference: str) -> type[Tracker]:
    """The class behind `module:Class` or `file.py:Class`."""
    place, colon, attribute = reference.rpartition(":")
    if not colon:
        raise UsageError(f"--tracker: {unknown('tracker', reference, TRACKERS)}, or module:Class, or file.py:Class")
    if not (place and attribute):
        raise UsageError(f"--tracker {reference!r}: allowed are module:Class and file.py:Class")
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    except PLUGIN_FAULTS as error:
        line = " ".join(str(error).split())
        raise UsageError(f"--tracker {reference}: cannot import {place}: {type(error).__name__}: {line}") from error
    found = getattr(module, attribute, None)
    if not (inspect.isclass(found) and issubclass(found, Tracker)):
        raise UsageError(f"--tracker {reference}: {attribute} is no subclass of bench.trackers.tracker.Tracker")
    return found


def _load_file(path: Path) -> Any:
    """The module of a Python file."""
    spec = importlib.util.spec_from_file_location(f"bench_tracker_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look their module up
    spec.loader.exec_module(module)
    return module


def _load_module(name: str) -> Any:
    """The module, also of the current folder."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    return importlib.import_module(name)
