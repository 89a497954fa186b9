"""Any `torch.utils.data.Dataset` of yours as a workload's data, by reference.

    [workload]
    dataset = "bench.datasets.own_dataset:OwnDataset"
    [workload.dataset_options]
    reference = "my_package.data:Pairs"          # or "data.py:Pairs"; a module of the current folder will do too
    arguments = { root = "…" }

The class is called with `split` ("training", "validation", "test") and the arguments. Its items are dicts of tensors:
`text` (L,) int64 with 0 as padding at the end, `image` (3, H, W) and `audio` (1, F, T) float32, those of the workload's
modalities, and optionally an integer `match`: items of equal match are each other's positives. Everything is read once
and stays in memory; meanwhile the global generators of torch, numpy and Python have one seed, always the same, so that
a set that draws from them is the same in every run, whatever the run's seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args

import torch
from torch import Tensor

from bench.datasets.samples import (
    MODALITIES,
    DataError,
    Dataset,
    HeldOut,
    PixelLevels,
    Samples,
    SampleSource,
    Split,
    require_modalities,
)
from bench.datasets.words import TokenWords, token_words
from bench.registry import load_reference
from bench.seeding import globally_seeded

BUILD_SEED = 0  # of the global generators while the user's datasets are built and read
AXES = {"text": 1, "image": 3, "audio": 3}
SPLITS: tuple[Split, ...] = get_args(Split)
FIELDS = {"text": "text_NL", "image": "image_N3HW", "audio": "audio_N1FT"}


class OwnDataset(Dataset):
    """The three splits of a user's dataset, read at construction, resident on `device`.

    Texts are padded with 0 to the longest, at most `text_length`. `pixel_mean` and `pixel_deviation` are what images
    of levels in [0, 1] were normalised with, by channel (0 and 1 where they were not); only techniques that change
    colours need to know. Raises `DataError` naming split and item of what is not as above, `ValueError` where
    `reference` leads to nothing that can be called.
    """

    def __init__(
        self,
        *,
        reference: str,
        arguments: Mapping[str, Any] | None = None,
        modalities: Sequence[str] = MODALITIES,
        text_length: int = 77,
        pixel_mean: Sequence[float] | None = None,
        pixel_deviation: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        wanted = require_modalities(modalities)
        if text_length < 1:
            raise ValueError(f"text_length is {text_length}; allowed is a count >= 1")
        self._pixel_levels = _pixel_levels(pixel_mean, pixel_deviation)
        self._names = [name for name in MODALITIES if name in wanted]
        total = hashlib.sha256()
        self._samples: dict[Split, Samples] = {}
        build = _found(reference)
        with globally_seeded(BUILD_SEED):  # of all three: splits seeded alike would draw alike
            read: dict[Split, Samples] = {
                split: self._read(f"{reference}, {split}", build(split=split, **(arguments or {})), text_length)
                for split in SPLITS
            }
        for split, samples in read.items():
            for field in fields(samples):
                if (value := getattr(samples, field.name)) is not None:
                    total.update(f"{split} {field.name} {tuple(value.shape)}".encode() + value.numpy().tobytes())
            self._samples[split] = samples.to(device)
        self._digest = total.hexdigest()
        largest = max((int(s.text_NL.max()) for s in self._samples.values() if s.text_NL is not None), default=0)
        self._network_options = {"vocab_size": largest + 1} if "text" in wanted else {}

    @property
    def training_size(self) -> int:
        return len(self._samples["training"])

    def training(self, epoch: int, noise_seed: int) -> Samples:
        del epoch, noise_seed
        return self._samples["training"]

    def held_out(self, split: HeldOut) -> Samples:
        return self._samples[split]

    def fixed_items(self, modality: str, split: Split) -> Samples:
        del modality
        return self._samples[split]

    def words(self, training: SampleSource) -> TokenWords | None:
        """A token is a word: the set keeps no text."""
        return token_words(training, self._network_options.get("vocab_size", 0))

    @property
    def pixel_levels(self) -> PixelLevels | None:
        return self._pixel_levels

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def network_options(self) -> Mapping[str, int]:
        return self._network_options

    def _read(self, place: str, source: Any, text_length: int) -> Samples:
        count = len(source)
        if count < 2:
            raise DataError(f"{place}: has {count} items; at least two are needed")
        items = [self._checked(f"{place}, item {i}", source[i]) for i in range(count)]
        matched = ["match" in item for item in items]
        if any(matched) and not all(matched):
            raise DataError(f"{place}, item {matched.index(False)}: has no match; other items have one")
        match_N = torch.tensor([int(item["match"]) for item in items]) if all(matched) else torch.arange(count)
        columns: dict[str, Tensor] = {}
        for name in self._names:
            values = [item[name][:text_length] if name == "text" else item[name] for item in items]
            columns[FIELDS[name]] = _padded(values) if name == "text" else _stacked(place, name, values)
        mask = columns["text_NL"] != 0 if "text" in self._names else None
        if mask is not None and not mask.any(dim=1).all():
            raise DataError(
                f"{place}, item {int((~mask.any(dim=1)).nonzero()[0])}: its text has no token but padding (0)"
            )
        return Samples(label_N=match_N, match_N=match_N, text_mask_NL=mask, encoded=None, **columns)

    def _checked(self, place: str, item: Any) -> Mapping[str, Any]:
        """The item where it holds the modalities in their shapes, as tensors."""
        if not isinstance(item, Mapping):
            raise DataError(f"{place}: is {type(item).__name__}; expected a dict with {', '.join(self._names)}")
        found: dict[str, Any] = {key: item[key] for key in ("match",) if key in item}
        for name in self._names:
            if name not in item:
                raise DataError(f"{place}: has no {name}; keys are {', '.join(map(str, item))}")
            value = torch.as_tensor(item[name])
            if value.dim() != AXES[name] or 0 in value.shape:
                raise DataError(
                    f"{place}: {name} has the shape {tuple(value.shape)}; expected {AXES[name]} axes, none empty"
                )
            value = value.long() if name == "text" else value.float()
            if name == "text" and int(value.min()) < 0:
                raise DataError(f"{place}: text has the id {int(value.min())}; allowed are ids >= 0")
            if not value.isfinite().all():
                raise DataError(f"{place}: {name} is not finite")
            found[name] = value
        return found


def _found(reference: str) -> Callable[..., Any]:
    """What `module:Class` or `file.py:Class` names."""
    module, attribute, _ = load_reference(reference, "dataset")
    found = getattr(module, attribute, None)
    if not callable(found):
        raise ValueError(f"dataset {reference!r}: its module has no class {attribute!r}")
    return found


def _pixel_levels(mean: Sequence[float] | None, deviation: Sequence[float] | None) -> PixelLevels | None:
    """Of the options; both are given, or none is."""
    if mean is None and deviation is None:
        return None
    try:
        m1, m2, m3 = map(float, mean or ())
        d1, d2, d3 = map(float, deviation or ())
        if min(d1, d2, d3) > 0:
            return PixelLevels(mean=(m1, m2, m3), deviation=(d1, d2, d3))
    except (TypeError, ValueError):
        pass
    raise ValueError(f"pixel_mean is {mean} and pixel_deviation {deviation}; allowed are three numbers each, "
                     "deviations above 0, or neither of the two")  # fmt: skip


def _padded(texts: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True)


def _stacked(place: str, name: str, values: Sequence[Tensor]) -> Tensor:
    shapes = [tuple(value.shape) for value in values]
    if odd := next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None):
        raise DataError(f"{place}, item {odd}: {name} has the shape {shapes[odd]}; item 0 has {shapes[0]}")
    return torch.stack(list(values))
