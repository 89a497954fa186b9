"""Where a study is that a command is given by name or as a folder."""

from __future__ import annotations

from pathlib import Path

from bench.errors import UsageError
from bench.store import study_name

PARTS = ("runs", "requests", "protocols", "searches")


def is_study(folder: Path) -> bool:
    """Whether there is something of a study in the folder."""
    return any((folder / part).is_dir() for part in PARTS)


def place_of(text: str, results: Path) -> Path:
    """The folder of the study NAME in `results`; of a text with a slash, or where a study is at hand, that folder.

    Raises `UsageError` where the text is neither.
    """
    if "/" in text or is_study(Path(text)):
        return Path(text)
    return results / study_name(text)


def study_folder(text: str | None, results: Path) -> Path:
    """The folder of a study that is there; without a text, of the one that was asked for last.

    Raises `UsageError` where there is none.
    """
    if text is None:
        found = [entry for entry in results.iterdir() if is_study(entry)] if results.is_dir() else []
        if not found:
            raise UsageError(f"no study in {results}; `bench run` makes one")
        return max(found, key=_used)
    folder = place_of(text, results)
    if not is_study(folder):
        raise UsageError(f"no study in {folder}; allowed are a name under --results {results} and a study's folder")
    return folder


def own_folder(text: str | None, results: Path) -> Path:
    """The folder of `study_folder`, for a command that removes files.

    Raises `UsageError` too where a name under `results` is a link that leads out of it.
    """
    folder = study_folder(text, results)
    under = folder.parent == results
    if under and not folder.resolve().is_relative_to(results.resolve()):
        raise UsageError(f"study {folder} is a link that leads to {folder.resolve()}, out of {results}; allowed is "
                         "that folder itself")  # fmt: skip
    return folder


def _used(folder: Path) -> tuple[float, str]:
    """When a study was last asked for or written to, in seconds of the system's clock; equal times go by name."""
    times = [path.stat().st_mtime for name in ("last_used", *PARTS) if (path := folder / name).exists()]
    return max(times), folder.name
