"""A network of stored weights that stands still, whose similarities another one is to have."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bench.datasets.samples import Dataset, Samples
from bench.errors import UsageError
from bench.models.multimodal_memory import NO_DROPOUT
from bench.protocol import Protocol
from bench.seeding import torch_seeded
from bench.techniques.options import Distillation
from bench.workload import OPTION_FAULTS, Workload

OWN_NETWORK = re.compile(r"bench\.models\.\w+:\w+")
SAME_DATA = {"dataset", "modalities"}


class Teacher:
    """Embeds what a run embeds, in evaluation mode and on the device of what it is given."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network.eval().requires_grad_(False)
        self._device = torch.device("cpu")

    @torch.no_grad()
    def embeddings(self, batch: Samples) -> dict[str, Tensor]:
        """By modality, [B, D] with a D of its own."""
        if batch.match_N.device != self._device:
            self._device = batch.match_N.device
            self._network.to(self._device)
        return self._network(batch.inputs(), batch.masks(), NO_DROPOUT)


def teacher_of(options: Distillation, protocol: Protocol, dataset: Dataset) -> Teacher:
    """The teacher of a protocol's runs.

    Raises `UsageError` where the file is not the one of the protocol's hash, holds no weights, those of another
    network than it says, or of one for other data.
    """
    stored = _read(options)
    try:
        head = json.loads(stored["head"])
        workload = Workload.model_validate_json(json.dumps(head["protocol"]["workload"]))
        state, digest = dict(stored["network"]), head["data_digest"]
    except (KeyError, TypeError, ValueError, ValidationError):
        raise _fault(options, "holds no weights of a run") from None
    _require_same_data(options, workload, protocol.workload)
    if digest != dataset.digest:
        raise _fault(options, "its data had other files; allowed are weights of the same data")
    return Teacher(_network(options, workload, dataset.network_options, state))


def _read(options: Distillation) -> dict[str, Any]:
    """What the file holds: plain data and tensors, on the CPU."""
    try:
        content = Path(options.teacher).read_bytes()
    except OSError as error:
        raise _fault(options, str(error.strerror or error)) from None
    if hashlib.sha256(content).hexdigest() != options.sha256:
        raise _fault(options, f"its SHA-256 is not {options.sha256}; allowed is the file that the protocol names")
    try:
        return dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    except Exception:  # whatever torch finds wrong with a foreign file
        raise _fault(options, "holds no weights of a run, or more than plain data and tensors") from None


def _require_same_data(options: Distillation, teacher: Workload, student: Workload) -> None:
    theirs, ours = ({**each.model_dump(include=SAME_DATA), **each.dataset_options} for each in (teacher, student))
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise _fault(options, f"its {key} is {theirs.get(key)} and the protocol's {ours.get(key)}; allowed are "
                         "weights of the same data")  # fmt: skip
    # A stored file never says what code is imported, unless the protocol names it too.
    named = json.dumps(teacher.model_options, separators=(",", "="))
    foreign = ":" in named or not OWN_NETWORK.fullmatch(teacher.model)
    if foreign and (teacher.model, teacher.model_options) != (student.model, student.model_options):
        raise _fault(options, f"its network is {teacher.model}; allowed are bench's own, and the protocol's")


def _network(
    options: Distillation, workload: Workload, from_data: Mapping[str, int], state: Mapping[str, Tensor]
) -> nn.Module:
    with torch_seeded(0):
        network = workload.build_model(from_data)
    try:
        network.load_state_dict(state)
    except OPTION_FAULTS as error:
        raise _fault(options, " ".join(str(error).split())) from None
    return network


def _fault(options: Distillation, what: str) -> UsageError:
    return UsageError(f"technique distillation: teacher {options.teacher}: {what}")
