"""Files of images and clips as arrays of the cache: each distinct file decoded once, hashed, and checked.

Shapes: N files, S pixels a side, F mel bands, T frames.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.datasets import audio, images
from bench.datasets.cache import Entry, Recipe, Shape, cached, stamp, versions
from bench.datasets.samples import DataError
from bench.environment import usable_cores

RECIPE = 1  # raised when our own decoding changes what it gives: it is among the settings that name an entry
CHUNK = 16  # files a thread takes at once


@dataclass(frozen=True, slots=True)
class Broken:
    """A file that cannot be decoded, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """Decoded files; row i of every array belongs to `files[i]`, and means nothing where that file is broken."""

    files: tuple[str, ...]
    arrays: Mapping[str, Tensor]
    digest: str  # SHA-256 over names and contents
    broken: tuple[Broken, ...]


def missing(folder: Path, files: Iterable[str]) -> list[str]:
    """Those of `files` that are not there."""
    return [name for name in files if not (folder / name).is_file()]


def decoded_images(kind: str, folder: Path, files: Sequence[str], size: int) -> Media:
    """Every image as uint8 RGB [N, 3, S, S] (`pixels`): the square in its middle, resized to `size`."""

    def decode(chunk: Sequence[Path], rows: Mapping[str, np.ndarray]) -> None:
        for i, path in enumerate(chunk):
            rows["pixels"][i] = images.square(images.decode(path), size).numpy()

    shapes = {"pixels": Shape((len(files), 3, size, size), "uint8")}
    settings = {"square": size, "versions": versions("torch", "torchvision")}
    return _decoded(f"{kind}-images", folder, files, settings, shapes, decode)


def decoded_clips(kind: str, folder: Path, files: Sequence[str], settings: audio.LogMel, frames: int) -> Media:
    """Every clip's log-mel spectrogram, float16 [N, F, T] (`spectra`), and its real frames, int32 [N] (`frames`)."""

    def decode(chunk: Sequence[Path], rows: Mapping[str, np.ndarray]) -> None:
        waves = [audio.read_clip(path, settings.rate) for path in chunk]
        spectra_N1FT, frames_N = audio.log_mel(waves, settings, frames)
        rows["spectra"][:] = spectra_N1FT[:, 0].half().numpy()
        rows["frames"][:] = frames_N.clamp(max=frames).numpy()

    shapes = {"spectra": Shape((len(files), settings.mels, frames), "float16"), "frames": Shape((len(files),), "int32")}
    libraries = versions("torch", "torchaudio", "soundfile")
    all_settings = {**asdict(settings), "frames": frames, "versions": libraries}
    return _decoded(f"{kind}-clips", folder, files, all_settings, shapes, decode)


def _decoded(
    name: str,
    folder: Path,
    files: Sequence[str],
    settings: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    decode: Callable[[Sequence[Path], Mapping[str, np.ndarray]], None],
) -> Media:
    """The cache's entry of these files under these settings; `decode` writes a chunk of them into its rows."""

    def fill(arrays: Mapping[str, np.ndarray], advance: Callable[[int], None]) -> Mapping[str, Any]:
        digests, broken = [b""] * len(files), dict[int, str]()

        def one_chunk(start: int) -> int:
            part = slice(start, start + CHUNK)
            paths = [folder / file for file in files[part]]
            digests[part] = [hashlib.sha256(path.read_bytes()).digest() for path in paths]
            try:
                decode(paths, {key: array[part] for key, array in arrays.items()})
            except (DataError, RuntimeError, MemoryError):  # which one, and whether the others can be read
                for i, path in enumerate(paths, start=start):
                    try:
                        decode([path], {key: array[i : i + 1] for key, array in arrays.items()})
                    except DataError as error:
                        broken[i] = str(error)
                    except (RuntimeError, MemoryError) as error:  # such as too little memory: not the file's fault
                        raise DataError(f"{path} cannot be decoded ({_first_line(error)})") from error
            return len(paths)

        with _single_threaded(), ThreadPoolExecutor(usable_cores()) as threads:
            for done in threads.map(one_chunk, range(0, len(files), CHUNK)):
                advance(done)
        return {"digest": files_digest(files, digests), "broken": [[files[i], broken[i]] for i in sorted(broken)]}

    recipe = Recipe(
        name=name,
        settings={**settings, "recipe": RECIPE, "folder": str(folder.resolve()), "files": hashlib.sha256(
            json.dumps(list(files)).encode()).hexdigest()},
        stamp=stamp([folder / file for file in files]), shapes=shapes, steps=len(files), fill=fill,
    )  # fmt: skip
    entry: Entry = cached(recipe)
    broken = tuple(Broken(file, reason) for file, reason in entry.facts["broken"])
    return Media(files=tuple(files), arrays=entry.arrays, digest=entry.facts["digest"], broken=broken)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def files_digest(files: Iterable[str], digests: Iterable[bytes]) -> str:
    """SHA-256 over the files' names, each followed by the SHA-256 of its bytes."""
    total = hashlib.sha256()
    for name, digest in zip(files, digests, strict=True):
        total.update(name.encode(errors="surrogateescape") + b"\0" + digest)
    return total.hexdigest()


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Torch's operators on one thread each: chunks are what runs at once, and sums round the same on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
