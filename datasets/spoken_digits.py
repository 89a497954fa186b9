"""Spoken digits: a handwritten digit (MNIST), a person saying it (Free Spoken Digit Dataset) and "the digit seven".

Recordings are split by their index, FSDD's own test set first: 0–4 of every speaker and digit is test, 5–9 validation,
the rest training. Of the images in file order, the first three fifths are training, the next fifth validation, the last
test. All samples of a digit match each other (class-level retrieval): a recording and its image share only the digit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from enum import IntEnum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.datasets import audio, noise, queries
from bench.datasets.cache import Recipe, Shape, cached, stamp, versions
from bench.datasets.samples import (
    MODALITIES,
    SPLIT_KEYS,
    DataError,
    Dataset,
    HeldOut,
    Modality,
    PixelLevels,
    Samples,
    SampleSource,
    Split,
    require_modalities,
)
from bench.datasets.spoken_digit_files import (
    DIGITS,
    MNIST_SIZE,
    SAMPLE_RATE,
    Files,
    Recording,
    locate,
    read_mnist,
    read_recording,
)
from bench.datasets.spoken_digit_files import check as check
from bench.datasets.spoken_digit_files import digest as digest
from bench.datasets.tokenizers import CharacterTokenizer
from bench.datasets.words import TextWords

# L characters, H × W pixels, F mel bands × T frames, S audio samples, N clips or images.
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = tuple(f"the digit {word}" for word in WORDS)
TOKENIZER = CharacterTokenizer()
TEXT_LENGTH = max(map(len, CAPTIONS))

RECIPE = 1  # raised when our own decoding changes what it gives: it is among the settings that name an entry
DIGIT_SIZE = 20  # within MNIST's 28 × 28
PADDED_SIZE = 32  # a power of two, which patches of 4, 8 and 16 divide
# Mean and standard deviation over MNIST's 60,000 training images, the published numbers: no image used here enters.
PIXEL_MEAN, PIXEL_DEVIATION = 0.1307, 0.3081
PIXEL_LEVELS = PixelLevels(mean=(PIXEL_MEAN, PIXEL_MEAN, PIXEL_MEAN),
                           deviation=(PIXEL_DEVIATION, PIXEL_DEVIATION, PIXEL_DEVIATION))  # fmt: skip

# Windows of 25 ms every 10 ms, padded with zeros: 200 bins leave mel bands empty from 80 bands on.
SPECTROGRAM = audio.LogMel(rate=SAMPLE_RATE, n_fft=256, window=200, hop=80)


class Stream(IntEnum):
    """What a key orders; its last part, after seed and split."""

    RECORDINGS = 0
    IMAGES = 1


def log_mel(waves: Sequence[np.ndarray], *, mels: int, frames: int) -> Tensor:
    """Log-mel spectrograms of windows of 25 ms every 10 ms, float32 [N, 1, F, T]; see `audio.log_mel`.

    Of a longer clip the beginning is kept: 64 frames hold 93 % of FSDD's clips whole, and of all but four at least nine
    tenths of the energy.
    """
    return audio.log_mel([torch.from_numpy(wave_S) for wave_S in waves], replace(SPECTROGRAM, mels=mels), frames)[0]


def prepare_images(image_NHW: np.ndarray, image_size: int) -> Tensor:
    """Padded with black to 32 × 32, resized if another size is asked for, normalised; float32 [N, 1, S, S]."""
    margin = (PADDED_SIZE - MNIST_SIZE) // 2
    image_N1HW = functional.pad(torch.from_numpy(image_NHW)[:, None].float() / 255, [margin] * 4)
    if image_size != PADDED_SIZE:
        image_N1HW = functional.interpolate(image_N1HW, (image_size, image_size), mode="bilinear", antialias=True)
    return (image_N1HW - PIXEL_MEAN) / PIXEL_DEVIATION


def like_mnist(grey_HW: Tensor) -> Tensor:
    """A digit as MNIST has its own, between 0 and 255 [28, 28]; an image of that size is one already.

    Light on dark, turned over where the border is light; what is drawn is made to fit 20 × 20, and its centre of mass
    comes to the middle. (LeCun's description at the set's page.)
    """
    if grey_HW.shape == (MNIST_SIZE, MNIST_SIZE):
        return grey_HW.round()
    border = torch.cat([grey_HW[0], grey_HW[-1], grey_HW[:, 0], grey_HW[:, -1]])
    light_HW = 255 - grey_HW if border.mean() > 127 else grey_HW
    light_HW = light_HW - light_HW.min()
    rows, columns = (torch.where((light_HW > light_HW.max() / 4).any(dim=i))[0] for i in (1, 0))
    if not len(rows):
        return torch.zeros(MNIST_SIZE, MNIST_SIZE)
    drawn = light_HW[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(DIGIT_SIZE * side / max(drawn.shape))) for side in drawn.shape)
    small = functional.interpolate(drawn[None, None], (height, width), mode="bilinear", antialias=True)[0, 0]
    small = small * (255 / small.max().clamp_min(1))
    digit = torch.zeros(MNIST_SIZE, MNIST_SIZE)
    top, left = (
        int((MNIST_SIZE / 2 - centre).round().clamp(0, MNIST_SIZE - side))
        for centre, side in zip(_centre_of_mass(small), small.shape, strict=True)
    )
    digit[top : top + height, left : left + width] = small
    return digit.round()


def _centre_of_mass(x_HW: Tensor) -> tuple[Tensor, Tensor]:
    """From the upper left corner: down, and to the right."""
    down, right = (torch.arange(side) + 0.5 for side in x_HW.shape)
    return (x_HW.sum(dim=1) @ down) / x_HW.sum(), (x_HW.sum(dim=0) @ right) / x_HW.sum()


class SpokenDigits(Dataset):
    """The real tri-modal set, from the cache where it has been read before; every epoch has the same training samples.

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
        modalities: Sequence[str] = MODALITIES,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes: dict[Split, int] = {"training": training, "validation": validation, "test": test}
        too_small = {
            n: v for n, v in {**sizes, "image_size": image_size, "mels": mels, "frames": frames}.items() if v < 1
        }
        if too_small:
            raise ValueError(f"SpokenDigits: {too_small} is too small; all must be at least 1")
        wanted = require_modalities(modalities)
        files = locate(data_dir)
        entry = cached(_recipe(files, data_dir, sizes, image_size, mels, frames, data_seed))
        self._digest = entry.facts["digest"]
        self._image_size, self._mels, self._frames = image_size, mels, frames
        self._samples = {split: _samples(entry.arrays, split, wanted).to(device) for split in sizes}

    @property
    def training_size(self) -> int:
        return len(self._samples["training"])

    def training(self, epoch: int, noise_seed: int) -> Samples:
        del epoch, noise_seed
        return self._samples["training"]

    def held_out(self, split: HeldOut) -> Samples:
        return self._samples[split]

    def words(self, training: SampleSource) -> TextWords | None:
        assert isinstance(training, Samples)
        if training.text_NL is None:
            return None
        return TextWords(texts=CAPTIONS, place_N=training.label_N.cpu(),
                         encode=lambda text: TOKENIZER.encode_batch([text], TEXT_LENGTH))  # fmt: skip

    @property
    def pixel_levels(self) -> PixelLevels:
        return PIXEL_LEVELS

    def own_row(self, modality: Modality, source: str) -> tuple[Tensor, Tensor | None]:
        """As the set has them; of an image see `like_mnist`."""
        if modality == "text":
            return queries.text_row(TOKENIZER, source, TEXT_LENGTH)
        if modality == "audio":
            settings = replace(SPECTROGRAM, mels=self._mels)
            return queries.audio_row(Path(source), settings, self._frames)[0], None
        digit = like_mnist(queries.decoded_image(Path(source)).float().mean(dim=0))
        return prepare_images(digit.byte().numpy()[None], self._image_size).repeat(1, 3, 1, 1), None

    def captions(self, text_NL: Tensor, mask_NL: Tensor | None) -> list[str]:
        return queries.captions(TOKENIZER, text_NL, mask_NL)

    def pixels(self, image_N3HW: Tensor) -> Tensor:
        return (image_N3HW * PIXEL_DEVIATION + PIXEL_MEAN).clamp(0, 1)

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


def _recipe(
    files: Files,
    data_dir: Path | None,
    sizes: Mapping[Split, int],
    image_size: int,
    mels: int,
    frames: int,
    data_seed: int,
) -> Recipe:
    """What the cache keeps of the set: labels, grey images and spectrograms of each split."""

    def fill(arrays: Mapping[str, np.ndarray], advance: Callable[[int], None]) -> Mapping[str, str]:
        image_NHW, label_N = read_mnist(files)
        for split, size in sizes.items():
            recordings = choose_recordings(files.recordings, split, size, data_seed)
            images = choose_images(label_N, [r.digit for r in recordings], split, data_seed, files.labels)
            arrays[f"{split}-label"][:] = [r.digit for r in recordings]
            arrays[f"{split}-image"][:] = prepare_images(image_NHW[images], image_size).numpy()
            arrays[f"{split}-audio"][:] = log_mel(
                [read_recording(r.path) for r in recordings], mels=mels, frames=frames
            ).numpy()
            advance(size)
        return {"digest": digest(data_dir)}

    shapes: dict[str, Shape] = {}
    for split, size in sizes.items():
        shapes[f"{split}-label"] = Shape((size,), "int64")
        shapes[f"{split}-image"] = Shape((size, 1, image_size, image_size), "float32")
        shapes[f"{split}-audio"] = Shape((size, 1, mels, frames), "float32")
    paths = [files.images, files.labels, *(recording.path for recording in files.recordings)]
    folder = files.recordings[0].path.parent.resolve()
    settings = {"folder": str(folder), "sizes": dict(sizes), "image_size": image_size, "mels": mels, "frames": frames,
                "data_seed": data_seed, "recipe": RECIPE,
                "versions": versions("torch", "torchaudio", "soundfile")}  # fmt: skip
    return Recipe(name="spoken_digits", settings=settings, stamp=stamp(paths), shapes=shapes,
                  steps=sum(sizes.values()), fill=fill)  # fmt: skip


def _samples(arrays: Mapping[str, Tensor], split: Split, wanted: Set[str]) -> Samples:
    """A split's samples with the modalities that are wanted."""
    label_N = arrays[f"{split}-label"].clone()  # what is mapped must not be written to
    samples = Samples(label_N=label_N, match_N=label_N)
    if "text" in wanted:
        text_CL, mask_CL = TOKENIZER.encode_batch(CAPTIONS, TEXT_LENGTH)
        samples = replace(samples, text_NL=text_CL[label_N], text_mask_NL=mask_CL[label_N])
    if "image" in wanted:
        samples = replace(samples, image_N3HW=arrays[f"{split}-image"].repeat(1, 3, 1, 1))
    if "audio" in wanted:
        samples = replace(samples, audio_N1FT=arrays[f"{split}-audio"].clone())
    return samples
