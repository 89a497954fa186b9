"""What a protocol says of each technique; the numbers are the documents'. None: off, as in every built-in protocol.

A technique that is on is part of the protocol's hash. `TECHNIQUES` says of each what it is in a line.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, field_validator, model_validator

Share = Annotated[float, Field(ge=0, le=1)]


Equal = Literal["match", "text", "label"]


def _several(value: Any) -> Any:
    """One word for a list of one."""
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, str) else value


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class LearnedTemperature(_Options):
    """The temperature is trained, from the workload's; cosines are multiplied by at most `max_scale`."""

    max_scale: float = Field(default=100.0, gt=0)


class Reconstruction(_Options):
    """+ `weight` · mean squared error of the audio decoder of the text and image latent."""

    weight: float = Field(default=0.5, gt=0)


class Queue(_Options):
    """The last `size` embeddings of each modality as further negatives."""

    size: int = Field(default=16384, ge=1)


class HardNegatives(_Options):
    """Negatives that count `factor` times: those within `margin` below the mean positive, or the hardest `share`.

    From the epoch after the first `from_progress` of all epochs.
    """

    strategy: Literal["semi_hard", "hardest"] = "semi_hard"
    margin: float = Field(default=0.2, gt=0)
    share: float = Field(default=0.1, gt=0, le=1)
    factor: float = Field(default=2.0, gt=1)
    from_progress: float = Field(default=0.0, ge=0, lt=1)


class Supervised(_Options):
    """All samples of one label are positives of each other, each with the same weight."""


class MultiPositive(_Options):
    """Samples that are equal in one of `equal` are positives: captions of one image (match), texts, labels."""

    equal: Annotated[tuple[Equal, ...], BeforeValidator(_several)] = Field(default=("match",), min_length=1)


class SigLIP(_Options):
    """A sigmoid for every pair of samples instead of a softmax; scale and bias are trained."""

    initial_scale: float = Field(default=10.0, gt=0)
    initial_bias: float = -10.0


class Classification(_Options):
    """Cross-entropy of the label by one linear head for all modalities, + `contrastive_weight` · the pairs' losses."""

    contrastive_weight: float = Field(default=0.3, ge=0)


class Distillation(_Options):
    """(1 − α) · T² · KL(teacher ‖ student) + α · the loss itself; `teacher` is a file of `bench run --save-best`.

    What the file holds, `sha256`, is part of a protocol's hash, and where it lies is not.
    """

    teacher: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    temperature: float = Field(default=2.0, gt=0)
    alpha: Share = 0.5

    @model_validator(mode="before")
    @classmethod
    def _of_the_file(cls, content: Any) -> Any:
        """Where there is no digest yet, that of the file as it is now."""
        if not isinstance(content, dict) or content.get("sha256") or not isinstance(content.get("teacher"), str):
            return content
        try:
            return {**content, "sha256": hashlib.sha256(Path(content["teacher"]).read_bytes()).hexdigest()}
        except OSError as error:
            raise ValueError(f"teacher {content['teacher']}: {error.strerror or error}") from None


class ImageAugmentation(_Options):
    """Random resized crop, flip, colour jitter and grey, in training alone.

    A crop has at least the share `smallest_crop` of the area; half of the images are mirrored. Brightness, contrast and
    saturation are multiplied by 1 ± `jitter` at most; the share `grey` of the images loses its colours.
    """

    smallest_crop: float = Field(default=0.7, gt=0, le=1)
    flip: bool = True
    jitter: float = Field(default=0.3, ge=0, lt=1)
    grey: Share = 0.1


class TextAugmentation(_Options):
    """A share of captions loses words, or gets synonyms of the user's table; short captions stay.

    `words` is the share of a caption's words that are changed: half are deleted, half replaced. `synonyms` has texts by
    word, in lower case; without it nothing is replaced.
    """

    captions: Share = 0.3
    words: Share = 0.1
    longest_kept: int = Field(default=3, ge=0)
    synonyms: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @field_validator("synonyms")
    @classmethod
    def _words_by_word(cls, synonyms: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for word, others in synonyms.items():
            if (
                word.split() != [word]
                or word != word.lower()
                or not others
                or not all(other.split() for other in others)
            ):
                raise ValueError(
                    f"{word!r} stands for {list(others)}; allowed are a word in lower case and texts for it"
                )
        return synonyms


class SpecAugment(_Options):
    """Bands of time and frequency of a spectrogram are set to its mean; widths are shares of its size.

    A mask is as wide as its share at most, in time of the frames that are no padding.
    """

    time_masks: int = Field(default=2, ge=0)
    time_width: Share = 0.1
    frequency_masks: int = Field(default=2, ge=0)
    frequency_width: Share = 0.2


class MixUp(_Options):
    """Images are mixed with another's of the batch, λ ~ Beta(α, α), and so are the targets; or a box is cut in.

    One λ and one permutation a step; with "cutmix" a box of area 1 − λ is another image's.
    """

    alpha: float = Field(default=0.2, gt=0)
    mode: Literal["mixup", "cutmix"] = "mixup"


class Curriculum(_Options):
    """Samples with captions over a length that grows with training are drawn less often.

    A caption is as difficult as min(1, easiest + (1 − easiest) · its words / `words`), and weighs `weight_above` where
    that is over easiest + (1 − easiest) · min(1, epochs done / (`full_at` · all epochs)), else 1. With replacement.
    """

    words: int = Field(default=20, ge=1)
    easiest: float = Field(default=0.3, ge=0, le=1)
    full_at: float = Field(default=0.7, gt=0, le=1)
    weight_above: float = Field(default=0.2, gt=0, le=1)


class SemanticGroups(_Options):
    """Batches made of groups of at least `size` samples of one match id; positives must be by match id or label."""

    size: int = Field(default=2, ge=2)


class Accumulation(_Options):
    """A batch in `micro_batches` parts whose gradients are those of the whole: embeddings first, then each part."""

    micro_batches: int = Field(default=4, ge=2)


class Checkpointing(_Options):
    """Activations of each encoder are computed again in the backward pass instead of being kept."""


class Stage(_Options):
    """Some epochs of training in which the parameters that a pattern of `freeze` is found in stand still.

    `rates` multiplies the learning rate of those that a pattern is found in; the last that is found holds.
    """

    epochs: int = Field(ge=1)
    freeze: tuple[str, ...] = ()
    rates: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _patterns(self) -> Stage:
        for pattern in (*self.freeze, *self.rates):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return self


class Stages(_Options):
    """Training in stages, one after the other; their epochs sum to the protocol's."""

    stages: tuple[Stage, ...] = Field(min_length=1)

    @property
    def rates(self) -> tuple[dict[str, float], ...]:
        """The patterns of each stage with their factors."""
        return tuple(stage.rates for stage in self.stages)

    def at(self, epoch: int) -> Stage:
        """The stage of an epoch, counted from 1."""
        for stage in self.stages:
            if epoch <= stage.epochs:
                return stage
            epoch -= stage.epochs
        raise ValueError(f"epoch {epoch} is after the last stage")


class TestTimeTraining(_Options):
    """After training the test split is evaluated once more with memories that go on learning, which are put back."""


class LanguageModel(_Options):
    """+ `weight` · cross-entropy of the next token, where the network has a language model."""

    weight: float = Field(default=0.5, gt=0)


class Techniques(_Options):
    """All techniques of a protocol, by name."""

    learned_temperature: LearnedTemperature | None = None
    reconstruction: Reconstruction | None = None
    queue: Queue | None = None
    hard_negatives: HardNegatives | None = None
    supervised: Supervised | None = None
    multi_positive: MultiPositive | None = None
    siglip: SigLIP | None = None
    classification: Classification | None = None
    distillation: Distillation | None = None
    language_model: LanguageModel | None = None
    image_augmentation: ImageAugmentation | None = None
    text_augmentation: TextAugmentation | None = None
    spec_augment: SpecAugment | None = None
    mixup: MixUp | None = None
    curriculum: Curriculum | None = None
    semantic_groups: SemanticGroups | None = None
    accumulation: Accumulation | None = None
    checkpointing: Checkpointing | None = None
    stages: Stages | None = None
    test_time_training: TestTimeTraining | None = None

    @property
    def on(self) -> tuple[str, ...]:
        """The names of those that are on."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _one_kind_of_positives(self) -> Techniques:
        for group in _EXCLUSIVE:
            if len(both := [name for name in group if getattr(self, name) is not None]) > 1:
                raise ValueError(f"{' and '.join(both)} exclude each other; allowed is one of them")
        return self

    def hashed(self) -> dict[str, Any]:
        """What a protocol's hash covers: those that are on."""
        content = self.model_dump(mode="json", exclude_none=True, exclude={"distillation": {"teacher"}})
        for stage in content.get("stages", {}).get("stages", []):
            stage["rates"] = list(stage["rates"].items())  # in order: later ones overrule
        return content


_EXCLUSIVE = (
    ("supervised", "multi_positive", "siglip"),
    ("learned_temperature", "siglip"),
    ("siglip", "queue"),
    ("siglip", "hard_negatives"),
    ("curriculum", "semantic_groups"),
    ("language_model", "accumulation"),  # its mean is over tokens, of which parts have different numbers
)
# With one of these the lowest loss is not that of the plain objective.
CHANGES_THE_LOSS = frozenset({
    "learned_temperature", "reconstruction", "queue", "hard_negatives", "supervised", "multi_positive", "siglip",
    "classification", "distillation", "language_model", "mixup", "semantic_groups",
    "curriculum",
})  # fmt: skip
# Of these the passes of a step know nothing: data arrives changed, or something happens between steps.
OUTSIDE_THE_STEP = frozenset({
    "image_augmentation", "text_augmentation", "spec_augment", "semantic_groups", "test_time_training",
})  # fmt: skip


def option_model(name: str) -> type[BaseModel]:
    """The options of the technique `name`, one of `Techniques`' fields."""
    annotation: Any = Techniques.model_fields[name].annotation
    return next(kind for kind in annotation.__args__ if kind is not type(None))


def description(name: str) -> str:
    """What a technique is, in a line."""
    return (option_model(name).__doc__ or "").strip().splitlines()[0]


def defaults(name: str) -> dict[str, JsonValue]:
    """A technique's options that have a default."""
    fields = option_model(name).model_fields
    return {key: field.get_default(call_default_factory=True) for key, field in fields.items()
            if not field.is_required()}  # fmt: skip
