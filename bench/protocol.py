"""A protocol: everything that can change a run's result apart from optimizer and seed; frozen and hashed.

The number of seeds is kept beside it and is not hashed: five seeds and then five more are one study.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from bench.cadence import Level, distinct
from bench.schedule import Schedule, ScheduleOptions
from bench.techniques.options import Techniques
from bench.workload import Workload

NOT_HASHED = {"name", "title", "seeds", "rates", "settings"}
# Hashed only where they say something: a protocol without them keeps the hash that it had before there were any.
HASHED_WHERE_SET = ("schedule_options", "rate_multipliers", "start", "techniques", "cadence")
_WORKLOAD_NOT_HASHED = {"name", "title"}


def _none_by_name(value: Any) -> Any:
    """TOML has no null: there it is the word "none"."""
    return None if value == "none" else value


def _levels_by_name(value: Any) -> Any:
    """The same for levels, whose array is a list once a function has seen it."""
    return tuple(value) if isinstance(value, list) else _none_by_name(value)


class Start(BaseModel):
    """What runs begin with instead of fresh weights: a file of `bench.weights`, and whether its optimizer goes on."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    optimizer_state: bool


class Protocol(BaseModel):
    """Rules of a study.

    `rates` (whose settings optimizers get) and `settings` (what this protocol changes of them, by optimizer) reach a
    run as its hyper-parameters.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    name: str
    title: str = ""
    workload: Workload
    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=32, ge=2)
    drop_last: bool = True
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    clip_norm: Annotated[float | None, BeforeValidator(_none_by_name)] = Field(default=1.0, gt=0)
    schedule: Schedule = "constant"
    warmup: float = Field(
        default=0.0, ge=0, lt=1, description="share of all steps in which the rate rises to its value"
    )
    schedule_options: ScheduleOptions = ScheduleOptions()
    cadence: Annotated[tuple[Level, ...] | None, BeforeValidator(_levels_by_name), AfterValidator(distinct)] = None
    evaluate_every: int = Field(default=1, ge=1, description="epochs between evaluations; the last is always evaluated")
    primary_metric: str = "avg_r1"
    rate_multipliers: dict[str, float] = Field(
        default_factory=dict,
        description="factors on the rates of parameters by patterns of their names; the last one holds",
    )
    diverged_loss_factor: float = Field(default=10.0, gt=1)
    diverged_norm_factor: float = Field(default=1e4, gt=1)
    seeds: int = Field(default=5, ge=1)
    rates: Literal["default", "documents"] = "default"
    settings: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    start: Start | None = Field(default=None, description="of runs that go on from stored weights; see bench continue")
    techniques: Techniques = Techniques()

    @model_validator(mode="after")
    def _one_rise(self) -> Protocol:
        if self.schedule == "one_cycle" and self.warmup:
            raise ValueError(f"warmup is {self.warmup} and schedule one_cycle rises itself; allowed with it is 0")
        return self

    @model_validator(mode="after")
    def _all_epochs_in_stages(self) -> Protocol:
        if self.techniques.stages is not None:
            epochs = [stage.epochs for stage in self.techniques.stages.stages]
            if sum(epochs) != self.epochs:
                told = " + ".join(map(str, epochs))
                raise ValueError(f"stages have {told} epochs, the protocol {self.epochs}; allowed are equal sums")
        return self

    @field_validator("rate_multipliers")
    @classmethod
    def _patterns(cls, multipliers: dict[str, float]) -> dict[str, float]:
        for pattern, factor in multipliers.items():
            if factor <= 0:
                raise ValueError(f"{pattern!r} is {factor}; allowed are numbers > 0, and frozen parameters")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return multipliers

    @property
    def stage_rates(self) -> tuple[dict[str, float], ...]:
        """By stage of training, patterns of names with factors on the rate; one stage where training has none."""
        return self.techniques.stages.rates if self.techniques.stages is not None else ({},)

    @property
    def chance_loss(self) -> float:
        """The loss of embeddings that are all alike: ln of the batch size for every pair of modalities."""
        modalities = len(self.workload.modalities)
        return modalities * (modalities - 1) / 2 * math.log(self.batch_size)

    def canonical_json(self) -> str:
        """The hashed content: sorted keys, no spaces, names and counts of seeds left out.

        So are options that came later, where they are off: a protocol without them keeps its hash.
        """
        content = self.model_dump(mode="json", exclude=NOT_HASHED)
        content["workload"] = {k: v for k, v in content["workload"].items() if k not in _WORKLOAD_NOT_HASHED}
        if self.workload.kind == "retrieval":
            del content["workload"]["kind"]
        for name in HASHED_WHERE_SET:
            if getattr(self, name) == type(self).model_fields[name].get_default(call_default_factory=True):
                del content[name]
        if not self.workload.model_reads_files:
            del content["workload"]["model_reads_files"]
        if "rate_multipliers" in content:
            content["rate_multipliers"] = list(self.rate_multipliers.items())  # in order: later ones overrule
        if "techniques" in content:
            content["techniques"] = self.techniques.hashed()
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:12]
