"""The files of the spoken digits: what is read of good ones, and what is said of bad ones."""

import gzip
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets.idx import read_idx
from bench.datasets.samples import DataError
from bench.datasets.spoken_digit_files import read_recording
from bench.datasets.spoken_digits import SpokenDigits, check, digest

IMAGES, LABELS = "mnist/t10k-images-idx3-ubyte.gz", "mnist/t10k-labels-idx1-ubyte.gz"
CLIP = "fsdd/recordings/7_ann_5.wav"
RATE = 8000
IDX_IMAGES, IDX_LABELS = 0x0803, 0x0801
SEEDED = settings(derandomize=True, deadline=None, database=None)


def idx(magic: int, items: np.ndarray) -> bytes:
    return struct.pack(f">{1 + items.ndim}I", magic, *items.shape) + items.tobytes()


def load(data_dir: Path | None) -> SpokenDigits:
    return SpokenDigits(data_dir=data_dir, training=10, validation=10, test=10)


def test_unpacked_files_and_recordings_at_the_root_are_the_same_set(digits_copy: Path):
    before, packed = load(digits_copy), digest(digits_copy)
    for name in (IMAGES, LABELS):
        (digits_copy / name).with_suffix("").write_bytes(gzip.decompress((digits_copy / name).read_bytes()))
        (digits_copy / name).unlink()
    (digits_copy / "fsdd" / "recordings").rename(digits_copy / "recordings")
    after = load(digits_copy)
    check(digits_copy)
    assert digest(digits_copy) == packed == before.digest == after.digest
    for split in ("validation", "test"):
        one, other = before.held_out(split), after.held_out(split)
        for name in ("label_N", "image_N3HW", "audio_N1FT"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)


def test_digest_depends_on_every_byte_and_name(digits_copy: Path):
    found = {digest(digits_copy)}
    clip = digits_copy / CLIP
    content = clip.read_bytes()
    clip.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found.add(digest(digits_copy))
    clip.write_bytes(content)
    clip.rename(clip.with_name("7_ann_6.wav"))
    found.add(digest(digits_copy))
    (digits_copy / LABELS).write_bytes(idx(IDX_LABELS, (np.arange(50) % 9).astype(np.uint8)))
    found.add(digest(digits_copy))
    assert len(found) == 4
    assert all(len(value) == 64 for value in found)


def test_hidden_files_are_passed_over(digits_copy: Path):
    (digits_copy / "fsdd" / "recordings" / ".DS_Store").write_bytes(b"x")
    check(digits_copy)


def test_idx_file_is_read_in_row_order(tmp_path: Path):
    items = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    (tmp_path / "x").write_bytes(struct.pack(">4I", IDX_IMAGES, 2, 2, 3) + bytes(range(12)))
    np.testing.assert_array_equal(read_idx("set", tmp_path / "x", (2, 3)), items)


@SEEDED
@given(shape=st.tuples(st.integers(0, 4), st.integers(1, 3), st.integers(1, 3)), packed=st.booleans())
def test_idx_round_trip(shape: tuple[int, int, int], packed: bool, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.getbasetemp() / "round_trip"
    items = np.random.default_rng(shape).integers(0, 256, shape, dtype=np.uint8)
    content = idx(IDX_IMAGES, items)
    path.write_bytes(gzip.compress(content) if packed else content)
    np.testing.assert_array_equal(read_idx("set", path, shape[1:]), items)


@SEEDED
@given(
    start=st.sampled_from([b"", b"\x1f\x8b", b"\x1f\x8b\x08\x00", struct.pack(">2I", IDX_LABELS, 3)]),
    rest=st.binary(max_size=20),
)
def test_any_bytes_are_labels_or_a_data_error(start: bytes, rest: bytes, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.getbasetemp() / "any_bytes"
    path.write_bytes(start + rest)
    if start == struct.pack(">2I", IDX_LABELS, 3) and len(rest) == 3:
        assert read_idx("set", path, ()).tolist() == list(rest)
    else:
        with pytest.raises(DataError, match="any_bytes"):
            read_idx("set", path, ())


def test_recording_is_read_in_full_scale(tmp_path: Path):
    soundfile.write(tmp_path / "x.wav", np.array([0, 1, -1, 16384, -32768], np.int16), RATE, subtype="PCM_16")
    wave = read_recording(tmp_path / "x.wav")
    assert wave.dtype == np.float32
    assert wave.tolist() == [0, 2**-15, -(2**-15), 0.5, -1]


def rewrite_clip(wave: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> Callable[[Path], object]:
    return lambda folder: soundfile.write(folder / CLIP, wave, rate, subtype=subtype)


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def replace(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def replace_idx(name: str, magic: int, items: np.ndarray) -> Callable[[Path], object]:
    return replace(name, idx(magic, items))


def remove(name: str) -> Callable[[Path], object]:
    def remove_(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove_


def rename_clip(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / CLIP).rename((folder / CLIP).with_name(name))


def empty_recordings(folder: Path) -> None:
    remove("fsdd/recordings")(folder)
    (folder / "fsdd" / "recordings").mkdir()


SOUND = np.full(800, 0.1)
FAULTS = {
    "no mnist folder": (remove("mnist"), "t10k-images-idx3-ubyte.gz is missing; expected the file of MNIST"),
    "no images": (remove(IMAGES), "t10k-images-idx3-ubyte.gz is missing; expected the file of MNIST"),
    "no labels": (remove(LABELS), "t10k-labels-idx1-ubyte.gz is missing; expected the file of MNIST"),
    "no recordings folder": (remove("fsdd"), "recordings is missing; expected a folder of <digit>_<speaker>"),
    "no recordings": (empty_recordings, "recordings is empty; expected <digit>_<speaker>_<index>.wav"),
    "truncated gzip": (cut(IMAGES, 5000), "t10k-images-idx3-ubyte.gz is a damaged gzip file"),
    "gzip without its checksum": (cut(LABELS, -8), "t10k-labels-idx1-ubyte.gz is a damaged gzip file"),
    "damaged gzip": (replace(IMAGES, b"\x1f\x8b\x08" + bytes(20)), "images-idx3-ubyte.gz is a damaged gzip file"),
    "empty file": (replace(LABELS, b""), "t10k-labels-idx1-ubyte.gz has 0 bytes; an idx header has 8"),
    "web page for an idx file": (
        replace(IMAGES, b"<!DOCTYPE html><html>"),
        "t10k-images-idx3-ubyte.gz has the magic number 0x3c21444f; expected 0x00000803",
    ),
    "labels in place of images": (
        replace_idx(IMAGES, IDX_LABELS, np.zeros(50, np.uint8)),
        "images-idx3-ubyte.gz has the magic number 0x00000801; expected 0x00000803",
    ),
    "images of another size": (
        replace_idx(IMAGES, IDX_IMAGES, np.zeros((50, 32, 32), np.uint8)),
        "images-idx3-ubyte.gz holds items of shape (32, 32); expected (28, 28)",
    ),
    "fewer items than the header says": (
        replace(LABELS, struct.pack(">2I", IDX_LABELS, 50) + bytes(49)),
        "labels-idx1-ubyte.gz has 57 bytes; 50 items need 58",
    ),
    "more items than the header says": (
        replace(LABELS, struct.pack(">2I", IDX_LABELS, 50) + bytes(51)),
        "labels-idx1-ubyte.gz has 59 bytes; 50 items need 58",
    ),
    "fewer labels than images": (
        replace_idx(LABELS, IDX_LABELS, np.zeros(49, np.uint8)),
        "labels-idx1-ubyte.gz has 49 labels; expected 50, one an image",
    ),
    "label that is no digit": (
        replace_idx(LABELS, IDX_LABELS, np.full(50, 10, np.uint8)),
        "labels-idx1-ubyte.gz has a label 10; expected 0 to 9",
    ),
    "text in place of a wav": (replace(CLIP, b"not found"), "7_ann_5.wav cannot be read"),
    "wav of no bytes": (replace(CLIP, b""), "7_ann_5.wav cannot be read"),
    "wav of no samples": (rewrite_clip(np.zeros(0)), "7_ann_5.wav is empty or silent; expected speech"),
    "silent wav": (rewrite_clip(np.zeros(800)), "7_ann_5.wav is empty or silent; expected speech"),
    "wav cut off": (cut(CLIP, -100), "7_ann_5.wav is cut off at"),
    "wrong sample rate": (
        rewrite_clip(SOUND, rate=16000),
        "7_ann_5.wav is WAV PCM_16, 1 channel(s) at 16000 Hz; expected WAV PCM_16, 1 channel(s) at 8000 Hz",
    ),
    "stereo": (rewrite_clip(np.full((800, 2), 0.1)), "7_ann_5.wav is WAV PCM_16, 2 channel(s) at 8000 Hz; expected"),
    "other encoding": (rewrite_clip(SOUND, subtype="ULAW"), "7_ann_5.wav is WAV ULAW, 1 channel(s)"),
    "bad file name": (
        rename_clip("seven_ann_5.wav"),
        "seven_ann_5.wav is misnamed; expected <digit>_<speaker>_<index>",
    ),
    "index twice": (rename_clip("7_ann_05.wav"), "7_ann_05.wav is misnamed; expected <digit>_<speaker>_<index>.wav"),
    "other kind of file": (rename_clip("7_ann_5.flac"), "7_ann_5.flac is misnamed; expected <digit>_<speaker>_<index>"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_the_files_is_one_line_that_names_the_file(fault: str, digits_copy: Path):
    damage, message = FAULTS[fault]
    check(digits_copy)
    damage(digits_copy)
    for attempt in (check, load):
        with pytest.raises(DataError) as error:
            attempt(digits_copy)
        assert message in str(error.value)
        assert str(digits_copy) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("attempt", [check, digest, load])
def test_without_a_folder_the_error_says_how_to_name_one(attempt: Callable[[Path | None], object], tmp_path: Path):
    for folder in (None, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="pass --data-dir or set BENCH_DATA"):
            attempt(folder)


def test_too_few_recordings_for_a_split(digits_copy: Path):
    with pytest.raises(DataError, match="recordings has 10 validation recordings; 11 are wanted"):
        SpokenDigits(data_dir=digits_copy, training=10, validation=11, test=10)


def test_too_few_images_of_a_digit(digits_copy: Path):
    (digits_copy / LABELS).write_bytes(idx(IDX_LABELS, (np.arange(50) % 9).astype(np.uint8)))
    with pytest.raises(DataError, match=r"ubyte\.gz has 0 training images of 9; 1 are wanted"):
        load(digits_copy)


def test_sizes_must_be_positive(digits_copy: Path):
    with pytest.raises(ValueError, match=r"SpokenDigits: {'test': 0, 'mels': -1} is too small"):
        SpokenDigits(data_dir=digits_copy, training=10, validation=10, test=0, mels=-1)


@pytest.mark.parametrize("library", ["soundfile", "torchaudio"])
def test_missing_library_makes_the_workload_unavailable(
    library: str, digits_copy: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, library, None)
    for attempt in (check, load):
        with pytest.raises(ImportError, match="^workload spoken_digits unavailable: .*" + library) as error:
            attempt(digits_copy)
        assert "\n" not in str(error.value)
