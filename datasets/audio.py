"""Sound: clips from files, log-mel spectrograms, SpecAugment.

soundfile reads, torchaudio resamples and transforms; both are imported when first needed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.datasets import noise
from bench.datasets.samples import DataError

# N clips of S samples and C channels, F mel bands × T frames, M masks.
CHUNK = 128  # clips transformed at once: what their padding costs is kept small by going in order of length
CHUNK_SAMPLES = 3 << 20  # and of long clips fewer, padding included: more are slower
FLAT = 1e-3  # log spectra that deviate less are constant but for rounding: they become 0, not noise of deviation 1
LOWEST_RATE = 1000  # hertz; of fewer, a second would become more samples than anybody recorded
LARGEST_KERNEL = 1 << 23  # values of a resampling kernel; usual rates need less than 2^20
LENGTH_UNKNOWN = (1 << 63) - 1  # libsndfile's SF_COUNT_MAX
SIZE_UNKNOWN = (1 << 32) - 1  # what a program that writes to a pipe puts for the size
# WAV and AIFF: the size of what follows stands after the name.
BYTE_ORDER: Mapping[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"FORM": "big"}


def import_libraries(what: str) -> tuple[ModuleType, ModuleType]:
    """soundfile and torchaudio; an ImportError that says `what` ("workload …") is unavailable where one is missing."""
    try:
        import soundfile
        import torchaudio
    except (ImportError, OSError, RuntimeError) as error:  # also a missing libsndfile, a torchaudio of another torch
        reason = str(error).partition("\n")[0]
        raise ImportError(f"{what} unavailable: {reason}") from error
    return soundfile, torchaudio


class SoundFormat(NamedTuple):
    """What a file says of its samples; format and subtype as soundfile names them."""

    format: str
    subtype: str
    channels: int
    rate: int

    def __str__(self) -> str:
        return f"{self.format} {self.subtype}, {self.channels} channel(s) at {self.rate} Hz"


def read_sound(path: Path) -> tuple[np.ndarray, SoundFormat]:
    """All samples of a file, float32 [S, C] in [-1, 1], and its format; DataError if unreadable or cut off.

    libsndfile reads a cut WAV or AIFF without a word, as far as it goes: the header's size is compared with the file's.
    A cut MP3 or Ogg file cannot be told from a short one.
    """
    soundfile, _ = import_libraries("audio")
    try:
        with path.open("rb") as file:
            header = file.read(8)
        with soundfile.SoundFile(str(path)) as file:
            if file.frames == LENGTH_UNKNOWN:
                raise DataError(f"{path} does not say how long it is, as if cut off while it was written")
            found = SoundFormat(file.format, file.subtype, file.channels, file.samplerate)
            wave_SC = file.read(file.frames, dtype="float32", always_2d=True)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    except soundfile.SoundFileError as error:
        raise DataError(f"{path} cannot be read ({error}); expected a sound file") from error
    found_size, stated_size = path.stat().st_size, _stated_size(header)
    if found_size < stated_size:
        raise DataError(f"{path} is cut off at {found_size} bytes; expected {stated_size}")
    return wave_SC, found


def _stated_size(header: bytes) -> int:
    """How many bytes a file says it has; 0 if it does not say."""
    if header[:4] not in BYTE_ORDER:
        return 0
    size = int.from_bytes(header[4:], BYTE_ORDER[header[:4]])
    return 0 if size == SIZE_UNKNOWN else len(header) + size


def read_clip(path: Path, rate: int) -> Tensor:
    """The mean of a file's channels at `rate` Hz, float32 [S].

    Raises DataError that names the file if it is unreadable, cut off, empty, silent, not finite, or of a rate that
    cannot be resampled.
    """
    wave_SC, found = read_sound(path)
    if not can_resample(found.rate, rate):
        raise DataError(f"{path} has the unusual sample rate {found.rate} Hz, which cannot be resampled to {rate} Hz; "
                        "expected one such as 8000, 16000, 22050, 44100 or 48000")  # fmt: skip
    wave_S = wave_SC.mean(axis=1)
    if not wave_S.any():
        raise DataError(f"{path} is empty or silent; expected sound")
    if not np.isfinite(wave_S).all():
        raise DataError(f"{path} has samples that are not finite numbers; expected sound")
    clip = torch.from_numpy(wave_S)
    return clip if found.rate == rate else _resampler(found.rate, rate)(clip)


def can_resample(source: int, target: int) -> bool:
    """Whether a clip at `source` Hz can be had at `target` Hz: a kernel has source · target / gcd² values."""
    if source == target:
        return True
    return source >= LOWEST_RATE and source * target // math.gcd(source, target) ** 2 <= LARGEST_KERNEL


@lru_cache(maxsize=8)  # a kernel may take 32 MB
def _resampler(source: int, target: int) -> Callable[[Tensor], Tensor]:
    _, torchaudio = import_libraries("audio")
    return torchaudio.transforms.Resample(source, target)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMel:
    """How a log-mel spectrogram is made: samples a second, transform, window and hop in samples, mel bands.

    A window of fewer samples than `n_fft` is padded with zeros on both sides. The logarithm is ln(power + floor).
    """

    rate: int = 16000
    n_fft: int = 400
    window: int = 400
    hop: int = 160
    mels: int = 80
    floor: float = 1e-9


@cache
def _mel_power(settings: LogMel) -> Callable[[Tensor], Tensor]:
    _, torchaudio = import_libraries("audio")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="At least one mel filterbank")
        try:
            return torchaudio.transforms.MelSpectrogram(
                settings.rate,
                n_fft=settings.n_fft,
                win_length=settings.window,
                hop_length=settings.hop,
                n_mels=settings.mels,
                pad_mode="constant",
            )
        except UserWarning as warning:
            raise ValueError(
                f"LogMel: mels={settings.mels} leaves bands without a frequency at n_fft {settings.n_fft}"
            ) from warning


def require_bands(settings: LogMel) -> None:
    """Raises `ValueError` where a mel band has no frequency of the transform."""
    _mel_power(settings)


def log_mel(waves: Sequence[Tensor], settings: LogMel, frames: int) -> tuple[Tensor, Tensor]:
    """Log-mel spectrograms, each clip normalised to mean 0 and deviation 1, then cut or padded to `frames`.

    float32 [N, 1, F, T], and how many frames of each are its own, int64 [N]. The first frame is centred on the first of
    the clip's samples, float32 [S]. Mean and deviation are over all of the clip's own frames, also those cut; padding
    is 0, the mean. A clip whose spectrum is constant becomes 0. Clips transformed together differ from clips
    transformed alone by rounding (1e-4 at most).
    """
    mel_power = _mel_power(settings)
    length_N = torch.tensor([len(wave_S) for wave_S in waves], dtype=torch.int64)
    n_frames_N = 1 + length_N // settings.hop
    audio_N1FT = torch.zeros(len(waves), 1, settings.mels, frames)
    at_once = min(CHUNK, max(1, CHUNK_SAMPLES // max([1, *map(len, waves)])))
    for chunk in length_N.argsort(stable=True).split(at_once) if waves else ():
        padded = pad_sequence([waves[i] for i in chunk.tolist()], batch_first=True)
        spectra = torch.log(mel_power(padded) + settings.floor)  # [n, F, longest]
        real = torch.arange(spectra.shape[-1]) < n_frames_N[chunk, None, None]
        kept = _normalise(spectra, real, n_frames_N[chunk] * settings.mels)[:, :, :frames]
        audio_N1FT[chunk, 0, :, : kept.shape[-1]] = kept
    return audio_N1FT, n_frames_N.clamp(max=frames)


def _normalise(spectra: Tensor, real: Tensor, count: Tensor) -> Tensor:
    """Each clip's `count` values at `real` to mean 0 and standard deviation 1, or all 0 if `FLAT`; the rest to 0."""
    centred = (spectra - ((spectra * real).sum((1, 2)) / count)[:, None, None]) * real
    deviation = (centred.square().sum((1, 2)) / count).sqrt()
    return centred / deviation.where(deviation > FLAT, torch.inf)[:, None, None]


def spec_augment(
    audio_N1FT: Tensor,
    frames_N: Tensor,
    keys_N: Tensor,
    *,
    time_masks: int,
    time_width: int,
    frequency_masks: int,
    frequency_width: int,
) -> Tensor:
    """Spectrograms with runs of frames and of mel bands set to 0, their mean; a new tensor.

    A mask's width is uniform on 0 … its largest, its beginning uniform on where it fits: among the first `frames_N`
    frames (int64 [N]; of a clip shorter than `time_width`, at most all are masked) or the F bands. Each clip's masks
    are drawn from its own key, so its bits do not depend on the batch.

    Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition",
    https://arxiv.org/abs/1904.08779, without time warping.
    """
    bands = audio_N1FT.shape[2]
    if frequency_width > bands:
        raise ValueError(f"spec_augment: frequency_width is {frequency_width}; at most the {bands} mel bands")
    masked_N1FT = masked_places(
        audio_N1FT, frames_N, keys_N, time_masks=time_masks, longest_N=frames_N.clamp(max=time_width),
        frequency_masks=frequency_masks, frequency_width=frequency_width,
    )  # fmt: skip
    return audio_N1FT.masked_fill(masked_N1FT, 0)


def masked_places(
    audio_N1FT: Tensor,
    frames_N: Tensor,
    keys_N: Tensor,
    *,
    time_masks: int,
    longest_N: Tensor,
    frequency_masks: int,
    frequency_width: int,
) -> Tensor:
    """Where `spec_augment` masks, bool [N, 1, F, T]; in time each clip by at most `longest_N` of its own frames."""
    bands, longest = audio_N1FT.shape[2:]
    draws_N2M = noise.uniform(keys_N, 2 * (time_masks + frequency_masks))
    for_time, for_frequency = draws_N2M.split([2 * time_masks, 2 * frequency_masks], dim=1)
    in_time_NT = _masked(for_time, longest_N, frames_N, longest)
    all_bands_N = torch.full_like(frames_N, bands)
    in_frequency_NF = _masked(for_frequency, torch.full_like(frames_N, frequency_width), all_bands_N, bands)
    return in_time_NT[:, None, None, :] | in_frequency_NF[:, None, :, None]


def _masked(draws_N2M: Tensor, widest_N: Tensor, length_N: Tensor, places: int) -> Tensor:
    """Which of `places` lie in one of a clip's M masks, each within the first `length_N`; bool [N, places]."""
    for_width, for_start = draws_N2M.chunk(2, dim=1)
    width_NM = (for_width * (widest_N[:, None] + 1)).long()
    # The paper draws from [0, length − width), which as whole numbers would never reach the last place.
    start_NM = (for_start * (length_N[:, None] - width_NM + 1)).long()
    place = torch.arange(places, device=draws_N2M.device)
    in_each = (place >= start_NM[..., None]) & (place < (start_NM + width_NM)[..., None])
    return in_each.any(1)
