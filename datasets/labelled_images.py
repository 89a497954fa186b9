"""Images of classes, and prompts that name them: Fashion-MNIST, CIFAR-10 and CIFAR-100, from torchvision's files.

Every image of a class matches its one prompt: image to text is classification without a head, text to image asks for
any image of the class. Files lie where torchvision has them, FashionMNIST/raw, cifar-10-batches-py or
cifar-100-python, in the data folder or one of its own named after the set; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.datasets import noise, queries
from bench.datasets.images import NORMALISED
from bench.datasets.rows import RowSamples, Stored
from bench.datasets.samples import (
    DataError,
    Dataset,
    HeldOut,
    Modality,
    PixelLevels,
    SampleSource,
    Split,
    require_modalities,
)
from bench.datasets.tokenizers import CharacterTokenizer
from bench.datasets.words import TextWords


@dataclass(frozen=True, slots=True)
class _Set:
    """A set of torchvision: its class there, its folder, and images for training."""

    loader: str
    folder: str


SETS: Mapping[str, _Set] = {
    "fashion_mnist": _Set("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": _Set("CIFAR10", "cifar-10-batches-py"),
    "cifar100": _Set("CIFAR100", "cifar-100-python"),
}


# What torchvision raises at damaged files; of a file of another kind it takes the beginning for a type or a shape.
FAULTS = (RuntimeError, OSError, ValueError, EOFError, AssertionError, LookupError, TypeError)


def load(name: str, data_dir: Path | None, train: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images uint8 [N, H, W, C], labels int64 [N] and the classes' names of torchvision's training or test file.

    Raises `DataError` where the files are missing, damaged, or do not go together. Of CIFAR they are the published
    ones by torchvision's checksums; of Fashion-MNIST torchvision only looks whether they exist.
    """
    if name not in SETS:
        raise ValueError(f"name is {name!r}; allowed are {', '.join(SETS)}")
    if data_dir is None:
        raise DataError(f"{name}: no data folder; pass --data-dir or set BENCH_DATA")
    roots = [root for root in (data_dir, data_dir / name) if (root / SETS[name].folder).is_dir()]
    if not roots:
        raise DataError(f"{name}: {data_dir} holds no {SETS[name].folder}; expected the files as torchvision has them")
    from torchvision import datasets as torchvision_sets

    try:
        found: Any = getattr(torchvision_sets, SETS[name].loader)(roots[0], train=train, download=False)
    except FAULTS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name}: {roots[0] / SETS[name].folder} is not complete or damaged ({reason})") from error
    images, label_N = np.asarray(found.data), np.asarray(found.targets, np.int64)
    classes = [str(each) for each in found.classes]
    _require_labels(f"{name}: {roots[0] / SETS[name].folder}: the {'training' if train else 'test'} file", images,
                    label_N, len(classes))  # fmt: skip
    return images[..., None] if images.ndim == 3 else images, label_N, classes


def _require_labels(place: str, images: np.ndarray, label_N: np.ndarray, classes: int) -> None:
    """Raises `DataError` unless every image has a label that is one of the classes."""
    if label_N.ndim != 1 or len(images) != len(label_N):
        raise DataError(f"{place} has {len(images)} images and {label_N.size} labels; expected a label an image")
    if len(label_N) and not 0 <= label_N.min() <= label_N.max() < classes:
        odd = next(int(label) for label in label_N if not 0 <= label < classes)
        raise DataError(f"{place} has a label {odd}; expected 0 to {classes - 1}")


def prepare(image_NHWC: np.ndarray, size: int) -> Tensor:
    """uint8 [N, 3, S, S]: grey as three equal channels, resized where another size is asked for."""
    from torchvision.transforms.v2 import functional

    image_N3HW = torch.from_numpy(image_NHWC).permute(0, 3, 1, 2)
    if image_N3HW.shape[1] == 1:
        image_N3HW = image_N3HW.expand(-1, 3, -1, -1)
    return functional.resize(image_N3HW, [size, size], antialias=True).contiguous()


class LabelledImages(Dataset):
    """Training images, of which `validation` drawn ones are held out, and the test images; resident on `device`.

    `prompt` holds one {} for the class's name; `limit` keeps the first so many images of each split.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None,
        name: str,
        modalities: Sequence[str] = ("text", "image"),
        prompt: str = "a photo of a {}",
        image_size: int = 32,
        validation: int = 5000,
        limit: int | None = None,
        data_seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        require_modalities(modalities, ("text", "image"))
        if prompt.count("{}") != 1:
            raise ValueError(f"prompt is {prompt!r}; allowed is a text with one {{}} for the class's name")
        if limit is not None and limit < 2:
            raise ValueError(f"limit is {limit}; allowed is a count >= 2")
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}; allowed is a count >= 1")
        image_NHWC, label_N, classes = load(name, data_dir, train=True)
        test_NHWC, test_label_N, _ = load(name, data_dir, train=False)
        if not 2 <= validation <= len(label_N) - 2:
            raise ValueError(f"validation is {validation}; allowed is 2 to {len(label_N) - 2}")
        order_N = noise.sample_keys(data_seed, indices=torch.arange(len(label_N))).argsort().numpy()
        parts: dict[Split, tuple[np.ndarray, np.ndarray]] = {
            "training": (image_NHWC[rest := np.sort(order_N[validation:])[:limit]], label_N[rest]),
            "validation": (image_NHWC[held := np.sort(order_N[:validation])[:limit]], label_N[held]),
            "test": (test_NHWC[:limit], test_label_N[:limit]),
        }
        self._texts = texts = [prompt.format(each.replace("_", " ").lower()) for each in classes]
        tokenizer = CharacterTokenizer()
        text_CL, mask_CL = tokenizer.encode_batch(texts, max(len(tokenizer.encode(text)) for text in texts))
        self._network_options, self._image_size = {"vocab_size": tokenizer.vocab_size}, image_size
        self._text_length = text_CL.shape[1]
        self._digest = _digest(texts, parts)
        self._rows = {
            split: _rows(Stored(
                device=torch.device(device), text_NL=text_CL.to(device), length_N=mask_CL.sum(dim=1).to(device),
                pixels_N3SS=prepare(images, image_size), image_size=image_size,
            ).resident(), torch.from_numpy(labels))
            for split, (images, labels) in parts.items()
        }  # fmt: skip

    @property
    def training_size(self) -> int:
        return len(self._rows["training"])

    def training(self, epoch: int, noise_seed: int) -> RowSamples:
        del epoch, noise_seed
        return self._rows["training"]

    def held_out(self, split: HeldOut) -> RowSamples:
        return self._rows[split]

    def pools(self, split: HeldOut) -> Sequence[RowSamples]:
        return [self._rows[split].items(name) for name in ("text", "image")]

    def words(self, training: SampleSource) -> TextWords | None:
        assert isinstance(training, RowSamples)
        return training.words(self._texts, CharacterTokenizer)

    @property
    def pixel_levels(self) -> PixelLevels:
        return NORMALISED

    def own_row(self, modality: Modality, source: str) -> tuple[Tensor, Tensor | None]:
        if modality == "image":
            return queries.imagenet_row(Path(source), self._image_size, self._image_size), None
        if modality == "text":
            return queries.text_row(CharacterTokenizer(), source, self._text_length)
        return super().own_row(modality, source)

    def captions(self, text_NL: Tensor, mask_NL: Tensor | None) -> list[str]:
        return queries.captions(CharacterTokenizer(), text_NL, mask_NL)

    def pixels(self, image_N3HW: Tensor) -> Tensor:
        return queries.imagenet_pixels(image_N3HW)

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def network_options(self) -> Mapping[str, int]:
        return self._network_options


def _rows(stored: Stored, label_N: Tensor) -> RowSamples:
    """One row an image, whose text is its class's."""
    row_N = torch.arange(len(label_N))
    places = {"text": label_N, "image": row_N}
    return RowSamples(stored=stored, label_N=label_N, match_N=label_N, row_N=row_N, places=places).to(stored.device)


def _digest(texts: Sequence[str], parts: Mapping[Split, tuple[np.ndarray, np.ndarray]]) -> str:
    total = hashlib.sha256("\n".join(texts).encode())
    for images, labels in parts.values():
        total.update(np.ascontiguousarray(images).tobytes() + labels.tobytes())
    return total.hexdigest()
