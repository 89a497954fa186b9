"""Clips of every kind of file, spectrograms against torchaudio clip by clip, masks against the paper's distribution."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from scipy import stats
from torch import Tensor

from bench.datasets import audio, noise
from bench.datasets.audio import LogMel, import_libraries, log_mel, read_clip, read_sound, spec_augment
from bench.datasets.samples import DataError

RATE = 16000


def tone(frequency: float, rate: int = RATE, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


def loudest(clip: Tensor, rate: int) -> float:
    """The frequency of the most power, in hertz."""
    power = np.abs(np.fft.rfft(clip.numpy() * np.hanning(len(clip))))
    return power.argmax() * rate / len(clip)


def write(path: Path, wave: np.ndarray, rate: int = RATE, **options: str) -> Path:
    soundfile.write(path, wave, rate, **options)
    return path


# ---- files


@pytest.mark.parametrize(
    ("name", "subtype", "error"),  # the largest error: a step of the encoding, or what it loses of a tone
    [
        ("x.wav", "PCM_16", 2**-15),
        ("x.wav", "PCM_24", 2**-23),
        ("x.wav", "FLOAT", 2**-24),
        ("x.wav", "ULAW", 0.02),
        ("x.wav", "GSM610", 0.2),
        ("x.flac", "PCM_16", 2**-15),
        ("x.ogg", "VORBIS", 0.05),
        ("x.ogg", "OPUS", 0.05),
        ("x.mp3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_every_kind_of_file_is_read(name: str, subtype: str, error: float, tmp_path: Path):
    wave = tone(440)
    found = read_clip(write(tmp_path / name, wave, subtype=subtype), RATE)
    assert found.dtype == torch.float32
    assert len(wave) <= len(found) <= len(wave) + 1024  # encodings of blocks fill the last one
    inner = slice(400, len(wave) - 400)  # lossy encoders change where a tone sets in
    assert np.abs(found.numpy()[: len(wave)] - wave)[inner].max() <= error


def test_channels_are_averaged(tmp_path: Path):
    left, right = tone(300), tone(1000)
    found = read_clip(write(tmp_path / "x.wav", np.stack([left, right], axis=1), subtype="FLOAT"), RATE)
    np.testing.assert_allclose(found.numpy(), (left + right) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rate", "name"), [(44100, "x.wav"), (48000, "x.mp3"), (8000, "x.flac"), (22050, "x.ogg")])
def test_resampled_tone_keeps_length_and_frequency(rate: int, name: str, tmp_path: Path):
    path = write(tmp_path / name, tone(1000, rate), rate)
    found = read_clip(path, RATE)
    assert abs(len(found) - RATE) <= 1
    assert abs(loudest(found, RATE) - 1000) <= 1
    expected = torchaudio.functional.resample(torch.from_numpy(read_sound(path)[0][:, 0]), rate, RATE)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # its kernel is rounded more


def test_what_the_lower_rate_cannot_hold_is_removed(tmp_path: Path):
    both = tone(1000, 44100) + 0.9 * tone(11000, 44100)  # would come back as 5 kHz
    found = read_clip(write(tmp_path / "x.wav", both, 44100, subtype="FLOAT"), RATE)
    np.testing.assert_allclose(found.numpy()[400:-400], tone(1000)[400:-400], rtol=0, atol=0.01)


@pytest.mark.parametrize("target", [16000, 8000, 22050, 44100, 48000])
def test_usual_rates_are_resampled(target: int):
    for rate in (8000, 11025, 12000, 16000, 22050, 24000, 32000, 37800, 44100, 48000, 88200, 96000, 192000):
        assert audio.can_resample(rate, target)
    for rate in (8000, 11025, 22050, 32000, 44100, 48000, 96000, 192000):
        assert rate * 16000 // math.gcd(rate, 16000) ** 2 < 1 << 20  # what the comment says of usual rates


@pytest.mark.parametrize("rate", [15999, 15997, 11127, 500, 1])
def test_a_rate_that_cannot_be_resampled_is_refused(rate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audio, "_resampler", lambda *_: pytest.fail("builds a kernel of gigabytes"))
    path = write(tmp_path / "x.wav", tone(100, 16000, 0.1), rate)
    with pytest.raises(DataError, match=rf"x\.wav has the unusual sample rate {rate} Hz, which cannot"):
        read_clip(path, RATE)
    assert len(read_clip(path, rate)) == 1600


def test_wav_written_to_a_pipe_does_not_know_its_size_and_is_read(tmp_path: Path):
    path = write(tmp_path / "x.wav", tone(440))
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 4 + content[8:])
    assert len(read_clip(path, RATE)) == RATE


def cut(name: str, share: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write(folder / name, tone(440))
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        return path

    return make


def raw(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def sound(wave: np.ndarray, subtype: str = "FLOAT") -> Callable[[Path], Path]:
    return lambda folder: write(folder / "x.wav", wave, subtype=subtype)


def of_no_stated_length(folder: Path) -> Path:
    path = write(folder / "x.flac", tone(440))
    content = path.read_bytes()
    path.write_bytes(content[:21] + bytes([content[21] & 0xF0, 0, 0, 0, 0]) + content[26:])  # 36 bits of its header
    return path


FAULTS = {
    "missing": (lambda folder: folder / "x.wav", r"x\.wav cannot be read \(No such file or directory\)"),
    "folder": (lambda folder: folder, r" cannot be read \(Is a directory\)"),
    "no bytes": (raw("x.wav", b""), r"x\.wav cannot be read .*expected a sound file"),
    "web page": (raw("x.mp3", b"<!DOCTYPE html>" * 9), r"x\.mp3 cannot be read .*expected a sound file"),
    "no samples": (sound(np.zeros(0)), r"x\.wav is empty or silent; expected sound"),
    "silent": (sound(np.zeros(100)), r"x\.wav is empty or silent; expected sound"),
    "silent sum": (sound(np.outer(tone(440), [1, -1])), r"x\.wav is empty or silent; expected sound"),
    "NaN": (sound(np.array([0.1, math.nan])), r"x\.wav has samples that are not finite numbers"),
    "infinite": (sound(np.array([0.1, math.inf, 0.1])), r"x\.wav has samples that are not finite numbers"),
    "half a wav": (cut("x.wav", 0.5), r"x\.wav is cut off at 16022 bytes; expected 32044"),
    "half an aiff": (cut("x.aiff", 0.5), r"x\.aiff is cut off at 16027 bytes; expected 32054"),
    "half a flac": (cut("x.flac", 0.5), r"x\.flac cannot be read \(.*lost sync"),
    "flac without its length": (of_no_stated_length, r"x\.flac does not say how long it is"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_one_line_that_names_the_file(fault: str, tmp_path: Path):
    make, message = FAULTS[fault]
    path = make(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        read_clip(path, RATE)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("library", ["soundfile", "torchaudio"])
def test_missing_library_is_named(library: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=f"^workload hum unavailable: .*{library}"):
        import_libraries("workload hum")


# ---- spectrograms


def clips(lengths: list[int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [0.2 * torch.randn(n, generator=generator) for n in lengths]


def plain_log_mel(wave: Tensor, settings: LogMel) -> Tensor:
    """One clip by torchaudio's transform alone, all its frames; [F, T]."""
    transform = torchaudio.transforms.MelSpectrogram(
        settings.rate, settings.n_fft, settings.window, settings.hop, n_mels=settings.mels, pad_mode="constant"
    )
    spectrum = torch.log(transform(wave) + settings.floor)
    return (spectrum - spectrum.mean()) / spectrum.std(correction=0)


@pytest.mark.parametrize("settings", [LogMel(), LogMel(rate=8000, n_fft=256, window=200, hop=80, mels=32)])
@pytest.mark.parametrize("at_once", [1, 20000, 1 << 22])
def test_log_mel_is_torchaudios_clip_by_clip(settings: LogMel, at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audio, "CHUNK_SAMPLES", at_once)
    waves = clips([1, 100, 159, 160, 161, 7999, 8000, 12345, 40000])
    spectra, frames = log_mel(waves, settings, 60)
    assert (spectra.dtype, spectra.shape) == (torch.float32, (9, 1, settings.mels, 60))
    assert frames.dtype == torch.int64
    for wave, found, count in zip(waves, spectra[:, 0], frames.tolist(), strict=True):
        expected = plain_log_mel(wave, settings)
        assert count == min(60, expected.shape[1]) == min(60, 1 + len(wave) // settings.hop)
        torch.testing.assert_close(found[:, :count], expected[:, :60], rtol=0, atol=1e-4)  # sums in another order
        assert (found[:, count:] == 0).all()


@pytest.mark.parametrize("frequency", [200, 440, 1000, 3000, 7000])
def test_a_tone_is_loudest_in_its_band(frequency: int):
    spectra, _ = log_mel([torch.from_numpy(tone(frequency)).float()], LogMel(), 100)
    highest_mel = 2595 * math.log10(1 + 8000 / 700)
    centres = 700 * (10 ** (np.arange(1, 81) * highest_mel / 81 / 2595) - 1)
    assert abs(int(spectra[0, 0, :, 50].argmax()) - int(np.abs(centres - frequency).argmin())) <= 1


def test_constant_spectrum_becomes_0():
    spectra, frames = log_mel([torch.zeros(4000), clips([4000])[0], torch.zeros(0)], LogMel(), 30)
    assert (spectra[[0, 2]] == 0).all()
    assert abs(spectra[1, 0, :, :26].std(correction=0).item() - 1) < 1e-5
    assert frames.tolist() == [26, 26, 1]


def test_no_clips_give_no_spectrograms():
    spectra, frames = log_mel([], LogMel(), 30)
    assert (spectra.shape, frames.shape) == ((0, 1, 80, 30), (0,))


def test_more_bands_than_frequencies_are_refused():
    with pytest.raises(ValueError, match="mels=200 leaves bands without a frequency at n_fft 400"):
        log_mel(clips([100]), LogMel(mels=200), 4)


# ---- SpecAugment

BANDS, FRAMES = 20, 50
BOTH = {"time_masks": 2, "time_width": 12, "frequency_masks": 3, "frequency_width": 5}


def keys(count: int, seed: int = 0) -> Tensor:
    return noise.sample_keys(seed, indices=torch.arange(count))


def runs(mask_NT: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Width and beginning of each row's single run."""
    width, start, place = mask_NT.sum(1), mask_NT.int().argmax(1), torch.arange(mask_NT.shape[1])
    assert torch.equal(mask_NT, (place >= start[:, None]) & (place < (start + width)[:, None]))
    return width.numpy(), start.numpy()


def test_masks_are_those_drawn_one_by_one():
    count = 40
    spectra = torch.rand(count, 1, BANDS, FRAMES) + 1
    frames = torch.randint(1, FRAMES + 1, (count,), generator=torch.Generator().manual_seed(0))
    before = spectra.clone()
    found = spec_augment(spectra, frames, keys(count), **BOTH)
    torch.testing.assert_close(spectra, before, rtol=0, atol=0)
    for n, draws in enumerate(noise.uniform(keys(count), 10).tolist()):
        for k in range(2):
            width = int(draws[k] * (min(12, int(frames[n])) + 1))
            start = int(draws[2 + k] * (int(frames[n]) - width + 1))
            before[n, :, :, start : start + width] = 0
        for k in range(3):
            width = int(draws[4 + k] * 6)
            start = int(draws[7 + k] * (BANDS - width + 1))
            before[n, :, start : start + width] = 0
    torch.testing.assert_close(found, before, rtol=0, atol=0)


def test_masks_have_the_same_bits_alone_in_any_order_and_in_any_batch():
    spectra, frames = torch.rand(9, 1, BANDS, FRAMES) + 1, torch.tensor([1, 5, 11, 12, 13, 30, 49, 50, 50])
    together = spec_augment(spectra, frames, keys(9), **BOTH)
    order = torch.tensor([5, 0, 8])
    some = spec_augment(spectra[order], frames[order], keys(9)[order], **BOTH)
    torch.testing.assert_close(some, together[order], rtol=0, atol=0)
    for clip, *alone in zip(together, spectra.split(1), frames.split(1), keys(9).split(1), strict=True):
        torch.testing.assert_close(spec_augment(*alone, **BOTH)[0], clip, rtol=0, atol=0)


@pytest.mark.parametrize("axis", ["time", "frequency"])
def test_width_and_beginning_of_a_mask_are_uniform_as_in_the_paper(axis: str):
    count, widest, places = 20000, 7, 18
    masks = {"time_masks": 0, "time_width": 0, "frequency_masks": 0, "frequency_width": 0}
    masks |= {f"{axis}_masks": 1, f"{axis}_width": widest}
    shape = (1, places + 4) if axis == "time" else (places, 1)  # frames after the clip's own stay as they are
    one = torch.ones(count, 1, *shape)
    masked = spec_augment(one, torch.full((count,), min(places, shape[1])), keys(count, seed=1), **masks)
    width, start = runs(masked[:, 0].flatten(1) == 0)
    assert stats.chisquare(np.bincount(width, minlength=widest + 1)).pvalue > 0.001
    assert width.max() == widest
    for w in range(1, widest + 1):
        counts = np.bincount(start[width == w], minlength=places - w + 1)
        assert len(counts) == places - w + 1
        assert stats.chisquare(counts).pvalue > 0.0001


def test_time_masks_stay_in_the_clips_own_frames():
    frames = torch.arange(1, FRAMES + 1)
    spectra = torch.ones(FRAMES, 1, 1, FRAMES)
    masked = spec_augment(spectra, frames, keys(FRAMES), **BOTH | {"frequency_masks": 0, "frequency_width": 0})
    for n, clip in enumerate(masked[:, 0, 0]):
        assert (clip[n + 1 :] == 1).all()
        assert int((clip == 0).sum()) <= min(n + 1, 24)


def test_no_masks_and_masks_of_no_width_change_nothing():
    spectra, frames = torch.rand(3, 1, BANDS, FRAMES), torch.full((3,), FRAMES)
    for masks in (BOTH | {"time_masks": 0, "frequency_masks": 0}, BOTH | {"time_width": 0, "frequency_width": 0}):
        torch.testing.assert_close(spec_augment(spectra, frames, keys(3), **masks), spectra, rtol=0, atol=0)


def test_frequency_masks_wider_than_the_spectrogram_are_refused():
    with pytest.raises(ValueError, match="frequency_width is 21; at most the 20 mel bands"):
        spec_augment(torch.rand(1, 1, BANDS, 5), torch.tensor([5]), keys(1), **BOTH | {"frequency_width": 21})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_masks_are_the_same_on_a_cuda_device():
    spectra, frames = torch.rand(30, 1, BANDS, FRAMES) + 1, torch.arange(20, 50)
    there = spec_augment(spectra.cuda(), frames.cuda(), keys(30).cuda(), **BOTH)
    torch.testing.assert_close(there.cpu(), spec_augment(spectra, frames, keys(30), **BOTH), rtol=0, atol=0)
