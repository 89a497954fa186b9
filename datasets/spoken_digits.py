"""Spoken digits: a handwritten digit (MNIST), a person saying it (Free Spoken Digit Dataset) and "the digit seven".

Recordings are split by their index, FSDD's own test set first: 0–4 of every speaker and digit is test, 5–9 validation,
the rest training. Of the images in file order, the first three fifths are training, the next fifth validation, the last
test. All samples of a digit match each other (class-level retrieval): a recording and its image share only the digit.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from bench.datasets import noise
from bench.datasets.samples import SPLIT_KEYS, DataError, Dataset, HeldOut, Samples, Split
from bench.datasets.spoken_digit_files import (
    DIGITS,
    MNIST_SIZE,
    SAMPLE_RATE,
    Recording,
    import_libraries,
    locate,
    read_mnist,
    read_recording,
)
from bench.datasets.spoken_digit_files import check as check
from bench.datasets.spoken_digit_files import digest as digest
from bench.datasets.tokenizers import CharacterTokenizer

# L characters, H × W pixels, F mel bands × T frames, S audio samples, N clips or images.
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = tuple(f"the digit {word}" for word in WORDS)
TOKENIZER = CharacterTokenizer()
TEXT_LENGTH = max(map(len, CAPTIONS))

PADDED_SIZE = 32  # a power of two, which patches of 4, 8 and 16 divide
# Mean and standard deviation over MNIST's 60,000 training images, the published numbers: no image used here enters.
PIXEL_MEAN, PIXEL_DEVIATION = 0.1307, 0.3081

WINDOW, HOP = 200, 80  # 25 ms and 10 ms
N_FFT = 256  # the window padded with zeros: 200 bins leave mel bands empty from 80 bands on
LOG_FLOOR = 1e-9
CHUNK = 128  # clips transformed at once: what their padding costs is kept small by going in order of length


class Stream(IntEnum):
    """What a key orders; its last part, after seed and split."""

    RECORDINGS = 0
    IMAGES = 1


def log_mel(waves: Sequence[np.ndarray], *, mels: int, frames: int) -> Tensor:
    """Log-mel spectrograms, each clip normalised to mean 0 and deviation 1, then cut or padded to `frames`.

    ln(power + 1e-9) of windows of 25 ms every 10 ms, the first centred on the first sample; float32 [N, 1, F, T]. Mean
    and deviation are over all of a clip's own frames; padding is 0, its mean. Of a longer clip the beginning is kept:
    64 frames hold 93 % of FSDD's clips whole, and of all but four at least nine tenths of the energy.
    """
    _, torchaudio = import_libraries()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="At least one mel filterbank")
        try:
            mel_power = torchaudio.transforms.MelSpectrogram(
                SAMPLE_RATE, n_fft=N_FFT, win_length=WINDOW, hop_length=HOP, n_mels=mels, pad_mode="constant"
            )
        except UserWarning as warning:
            raise ValueError(f"spoken_digits: {mels=} leaves bands without a frequency at n_fft {N_FFT}") from warning
    length_N = torch.tensor([len(wave_S) for wave_S in waves])
    audio_N1FT = torch.zeros(len(waves), 1, mels, frames)
    for chunk in length_N.argsort(stable=True).split(CHUNK):
        padded = pad_sequence([torch.from_numpy(waves[i]) for i in chunk.tolist()], batch_first=True)
        spectra = torch.log(mel_power(padded) + LOG_FLOOR)  # [n, F, longest]
        n_frames = 1 + length_N[chunk] // HOP
        real = torch.arange(spectra.shape[-1]) < n_frames[:, None, None]
        kept = _normalise(spectra, real, n_frames * mels)[:, :, :frames]
        audio_N1FT[chunk, 0, :, : kept.shape[-1]] = kept
    return audio_N1FT


def _normalise(spectra: Tensor, real: Tensor, count: Tensor) -> Tensor:
    """Each clip's `count` values at `real` to mean 0 and standard deviation 1, the rest to 0."""
    centred = (spectra - ((spectra * real).sum((1, 2)) / count)[:, None, None]) * real
    return centred / (centred.square().sum((1, 2)) / count).sqrt()[:, None, None]


def prepare_images(image_NHW: np.ndarray, image_size: int) -> Tensor:
    """Padded with black to 32 × 32, resized if another size is asked for, normalised, three equal channels; float32."""
    margin = (PADDED_SIZE - MNIST_SIZE) // 2
    image_N1HW = functional.pad(torch.from_numpy(image_NHW)[:, None].float() / 255, [margin] * 4)
    if image_size != PADDED_SIZE:
        image_N1HW = functional.interpolate(image_N1HW, (image_size, image_size), mode="bilinear", antialias=True)
    return ((image_N1HW - PIXEL_MEAN) / PIXEL_DEVIATION).repeat(1, 3, 1, 1)


class SpokenDigits(Dataset):
    """The real tri-modal set, read at construction; every epoch has the same training samples.

    A split takes recordings of the digits in turn, each digit's in an order drawn by `data_seed`: digits are balanced
    as far as the files go, and a smaller split is the beginning of a larger one. Each recording has an image of its
    digit to itself, drawn likewise.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None,
        training: int = 2000,
        validation: int = 300,
        test: int = 300,
        image_size: int = 32,
        mels: int = 32,
        frames: int = 64,
        data_seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes: dict[Split, int] = {"training": training, "validation": validation, "test": test}
        too_small = {
            n: v for n, v in {**sizes, "image_size": image_size, "mels": mels, "frames": frames}.items() if v < 1
        }
        if too_small:
            raise ValueError(f"SpokenDigits: {too_small} is too small; all must be at least 1")
        files = locate(data_dir)
        image_NHW, label_N = read_mnist(files)
        self._digest = digest(data_dir)
        self._samples: dict[Split, Samples] = {}
        for split, size in sizes.items():
            recordings = choose_recordings(files.recordings, split, size, data_seed)
            images = choose_images(label_N, [r.digit for r in recordings], split, data_seed, files.labels)
            self._samples[split] = _samples(
                recordings, prepare_images(image_NHW[images], image_size), mels=mels, frames=frames
            ).to(device)

    @property
    def training_size(self) -> int:
        return len(self._samples["training"])

    def training(self, epoch: int, noise_seed: int) -> Samples:
        del epoch, noise_seed
        return self._samples["training"]

    def held_out(self, split: HeldOut) -> Samples:
        return self._samples[split]

    @property
    def digest(self) -> str:
        return self._digest


def _draw_order(count: int, *key: int) -> np.ndarray:
    """A place for each of `count` things, to sort by; all different."""
    return noise.sample_keys(*key, indices=torch.arange(count)).numpy()


def _rank_in_group(group_N: np.ndarray, place_N: np.ndarray) -> np.ndarray:
    """How many of the same group have an earlier place."""
    order = np.lexsort((place_N, group_N))
    first_of_group = np.searchsorted(group_N[order], group_N[order])
    rank_N = np.empty(len(order), np.int64)
    rank_N[order] = np.arange(len(order)) - first_of_group
    return rank_N


def choose_recordings(recordings: Sequence[Recording], split: Split, size: int, data_seed: int) -> list[Recording]:
    """`size` recordings of the split: every digit's first in drawn order, then every digit's second, and so on."""
    pool = [r for r in recordings if r.split == split]
    if len(pool) < size:
        raise DataError(
            f"spoken_digits: {recordings[0].path.parent} has {len(pool)} {split} recordings; {size} are wanted"
        )
    digit_N = np.array([r.digit for r in pool])
    place_N = _draw_order(len(pool), data_seed, SPLIT_KEYS[split], Stream.RECORDINGS)
    return [pool[i] for i in np.lexsort((digit_N, _rank_in_group(digit_N, place_N)))[:size]]


def choose_images(
    label_N: np.ndarray, digits: Sequence[int], split: Split, data_seed: int, labels_path: Path
) -> np.ndarray:
    """For each of `digits` the place of an image of it in the split's part of the file, none twice."""
    begin, end = {"training": (0, 3), "validation": (3, 4), "test": (4, 5)}[split]
    begin, end = len(label_N) * begin // 5, len(label_N) * end // 5
    place_N = _draw_order(end - begin, data_seed, SPLIT_KEYS[split], Stream.IMAGES)
    images = np.empty(len(digits), np.int64)
    for digit in range(DIGITS):
        wanted = np.flatnonzero(np.array(digits) == digit)
        found = np.flatnonzero(label_N[begin:end] == digit)
        if len(found) < len(wanted):
            raise DataError(
                f"spoken_digits: {labels_path} has {len(found)} {split} images of {digit}; {len(wanted)} are wanted"
            )
        images[wanted] = begin + found[place_N[found].argsort()][: len(wanted)]
    return images


def _samples(recordings: Sequence[Recording], image_N3HW: Tensor, *, mels: int, frames: int) -> Samples:
    label_N = torch.tensor([r.digit for r in recordings])
    text_CL, mask_CL = TOKENIZER.encode_batch(CAPTIONS, TEXT_LENGTH)
    return Samples(
        label_N=label_N,
        match_N=label_N,
        text_NL=text_CL[label_N],
        text_mask_NL=mask_CL[label_N],
        image_N3HW=image_N3HW,
        audio_N1FT=log_mel([read_recording(r.path) for r in recordings], mels=mels, frames=frames),
    )
