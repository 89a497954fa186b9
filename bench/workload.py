"""A workload: a network, a dataset, an objective and the modalities they share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from bench.errors import MissingExtraError, UsageError
from bench.spec import Role, RoledParameter, resolve

if TYPE_CHECKING:  # a study's files are read without waiting for torch
    import torch
    from torch import nn

    from bench.datasets.network_files import FrozenEncoder
    from bench.datasets.samples import Dataset

    class Network(nn.Module):
        """What a workload's network offers; any module of this shape will do, there is nothing to inherit.

        `dropout_probability`: of the stream it is given. forward(inputs, masks, dropout): inputs by modality (text
        ids [B, L], images, spectrograms), the masks of those that have padding (True at real tokens [B, L] and frames
        [B, T]), and the source of dropout masks, to the embedding [B, D] of every modality, each seen alone.
        """

        dropout_probability: float

    class FileNetwork(Network):
        """A network that reads files of the user's. Its constructor is also given `data_dir` and `digests`.

        `remarks`: what was odd about the files, a line each. frozen(): by modality the encoders that do not change in a
        run, (input, mask) to [B, W]; forward takes their results [B, W] instead of the inputs. The module that defines
        it has file_digests(model_options, data_dir): the SHA-256 of every file by name.
        """

        remarks: Sequence[str]

        def frozen(self) -> Mapping[str, FrozenEncoder]: ...


# Ordered pairs of a pattern of parameter names and a role, or a function of the network that gives roles by name.
Roles = Sequence[tuple[str, str]] | Callable[["nn.Module"], Mapping[str, str]]
Modality = Literal["text", "image", "audio"]
MEMORY_NETWORK = "bench.models.multimodal_memory:MultiModalMemoryNetwork"
WorkloadKind = Literal["retrieval", "continual"]
MODALITIES: tuple[Modality, ...] = ("text", "image", "audio")
# What a constructor or a forward pass raises where an option does not suit it.
OPTION_FAULTS = (TypeError, ValueError, RuntimeError, LookupError, AssertionError, ArithmeticError, ImportError,
                 AttributeError, OSError)  # fmt: skip


def _line(error: BaseException) -> str:
    """The error in one line, by its type where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


class Workload(BaseModel):
    """What is trained on what; every field can change a result.

    `kind` says what a run is asked for and how it is scored: retrieval between modalities, or tasks in sequence.
    `dataset` and `model` are references (`module:Class`); their options are the constructors' keyword arguments.
    `reads_files` and `model_reads_files` say that files of the user's are read, whose digests are part of a run.
    `revision` is raised by one when the recipe's or the network's numerics change.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: str
    title: str
    dataset: str
    dataset_options: dict[str, JsonValue] = Field(default_factory=dict)
    reads_files: bool = False
    model: str = MEMORY_NETWORK
    model_options: dict[str, JsonValue] = Field(default_factory=dict)
    model_reads_files: bool = False
    modalities: tuple[Modality, ...] = MODALITIES
    temperature: float = Field(default=0.07, gt=0)
    multi_positive: bool = False
    revision: int = 1
    kind: WorkloadKind = "retrieval"

    @field_validator("dataset_options", "model_options")
    @classmethod
    def _finite(cls, options: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Options are hashed as JSON, which has no infinity and no NaN."""
        for key, value in options.items():
            try:
                json.dumps(value, allow_nan=False)
            except ValueError:
                raise ValueError(f"{key} is {value!r}; allowed are finite numbers") from None
        return options

    def build_model(self, from_data: Mapping[str, Any] | None = None) -> Network:
        """The network with fresh weights from torch's global generator, its options as far as the data decides them.

        Raises `UsageError` where an option is not one of the network's.
        """
        try:
            return resolve(self.model)(**{**self.model_options, **(from_data or {})})
        except MissingExtraError as error:
            raise UsageError(f"workload {self.name} unavailable: {error}") from error
        except OPTION_FAULTS as error:
            raise UsageError(f"workload {self.name!r}: model_options: {_line(error)}") from error

    def build_dataset(self, data_dir: Path | None, device: torch.device | str) -> Dataset:
        """The dataset, resident on `device`.

        Raises `UsageError` where an option is not allowed or a file is missing or broken.
        """
        place: dict[str, Any] = {"device": device, "modalities": self.modalities}
        if self.reads_files:
            place["data_dir"] = data_dir
        try:
            files = self._network_files(data_dir)
            dataset = resolve(self.dataset)(**self.dataset_options, **place)
        except OPTION_FAULTS as error:
            raise UsageError(f"workload {self.name!r}: {_line(error)}") from error
        if files is None:
            return dataset
        from bench.datasets.network_files import WithNetworkFiles

        return WithNetworkFiles(dataset, data_dir, files)

    def _network_files(self, data_dir: Path | None) -> Mapping[str, str] | None:
        """The digests of the network's files by name; None where it reads none."""
        if not self.model_reads_files:
            return None
        return resolve(f"{self.model.partition(':')[0]}:file_digests")(self.model_options, data_dir)

    def check(self, data_dir: Path | None, changing: Set[str] = frozenset()) -> Dataset:
        """Build network and dataset and embed two samples, before anything is written; returns the dataset.

        `changing` are modalities whose inputs a protocol's techniques change in training.
        Raises `UsageError` where an option is not allowed, the two do not fit, or a file is missing or broken.
        """
        from bench.models.dropout import DropoutStream

        if not self.model_reads_files:  # files are looked at with the data
            roled_parameters(self.example(), self.roles())
        dataset = self.build_dataset(data_dir, "cpu")
        network = self.example(dataset.network_options)
        samples = dataset.held_out("test").take(slice(0, 2))
        try:
            network(samples.inputs(), samples.masks(), DropoutStream(network.dropout_probability, 0))
        except OPTION_FAULTS as error:
            raise UsageError(f"workload {self.name!r}: network and data do not fit: {_line(error)}") from error
        return self._noted(dataset, network, changing)

    def _noted(self, dataset: Dataset, network: Network, changing: Set[str]) -> Dataset:
        """The data with what is to be said of the network's files."""
        from bench.datasets.network_files import WithNetworkFiles

        if not isinstance(dataset, WithNetworkFiles):
            return dataset
        roled_parameters(network, self.roles())
        files = cast("FileNetwork", network)
        frozen = list(files.frozen())
        anew = [f"{name}: its tower is frozen, but training changes its inputs: they are encoded anew each step"
                for name in frozen if name in changing or dataset.changing([name])]  # fmt: skip
        return dataset.noting([*files.remarks, *anew])

    def parameter_count(self, from_data: Mapping[str, Any] | None = None) -> int:
        """Number of trainable parameters, the network's options as far as given those that the data decides."""
        return sum(p.numel() for p in self.example(from_data).parameters() if p.requires_grad)

    def roled_parameters(self, from_data: Mapping[str, Any] | None = None) -> list[RoledParameter]:
        """The trainable parameters of a network of some weights, with their roles."""
        return roled_parameters(self.example(from_data), self.roles())

    def example(self, from_data: Mapping[str, Any] | None = None) -> Network:
        """A network of some weights. (Building one is quicker than loading what torch's meta device needs.)"""
        from bench.seeding import torch_seeded

        with torch_seeded(0):
            return self.build_model(from_data)

    def roles(self) -> Roles:
        """How the network's parameters get their roles; `ROLES` of the module that defines it."""
        module = self.model.partition(":")[0]
        return resolve(f"{module}:ROLES")


def roled_parameters(model: nn.Module, patterns: Roles) -> list[RoledParameter]:
    """Every trainable parameter with the role of the first pattern found in its name, or that the function gives it.

    Raises `UsageError` where a parameter matches no pattern or a pattern no parameter.
    """
    if callable(patterns):
        roles = patterns(model)
        return [RoledParameter(name=name, parameter=p, role=Role(roles[name]))
                for name, p in model.named_parameters() if p.requires_grad]  # fmt: skip
    roled, used = [], set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        for i, (pattern, role) in enumerate(patterns):
            if re.search(pattern, name):
                roled.append(RoledParameter(name=name, parameter=parameter, role=Role(role)))
                used.add(i)
                break
        else:
            raise UsageError(f"parameter {name!r} matches no role pattern; patterns are {[p for p, _ in patterns]}")
    if idle := [pattern for i, (pattern, _) in enumerate(patterns) if i not in used]:
        raise UsageError(f"role patterns {idle} match no parameter of {type(model).__name__}")
    return roled
