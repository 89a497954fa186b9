"""`bench verify-data` on small folders in the real formats, and on the real annotation files where they are."""

import gzip
import json
import os
import shutil
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.io import write_jpeg

from bench.cli import main
from bench.verification.histogram import MOST_BINS, histogram_of

LISTS = {"train": ("a", "b"), "dev": ("c", "d"), "test": ("e", "f")}
NAMES = [name for names in LISTS.values() for name in names]
CAPTIONS = ("A dog runs .", "Two dogs play ball", "a man, and a boat", "Water!", "the end of " + 30 * "a day")
RATE = 16000


class Called(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """Standard output without its line breaks."""
        return " ".join(self.out.split())


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """The command in this process, on a screen of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> Called:
        monkeypatch.setattr(sys, "argv", ["bench", "verify-data", *map(str, arguments)])
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return Called(code, *capsys.readouterr())

    return call


def write_image(path: Path, height: int = 8, width: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jpeg(torch.randint(0, 256, (3, height, width), dtype=torch.uint8), str(path))


def write_clip(path: Path, seconds: float = 0.5, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(np.arange(round(seconds * rate)) / 9), rate, subtype="PCM_16")


def write_flickr(folder: Path, captions: Sequence[str] = CAPTIONS) -> Path:
    """Six images, two a split, of five captions and five clips of two speakers each."""
    lines = [f"{name}.jpg#{i}\t{text}" for name in NAMES for i, text in enumerate(captions)]
    spoken = [f"{name}_{i}.wav {name}.jpg #{i}" for name in NAMES for i in range(len(captions))]
    (folder / "flickr_audio").mkdir(parents=True)
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines))
    (folder / "flickr_audio" / "wav2capt.txt").write_text("\n".join(spoken))
    speakers = [f"{line.split()[0]} {i % 2}" for i, line in enumerate(spoken)]
    (folder / "flickr_audio" / "wav2spk.txt").write_text("\n".join(speakers))
    for split, names in LISTS.items():
        (folder / f"Flickr_8k.{split}Images.txt").write_text("".join(f"{name}.jpg\n" for name in names))
    for i, name in enumerate(NAMES):
        write_image(folder / "Images" / f"{name}.jpg", height=8 + i, width=12 + i)
    for i, line in enumerate(spoken):
        write_clip(folder / "flickr_audio" / "wavs" / line.split()[0], seconds=0.4 + i / 100)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flickr(tmp_path_factory.mktemp("flickr") / "flickr8k")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The same set, to be damaged."""
    return shutil.copytree(whole, tmp_path / "flickr8k")


def test_a_whole_set_is_said_to_be_whole(whole: Path, verify: Callable[..., Called]):
    found = verify("flickr8k", whole)
    assert found.code == 0, found.err
    for text in (
        "text, image, audio",
        "Flickr8k.token.txt 30 lines",
        "listed: 30 captions of 6 image ids",
        "spoken: 30 clips of 2 speakers",
        "training 10 2 10 validation 10 2 10 test 10 2 10 all 30 6 30",
        "6 of 6 are there; 6 were read without a fault",
        "width 12, 14.5, 17 pixels, height 8, 10.5, 13 (min, median, max)",
        "30 × WAV PCM_16, 1 channel(s) at 16000 Hz",
        "seconds: 0.4 to 0.69, median 0.545",
        "characters: 6 to 161",
        "words: 1 to 34",
        "in the splits 30 1,284 0 (0.0 %) 6 (20.0 %)",
        "6 captions longer than 77 tokens",
    ):
        assert text in found.words, text
    assert found.out.splitlines()[-1] == "everything is there"
    assert "Remarks" not in found.out
    assert found.err == ""


def test_the_folder_above_will_do(whole: Path, verify: Callable[..., Called]):
    assert verify("flickr8k", whole.parent).out == verify("flickr8k", whole).out


def test_a_terminal_of_80_columns_is_enough(copy: Path, verify: Callable[..., Called]):
    (copy / "Images" / "a.jpg").unlink()
    (copy / "Images" / "b.jpg").write_bytes(b"no image")
    for found in (verify("flickr8k", copy), verify("flickr8k", copy, "--no-decode")):
        assert max(map(len, found.out.splitlines())) <= 80


def test_json_is_complete(whole: Path, verify: Callable[..., Called]):
    found = json.loads(verify("flickr8k", whole, "--json").out)
    assert set(found) == {
        "ok", "problems", "kind", "title", "folder", "modalities", "limit", "absent_is_normal", "faults", "notes",
        "annotations", "listed", "ids", "speakers", "splits", "remarks", "images", "clips", "captions", "digests",
    }  # fmt: skip
    assert found["ok"] is True
    assert (found["problems"], found["faults"], found["notes"], found["remarks"]) == ([], [], [], [])
    assert (found["listed"], found["ids"], found["speakers"]) == (30, 6, 2)
    assert found["splits"][0] == {"split": "training", "pairs": 10, "images": 2, "clips": 10}
    assert found["annotations"][0] == {"file": "Flickr8k.token.txt", "lines": 30}
    assert found["images"]["width"] == {"minimum": 12, "median": 14.5, "maximum": 17}
    assert found["clips"]["formats"] == {"WAV PCM_16, 1 channel(s) at 16000 Hz": 30}
    assert sum(found["clips"]["seconds"]["counts"]) == 30
    assert sum(found["captions"]["words"]["counts"]) == 30
    assert found["captions"]["used"] == {"captions": 30, "characters": 1284, "outside": 0, "longer": 6}
    assert {name: len(digest) for name, digest in found["digests"].items()} == {"index": 64, "images": 64, "clips": 64}
    assert found["digests"]["images"] == found["images"]["digest"]


def test_digests_tell_lists_from_contents(copy: Path, verify: Callable[..., Called]):
    def digests() -> dict[str, str]:
        return json.loads(verify("flickr8k", copy, "--json").out)["digests"]

    before = digests()
    write_image(copy / "Images" / "a.jpg", 30, 30)
    repainted = digests()
    assert {name for name in before if before[name] != repainted[name]} == {"images"}
    path = copy / "Flickr8k.token.txt"
    path.write_text(path.read_text().replace("Water!", "Fire!", 1))
    assert {name for name in before if repainted[name] != digests()[name]} == {"index"}


def test_the_digest_of_images_is_that_of_the_cache(
    whole: Path, verify: Callable[..., Called], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from bench.datasets.media import decoded_images

    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    files = [f"Images/{name}.jpg" for name in NAMES]
    found = json.loads(verify("flickr8k", whole, "--json", "--modalities", "text,image").out)
    assert found["digests"]["images"] == decoded_images("flickr8k", whole, files, 8).digest


def test_missing_files_are_counted_and_named(copy: Path, verify: Callable[..., Called]):
    for name in NAMES:
        (copy / "Images" / f"{name}.jpg").unlink()
    (copy / "flickr_audio" / "wavs" / "c_3.wav").unlink()
    found = verify("flickr8k", copy)
    assert found.code == 1
    assert "0 of 6 are there" in found.words
    assert "Images/a.jpg (Flickr8k.token.txt, line 1)" in found.words
    assert "and 1 more; --json names all" in found.words
    assert "flickr_audio/wavs/c_3.wav (flickr_audio/wav2capt.txt, line 14)" in found.words
    assert "not complete: 6 images missing; 1 clip missing" in found.words
    shutil.rmtree(copy / "Images")
    assert "6 missing; no folder Flicker8k_Dataset/" in verify("flickr8k", copy).words
    everything = json.loads(verify("flickr8k", copy, "--json").out)
    assert [each["what"] for each in everything["images"]["missing"]] == [f"Flicker8k_Dataset/{n}.jpg" for n in NAMES]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("Images/c.jpg", lambda path: path.write_bytes(b"GIF no image"), "is not an image that can be read"),
    ("Images/c.jpg", lambda path: path.write_bytes(b""), "is empty; expected an image"),
    ("Images/c.jpg", cut, "is cut off"),
    ("flickr_audio/wavs/d_1.wav", lambda path: path.write_bytes(b"no sound"), "expected a sound file"),
    ("flickr_audio/wavs/d_1.wav", cut, "is cut off at"),
    ("flickr_audio/wavs/d_1.wav", lambda path: soundfile.write(path, np.zeros(99), RATE), "is empty or silent"),
]


@pytest.mark.parametrize(("name", "damage", "reason"), BROKEN, ids=[f"{n} {r}" for n, _, r in BROKEN])
def test_a_broken_file_is_named_with_its_reason(
    name: str, damage: Callable[[Path], object], reason: str, copy: Path, verify: Callable[..., Called]
):
    damage(copy / name)
    found = verify("flickr8k", copy)
    assert found.code == 1
    noun = "image" if name.startswith("Images") else "clip"
    assert f"not complete: 1 {noun} broken" in found.words
    (broken,) = json.loads(verify("flickr8k", copy, "--json").out)[f"{noun}s"]["unreadable"]
    assert broken["what"] == name
    assert reason in broken["reason"]
    assert str(copy) not in broken["reason"]
    assert f"{name} {broken['reason']}"[:60] in found.words
    assert verify("flickr8k", copy, "--no-decode").code == 0


def test_without_decoding_nothing_is_opened(copy: Path, verify: Callable[..., Called]):
    (copy / "Images" / "a.jpg").write_bytes(b"no image")
    found = verify("flickr8k", copy, "--no-decode")
    assert found.code == 0
    assert "6 of 6 are there; none was opened (--no-decode)" in found.words
    assert found.out.splitlines()[-1] == "everything is there, unopened"
    assert set(json.loads(verify("flickr8k", copy, "--no-decode", "--json").out)["digests"]) == {"index"}
    (copy / "Images" / "a.jpg").unlink()
    assert verify("flickr8k", copy, "--no-decode").code == 1


def test_captions_that_leave_nothing_are_named(tmp_path: Path, verify: Callable[..., Called]):
    folder = write_flickr(tmp_path / "set", ("A dog.", "Ωμέγα", "12:30", "a", "b"))
    found = verify("flickr8k", folder)
    assert found.code == 1
    assert "12 captions of which no token is left" in found.words
    assert "Flickr8k.token.txt, line 2: 'Ωμέγα'" in found.words
    assert "not complete: 12 captions without a token" in found.words
    assert "60 (55.6 %)" in found.words
    assert "outside the character tokenizer's alphabet:" in found.words
    empty = json.loads(verify("flickr8k", folder, "--json").out)["captions"]["empty"]
    assert [each["what"] for each in empty] == ["Ωμέγα", "12:30"] * 6


def test_known_faults_are_remarks(copy: Path, verify: Callable[..., Called]):
    with (copy / "Flickr8k.token.txt").open("a") as file:
        file.write("\n2258277193_586949ec62.jpg.1#0\tpeople\nz.jpg#0\t" + 'a "quoted" caption')
    found = verify("flickr8k", copy)
    assert found.code == 0
    assert "2258277193_586949ec62.jpg.1 is a known fault" in found.words
    assert "1 images with captions are in no split" in found.words
    assert "listed: 32 captions of 8 image ids" in found.words
    assert "listed 32 1,308 2 (0.15 %) 6 (18.8 %)" in found.words


def test_a_fault_of_the_lists_is_one_line_with_file_and_line(copy: Path, verify: Callable[..., Called]):
    path = copy / "Flickr8k.token.txt"
    path.write_text(path.read_text().replace("b.jpg#2\t", "b.jpg#2 "))
    found = verify("flickr8k", copy)
    assert (found.code, found.out) == (1, "")
    assert found.err.startswith("error: flickr8k: Flickr8k.token.txt, line 8: is 'b.jpg#2 a man")
    assert len(found.err.splitlines()) == 1
    content = json.loads(verify("flickr8k", copy, "--json").out)
    assert (content["ok"], content["splits"]) == (False, [])
    assert "line 8" in content["faults"][0]


def test_a_split_of_one_image_is_a_fault(copy: Path, verify: Callable[..., Called]):
    (copy / "Flickr_8k.testImages.txt").write_text("e.jpg\n")
    found = verify("flickr8k", copy)
    assert found.code == 1
    assert "test has 1; each split needs two images or clips at least" in found.words


def test_clips_are_of_known_speakers(copy: Path, verify: Callable[..., Called]):
    path = copy / "flickr_audio" / "wav2spk.txt"
    path.write_text("\n".join(path.read_text().splitlines()[1:]))
    assert "wav2spk.txt: does not name the speaker of a_0.wav" in verify("flickr8k", copy).words
    path.unlink()
    found = verify("flickr8k", copy)
    assert found.code == 1
    assert "flickr_audio/wav2spk.txt is missing" in found.words


def test_spoken_captions_are_optional(copy: Path, verify: Callable[..., Called]):
    shutil.rmtree(copy / "flickr_audio")
    found = verify("flickr8k", copy)
    assert found.code == 0
    assert "no folder flickr_audio/: spoken captions are not looked at" in found.words
    assert "Clips" not in found.out
    asked = verify("flickr8k", copy, "--modalities", "text,image,audio")
    assert asked.code == 1
    assert "holds none of flickr_audio/wav2capt.txt" in asked.err


def test_options_reach_reader_tokenizer_and_selection(whole: Path, verify: Callable[..., Called]):
    found = verify("flickr8k", whole, "--modalities", "text,image", "--reader", "splits=drawn")
    assert found.code == 1  # an eighth of six images is one
    assert "training 20 4 validation 5 1 test 5 1" in found.words
    found = verify("flickr8k", whole, "--limit", "2", "--tokenizer", "bpe", "--tokenizer", "vocab_size=300")
    assert found.code == 0
    assert "the first 2 of each split" in found.words
    assert "tokenizer bpe:" in found.words
    found = verify("flickr8k", whole, "--tokenizer", "file", "--tokenizer", "path=none.json")
    assert found.code == 1
    assert "none.json: cannot be read" in found.err


BAD = [
    (("flikr8k", "."), "unknown kind 'flikr8k': did you mean 'flickr8k'?"),
    (("flickr8k", "nowhere"), "nowhere"),
    (("flickr8k",), "Missing argument 'DIR'"),
    (("flickr8k", ".", "--modalities", "text,sound"), "--modalities: unknown modality 'sound'"),
    (("flickr30k", ".", "--modalities", "text,audio"), "--modalities audio: flickr30k has text, image"),
    (("flickr8k", ".", "--reader", "splits"), "--reader 'splits': allowed is KEY=VALUE"),
    (("flickr8k", "SET", "--reader", "splits=none"), "splits is 'none'; allowed are lists, karpathy, drawn"),
    (("flickr8k", "SET", "--reader", "split=lists"), "unexpected keyword argument 'split'"),
    (
        ("flickr8k", "SET", "--tokenizer", "words"),
        "--tokenizer: kind 'words' is not known; allowed are character, bpe, file",
    ),
    (("flickr8k", "SET", "--tokenizer", "bpe"), "options are none; needed are vocab_size"),
    (("flickr8k", "SET", "--limit", "1"), "1 is not in the range"),
    (("spoken_digits", ".", "--limit", "5"), "--limit: spoken_digits is looked at as a whole"),
    (("cifar10", ".", "--tokenizer", "bpe"), "--tokenizer: cifar10 is looked at as a whole"),
    (("flickr8k", "SET", "--reader", "annotations=3"), "--reader: "),
    (("flickr8k", "SET", "--reader", 'annotations=["token"]'), "--reader: "),
    (("flickr8k", "SET", "--reader", 'splits={"a": 1}'), "--reader: "),
    (("manifest", "MANIFEST", "--reader", "file=3"), "--reader: "),
    (("manifest", "MANIFEST", "--reader", "file=[]"), "--reader: "),
    (("audiocaps", "AUDIOCAPS", "--reader", "template=3"), "--reader: "),
    (("common_voice", "AUDIOCAPS", "--reader", "train=3"), "--reader: "),
    (("flickr8k", "SET", "--tokenizer", "vocab_size=many"), "--tokenizer: "),
    (("flickr8k", "SET", "--tokenizer", "bpe", "--tokenizer", "vocab_size=1e3"), "vocab_size=1000.0 must be"),
    (("flickr8k", "SET", "--tokenizer", "bpe", "--tokenizer", f"vocab_size={10**30}"), "--tokenizer: "),
    (("flickr8k", "SET", "--tokenizer", "file", "--tokenizer", "path=3"), "path is 3; a path is needed"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_exit_2(
    arguments: tuple[str, ...], message: str, whole: Path, tmp_path: Path, verify: Callable[..., Called]
):
    if "MANIFEST" in arguments:
        write_manifest(tmp_path)
    if "AUDIOCAPS" in arguments:
        write_audiocaps(tmp_path)
    places = {"SET": str(whole), "MANIFEST": str(tmp_path), "AUDIOCAPS": str(tmp_path)}
    found = verify(*(places.get(each, each) for each in arguments))
    assert (found.code, found.out) == (2, "")
    assert message in found.err
    assert len(found.err.splitlines()) == 1


def test_names_of_files_steer_no_terminal(tmp_path: Path, verify: Callable[..., Called]):
    rows = [{"split": split, "text": f"{split} {i}\x1b[2J12", "image": f"{split}\x1b[31m{i}\x07.jpg"}
            for split in ("train", "val", "test") for i in range(2)]  # fmt: skip
    rows[0]["text"] = "\u202e12"
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_image(tmp_path / rows[0]["image"])
    (tmp_path / rows[1]["image"]).write_bytes(b"no image")
    found = verify("manifest", tmp_path)
    assert found.code == 1
    assert "train�[31m1�.jpg is not an image that can be read" in found.words
    assert not {"\x1b", "\x07", "\u202e"} & set(found.out + found.err)
    rows[3]["image"] = "../\x1b[31m.jpg"
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = verify("manifest", tmp_path)
    assert found.code == 1
    assert "manifest.jsonl, line 4" in found.err
    assert "\x1b" not in found.err


def write_manifest(folder: Path) -> None:
    """Sounds and images without captions."""
    lines = ["split,image,audio"]
    for split in ("training", "validation", "test"):
        for i in range(2):
            lines.append(f"{split},{split}{i}.jpg,{split}{i}.wav")
            write_image(folder / f"{split}{i}.jpg")
            write_clip(folder / f"{split}{i}.wav", rate=8000 + 8000 * i)
    (folder / "manifest.csv").write_text("\n".join(lines))


def test_a_manifest_has_the_modalities_of_its_rows(tmp_path: Path, verify: Callable[..., Called]):
    write_manifest(tmp_path)
    found = verify("manifest", tmp_path)
    assert found.code == 0
    assert "image, audio" in found.words
    assert "3 × WAV PCM_16, 1 channel(s) at 8000 Hz; 3 × WAV PCM_16, 1 channel(s) at 16000 Hz" in found.words
    assert "Captions" not in found.out
    assert verify("manifest", tmp_path, "--modalities", "image,audio").out == found.out


def write_audiocaps(folder: Path) -> list[Path]:
    """Four clips a split; those that are there."""
    clips = []
    for split in ("train", "val", "test"):
        ids = [f"{split:_<10}{i}" for i in range(4)]
        rows = [f"{i},{name},30,Wind blows" for i, name in enumerate(ids)]
        (folder / f"{split}.csv").write_text("\r\n".join(["audiocap_id,youtube_id,start_time,caption", *rows]))
        clips += [folder / "audio" / f"{name}_30.wav" for name in ids]
    for path in clips:
        write_clip(path)
    return clips


def test_absent_clips_of_audiocaps_are_normal(tmp_path: Path, verify: Callable[..., Called]):
    clips = write_audiocaps(tmp_path)
    for path in clips[1::4]:
        path.unlink()
    found = verify("audiocaps", tmp_path)
    assert found.code == 0
    assert "9 of 12 are there" in found.words
    assert "3 files missing or broken; the protocol audiocaps leaves such samples out" in found.words
    for path in clips[-2:]:
        path.unlink()
    found = verify("audiocaps", tmp_path)
    assert found.code == 1
    assert "test has 1; each split needs two" in found.words


def test_speakers_of_common_voice_are_counted(tmp_path: Path, verify: Callable[..., Called]):
    for split in ("train", "dev", "test"):
        lines = ["client_id\tpath\tsentence", *(f"{i}\t{split}{i}.mp3\tGood day" for i in range(2))]
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines))
    found = verify("common_voice", tmp_path, "--no-decode")
    assert found.code == 1
    assert "spoken: 6 clips of 2 speakers" in found.words
    assert "not complete: 6 clips missing" in found.words


def idx_files(count: int) -> dict[str, bytes]:
    """Black images of 28 × 28 pixels and their labels, as MNIST's files have them."""
    images, labels = np.zeros((count, 28, 28), np.uint8), (np.arange(count) % 10).astype(np.uint8)
    return {name: struct.pack(f">{1 + items.ndim}I", magic, *items.shape) + items.tobytes()
            for name, magic, items in (("images-idx3", 0x0803, images), ("labels-idx1", 0x0801, labels))}  # fmt: skip


def write_digits(folder: Path) -> Path:
    (folder / "mnist").mkdir(parents=True)
    for name, content in idx_files(20).items():
        (folder / "mnist" / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(content, mtime=0))
    for digit in range(10):
        for index in (0, 5, 10):
            write_clip(folder / "fsdd" / "recordings" / f"{digit}_ann_{index}.wav", rate=8000)
    return folder


def test_spoken_digits(tmp_path: Path, verify: Callable[..., Called]):
    from bench.datasets.spoken_digit_files import digest

    folder = write_digits(tmp_path)
    found = verify("spoken_digits", folder)
    assert found.code == 0
    assert "spoken: 30 clips of 1 speaker" in found.words
    assert "20 of 20 are there; 20 were read without a fault" in found.words
    assert json.loads(verify("spoken_digits", folder, "--json").out)["digests"]["contents"] == digest(folder)
    write_clip(folder / "fsdd" / "recordings" / "3_ann_5.wav", rate=16000)
    found = verify("spoken_digits", folder)
    assert found.code == 1
    assert "3_ann_5.wav is WAV PCM_16, 1 channel(s) at 16000 Hz; expected" in found.words
    (folder / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    found = verify("spoken_digits", folder)
    assert (found.code, found.out) == (1, "")
    assert "t10k-labels-idx1-ubyte.gz is missing" in found.err


def test_a_labelled_set_that_is_not_there(tmp_path: Path, verify: Callable[..., Called]):
    found = verify("cifar10", tmp_path)
    assert found.code == 1
    assert found.err.startswith("error: cifar10:")


def test_a_labelled_set(tmp_path: Path, verify: Callable[..., Called]):
    from bench.datasets.labelled_images import LabelledImages

    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 5010), ("t10k", 30)):
        for name, content in idx_files(count).items():
            (raw / f"{part}-{name}-ubyte").write_bytes(content)
    found = verify("fashion_mnist", tmp_path)
    assert found.code == 0, found.err
    assert "training 10 10 validation 5,000 5,000 test 30 30" in found.words
    assert "width 28, 28, 28 pixels" in found.words
    content = json.loads(verify("fashion_mnist", tmp_path, "--json").out)
    assert content["digests"] == {"contents": LabelledImages(data_dir=tmp_path, name="fashion_mnist").digest}
    (raw / "t10k-labels-idx1-ubyte").unlink()
    assert verify("fashion_mnist", tmp_path).code == 1


@pytest.mark.parametrize("option", [(), ("--no-decode",)])
def test_a_labelled_set_that_is_too_small_is_one_line(
    option: tuple[str, ...], tmp_path: Path, verify: Callable[..., Called]
):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for name, content in idx_files(30).items():
            (raw / f"{part}-{name}-ubyte").write_bytes(content)
    found = verify("fashion_mnist", tmp_path, *option)
    assert (found.code, found.out) == (1, "")
    assert found.err == (
        "error: fashion_mnist: has 30 images for training and validation; protocol fashion_mnist takes 5000 of them "
        "for validation alone\n"
    )


def test_captions_are_looked_at_as_the_protocol_of_the_set_does(
    whole: Path, tmp_path: Path, verify: Callable[..., Called]
):
    from bench.datasets.catalog import KINDS
    from bench.protocols import PROTOCOLS
    from bench.workloads import WORKLOADS

    assert all(PROTOCOLS[kind].workload is WORKLOADS[kind] for kind in KINDS)
    found = verify("flickr8k", whole, "--no-decode")
    assert "longer than 77 tokens (tokenizer and text_length of protocol flickr8k)" in found.words
    write_audiocaps(tmp_path)
    found = verify("audiocaps", tmp_path)
    assert "ids, 0 captions longer than 40 tokens (tokenizer and text_length of protocol audiocaps)" in found.words
    assert "tokenizer bpe: " in found.words
    for path in tmp_path.glob("*.csv"):  # by character nothing would be left
        path.write_text(path.read_text().replace("Wind blows", "風" * 30))
    assert verify("audiocaps", tmp_path).code == 0
    found = verify("audiocaps", tmp_path, "--tokenizer", "character")
    assert found.code == 1
    assert "(--tokenizer, and the text_length of protocol audiocaps)" in found.words
    captions = json.loads(verify("audiocaps", tmp_path, "--json").out)["captions"]
    assert (captions["tokenizer"], captions["text_length"]) == ("bpe", 40)
    assert captions["settings"] == "tokenizer and text_length of protocol audiocaps"


def test_help_names_every_kind(verify: Callable[..., Called]):
    from bench.verification.verify import VERIFIED

    text = verify("--help").words
    assert all(name in text for name in VERIFIED)


def test_the_page_on_data_names_every_set_and_protocol():
    from bench.protocols import PROTOCOLS
    from bench.verification.verify import VERIFIED

    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    names = {*VERIFIED, *(name for name, protocol in PROTOCOLS.items() if protocol.workload.reads_files)}
    assert [name for name in sorted(names) if f"`{name}`" not in page and f"verify-data {name}" not in page] == []


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.sampled_from([0.1, 1]))
def test_a_histogram_counts_every_number(values: list[float], finest: float):
    found = histogram_of(values, finest=finest)
    assert found is not None
    assert sum(found.counts) == len(values)
    assert len(found.counts) <= MOST_BINS
    assert found.counts[-1] > 0
    assert found.start <= min(values) + 1e-6
    # Of more than one bin, the first one of the width that is finer by a step would not have been enough.
    assert found.width == finest or len(found.counts) > MOST_BINS // 3


def test_bins_are_of_round_widths():
    found = histogram_of([7, 12, 29, 55, 61, 61, 99], finest=1)
    assert found is not None
    assert (found.start, found.width, found.counts) == (0, 10, (1, 1, 1, 0, 0, 1, 2, 0, 0, 1))
    found = histogram_of([0.3, 0.35, 0.6], finest=0.1)
    assert found is not None
    assert found.counts == (2, 0, 0, 1)
    assert histogram_of([], finest=1) is None


def test_the_last_bin_is_open():
    found = histogram_of([*(i % 10 for i in range(999)), 5000], finest=1)
    assert found is not None
    assert found.counts == (*(9 * [100]), 100)


@pytest.fixture(scope="module")
def real() -> Path:
    folder = os.environ.get("BENCH_DATA")
    if not folder or not (Path(folder) / "flickr8k").is_dir():
        pytest.skip("BENCH_DATA names no folder with flickr8k")
    return Path(folder)


def test_the_real_annotation_files_of_flickr8k(real: Path, verify: Callable[..., Called]):
    found = verify("flickr8k", real, "--no-decode", "--modalities", "text,image,audio")
    for text in (
        "Flickr8k.token.txt 40,460 lines",
        "listed: 40,460 captions of 8,092 image ids",
        "spoken: 40,000 clips of 183 speakers",
        "training 30,000 6,000 30,000 validation 5,000 1,000 5,000 test 5,000 1,000 5,000",
        "2258277193_586949ec62.jpg.1 is a known fault",
        "listed 40,460 2,230,672 566 (0.025 %) 4,820 (11.9 %)",
    ):
        assert text in found.words, text
    if "no folder Flicker8k_Dataset/" in found.words:
        assert found.code == 1
        assert "not complete: 8,000 images missing" in found.words
    assert max(map(len, found.out.splitlines())) <= 80
