"""Spoken digits made from files of the real formats; from the real ones where BENCH_DATA names their folder."""

import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.datasets import spoken_digits
from bench.datasets.samples import Samples
from bench.datasets.spoken_digit_files import locate, read_recording
from bench.datasets.spoken_digits import CAPTIONS, SpokenDigits, check, choose_recordings, digest, log_mel


def load(data_dir: Path, *, training: int = 80, held_out: int = 40, data_seed: int = 0) -> SpokenDigits:
    return SpokenDigits(data_dir=data_dir, training=training, validation=held_out, test=held_out, data_seed=data_seed)


@pytest.fixture(scope="module")
def digits(digits_dir: Path) -> SpokenDigits:
    return load(digits_dir)


def splits(data: SpokenDigits) -> list[Samples]:
    return [data.training(1, 0), data.held_out("validation"), data.held_out("test")]


def tensors(samples: Samples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert samples.text_NL is not None
    assert samples.text_mask_NL is not None
    assert samples.image_N3HW is not None
    assert samples.audio_N1FT is not None
    return samples.text_NL, samples.text_mask_NL, samples.image_N3HW, samples.audio_N1FT


def image_places(samples: Samples) -> list[int]:
    """Where in the file each image of `make_images` stood."""
    pixels = (tensors(samples)[2][:, 0, 2, 2:4] * 0.3081 + 0.1307) * 255
    high, low = pixels.round().int().unbind(1)
    return (256 * high + low).tolist()


# ---- samples


def test_sizes_shapes_types_and_class_level_matching(digits: SpokenDigits):
    for samples, size in zip(splits(digits), (80, 40, 40), strict=True):
        text, mask, image, audio = tensors(samples)
        assert (text.shape, text.dtype) == ((size, 15), torch.int64)
        assert (mask.shape, mask.dtype) == ((size, 15), torch.bool)
        assert (image.shape, image.dtype) == ((size, 3, 32, 32), torch.float32)
        assert (audio.shape, audio.dtype) == ((size, 1, 32, 64), torch.float32)
        assert samples.label_N.dtype == torch.int64
        torch.testing.assert_close(samples.match_N, samples.label_N, rtol=0, atol=0)
        assert image.isfinite().all()
        assert audio.isfinite().all()
    assert digits.training_size == 80


def test_every_epoch_has_the_same_training_samples(digits: SpokenDigits):
    assert digits.training(2, 7) is digits.training(1, 0)


def test_text_is_the_caption_of_the_label(digits: SpokenDigits):
    text, mask, _, _ = tensors(digits.training(1, 0))
    alphabet = " abcdefghijklmnopqrstuvwxyz.,!?'-"
    for label, ids, real in zip(digits.training(1, 0).label_N.tolist(), text, mask, strict=True):
        assert "".join(alphabet[i - 1] for i in ids[real].tolist()) == CAPTIONS[label]
        assert (ids[~real] == 0).all()
    assert CAPTIONS[7] == "the digit seven"


def test_digits_are_balanced_in_every_split(digits_dir: Path, digits: SpokenDigits):
    assert [Counter(s.label_N.tolist()) for s in splits(digits)] == [
        Counter(dict.fromkeys(range(10), size)) for size in (8, 4, 4)
    ]
    odd = load(digits_dir, training=13, held_out=10)
    assert sorted(Counter(odd.training(1, 0).label_N.tolist()).values()) == [1] * 7 + [2] * 3


def test_images_are_of_the_digit_and_of_the_split_and_used_once(digits: SpokenDigits):
    for samples, allowed in zip(splits(digits), (range(360), range(360, 480), range(480, 600)), strict=True):
        places = image_places(samples)
        assert [place % 10 for place in places] == samples.label_N.tolist()
        assert len(set(places)) == len(places)
        assert set(places) <= set(allowed)


def test_recordings_are_split_by_index_and_used_once(digits_dir: Path):
    recordings = locate(digits_dir).recordings
    allowed = {"training": range(10, 50), "validation": range(5, 10), "test": range(5)}
    for split in ("training", "validation", "test"):
        chosen = choose_recordings(recordings, split, 100, data_seed=0)
        assert {r.index for r in chosen} <= set(allowed[split])
        assert len({r.path for r in chosen}) == 100


def test_audio_is_the_recording_of_the_label(digits_dir: Path, digits: SpokenDigits):
    chosen = choose_recordings(locate(digits_dir).recordings, "validation", 40, data_seed=0)
    _, _, _, audio = tensors(digits.held_out("validation"))
    assert [r.digit for r in chosen] == digits.held_out("validation").label_N.tolist()
    for recording, clip in zip(chosen, audio, strict=True):
        alone = log_mel([read_recording(recording.path)], mels=32, frames=64)[0]
        torch.testing.assert_close(clip, alone, rtol=0, atol=1e-4)  # float32 sums in another order


def test_same_seed_gives_the_same_samples_and_another_seed_others(digits_dir: Path, digits: SpokenDigits):
    for one, same, other in zip(
        splits(digits), splits(load(digits_dir)), splits(load(digits_dir, data_seed=1)), strict=True
    ):
        for x, y in zip(tensors(one), tensors(same), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0)
        assert not torch.equal(tensors(one)[3], tensors(other)[3])
        assert image_places(one) != image_places(other)


def test_smaller_split_is_the_beginning_of_a_larger_one(digits_dir: Path, digits: SpokenDigits):
    fewer = load(digits_dir, training=25).training(1, 0)
    assert image_places(fewer) == image_places(digits.training(1, 0))[:25]
    torch.testing.assert_close(tensors(fewer)[3], tensors(digits.training(1, 0))[3][:25], rtol=0, atol=1e-4)


# ---- images


def test_image_is_padded_with_black_and_normalised():
    pixels = np.full((1, 28, 28), 255, np.uint8)
    image = spoken_digits.prepare_images(pixels, 32)
    assert image.shape == (1, 1, 32, 32)
    white, black = (1 - 0.1307) / 0.3081, -0.1307 / 0.3081
    expected = torch.full((32, 32), black)
    expected[2:30, 2:30] = white
    for channel in image[0]:
        torch.testing.assert_close(channel, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [8, 28, 64])
def test_image_of_another_size_keeps_range_and_mean(size: int):
    pixels = np.zeros((2, 28, 28), np.uint8)
    pixels[0, 4:20, 8:24] = 255
    image, standard = (spoken_digits.prepare_images(pixels, s) for s in (size, 32))
    assert image.shape == (2, 1, size, size)
    assert image.min() >= -0.1307 / 0.3081 - 1e-5
    assert image.max() <= (1 - 0.1307) / 0.3081 + 1e-5
    torch.testing.assert_close(image.mean((1, 2, 3)), standard.mean((1, 2, 3)), rtol=0, atol=0.01)


# ---- audio


def plain_log_mel(wave: np.ndarray, mels: int) -> np.ndarray:
    """From the formulas: Hann windows of 200 samples, |DFT|² of 256 points, triangles even on the HTK mel scale."""
    window = np.zeros(256)
    window[28:228] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 200)
    padded = np.concatenate([np.zeros(128), wave.astype(np.float64), np.zeros(256)])
    frames = np.stack([padded[80 * t : 80 * t + 256] * window for t in range(len(wave) // 80 + 1)])
    power = np.abs(np.fft.rfft(frames)) ** 2  # [T, 129]
    frequency = np.linspace(0, 4000, 129)
    corners = 700 * (10 ** (np.linspace(0, 2595 * math.log10(1 + 4000 / 700), mels + 2) / 2595) - 1)
    bank = np.stack(
        [
            np.minimum((frequency - low) / (middle - low), (high - frequency) / (high - middle)).clip(0)
            for low, middle, high in zip(corners, corners[1:], corners[2:], strict=False)
        ]
    )
    return np.log(bank @ power.T + 1e-9)


@pytest.mark.parametrize("mels", [16, 32, 80])
def test_log_mel_is_the_formula_normalised_by_the_clip(mels: int):
    wave = (0.2 * np.random.default_rng(3).standard_normal(3210)).astype(np.float32)
    plain = plain_log_mel(wave, mels)
    expected = (plain - plain.mean()) / plain.std()
    found = log_mel([wave], mels=mels, frames=41)[0, 0].numpy()  # 3210 // 80 + 1 frames
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)  # float32 power of a bin next to nothing


def test_log_mel_in_a_batch_equals_clip_by_clip():
    rng = np.random.default_rng(4)
    lengths = [1, 79, 80, 81, 5119, 5120, 9000, *rng.integers(100, 8000, 300)]
    waves = [(0.2 * rng.standard_normal(n) + 0.01).astype(np.float32) for n in lengths]
    together = log_mel(waves, mels=32, frames=64)
    alone = torch.cat([log_mel([wave], mels=32, frames=64) for wave in waves])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)  # float32 sums in another order


def test_log_mel_is_normalised_over_the_clips_own_frames_and_padded_with_0():
    wave = (0.2 * np.random.default_rng(5).standard_normal(1600)).astype(np.float32)
    longer = (0.2 * np.random.default_rng(6).standard_normal(8000)).astype(np.float32)
    audio = log_mel([longer, wave], mels=32, frames=64)
    own = audio[1, 0, :, :21]
    assert abs(own.mean().item()) < 1e-5
    assert abs(own.std(correction=0).item() - 1) < 1e-5
    assert (audio[1, 0, :, 21:] == 0).all()
    uncut = log_mel([longer], mels=32, frames=101)
    assert abs(uncut.mean().item()) < 1e-5
    torch.testing.assert_close(audio[0], uncut[0, :, :, :64], rtol=0, atol=1e-4)


def test_loudness_does_not_matter():
    wave = (0.2 * np.random.default_rng(7).standard_normal(2000)).astype(np.float32)
    torch.testing.assert_close(
        log_mel([wave], mels=32, frames=26), log_mel([wave / 8], mels=32, frames=26), rtol=0, atol=1e-3
    )  # the floor of 1e-9 is not scaled


def test_more_mel_bands_than_frequencies_are_refused():
    with pytest.raises(ValueError, match="mels=128 leaves bands without a frequency at n_fft 256"):
        log_mel([np.ones(100, np.float32)], mels=128, frames=4)


# ---- the real files


@pytest.fixture(scope="module")
def real() -> SpokenDigits:
    folder = os.environ.get("BENCH_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("BENCH_DATA names no folder of real data")
    check(Path(folder))
    return SpokenDigits(data_dir=Path(folder))


def test_real_set_has_the_default_sizes_and_is_balanced(real: SpokenDigits):
    assert [torch.bincount(s.label_N).tolist() for s in splits(real)] == [[200] * 10, [30] * 10, [30] * 10]
    assert real.digest == digest(Path(os.environ["BENCH_DATA"]))
    for samples in splits(real):
        _, _, image, audio = tensors(samples)
        assert image.isfinite().all()
        assert audio.isfinite().all()


def test_real_images_and_clips_belong_to_their_labels(real: SpokenDigits):
    training, test = real.training(1, 0), real.held_out("test")
    for name, at_least in (("image_N3HW", 0.7), ("audio_N1FT", 0.5)):  # chance is 0.1
        x, y = getattr(training, name).flatten(1), getattr(test, name).flatten(1)
        means = torch.stack([x[training.label_N == digit].mean(0) for digit in range(10)])
        found = torch.cdist(y, means).argmin(1)
        assert (found == test.label_N).double().mean() > at_least


def test_captions_in_words_become_the_tokens_that_they_were_and_levels_are_the_files(digits: SpokenDigits):
    samples = digits.training(1, 0)
    words, (ids_NL, mask_NL, image_N3HW, _) = digits.words(samples), tensors(samples)
    assert words is not None and words.count_N.tolist() == [3] * 80
    (found,) = words.of(torch.tensor([17]))
    assert " ".join(found) == CAPTIONS[int(samples.label_N[17])]
    ids, mask = words.tokens(found)
    assert torch.equal(ids, ids_NL[17]) and torch.equal(mask, mask_NL[17])
    level = image_N3HW * digits.pixel_levels.deviation[0] + digits.pixel_levels.mean[0]
    torch.testing.assert_close((level * 255).round() / 255, level, rtol=0, atol=1e-5)  # whole levels of eight bits
