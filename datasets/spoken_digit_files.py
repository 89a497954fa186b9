"""The files of the spoken digits: MNIST's test images and labels, and the Free Spoken Digit Dataset.

Under the data folder, packed or not:

    mnist/t10k-images-idx3-ubyte.gz, mnist/t10k-labels-idx1-ubyte.gz      10,000 images and their labels
    fsdd/recordings/<digit>_<speaker>_<index>.wav                         8 kHz mono 16-bit; or recordings/

Everything found missing, damaged or unexpected is a DataError that names the file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.datasets.audio import SoundFormat, import_libraries, read_sound
from bench.datasets.idx import idx_path, read_idx, read_unpacked
from bench.datasets.samples import DataError, Split

SET = "spoken_digits"  # what messages begin with
DIGITS = 10
IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
MNIST_SIZE = 28
SAMPLE_RATE = 8000
RECORDING_FORMAT = SoundFormat("WAV", "PCM_16", 1, SAMPLE_RATE)
RECORDING_NAME = re.compile(r"([0-9])_([^_]+)_(0|[1-9][0-9]*)\.wav")


@dataclass(frozen=True, slots=True, order=True)
class Recording:
    """One file of FSDD, by what its name says."""

    digit: int
    speaker: str
    index: int
    path: Path

    @property
    def split(self) -> Split:
        if self.index < 5:
            return "test"
        return "validation" if self.index < 10 else "training"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Where the set's files lie; recordings in order of digit, speaker and index."""

    images: Path
    labels: Path
    recordings: tuple[Recording, ...]


def locate(data_dir: Path | None) -> Files:
    """Finds the files under `data_dir`, reading none; raises DataError where something is missing or misnamed."""
    if data_dir is None:
        raise DataError("spoken_digits: no data folder; pass --data-dir or set BENCH_DATA")
    if not data_dir.is_dir():
        raise DataError(f"spoken_digits: {data_dir} is not a folder; pass --data-dir or set BENCH_DATA")
    folders = [data_dir / "fsdd" / "recordings", data_dir / "recordings"]
    folder = next((f for f in folders if f.is_dir()), None)
    if folder is None:
        raise DataError(f"spoken_digits: {folders[0]} is missing; expected a folder of <digit>_<speaker>_<index>.wav")
    recordings = sorted(_recording(path) for path in folder.iterdir() if not path.name.startswith("."))
    if not recordings:
        raise DataError(f"spoken_digits: {folder} is empty; expected <digit>_<speaker>_<index>.wav")
    mnist = data_dir / "mnist"
    return Files(images=idx_path(SET, mnist, IMAGES), labels=idx_path(SET, mnist, LABELS), recordings=tuple(recordings))


def _recording(path: Path) -> Recording:
    name = RECORDING_NAME.fullmatch(path.name)
    if name is None:
        raise DataError(f"spoken_digits: {path} is misnamed; expected <digit>_<speaker>_<index>.wav")
    return Recording(int(name[1]), name[2], int(name[3]), path)


def read_mnist(files: Files) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 28, 28] and labels [N], uint8."""
    image_NHW = read_idx(SET, files.images, (MNIST_SIZE, MNIST_SIZE))
    label_N = read_idx(SET, files.labels, ())
    if len(image_NHW) != len(label_N):
        raise DataError(
            f"spoken_digits: {files.labels} has {len(label_N)} labels; expected {len(image_NHW)}, one an image"
        )
    if label_N.max(initial=0) >= DIGITS:
        raise DataError(f"spoken_digits: {files.labels} has a label {label_N.max()}; expected 0 to {DIGITS - 1}")
    return image_NHW, label_N


def read_recording(path: Path) -> np.ndarray:
    """The clip's waveform in [-1, 1), float32 [S]; an empty, silent, cut or unexpected file raises DataError."""
    import_libraries("workload spoken_digits")
    try:
        wave_SC, found = read_sound(path)
    except DataError as error:
        raise DataError(f"spoken_digits: {error}") from error
    if found != RECORDING_FORMAT:
        raise DataError(f"spoken_digits: {path} is {found}; expected {RECORDING_FORMAT}")
    if not wave_SC.any():
        raise DataError(f"spoken_digits: {path} is empty or silent; expected speech")
    return wave_SC[:, 0]


def digest(data_dir: Path | None) -> str:
    """SHA-256 over the names and unpacked bytes of all the set's files, whatever folder they lie in."""
    files = locate(data_dir)
    total = hashlib.sha256()
    for name, content in _contents(files):
        total.update(f"{name} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()


def _contents(files: Files) -> Iterator[tuple[str, bytes]]:
    yield IMAGES, read_unpacked(SET, files.images)
    yield LABELS, read_unpacked(SET, files.labels)
    for recording in files.recordings:
        yield recording.path.name, recording.path.read_bytes()


def check(data_dir: Path | None) -> None:
    """Reads every file of the set and raises DataError at the first that is missing, damaged or not as expected."""
    files = locate(data_dir)
    read_mnist(files)
    for recording in files.recordings:
        read_recording(recording.path)
