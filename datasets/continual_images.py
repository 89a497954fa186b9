"""Labelled images in tasks of a few classes: Fashion-MNIST, CIFAR-10, CIFAR-100 and MNIST's test images.

The classes come in an order drawn from `data_seed`, `classes_per_task` at a time. Every class has as many images of a
split as any other, so that all epochs are of one length. A batch of new images is joined by replayed ones of earlier
tasks (see `bench.datasets.replay`). Of MNIST, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte under mnist/, packed
or not, are divided into the three splits; the other sets have a test file of their own.

Shapes: N images, C classes, B new images of a batch, R replayed ones, L tokens, S pixels of a side.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.datasets import images, noise, replay, spoken_digit_files
from bench.datasets.idx import idx_path, read_idx
from bench.datasets.labelled_images import SETS, load, prepare
from bench.datasets.samples import SPLIT_KEYS, DataError, HeldOut, Samples, Split, require_modalities
from bench.datasets.task_sequence import TaskDataset, TaskSequence
from bench.datasets.tokenizers import CharacterTokenizer

MNIST = "mnist"
NAMES = (*SETS, MNIST)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Earlier rows that join batches of an epoch: ⌊share · B⌋ of those kept."""

    kept_KM: Tensor
    share: float
    seed: int
    epoch: int

    def rows(self, new_B: Tensor) -> Tensor:
        """The rows [R] for the batch of these new ones."""
        count = math.floor(self.share * len(new_B) + 1e-9)  # .29 · 100 is 28.999… in binary
        return replay.replayed(self.kept_KM, count, new_B[:1], seed=self.seed, epoch=self.epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSamples:
    """Images of some classes as rows of all images, and the prompts of all classes seen, [C, L].

    `take` gives the images asked for, then the replayed ones; its texts are the prompts, a row a class.
    """

    pixels_N3SS: Tensor
    all_label_N: Tensor
    row_N: Tensor
    text_CL: Tensor
    mask_CL: Tensor
    replay: Replay | None = None

    def __len__(self) -> int:
        return len(self.row_N)

    @property
    def label_N(self) -> Tensor:
        return self.all_label_N[self.row_N]

    @property
    def match_N(self) -> Tensor:
        return self.label_N

    def take(self, indices: Tensor | slice) -> Samples:
        """The samples at `indices`, and what joins them."""
        row_B = self.row_N[indices]
        if self.replay is not None:
            row_B = torch.cat([row_B, self.replay.rows(row_B)])
        label_B = self.all_label_N[row_B]
        return Samples(label_N=label_B, match_N=label_B, image_N3HW=images.normalised(self.pixels_N3SS[row_B]),
                       text_NL=self.text_CL, text_mask_NL=self.mask_CL)  # fmt: skip


class ContinualImages(TaskDataset):
    """`training_per_class` and `test_per_class` images of every class, None: as many as the smallest class has.

    `replay_share`: replayed images of a batch per new one; `buffer` how many of every class are kept (see
    `replay.buffer`). `prompt` holds one {} for the class's name.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None,
        name: str,
        classes_per_task: int,
        epochs_per_task: int,
        replay_share: float,
        buffer: int,
        sampling: replay.Sampling,
        prompt: str,
        image_size: int,
        training_per_class: int | None,
        validation_per_class: int,
        test_per_class: int | None,
        data_seed: int,
        modalities: Sequence[str] = ("text", "image"),
        device: torch.device | str = "cpu",
    ) -> None:
        require_modalities(modalities, ("text", "image"))
        _require_options(prompt, image_size, replay_share, buffer, sampling)
        image_NHWC, label_N, names, test_from = load_all(name, data_dir)
        self._sequence = TaskSequence(
            classes=len(names), classes_per_task=classes_per_task, epochs_per_task=epochs_per_task
        )
        order_C = noise.uniform(noise.sample_keys(data_seed, indices=torch.arange(len(names))), 1)[:, 0].argsort()
        label_N = order_C.argsort()[torch.from_numpy(label_N)]
        wanted: dict[Split, int | None] = {
            "validation": validation_per_class, "test": test_per_class, "training": training_per_class,
        }  # fmt: skip
        rows = _divided(name, label_N, len(names), test_from, wanted, data_seed)
        every = torch.cat(list(rows.values()))
        self._pixels_N3SS = prepare(image_NHWC[every.numpy()], image_size).to(device)
        self._label_N = label_N[every].to(device)
        sizes = [len(each) for each in rows.values()]
        self._rows = dict(zip(rows, torch.arange(len(every), device=device).split(sizes), strict=True))
        tokenizer = CharacterTokenizer()
        words = [each.replace("_", " ").lower() for each in names]
        texts = [prompt.format(words[int(place)]) for place in order_C]
        text_CL, mask_CL = tokenizer.encode_batch(texts, max(len(tokenizer.encode(text)) for text in texts))
        self._text_CL, self._mask_CL = text_CL.to(device), mask_CL.to(device)
        self._network_options = {"vocab_size": tokenizer.vocab_size}
        self._share, self._buffer = replay_share, buffer
        self._sampling: replay.Sampling = sampling
        self._digest = _digest(texts, image_NHWC, label_N, rows)

    @property
    def sequence(self) -> TaskSequence:
        return self._sequence

    @property
    def training_size(self) -> int:
        """New samples of an epoch, which all tasks have as many of."""
        return len(self._rows["training"]) // self._sequence.tasks

    def training(self, epoch: int, noise_seed: int) -> TaskSamples:
        task = self._sequence.task(epoch)
        first, end = self._sequence.seen(task - 1), self._sequence.seen(task)
        replay = self._replay(first, noise_seed, epoch) if task and self._share else None
        return self._samples("training", first, end, replay)

    def _replay(self, before: int, seed: int, epoch: int) -> Replay:
        """Of the classes of labels below `before`."""
        row_N = self._rows["training"]
        row_N = row_N[self._label_N[row_N] < before]
        kept_KM = replay.buffer(self._sampling, self._label_N[row_N], row_N, size=self._buffer,
                                classes=self._sequence.classes, seed=seed)  # fmt: skip
        return Replay(kept_KM=kept_KM, share=self._share, seed=seed, epoch=epoch)

    def _samples(self, split: Split, first: int, end: int, replay: Replay | None = None) -> TaskSamples:
        """Those of labels from `first` to below `end`."""
        row_N = self._rows[split]
        label_N = self._label_N[row_N]
        return TaskSamples(
            pixels_N3SS=self._pixels_N3SS, all_label_N=self._label_N, row_N=row_N[(label_N >= first) & (label_N < end)],
            text_CL=self._text_CL[:end], mask_CL=self._mask_CL[:end], replay=replay,
        )  # fmt: skip

    def held_out(self, split: HeldOut) -> TaskSamples:
        return self.seen(split, self._sequence.tasks - 1)

    def seen(self, split: HeldOut, task: int) -> TaskSamples:
        return self._samples(split, 0, self._sequence.seen(task))

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def network_options(self) -> Mapping[str, int]:
        return self._network_options


def _require_options(prompt: str, image_size: int, replay_share: float, buffer: int, sampling: str) -> None:
    if prompt.count("{}") != 1:
        raise ValueError(f"prompt is {prompt!r}; allowed is a text with one {{}} for the class's name")
    if image_size < 1:
        raise ValueError(f"image_size is {image_size}; allowed is a count >= 1")
    if not 0 <= replay_share <= 10:
        raise ValueError(f"replay_share is {replay_share}; allowed are 0, for no replay, to 10")
    if buffer < 1:
        raise ValueError(f"buffer is {buffer}; allowed is a count >= 1 of each class")
    if sampling not in ("balanced", "reservoir"):
        raise ValueError(f"sampling is {sampling!r}; allowed are balanced, reservoir")


def load_all(name: str, data_dir: Path | None) -> tuple[np.ndarray, np.ndarray, Sequence[str], int]:
    """Images uint8 [N, H, W, C] of both files, labels int64 [N], the classes' names, and where the test file begins.

    Of a set without a training file it begins nowhere, at N. Raises `DataError` where files are missing or damaged.
    """
    if name == MNIST:
        return _mnist(data_dir)
    if name not in SETS:
        raise ValueError(f"name is {name!r}; allowed are {', '.join(NAMES)}")
    (image_NHWC, label_N, names), (test_NHWC, test_label_N, _) = (
        load(name, data_dir, train) for train in (True, False)
    )
    return np.concatenate([image_NHWC, test_NHWC]), np.concatenate([label_N, test_label_N]), names, len(label_N)


def _mnist(data_dir: Path | None) -> tuple[np.ndarray, np.ndarray, Sequence[str], int]:
    if data_dir is None:
        raise DataError(f"{MNIST}: no data folder; pass --data-dir or set BENCH_DATA")
    folder, size = data_dir / MNIST, spoken_digit_files.MNIST_SIZE
    image_NHW = read_idx(MNIST, idx_path(MNIST, folder, spoken_digit_files.IMAGES), (size, size))
    label_N = read_idx(MNIST, idx_path(MNIST, folder, spoken_digit_files.LABELS), ())
    if len(image_NHW) != len(label_N) or label_N.max(initial=0) >= len(DIGITS):
        raise DataError(f"{MNIST}: {folder} has {len(image_NHW)} images and {len(label_N)} labels up to "
                        f"{label_N.max(initial=0)}; expected a label an image, 0 to 9")  # fmt: skip
    return image_NHW[..., None], label_N.astype(np.int64), DIGITS, len(label_N)


def _divided(
    name: str, label_N: Tensor, classes: int, test_from: int, wanted: Mapping[Split, int | None], seed: int
) -> dict[Split, Tensor]:
    """The rows of every split, by rising label: of each class as many drawn ones as are wanted.

    Test rows are those from `test_from` on where there are any. Raises `ValueError` where a class has too few.
    """
    rows: dict[Split, Tensor] = {}
    key_N = noise.uniform(noise.sample_keys(seed, 1, indices=torch.arange(len(label_N))), 1)[:, 0]
    order_N = key_N.argsort(stable=True)
    drawn = [order_N[label_N[order_N] == label] for label in range(classes)]
    own_file = test_from < len(label_N)
    for split, count in wanted.items():
        tests = split == "test" and own_file
        left = [of[(of >= test_from) == tests] for of in drawn]
        most = min(map(len, left))
        count = most if count is None else count
        if not 1 <= count <= most:
            raise ValueError(f"{name}: {split}_per_class is {count}; allowed are 1 to {most}, all that the smallest "
                             "class has left")  # fmt: skip
        rows[split] = torch.cat([of[:count].sort().values for of in left])
        drawn = [of[~torch.isin(of, rows[split])] for of in drawn]
    return rows


def _digest(texts: Sequence[str], image_NHWC: np.ndarray, label_N: Tensor, rows: Mapping[Split, Tensor]) -> str:
    """SHA-256 of the prompts, and of images and labels of every split."""
    total = hashlib.sha256("\n".join(texts).encode())
    for split in SPLIT_KEYS:
        total.update(np.ascontiguousarray(image_NHWC[rows[split].numpy()]).tobytes())
        total.update(label_N[rows[split]].numpy().tobytes())
    return total.hexdigest()
