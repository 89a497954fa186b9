"""A protocol: everything that can change a run's result apart from optimizer and seed; frozen and hashed.

The number of seeds is kept beside it and is not hashed: five seeds and then five more are one study.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bench.errors import UsageError
from bench.schedule import Schedule
from bench.suggestions import unknown
from bench.workload import WORKLOADS, Workload

NOT_HASHED = {"name", "title", "seeds", "rates"}
_WORKLOAD_NOT_HASHED = {"name", "title"}


def _none_by_name(value: Any) -> Any:
    """TOML has no null: there it is the word "none"."""
    return None if value == "none" else value


class Protocol(BaseModel):
    """Rules of a study; `rates` (whose settings optimizers get) reaches a run as its hyper-parameters."""

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
    evaluate_every: int = Field(default=1, ge=1, description="epochs between evaluations; the last is always evaluated")
    primary_metric: str = "avg_r1"
    diverged_loss_factor: float = Field(default=10.0, gt=1)
    diverged_norm_factor: float = Field(default=1e4, gt=1)
    seeds: int = Field(default=5, ge=1)
    rates: Literal["default", "documents"] = "default"

    def canonical_json(self) -> str:
        """The hashed content: sorted keys, no spaces, names and counts of seeds left out."""
        content = self.model_dump(mode="json", exclude=NOT_HASHED)
        content["workload"] = {k: v for k, v in content["workload"].items() if k not in _WORKLOAD_NOT_HASHED}
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:12]


# Post-norm layers leave the class level (R@1 about 4 %) only after a warm-up: at a constant 1e-3 Adam stays there.
_RECIPE: dict[str, Any] = {"schedule": "cosine", "warmup": 0.1}

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="documents",
            title="the documents' optimizer study as it was",
            workload=WORKLOADS["documents"],
            drop_last=False,
            precision="bf16",
            rates="documents",
        ),
        Protocol(
            name="standard",
            title="the full network on paired data",
            workload=WORKLOADS["paired"],
            precision="bf16",
            **_RECIPE,
        ),
        Protocol(
            name="mini",
            title="the same network and recipe at reduced width and image size",
            workload=WORKLOADS["paired_small"],
            **_RECIPE,
        ),
        Protocol(
            name="digits",
            title="real images, recordings and captions of digits at mini size",
            workload=WORKLOADS["spoken_digits"],
            **_RECIPE,
        ),
    )
}


def default_protocol() -> tuple[Protocol, str]:
    """The protocol for this machine and the reason: `standard` with a CUDA device, else `mini`."""
    import torch

    if torch.cuda.is_available():
        return PROTOCOLS["standard"], "a CUDA device is present"
    return PROTOCOLS["mini"], "no CUDA device is present"


def load_protocol(name_or_path: str) -> Protocol:
    """A built-in protocol by name or a user's TOML file (`extends = "standard"` and what differs).

    Raises `UsageError` naming the file and key that is not allowed.
    """
    if name_or_path in PROTOCOLS:
        return PROTOCOLS[name_or_path]
    path = Path(name_or_path)
    if path.suffix != ".toml":
        raise UsageError(unknown("protocol", name_or_path, PROTOCOLS) + ", or a .toml file")
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError:
        raise UsageError(f"protocol file {name_or_path!r} does not exist") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"protocol file {name_or_path!r} is not readable TOML: {error}") from None
    base = content.pop("extends", "standard")
    if not isinstance(base, str) or base not in PROTOCOLS:
        raise UsageError(f"protocol file {name_or_path!r}: extends: {unknown('protocol', str(base), PROTOCOLS)}")
    return changed(PROTOCOLS[base], {"name": path.stem, "title": "", **content}, f"protocol file {name_or_path!r}")


def changed(base: Protocol, changes: dict[str, Any], source: str) -> Protocol:
    """`base` with `changes` (nested tables merged; a workload also by name), validated.

    Raises `UsageError` that begins with `source` and names the key and value.
    """
    content = base.model_dump(mode="json")
    workload = changes.get("workload")
    if isinstance(workload, str):
        if workload not in WORKLOADS:
            raise UsageError(f"{source}: {unknown('workload', workload, WORKLOADS)}")
        content["workload"] = WORKLOADS[workload].model_dump(mode="json")
        changes = {key: value for key, value in changes.items() if key != "workload"}
    try:
        return Protocol.model_validate_json(json.dumps(_merged(content, changes)))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        given = "" if first["type"] == "missing" else f" is {first['input']!r}"
        allowed = f"; keys are {', '.join(Protocol.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise UsageError(f"{source}: {key}{given}: {first['msg']}{allowed}") from None
    except TypeError as error:  # a TOML date or time
        raise UsageError(f"{source}: {error}") from None


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, tables merged key by key."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = _merged(base[key], value) if both else value
    return result
