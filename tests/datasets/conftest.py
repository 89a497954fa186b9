"""A made-up data folder of the spoken digits, in the real formats."""

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

IDX_IMAGES, IDX_LABELS = 0x0803, 0x0801


def write_idx(path: Path, magic: int, items: np.ndarray) -> None:
    header = struct.pack(f">{1 + items.ndim}I", magic, *items.shape)
    path.write_bytes(gzip.compress(header + items.tobytes(), mtime=0))


def make_images(count: int) -> np.ndarray:
    """Noise images whose first two pixels spell their place in the file."""
    images = np.random.default_rng(1).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(count) // 256, np.arange(count) % 256
    return images


def make_set(folder: Path, *, speakers: tuple[str, ...], indices: tuple[int, ...], images: int) -> Path:
    """A data folder of the real layout: clips of 0.05 to 0.9 s, images of the digits 0, 1, …, 9, 0, 1, …"""
    rng = np.random.default_rng(0)
    (folder / "fsdd" / "recordings").mkdir(parents=True)
    (folder / "mnist").mkdir()
    for digit in range(10):
        for speaker in speakers:
            for index in indices:
                wave = 0.3 * rng.standard_normal(rng.integers(400, 7200)).clip(-3, 3)
                path = folder / "fsdd" / "recordings" / f"{digit}_{speaker}_{index}.wav"
                soundfile.write(path, wave, 8000, subtype="PCM_16")
    write_idx(folder / "mnist" / "t10k-images-idx3-ubyte.gz", IDX_IMAGES, make_images(images))
    write_idx(folder / "mnist" / "t10k-labels-idx1-ubyte.gz", IDX_LABELS, (np.arange(images) % 10).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 recordings a split; images for 36, 12 and 12 of each digit."""
    indices = (*range(10), *range(30, 35))
    return make_set(tmp_path_factory.mktemp("whole"), speakers=("ann", "bob"), indices=indices, images=600)


@pytest.fixture(scope="module")
def small_digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("small"), speakers=("ann",), indices=(0, 5, 10), images=50)


@pytest.fixture
def digits_copy(small_digits_dir: Path, tmp_path: Path) -> Path:
    """Ten recordings a split, to be damaged."""
    return shutil.copytree(small_digits_dir, tmp_path / "copy")
