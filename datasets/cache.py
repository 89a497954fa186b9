"""Decoded data, kept on disk as arrays: written once, then mapped into memory by every process that needs it.

An entry is a folder of the cache, named by what decides its content: <name>-<hash of the settings>/ with one file an
array and `entry.json`, which is written last. It is filled under a lock in a folder of its own and renamed to its
place, so that of two processes one fills it and the other waits, and a killed one leaves nothing that is read. An
entry whose `stamp` (sizes and times of the files it was made from) has changed is filled anew. Folders that are not
named so and hold no `entry.json` of ours are never listed nor removed.

The cache is $BENCH_CACHE, else optimizer-bench in $XDG_CACHE_HOME or ~/.cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from bench.datasets.samples import DataError

FORMAT = 1  # raised when what an entry holds changes its meaning
FACTS = "entry.json"
ANNOUNCED = 1e6  # bytes from which on writing is worth a line
OURS = re.compile(r"(?P<entry>.+-[0-9a-f]{16})(\.[^.]+\.partial)?")  # entries, and what is being filled


@dataclass(frozen=True, slots=True)
class Shape:
    """An array of an entry; the first axis counts items."""

    axes: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return int(np.prod(self.axes, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What an entry is to hold.

    `settings` (plain JSON) decide the content and name the entry, `stamp` says of which state of its sources it is.
    `fill(arrays, advance)` writes the arrays, calls `advance(n)` for every n of `steps` done, and returns plain facts
    to keep beside them.
    """

    name: str
    settings: Mapping[str, Any]
    stamp: str
    shapes: Mapping[str, Shape]
    steps: int
    fill: Callable[[Mapping[str, np.ndarray], Callable[[int], None]], Mapping[str, Any]]

    @property
    def bytes(self) -> int:
        return sum(shape.bytes for shape in self.shapes.values())

    @property
    def folder(self) -> Path:
        """Where the entry is, or will be."""
        content = json.dumps([FORMAT, self.settings], sort_keys=True, allow_nan=False)
        return cache_folder() / f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A filled entry: read-only tensors over the files on disk, and the facts of its `fill`."""

    arrays: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def cache_folder() -> Path:
    """Where decoded data is kept."""
    if chosen := os.environ.get("BENCH_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "optimizer-bench"


def cached(recipe: Recipe) -> Entry:
    """The entry of a recipe, filled first where it is missing, of another stamp or damaged.

    Says on standard error what it writes, where and how much; raises `DataError` where there is no room for it, and
    what `fill` raises.
    """
    folder = recipe.folder
    if (facts := _facts(folder, recipe)) is None:
        with _locked(folder):
            facts = _facts(folder, recipe)  # another process may have filled it meanwhile
            if facts is None:
                _fill(folder, recipe)
                facts = _facts(folder, recipe)
    if facts is None:
        raise DataError(f"{recipe.name}: {folder} cannot be read back; expected the arrays just written")
    arrays = {name: _mapped(folder / f"{name}.bin", shape) for name, shape in recipe.shapes.items()}
    return Entry(arrays, facts)


def _facts(folder: Path, recipe: Recipe) -> Mapping[str, Any] | None:
    """The facts of the entry in `folder` where it is whole and of the recipe's stamp."""
    try:
        content = json.loads((folder / FACTS).read_bytes())
        sizes = {name: (folder / f"{name}.bin").stat().st_size for name in recipe.shapes}
    except (OSError, ValueError):
        return None
    whole = all(sizes[name] == max(1, shape.bytes) for name, shape in recipe.shapes.items())
    return content["facts"] if whole and content.get("stamp") == recipe.stamp else None


def _mapped(path: Path, shape: Shape) -> Tensor:
    """The array in a file as a tensor; the memory is mapped read-only, so that writing to it kills the process."""
    if shape.bytes == 0:
        return torch.from_numpy(np.empty(shape.axes, shape.dtype))
    # Not copy-on-write: Linux may refuse such a mapping where it is larger than the memory.
    array = np.memmap(path, shape.dtype, "r", shape=shape.axes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _fill(folder: Path, recipe: Recipe) -> None:
    """Fill the entry beside its place and move it there; the caller holds its lock."""
    for left in folder.parent.glob(f"{folder.name}.*.partial"):  # of processes that were killed: the lock is ours
        shutil.rmtree(left)
    _require_room(folder, recipe)
    console = Console(stderr=True, file=sys.stderr, highlight=False, soft_wrap=True)
    if recipe.bytes >= ANNOUNCED:
        console.print(f"{recipe.name}: writing {megabytes(recipe.bytes)} of decoded data to {folder}", markup=False)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        arrays = {name: _new(partial / f"{name}.bin", shape) for name, shape in recipe.shapes.items()}
        with _bar(console) as progress:
            task = progress.add_task(recipe.name, total=recipe.steps)
            facts = recipe.fill(arrays, lambda n: progress.advance(task, n))
        for array in arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        _write_durably(partial / FACTS, json.dumps({"stamp": recipe.stamp, "facts": dict(facts)}, allow_nan=False))
        shutil.rmtree(folder, ignore_errors=True)  # of another stamp; who has it mapped keeps it
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _require_room(folder: Path, recipe: Recipe) -> None:
    """Raises `DataError` where the disk has less room than the entry will take."""
    free = shutil.disk_usage(folder.parent).free
    if free < recipe.bytes:
        raise DataError(f"{recipe.name}: {folder.parent} has {megabytes(free)} of room; {megabytes(recipe.bytes)} are "
                        "needed; BENCH_CACHE names another folder")  # fmt: skip


def _new(path: Path, shape: Shape) -> np.ndarray:
    """A new array on disk, its room taken at once, so that a full disk is an error and not a signal."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shape.bytes))
    return np.memmap(path, shape.dtype, "r+", shape=shape.axes) if shape.bytes else np.empty(shape.axes, shape.dtype)


def _write_durably(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """One process at a time fills an entry; the lock goes with the process that holds it.

    Raises `BlockingIOError` where another has it and `wait` is false.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def stamp(paths: Iterable[Path]) -> str:
    """A hash of the files' names, sizes and times, which change when the files do.

    The time of the last change of the inode is among them: a file may be changed with its size and mtime kept.
    """
    total = hashlib.sha256()
    for path in paths:
        status = path.stat()
        facts = f"\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\n"
        total.update(os.fsencode(path.name) + facts.encode())
    return total.hexdigest()


def versions(*packages: str) -> dict[str, str | None]:
    """The installed packages' versions, for the settings of what they decode; None of one that is not there."""
    found: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def megabytes(count: float) -> str:
    """A size in words: 12 MB, 3.4 GB."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{count / 1e6:.1f} MB"


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry as a listing shows it."""

    name: str
    bytes: int


def kept() -> list[Kept]:
    """What the cache holds, by name; also what a killed process has left."""
    folder = cache_folder()
    found = sorted(path for path in folder.glob("*") if _is_ours(path)) if folder.is_dir() else []
    return [Kept(path.name, _bytes(path)) for path in found]


def remove(name: str) -> bool:
    """Delete one entry; runs that have it mapped go on. False where a process is filling it: then it stays.

    Raises `ValueError` where `name` is no entry of the cache.
    """
    folder = cache_folder() / name
    if folder.parent != cache_folder() or (folder.exists() and not _is_ours(folder)):
        raise ValueError(f"{name!r} is no entry of the cache {cache_folder()}")
    named = OURS.fullmatch(name)
    try:
        with _locked(folder.with_name(named["entry"] if named else name), wait=False):
            if folder.is_dir():  # else another process has removed it, or moved it to its place
                shutil.rmtree(folder)
    except BlockingIOError:
        return False
    return True  # the lock's file stays: another process may wait on it


def _is_ours(path: Path) -> bool:
    """Whether a folder is an entry by its name, or by the facts in it."""
    if path.is_symlink() or not path.is_dir():
        return False
    if OURS.fullmatch(path.name):
        return True
    try:
        content = json.loads((path / FACTS).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.keys() == {"stamp", "facts"}


def _bytes(folder: Path) -> int:
    """The sizes of its files, of those that are still there."""
    total = 0
    with suppress(FileNotFoundError):  # it is being filled or removed
        for file in folder.iterdir():
            total += file.stat().st_size if file.is_file() else 0
    return total
