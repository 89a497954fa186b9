"""Where towers come from: this project's encoders, torchvision, timm, transformers, open_clip, or a user's function.

Each source builds a network, loads the weights of local files into it and takes off what is no encoder (heads). A
library is imported when a tower first needs it, told to stay offline, and never given a name that it could look up.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, JsonValue, field_validator
from torch import nn

from bench.datasets.options import Options
from bench.errors import MissingExtraError
from bench.models.multimodal_memory import AudioEncoder, ImageEncoder, TextEncoder
from bench.models.tower_files import (
    LoadReport,
    brief,
    description,
    left_out_by,
    load_into_,
    mismatch,
    place_of,
    read_weights,
    weight_files,
)
from bench.models.tower_modules import (
    BuiltinTower,
    ClipTextTower,
    OwnTower,
    PixelTower,
    Renormalised,
    TokenTower,
    Tower,
)
from bench.registry import load_reference

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
UNREADABLE = "adapter_config.json"  # leads to a base model that is named by its place on a hub


class TowerOptions(Options):
    """One modality's tower.

    `path` is a file or folder, a relative one under the data folder. `name` is the architecture, for torchvision, and
    for timm where the folder has no config.json; `reference` a user's function, `module:function` or
    `file.py:function`; `arguments` what the network's constructor is given. `leave_out` are patterns of weights that
    the tower is meant to lack. `mean` and `deviation` are those of the tower's images, by default as its files say.
    `pooling` makes one vector of the tokens of a transformers model.
    """

    source: Literal["builtin", "torchvision", "timm", "transformers", "open_clip", "callable"]
    path: str | None = None
    name: str | None = None
    reference: str | None = None
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    mode: Literal["full", "frozen"] = "full"
    strict: bool = True
    pooling: Literal["mean", "cls"] = "mean"
    leave_out: tuple[str, ...] = Field(default=(), strict=False)
    mean: tuple[float, float, float] | None = Field(default=None, strict=False)
    deviation: tuple[float, float, float] | None = Field(default=None, strict=False)

    @field_validator("leave_out")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns

    @field_validator("deviation")
    @classmethod
    def _positive(cls, deviation: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if deviation is not None and min(deviation) <= 0:
            raise ValueError(f"{deviation} has to be above 0")
        return deviation

    def pixels(self, told: Mapping[str, Any], mean: str, deviation: str) -> Renormalised:
        """The images' normalisation, by these options or by what files say under these keys."""
        return Renormalised(self.mean or told.get(mean), self.deviation or told.get(deviation))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A tower to build: for which modality, from which options, files below which folder, for which vocabulary."""

    modality: str
    options: TowerOptions
    data_dir: Path | None
    vocab_size: int | None

    @property
    def place(self) -> Path:
        if self.options.path is None:
            raise ValueError(f"source {self.options.source} needs a path")
        return place_of(self.options.path, self.data_dir)

    def load_into_(self, network: nn.Module, leave_out: Sequence[str] = ()) -> LoadReport:
        """Give the network the weights of the tower's files."""
        return load_into_(network, read_weights(weight_files(self.place)), [*leave_out, *self.options.leave_out])

    def architecture(self, default: str | None = None) -> str:
        name = self.options.name or default
        if name is None:
            raise ValueError(f"source {self.options.source} needs a name, that of the architecture")
        return name


Built = tuple[Tower, LoadReport | None]


def build_tower(wanted: Wanted) -> Built:
    """The tower with the weights of its files, and how they fitted; raises `ValueError` for what is not allowed."""
    source, modality = wanted.options.source, wanted.modality
    if modality not in SOURCES[source][0]:
        allowed = [name for name, (modalities, _) in SOURCES.items() if modality in modalities]
        raise ValueError(f"source is {source!r}; allowed for {modality} are {', '.join(allowed)}")
    return SOURCES[source][1](wanted)


def _library(name: str, extra: str) -> Any:
    """A library, told to stay offline before it is imported."""
    for key, value in OFFLINE.items():
        os.environ.setdefault(key, value)
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError(extra) from None


def _require_arguments(
    given: Iterable[str], *, refused: Iterable[str] = (), allowed: Iterable[str] | None = None
) -> None:
    """Raise `ValueError` for what would have a library read other files, or load them otherwise, than it is told to."""
    for key in given:
        if key in refused or (allowed is not None and key not in allowed):
            raise ValueError(f"arguments.{key} is not allowed: it is no setting of the network")


def _builtin(wanted: Wanted) -> Built:
    """An encoder of `multimodal_memory`; without a path it starts from fresh weights."""
    arguments: dict[str, Any] = dict(wanted.options.arguments)
    if wanted.modality == "text":
        network = TextEncoder(**{"vocab_size": wanted.vocab_size, **arguments})
    elif wanted.modality == "image":
        network = ImageEncoder(**arguments)
    else:
        network = AudioEncoder(**arguments)
    report = None if wanted.options.path is None else wanted.load_into_(network)
    return BuiltinTower(network, arguments["width"], masked=wanted.modality != "image"), report


def _own(wanted: Wanted) -> Built:
    """The module, with the attribute `width`, that a user's function gives; its weights are a file's where one is."""
    reference = wanted.options.reference
    if reference is None:
        raise ValueError("source callable needs a reference, module:function or file.py:function")
    module, attribute, _ = load_reference(reference, "tower")
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(f"reference {reference!r}: its module has no function {attribute!r}")
    network: Any = function(**wanted.options.arguments)
    width = getattr(network, "width", None)
    if not isinstance(network, nn.Module) or not isinstance(width, int):
        raise ValueError(f"reference {reference!r} gives {type(network).__name__}; expected a module with `width`")
    return OwnTower(network, width), None if wanted.options.path is None else wanted.load_into_(network)


def _torchvision(wanted: Wanted) -> Built:
    """A torchvision classifier without its last linear layer."""
    from torchvision import models

    name = wanted.architecture()
    if name not in models.list_models(models):
        raise ValueError(f"name is {name!r}, which is no classifier of torchvision.models")
    _require_arguments(wanted.options.arguments, refused=("weights", "weights_backbone", "pretrained", "progress"))
    network = models.get_model(name, weights=None, **wanted.options.arguments)
    layers = [(place, module) for place, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(f"name is {name!r}, which has no linear layer; allowed are models that end in one")
    head, layer = layers[-1]
    network.set_submodule(head, nn.Identity())
    report = wanted.load_into_(network, [rf"{head}\."])
    return PixelTower(network, layer.in_features, wanted.options.pixels({}, "", "")), report


def _timm(wanted: Wanted) -> Built:
    """A timm model without its classifier, as the folder's config.json says, else by name."""
    timm, told = _library("timm", "timm"), description(wanted.place, "config.json")
    name = wanted.architecture(told.get("architecture"))
    if not timm.is_model(name):
        raise ValueError(f"name is {name!r}, which is no architecture of timm")
    arguments = {**told.get("model_args", {}), **wanted.options.arguments, "num_classes": 0}
    _require_arguments(arguments, refused=inspect.signature(timm.create_model).parameters)
    network = timm.create_model(name, pretrained=False, **arguments)
    own = {**network.pretrained_cfg, **told, **told.get("pretrained_cfg", {})}
    classifiers = own.get("classifier") or ()
    heads = [classifiers] if isinstance(classifiers, str) else classifiers
    report = wanted.load_into_(network, [rf"{head}\." for head in heads])
    said = told.get("pretrained_cfg", told)
    return PixelTower(network, network.head_hidden_size, wanted.options.pixels(said, "mean", "std")), report


def _transformers(wanted: Wanted) -> Built:
    """A transformers model without head and pooler, loaded by the library itself: it knows its older names."""
    transformers, place = _library("transformers", "transformers"), wanted.place
    if not (place / "config.json").is_file() or (place / UNREADABLE).is_file():
        raise ValueError(f"{place.name} is no folder with a config.json, a whole model's and no adapter's")
    try:
        with _silent(transformers):
            network, info = _loaded(transformers, place, wanted.options.arguments)
    except Exception as error:  # whatever the library finds wrong with foreign files
        raise ValueError(f"{place.name} cannot be loaded: {brief(error)}") from None
    parts = dict(network.named_children())
    if "pooler" in parts:
        network.pooler = None
    told = description(place, "preprocessor_config.json")
    pixels = None if wanted.modality == "text" else wanted.options.pixels(told, "image_mean", "image_std")
    report = _report(network, info, [*parts, network.base_model_prefix], wanted.options.leave_out)
    return TokenTower(network, network.config.hidden_size, wanted.options.pooling, pixels), report


def _loaded(transformers: Any, place: Path, arguments: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """The model of a folder, with some settings of its config.json changed, and what the library says of loading it."""
    where = {"pretrained_model_name_or_path": str(place.resolve()), "local_files_only": True}
    config = transformers.AutoConfig.from_pretrained(**where, trust_remote_code=False)
    _require_arguments(arguments, allowed=config.to_dict())
    config.update(dict(arguments))
    safe = any(path.suffix == ".safetensors" for path in weight_files(place))
    return transformers.AutoModel.from_pretrained(
        **where, config=config, trust_remote_code=False, dtype=torch.float32, use_safetensors=safe, weights_only=True,
        ignore_mismatched_sizes=True, output_loading_info=True,
    )  # fmt: skip


def _report(network: nn.Module, info: Mapping[str, Any], parts: Sequence[str], leave_out: Sequence[str]) -> LoadReport:
    """What transformers says it did; weights of modules that the tower has none of are heads."""
    if info["error_msgs"]:
        raise ValueError(" ".join(str(info["error_msgs"][0]).split()))
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    unexpected, mismatched = sorted(info["unexpected_keys"]), sorted(info["mismatched_keys"])
    heads = [name for name in unexpected if name.partition(".")[0] not in parts]
    left_out = {*heads, *left_out_by([*leave_out, r"(\w+\.)?pooler\."], unexpected)}
    return LoadReport(
        loaded=len(network.state_dict()) - len(missing) - len(mismatched),
        missing=tuple(missing),
        unexpected=tuple(name for name in unexpected if name not in left_out),
        mismatched=tuple(mismatch(name, found, expected) for name, found, expected in mismatched),
        left_out=tuple(sorted(left_out)),
    )


@contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Without its progress bars and its own report."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _open_clip(wanted: Wanted) -> Built:
    """One half of an open_clip model, as the folder's open_clip_config.json says."""
    models = _library("open_clip", "open_clip")
    told = description(wanted.place, "open_clip_config.json")
    settings = dict(told.get("model_cfg", {}), **wanted.options.arguments)
    if not {"embed_dim", "vision_cfg", "text_cfg"} <= set(settings) or "multimodal_cfg" in settings:
        raise ValueError(f"{wanted.place.name} has no open_clip_config.json of an image and a text half")
    if "hf_model_name" in settings["text_cfg"]:
        raise ValueError(f"text_cfg.hf_model_name is {settings['text_cfg']['hf_model_name']!r}, which leads to a hub; "
                         "take that text model by source transformers")  # fmt: skip
    backbone = settings["vision_cfg"].get("timm_model_name")
    if backbone is not None and not _library("timm", "timm").is_model(backbone):
        raise ValueError(f"vision_cfg.timm_model_name is {backbone!r}, which is no architecture of timm")
    settings["vision_cfg"] = {**settings["vision_cfg"], "timm_model_pretrained": False}
    kind = models.CustomTextCLIP if settings.pop("custom_text", False) else models.CLIP
    network = kind(**settings)
    report = wanted.load_into_(network)
    if wanted.modality == "image":
        pixels = wanted.options.pixels(told.get("preprocess_cfg", {}), "mean", "std")
        return PixelTower(network.visual, settings["embed_dim"], pixels), report
    for name in ("visual", "logit_scale", "logit_bias"):
        delattr(network, name)
    pad_id = settings["text_cfg"].get("pad_id", 0)
    return ClipTextTower(network, settings["embed_dim"], length=network.context_length, pad_id=pad_id), report


Build = Callable[[Wanted], Built]
SOURCES: Mapping[str, tuple[Sequence[str], Build]] = {
    "builtin": (("text", "image", "audio"), _builtin),
    "torchvision": (("image", "audio"), _torchvision),
    "timm": (("image", "audio"), _timm),
    "transformers": (("text", "image"), _transformers),
    "open_clip": (("text", "image"), _open_clip),
    "callable": (("text", "image", "audio"), _own),
}
