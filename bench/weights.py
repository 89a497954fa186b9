"""A run's weights as files that later commands take up: the best by the validation split, and the last.

results/<study>/runs/<run_id>/best.pt         plain data and tensors, loaded with `weights_only=True`
results/<study>/runs/<run_id>/best.pt.sha256  as `sha256sum` prints it; a flipped byte loads silently
results/<study>/runs/<run_id>/last.pt, …      the same, of the last epoch
results/<study>/starts/<sha256>.pt, …         what a continued run began with

They are results: `bench clean` leaves them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor

from bench.errors import BadRecordError
from bench.protocol import Protocol
from bench.store import write_atomic

FORMAT: Literal[1] = 1
Kind = Literal["best", "last"]


class Head(BaseModel):
    """What a file of weights says of itself: all that network, data and optimizer are built from again.

    `epoch` and `step` count from fresh weights on, those before a continued run included; `score` is the validation
    split's `metric`. `threads`, `device`, `versions` and whether passes were shared (`shared_passes`) decide the last
    bits.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: Literal[1] = FORMAT
    kind: Kind
    run_id: str
    protocol: Protocol
    protocol_hash: str
    optimizer: str
    hyperparameters: dict[str, JsonValue]
    revision: int
    source_digest: str | None
    data_digest: str | None
    seed: int
    epoch: int
    step: int
    metric: str
    score: float
    shared_passes: bool
    threads: int
    device: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A file of weights, its tensors on the CPU.

    `network` is the network's state, `objective` the loss's own (a learned temperature, a queue). `training` is what
    training goes on with (the optimizer's state and attributes, the loss scale, the global generators), None of an
    optimizer whose state is no plain data.
    """

    path: Path
    sha256: str
    head: Head
    network: Mapping[str, Tensor]
    objective: Mapping[str, Tensor]
    training: Mapping[str, Any] | None


def packed(
    head: Head, network: Mapping[str, Tensor], objective: Mapping[str, Tensor], training: Mapping[str, Any] | None
) -> bytes:
    """The content of a file."""
    content = {"head": head.model_dump_json(), "network": dict(network), "objective": dict(objective),
               "training": training}  # fmt: skip
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def write_weights(path: Path, content: bytes) -> str:
    """Store what `packed` gave and its digest, which is returned.

    Raises `StorageError` where there is no room. A crash between the two leaves a file that is not read again.
    """
    digest = hashlib.sha256(content).hexdigest()
    write_atomic(path, content)
    write_atomic(digest_path(path), f"{digest}  {path.name}\n")
    return digest


def digest_path(path: Path) -> Path:
    """Where a file's SHA-256 stands."""
    return path.with_name(path.name + ".sha256")


def read_weights(path: Path) -> Weights:
    """The weights in a file.

    Raises `BadRecordError` naming the file and the fault: it is missing, torn, changed, foreign, or of a newer format.
    """
    content, digest = _checked_bytes(path)
    try:
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        head, training = stored["head"], stored["training"]
        network, objective = stored["network"], stored["objective"]
    except Exception:  # whatever torch finds wrong with a foreign file that has a digest of its own
        raise BadRecordError(f"{path}: holds no weights of a run, or more than plain data and tensors") from None
    known = _head(head, path)
    if not (_is_state(network) and _is_state(objective)) or not (training is None or isinstance(training, dict)):
        raise BadRecordError(f"{path}: network: is not a network's state by name")
    return Weights(path=path, sha256=digest, head=known, network=network, objective=objective, training=training)


def _is_state(content: Any) -> bool:
    """Whether it is tensors by name."""
    return isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())


def _checked_bytes(path: Path) -> tuple[bytes, str]:
    """A file that agrees with the digest beside it, and the digest."""
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise BadRecordError(f"{path}: {reason}; allowed is a file that `bench run --save-best` has kept") from None
    try:
        beside = digest_path(path).read_text(encoding="utf-8").split()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        missing = digest_path(path)
        raise BadRecordError(f"{missing}: is missing or no digest; without it a changed byte is not seen") from None
    digest = hashlib.sha256(content).hexdigest()
    if beside != digest:
        raise BadRecordError(f"{path}: not what was written (SHA-256); the file is torn or was changed")
    return content, digest


def _head(text: Any, path: Path) -> Head:
    try:
        head = Head.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadRecordError(f"{path}: {'.'.join(map(str, first['loc'])) or 'head'}: {first['msg']}") from None
    if head.protocol.hash != head.protocol_hash:
        raise BadRecordError(f"{path}: protocol_hash is {head.protocol_hash}; its protocol has {head.protocol.hash}")
    return head


def start_path(study: Path, sha256: str) -> Path:
    """Where a study keeps what its continued runs began with."""
    return study / "starts" / f"{sha256}.pt"


def keep_start(study: Path, weights: Weights) -> None:
    """Keep a copy of the weights in the study, so that its runs go on also when the file is gone.

    Raises `BadRecordError` where the file is not any more what was read.
    """
    with suppress(BadRecordError):
        read_start(study, weights.sha256)
        return
    content, digest = _checked_bytes(weights.path)
    if digest != weights.sha256:
        raise BadRecordError(f"{weights.path}: was changed meanwhile")
    write_weights(start_path(study, digest), content)


def read_start(study: Path, sha256: str) -> Weights:
    """The weights that a study's runs begin with.

    Raises `BadRecordError` where they are missing, or not those.
    """
    found = read_weights(start_path(study, sha256))
    if found.sha256 != sha256:
        raise BadRecordError(f"{found.path}: not what the protocol says its runs begin with (SHA-256)")
    return found
