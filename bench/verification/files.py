"""The images and clips of a set: which are missing, and what those are that can be read."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.datasets import audio, images
from bench.datasets.media import files_digest, missing
from bench.datasets.samples import DataError
from bench.verification.findings import Files, Named
from bench.verification.histogram import histogram_of, spread_of

CHUNK = 16  # files a thread takes at once
FINEST_SECONDS = 0.1

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a file turned out to be: an image's size in pixels, a clip's seconds; `form` names the format."""

    form: str
    width: int = 0
    height: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A file that was opened: the SHA-256 of its bytes, and its facts or why there are none."""

    digest: bytes | None = None
    facts: Facts | None = None
    reason: str = ""


def image_facts(path: Path) -> Facts:
    """Raises `DataError` where the image cannot be decoded."""
    _, height, width = images.decode(path).shape
    return Facts(form=path.suffix.lower().lstrip(".") or "no ending", width=width, height=height)


def clip_facts(path: Path) -> Facts:
    """Raises `DataError` where a study could not use the clip, by the rules of `audio.read_clip`."""
    soundfile, _ = audio.import_libraries("audio")
    try:
        found = soundfile.info(str(path))
    except (OSError, soundfile.SoundFileError):
        audio.read_clip(path, audio.LogMel().rate)  # says why
        raise DataError(f"{path} cannot be read; expected a sound file") from None
    form = str(audio.SoundFormat(found.format, found.subtype, found.channels, found.samplerate))
    return Facts(form=form, seconds=len(audio.read_clip(path, found.samplerate)) / found.samplerate)


def look(path: Path, facts_of: Callable[[Path], Facts]) -> Seen:
    """Opens a file; whatever is wrong with it is the reason."""
    try:
        digest = hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        return Seen(reason=f"cannot be read ({error.strerror})")
    try:
        return Seen(digest=digest, facts=facts_of(path))
    except DataError as error:
        return Seen(digest=digest, reason=_reason(str(error), path))


def _reason(text: str, path: Path) -> str:
    """What a message says of the file, without its folder."""
    before, found, after = text.partition(f"{path} ")
    return " ".join((after if found else before).replace(str(path), path.name).split())


def look_at_all(paths: Sequence[Path], facts_of: Callable[[Path], Facts], advance: Advance) -> list[Seen]:
    """Every file in its place, opened by as many threads as there are processors."""

    def chunk(start: int) -> list[Seen]:
        return [look(path, facts_of) for path in paths[start : start + CHUNK]]

    seen: list[Seen] = []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for part in threads.map(chunk, range(0, len(paths), CHUNK)):
            seen += part
            advance(len(part))
    return seen


@contextmanager
def progress(console: Console, title: str, total: int) -> Iterator[Advance]:
    """A bar on a terminal, nothing elsewhere; it is told of every file that is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def verify_files(
    noun: str, folder: Path, places: Mapping[str, str], facts_of: Callable[[Path], Facts], console: Console | None
) -> Files:
    """The files under `folder` that `places` names, with where each is listed; not opened where `console` is None."""
    absent = missing(folder, places)
    gone = set(absent)
    parents = dict.fromkeys(str(PurePosixPath(name).parent) for name in absent)
    found = Files(
        noun=noun,
        files=len(places),
        missing=tuple(Named(what=name, reason="is missing", place=places[name]) for name in absent),
        missing_folders=tuple(parent for parent in parents if not (folder / parent).is_dir()),
        decoded=console is not None,
    )
    if console is None:
        return found
    there = [name for name in places if name not in gone]
    with progress(console, f"reading {noun}s", len(there)) as advance:
        seen = look_at_all([folder / name for name in there], facts_of, advance)
    return described(found, there, seen, places)


def described(found: Files, names: Sequence[str], seen: Sequence[Seen], places: Mapping[str, str]) -> Files:
    """`found` with what the files that are there turned out to be."""
    read = {name: one.digest for name, one in zip(names, seen, strict=True) if one.digest is not None}
    facts = [one.facts for one in seen if one.facts is not None]
    widths, heights = [one.width for one in facts if one.width], [one.height for one in facts if one.height]
    return replace(
        found,
        read=len(facts),
        unreadable=tuple(
            Named(what=name, reason=one.reason, place=places[name])
            for name, one in zip(names, seen, strict=True)
            if one.facts is None
        ),
        width=spread_of(widths) if widths else None,
        height=spread_of(heights) if heights else None,
        seconds=histogram_of([one.seconds for one in facts if one.seconds], finest=FINEST_SECONDS),
        formats=dict(Counter(one.form for one in facts).most_common()),
        digest=files_digest(read, read.values()) if read else None,
    )
