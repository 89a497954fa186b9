"""The schema of what a study stores: one `RunRecord` a run and one `CurvePoint` an epoch, as strict JSON.

Numbers that are not finite are the strings "NaN", "Infinity" and "-Infinity"; metrics are percent unless named rank.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)

from bench.errors import BadRecordError

SCHEMA_VERSION = 4
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _read_number(value: Any) -> Any:
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def _write_number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


Number = Annotated[
    float, BeforeValidator(_read_number), PlainSerializer(_write_number, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": sorted(_NON_FINITE)}]}),
]  # fmt: skip


class Outcome(StrEnum):
    """How a run ended; every one of them is a result."""

    OK = "ok"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    ERROR = "error"


# What can end differently when it is run again.
FAILURES = frozenset({Outcome.ERROR, Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY})


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class ProtocolName(_Stored):
    """Which protocol a run followed; the full text is stored once a study under its hash."""

    name: str
    hash: str


class Failure(_Stored):
    """Why a run is not ok: one line, where it happened, and the traceback where there was an exception."""

    reason: str
    epoch: int | None = None
    step: int | None = None
    traceback: str | None = None


class Seconds(_Stored):
    """Time of a run; `training` holds data, forward, backward, clipping and `optimizer_step`, not evaluation."""

    training: float = 0.0
    optimizer_step: float = 0.0
    evaluation: float = 0.0
    setup: float = 0.0
    total: float = 0.0


class MemoryUse(_Stored):
    """`peak_bytes`: of the device, or of the process on a CPU. `state_bytes`: tensors the optimizer keeps."""

    peak_bytes: int = 0
    state_bytes: int = 0


class DeviceUse(_Stored):
    """What the whole GPU was at while the run went on, other processes on it included; None: the device does not say.

    Of a run that was interrupted, only what came after it went on. Means and maxima are over `samples`.
    """

    samples: int
    mean_utilization_percent: float | None = None
    peak_memory_bytes: int | None = None
    max_temperature_celsius: float | None = None
    energy_joules: float | None = None


class Fingerprints(_Stored):
    """Equal for all optimizers of a block: SHA-256 of initial weights, of the first epoch's order and of the data, and
    the step-0 loss.

    Where the network is made of the user's files, `data` covers them too; `files` are theirs by name.
    """

    initial_weights: str
    batch_order: str
    initial_loss: Number | None = None
    data: str | None = None
    files: dict[str, str] = Field(default_factory=dict, exclude_if=lambda files: not files)


class Diagnostics(_Stored):
    """What a run's parameters went through.

    `zero_update` and `large_update`: parameters whose observed update was exactly 0 although they had a gradient, or
    larger than their own norm (those that start at zero left out), with the number of observations in which it was.
    """

    parameters: int = 0
    parameters_without_gradient: int = 0
    without_gradient: tuple[str, ...] = ()
    zero_update: dict[str, int] = Field(default_factory=dict)
    large_update: dict[str, int] = Field(default_factory=dict)
    observed_steps: int = 0
    skipped_steps: int = 0


class Environment(_Stored):
    """Where a run ran; no names of users, hosts or paths."""

    versions: dict[str, str]
    device: str
    processor: str
    cores: int
    threads: int
    driver: str | None = None
    deterministic: bool = False
    git_commit: str | None = None
    git_dirty: bool | None = None


class CurvePoint(_Stored):
    """The state of a run at the end of an epoch; seconds count from the start of the run.

    `loss`, `pair_losses` and `gradient_norm` are means over the epoch's steps, the gradient norm before clipping;
    `update_ratio` is ‖Δw‖ / ‖w‖ over all parameters at the epoch's first step; `metrics` are of the test split, empty
    in epochs without evaluation.
    """

    epoch: int
    step: int
    samples: int
    loss: Number
    pair_losses: dict[str, Number]
    gradient_norm: Number
    update_ratio: Number
    learning_rate: Number
    metrics: dict[str, Number]
    seconds: Seconds
    peak_bytes: int


class RunRecord(_Stored):
    """One run's result.

    Runs of one optimizer are alike where their `configuration` (settings, code, data) is. `metrics` are the last
    epoch's on the test split; a run that is not ok has none. `pools` counts the test items of each modality among which
    retrieval searched. `figures` are what a technique or a network found besides, by name.
    """

    schema_version: Literal[4] = SCHEMA_VERSION
    run_id: str
    protocol: ProtocolName
    optimizer: str
    configuration: str
    revision: int = 1
    source_digest: str | None = None
    hyperparameters: dict[str, JsonValue]
    seed: int
    outcome: Outcome
    failure: Failure | None = None
    metrics: dict[str, Number] = Field(default_factory=dict)
    validation_metrics: dict[str, Number] = Field(default_factory=dict)
    class_metrics: dict[str, Number] = Field(default_factory=dict)
    pools: dict[str, int] = Field(default_factory=dict)
    chance: dict[str, Number] = Field(default_factory=dict)
    ceiling: dict[str, Number] = Field(default_factory=dict)
    class_chance: dict[str, Number] = Field(default_factory=dict)
    loss: Number | None = None
    best_loss: Number | None = None
    epochs: int = 0
    steps: int = 0
    fingerprints: Fingerprints | None = None
    seconds: Seconds = Seconds()
    memory: MemoryUse = MemoryUse()
    device_use: DeviceUse | None = None
    diagnostics: Diagnostics = Diagnostics()
    figures: dict[str, Number] = Field(default_factory=dict)
    environment: Environment | None = None
    finished: str = Field(description="UTC time of the end, ISO 8601")
    command: str | None = None
    curve_sha256: str | None = None


def record_text(record: RunRecord) -> str:
    """The record as a file: its JSON, with the SHA-256 of all that comes before as the last key."""
    body = record.model_dump_json(indent=2).removesuffix("\n}")
    return f'{body},\n  "sha256": "{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'


TRAILER = re.compile(rb',\n  "sha256": "([0-9a-f]{64})"\n}\n\Z')


def read_record(text: str | bytes, source: str) -> RunRecord:
    """The record in `text`, of this schema or an older one.

    Raises `BadRecordError` that begins with `source` where the text is no record, was changed since it was written, or
    is of a newer schema.
    """
    content = text.encode() if isinstance(text, str) else text
    version = _schema_version(content)
    if version is not None and version > SCHEMA_VERSION:
        raise BadRecordError(f"{source}: schema version {version} is newer than this bench reads, which is up to "
                             f"{SCHEMA_VERSION}; update bench")  # fmt: skip
    trailer = TRAILER.search(content)
    body = content[: trailer.start()] if trailer else content
    if trailer:
        if hashlib.sha256(body).hexdigest() != trailer[1].decode():
            raise BadRecordError(f"{source}: content: not what was written (SHA-256); the file was changed")
        body += b"\n}"
    if version is not None and version in _UPDATES:
        return _read(RunRecord, json.dumps(_updated(json.loads(body), version)), source)
    record = _read(RunRecord, body, source)
    if trailer is None:
        raise BadRecordError(f"{source}: sha256: Field required")
    return record


def update_to_2(content: dict[str, Any]) -> dict[str, Any]:
    """Version 2 knows the digest of the curve."""
    return {**content, "curve_sha256": None}


def update_to_3(content: dict[str, Any]) -> dict[str, Any]:
    """Version 3 knows the sizes of the pools."""
    return {**content, "pools": {}}


def update_to_4(content: dict[str, Any]) -> dict[str, Any]:
    """Version 4 knows the figures of techniques."""
    return {**content, "figures": {}}


_UPDATES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: update_to_2, 2: update_to_3, 3: update_to_4}


def _updated(content: dict[str, Any], version: int) -> dict[str, Any]:
    """The content of an older schema as one of this."""
    for older in range(version, SCHEMA_VERSION):
        content = {**_UPDATES[older](content), "schema_version": older + 1}
    return content


class _Versioned(BaseModel):
    """Whatever claims a version; reading no more of it takes a tenth of the time."""

    model_config = ConfigDict(strict=True, extra="ignore")

    schema_version: int


def _schema_version(text: bytes) -> int | None:
    """The version that a text claims; None where it claims none."""
    try:
        return _Versioned.model_validate_json(text).schema_version
    except ValidationError:
        return None


def read_curve_point(text: str | bytes, source: str) -> CurvePoint:
    """The curve point in `text`; raises `BadRecordError` as `read_record` does."""
    return _read(CurvePoint, text, source)


Stored = TypeVar("Stored", bound=_Stored)


def _read(kind: type[Stored], text: str | bytes, source: str) -> Stored:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "content"
        raise BadRecordError(f"{source}: {place}: {first['msg']}") from None
