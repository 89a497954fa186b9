"""The options of real data, as a protocol writes them: validated, and refused in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.datasets.audio import LogMel, require_bands

CROP_MARGIN = 8 / 7  # the usual 256 stored pixels for crops of 224


class Options(BaseModel):
    """Keys and values of one table."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class ImageOptions(Options):
    """Images of `size` pixels a side; with `augment` "crop_flip", training takes random crops of a larger square."""

    size: int = Field(ge=8, le=4096)
    augment: Literal["none", "crop_flip"] = "none"

    @property
    def stored_size(self) -> int:
        return self.size if self.augment == "none" else round(self.size * CROP_MARGIN)


class MaskOptions(Options):
    """SpecAugment: how many masks of up to which width, in frames and in mel bands."""

    time_masks: int = Field(ge=0)
    time_width: int = Field(ge=0)
    frequency_masks: int = Field(ge=0)
    frequency_width: int = Field(ge=0)


class AudioOptions(Options):
    """Log-mel spectrograms of `frames` frames; `rate` in hertz, FFT, window and hop in samples."""

    frames: int = Field(ge=16)
    rate: int = Field(default=16000, ge=1000)
    n_fft: int = Field(default=400, ge=16)
    window: int = Field(default=400, ge=16)
    hop: int = Field(default=160, ge=1)
    mels: int = Field(default=80, ge=16)
    spec_augment: MaskOptions | None = None

    @model_validator(mode="after")
    def _require_possible(self) -> Self:
        if self.window > self.n_fft:
            raise ValueError(f"window is {self.window}; allowed is at most n_fft, {self.n_fft}")
        if self.spec_augment is not None and self.spec_augment.frequency_width > self.mels:
            width = self.spec_augment.frequency_width
            raise ValueError(f"spec_augment.frequency_width is {width}; allowed is at most mels, {self.mels}")
        require_bands(self.log_mel)
        return self

    @property
    def log_mel(self) -> LogMel:
        return LogMel(rate=self.rate, n_fft=self.n_fft, window=self.window, hop=self.hop, mels=self.mels)


class RowOptions(Options):
    """Which samples there are.

    `captions`: "all" = every caption is a sample of every epoch; "one" = the captions of an image (or clip) take
    turns, one drawn each epoch; "first" = there is no other. `absent`: whether files that are missing or broken are
    an "error", or "excluded" and named. `limit` keeps the first so many images (or clips) of each split;
    `text_length` is how many tokens of a caption are taken.
    """

    captions: Literal["all", "one", "first"] = "all"
    absent: Literal["error", "excluded"] = "error"
    limit: int | None = Field(default=None, ge=2)
    text_length: int = Field(default=77, ge=1)


OptionsOf = TypeVar("OptionsOf", bound=Options)


def read_options(kind: type[OptionsOf], name: str, given: Mapping[str, Any] | None) -> OptionsOf:
    """`given` as options; raises `ValueError` in one line naming key, value and what is allowed."""
    keys = ", ".join(kind.model_fields)
    if given is None:
        raise ValueError(f"{name} is missing; its keys are {keys}")
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (name, *first["loc"]) if part)
        if first["type"] == "value_error":  # options that do not go together
            raise ValueError(f"{place}: {first['msg'].removeprefix('Value error, ')}; keys are {keys}") from None
        value = "" if first["type"] == "missing" else f" is {first['input']!r}"
        raise ValueError(f"{place}{value}: {first['msg']}; keys are {keys}") from None
