"""Real data from files to batches: a made-up Flickr8k on disk, decoded, cached, and handed out in rows and pools."""

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_flickr8k import make_flickr8k

from bench.datasets import audio, captioned, images, media, text
from bench.datasets.captioned import CaptionedData
from bench.datasets.index import Place, Row, rows_digest
from bench.datasets.media import decoded_clips, decoded_images, files_digest
from bench.datasets.samples import DataError, Samples, ids_by_modality
from bench.datasets.text import tokenised
from bench.datasets.tokenizers import CharacterTokenizer

IMAGE: dict[str, Any] = {"size": 32, "augment": "none"}
AUDIO: dict[str, Any] = {"frames": 64, "mels": 24, "hop": 320, "n_fft": 512}
MASKS = {"time_masks": 1, "time_width": 8, "frequency_masks": 1, "frequency_width": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_flickr8k(tmp_path_factory.mktemp("data") / "flickr8k", (6, 3, 4)).parent


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """To be damaged."""
    return shutil.copytree(made, tmp_path / "data")


def build(data_dir: Path, **changes: Any) -> CaptionedData:
    return CaptionedData(**{"data_dir": data_dir, "kind": "flickr8k", "image": IMAGE, "audio": AUDIO, **changes})


def image_of(samples: Samples) -> torch.Tensor:
    assert samples.image_N3HW is not None
    return samples.image_N3HW


def test_every_caption_is_a_sample_with_its_image_and_its_clip(made: Path):
    data = build(made)
    assert data.training_size == 30 and len(data.held_out("validation")) == 15 and len(data.held_out("test")) == 20
    samples = data.training(1, 0).take(slice(None))
    lines = dict(line.split("\t") for line in (made / "flickr8k" / "Flickr8k.token.txt").read_text().splitlines())
    ids, mask = CharacterTokenizer().encode_batch(list(lines.values())[:30], 77)
    torch.testing.assert_close(samples.text_NL, ids)
    torch.testing.assert_close(samples.text_mask_NL, mask)
    assert samples.match_N.tolist() == [i // 5 for i in range(30)]
    names = list(lines)
    for row in (0, 7, 29):
        name, _, n = names[row].partition("#")
        picture = images.square(images.decode(made / "flickr8k" / "Flicker8k_Dataset" / name), 32)
        torch.testing.assert_close(image_of(samples)[row], images.normalised(picture))
        clip = audio.read_clip(made / "flickr8k/flickr_audio/wavs" / f"{name.removesuffix('.jpg')}_{n}.wav", 16000)
        settings = audio.LogMel(mels=24, hop=320, n_fft=512)
        spectrum, frames = audio.log_mel([clip], settings, 64)
        assert samples.audio_N1FT is not None and samples.audio_mask_NT is not None
        torch.testing.assert_close(samples.audio_N1FT[row], spectrum[0], rtol=0, atol=2e-3)  # kept in float16
        assert int(samples.audio_mask_NT[row].sum()) == int(frames) == 1 + len(clip) // 320


def test_a_pool_holds_each_image_once_and_every_caption_and_clip(made: Path):
    data = build(made)
    pools = data.pools("test")
    ids = ids_by_modality(pools, "match")
    assert {name: len(own) for name, own in ids.items()} == {"text": 20, "image": 4, "audio": 20}
    assert ids["image"].tolist() == [0, 1, 2, 3]
    assert ids["text"].tolist() == ids["audio"].tolist() == [i // 5 for i in range(20)]
    (pool,) = (pool for pool in pools if "image" in pool.take(slice(0, 1)).inputs())
    whole = data.held_out("test").take(slice(None))
    torch.testing.assert_close(image_of(pool.take(slice(None))), image_of(whole)[::5])


def test_any_two_modalities_will_do_and_only_their_files_are_needed(copy: Path):
    shutil.rmtree(copy / "flickr8k" / "flickr_audio" / "wavs")
    data = build(copy, modalities=("text", "image"), audio=None)
    assert set(ids_by_modality(data.pools("test"), "match")) == {"text", "image"}
    assert data.training(1, 0).take(slice(0, 2)).audio_N1FT is None
    assert data.network_options == {"vocab_size": 34}
    with pytest.raises(ValueError, match=r"modalities are text; allowed are two or more of text, image, audio"):
        build(copy, modalities=("text",))


def test_speech_and_images_need_no_captions_written(made: Path):
    data = build(made, modalities=("image", "audio"))
    assert data.network_options == {}
    assert set(data.held_out("test").take(slice(0, 2)).inputs()) == {"image", "audio"}


def test_caption_policies(made: Path):
    first = build(made, captions="first")
    assert first.training_size == 6 and len(first.held_out("test")) == 4
    one = build(made, captions="one")
    assert one.training_size == 6 and len(one.held_out("test")) == 20
    epochs = [one.training(epoch, 3) for epoch in range(1, 25)]
    for rows in epochs:
        assert rows.match_N.tolist() == [0, 1, 2, 3, 4, 5]
        assert len(rows.take(slice(None))) == 6
    chosen = torch.stack([rows.row_N for rows in epochs])
    assert all(len(column.unique()) >= 4 for column in chosen.T)  # of five captions in 24 epochs
    torch.testing.assert_close(one.training(4, 3).row_N, chosen[3])
    assert not torch.equal(one.training(4, 4).row_N, chosen[3])


def test_augmentation_changes_training_alone_and_the_same_way_whatever_the_batch(made: Path):
    data = build(made, image={"size": 32, "augment": "crop_flip"}, audio=AUDIO | {"spec_augment": MASKS})
    rows = data.training(2, 5)
    whole = rows.take(slice(None))
    part = rows.take(torch.tensor([17, 3]))
    for name, x in part.inputs().items():
        torch.testing.assert_close(x, whole.inputs()[name][[17, 3]], rtol=0, atol=0)
    other = data.training(3, 5).take(slice(None))
    assert not torch.equal(image_of(whole), image_of(other)) and not torch.equal(whole.audio_N1FT, other.audio_N1FT)
    assert image_of(whole).shape == (30, 3, 32, 32)
    once, again = (data.held_out("test").take(slice(None)) for _ in range(2))
    torch.testing.assert_close(image_of(once), image_of(again), rtol=0, atol=0)
    plain = build(made, image={"size": 37, "augment": "none"}).held_out("test").take(slice(None))
    torch.testing.assert_close(image_of(once), images.middle(image_of(plain), 32), rtol=0, atol=1e-6)


def test_limit_takes_whole_images_of_each_split(made: Path):
    data = build(made, limit=2)
    assert (data.training_size, len(data.held_out("validation")), len(data.held_out("test"))) == (10, 10, 10)
    assert data.digest != build(made).digest


def test_the_digest_is_of_the_contents_wherever_they_lie(made: Path, copy: Path):
    assert build(made).digest == build(copy).digest
    assert build(made, modalities=("text", "image")).digest != build(made).digest
    path = next((copy / "flickr8k" / "Flicker8k_Dataset").iterdir())
    path.write_bytes(path.read_bytes() + b"\0")
    assert build(made).digest != build(copy).digest


def test_a_second_start_decodes_nothing_and_a_changed_file_everything(copy: Path, monkeypatch: pytest.MonkeyPatch):
    decoded: list[Path] = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda path: decoded.append(path) or decode(path))
    before = build(copy).held_out("test").take(slice(None))
    assert len(decoded) == 13
    after = build(copy)
    assert len(decoded) == 13
    torch.testing.assert_close(image_of(before), image_of(after.held_out("test").take(slice(None))), rtol=0, atol=0)
    name = next((copy / "flickr8k" / "Flicker8k_Dataset").iterdir())
    os.utime(name, (1, 1))
    assert build(copy).digest == after.digest
    assert len(decoded) == 26


def damage(folder: Path, what: str) -> str:
    """Spoils one file and returns its path as rows name it."""
    place = sorted((folder / "Flicker8k_Dataset").iterdir())[2]
    clip = sorted((folder / "flickr_audio" / "wavs").iterdir())[12]
    if what == "missing image":
        place.unlink()
    elif what == "cut image":
        place.write_bytes(place.read_bytes()[:-200])
    elif what == "no image":
        place.write_text("<html>404</html>")
    elif what == "missing clip":
        clip.unlink()
    elif what == "empty clip":
        clip.write_bytes(b"")
    elif what == "cut clip":
        clip.write_bytes(clip.read_bytes()[:900])
    return (place if "image" in what else clip).relative_to(folder).as_posix()


@pytest.mark.parametrize("what", ["missing image", "cut image", "no image", "missing clip", "empty clip", "cut clip"])
def test_files_that_are_missing_or_broken_are_named_with_their_line_or_left_out(copy: Path, what: str):
    file = damage(copy / "flickr8k", what)
    with pytest.raises(DataError) as error:
        build(copy)
    message = str(error.value)
    assert file in message and "flickr8k: " in message and "line " in message
    assert message.endswith('absent = "excluded" leaves such samples out')
    data = build(copy, absent="excluded")
    count = 25 if "image" in what else 29
    assert data.training_size == count and len(data.held_out("test")) == 20
    (remark,) = [line for line in data.remarks if "left out" in line]
    assert remark == (f"flickr8k: {30 - count} of 65 samples left out: 1 file missing or broken ({file})")
    assert image_of(data.training(1, 0).take(slice(None))).isfinite().all()


def test_a_caption_that_tokenises_to_nothing_is_named_with_its_line(copy: Path):
    path = copy / "flickr8k" / "Flickr8k.token.txt"
    lines = path.read_text().splitlines()
    lines[8] = lines[8].partition("\t")[0] + "\t1234§§"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"flickr8k: Flickr8k\.token\.txt, line 9: '1234§§' leaves no token"):
        build(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "flickr9k"}, "kind is 'flickr9k'; allowed are flickr8k, "),
        ({"image": {"size": 4}}, "image.size is 4: Input should be greater than or equal to 8"),
        ({"image": {"sizes": 32}}, "image.s"),
        ({"image": None}, "image is missing; its keys are size, augment"),
        ({"audio": {"frames": "many"}}, "audio.frames is 'many'"),
        ({"captions": "two"}, "captions is 'two'"),
        ({"limit": 1}, "limit is 1"),
        ({"tokenizer": {"kind": "wordpiece"}}, "wordpiece"),
        ({"text_length": 0}, "text_length is 0: Input should be greater than or equal to 1"),
        ({"text_length": "77"}, "text_length is '77': Input should be a valid integer"),
        ({"audio": AUDIO | {"window": 513}}, "audio: window is 513; allowed is at most n_fft, 512; keys are frames"),
        ({"audio": AUDIO | {"mels": 400}}, "audio: LogMel: mels=400 leaves bands without a frequency at n_fft 512; k"),
        (
            {"audio": AUDIO | {"spec_augment": MASKS | {"frequency_width": 25}}},
            "audio: spec_augment.frequency_width is 25; allowed is at most mels, 24; keys are",
        ),
        ({"data_dir": None}, "no data folder; pass --data-dir or set BENCH_DATA"),
        ({"data_dir": Path("nowhere")}, "nowhere is not a folder"),
    ],
)
def test_options_that_are_not_allowed_are_named_in_one_line(made: Path, changes: dict[str, Any], message: str):
    with pytest.raises(ValueError) as error:
        build(**{"data_dir": made, **changes})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_options_are_looked_at_before_anything_is_decoded(made: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(captioned, "decoded_images", lambda *_: pytest.fail("decodes"))
    for changes in ({"audio": {"frames": 4}}, {"text_length": 0}):
        with pytest.raises(ValueError, match="greater than or equal"):
            build(made, **changes)


def test_options_of_a_reader_of_another_type_are_refused_in_one_line(made: Path):
    with pytest.raises(ValueError, match=r"^manifest: the manifest's name is 3; allowed is text, the path of a file"):
        CaptionedData(data_dir=made, kind="manifest", modalities=("text", "image"), image=IMAGE, reader={"file": 3})


def test_a_file_in_two_splits_is_refused(copy: Path):
    rows = [{"split": split, "text": f"{n} one", "image": f"{n}.jpg", "match": f"{split}{n}"}
            for split in ("training", "validation", "test") for n in ("a", "b")]  # fmt: skip
    (copy / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    picture = next((copy / "flickr8k" / "Flicker8k_Dataset").iterdir())
    for n in ("a", "b"):
        shutil.copy(picture, copy / f"{n}.jpg")
    with pytest.raises(DataError, match=r"a\.jpg"):
        CaptionedData(data_dir=copy, kind="manifest", modalities=("text", "image"), image=IMAGE)


def test_a_broken_image_does_not_spoil_those_decoded_with_it(copy: Path):
    folder = copy / "flickr8k"
    files = sorted(path.relative_to(folder).as_posix() for path in (folder / "Flicker8k_Dataset").iterdir())
    whole = decoded_images("x", folder, files, 16).arrays["pixels"].clone()
    (folder / files[3]).write_bytes(b"no image")
    media = decoded_images("x", folder, files, 16)
    assert [broken.file for broken in media.broken] == [files[3]]
    kept = [i for i in range(len(files)) if i != 3]
    torch.testing.assert_close(media.arrays["pixels"][kept], whole[kept], rtol=0, atol=0)


def test_a_runtime_error_while_decoding_names_the_file(copy: Path, monkeypatch: pytest.MonkeyPatch):
    folder = copy / "flickr8k"
    files = sorted(path.relative_to(folder).as_posix() for path in (folder / "Flicker8k_Dataset").iterdir())
    square, decode = images.square, images.decode
    monkeypatch.setattr(images, "decode", lambda path: (path, decode(path)))

    def short_of_memory(image: Any, size: int) -> torch.Tensor:
        if image[0] == folder / files[3]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nand more")
        return square(image[1], size)

    monkeypatch.setattr(images, "square", short_of_memory)
    with pytest.raises(DataError) as error:
        decoded_images("y", folder, files, 16)
    reason = "(DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.)"
    assert str(error.value) == f"{folder / files[3]} cannot be decoded {reason}"
    monkeypatch.undo()
    assert decoded_images("y", folder, files, 16).broken == ()  # it was not the file's fault


DECODED: dict[str, tuple[Any, tuple[str, ...], Callable[[Path], object]]] = {
    "images": (media, ("torch", "torchvision"), lambda folder: decoded_images("v", folder, [], 16)),
    "clips": (
        media, ("torch", "torchaudio", "soundfile"), lambda folder: decoded_clips("v", folder, [], audio.LogMel(), 8)
    ),
    "text": (text, ("tokenizers",), lambda folder: tokenised("v", [], {"kind": "character"}, 8, folder)),
}  # fmt: skip


@pytest.mark.parametrize("what", DECODED)
def test_another_version_of_a_library_or_of_our_code_decodes_anew(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    module, packages, decode = DECODED[what]
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))

    def entries() -> int:
        decode(tmp_path)
        return len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()])

    assert entries() == entries() == 1
    version = importlib.metadata.version
    for count, package in enumerate(packages, start=2):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, p=package: "0" if name == p else version(name))
        assert entries() == count
        monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(module, "RECIPE", module.RECIPE + 1)
    assert entries() == len(packages) + 2


def test_digests_of_files_and_rows_keep_their_values():
    row = Row(split="training", match="a", place=Place("x.csv", 2), text="A dog.", image="a.jpg")
    line = '["training", "a", "A dog.", "a.jpg", null]'
    assert rows_digest([row]) == hashlib.sha256(line.encode()).hexdigest()
    assert rows_digest([row, row], ["12", "ab"]) == hashlib.sha256(("12ab" + 2 * line).encode()).hexdigest()
    content = hashlib.sha256(b"x").digest()
    assert files_digest(["ä.jpg"], [content]) == hashlib.sha256("ä.jpg\0".encode() + content).hexdigest()


def test_as_many_threads_decode_as_the_process_may_use_cores(made: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    executor = media.ThreadPoolExecutor
    monkeypatch.setattr(media, "ThreadPoolExecutor", lambda count: asked.append(count) or executor(count))
    monkeypatch.setattr(media, "usable_cores", lambda: 3)
    decoded_images("cores", made / "flickr8k", [], 16)
    assert asked == [3]
