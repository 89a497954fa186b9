"""TowerNetwork: an encoder a modality, from the user's own files or this project's, and a projection to a shared width.

    embedding = Linear(dropout(LayerNorm(tower(x))))

Towers are chosen by `TowerOptions`; see docs/towers.md. A frozen one is always in evaluation mode, has no gradient, and
its results may stand for its inputs.

Shapes: B batch, W width of a tower's result, D width of the embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from bench.datasets.network_files import FrozenEncoder
from bench.datasets.options import read_options
from bench.models.dropout import DropoutStream, ShareOfDropout
from bench.models.multimodal_memory import MODALITIES, NO_DROPOUT, NO_MASKS, Dropout, at_least_float32, norm
from bench.models.tower_files import files_read, place_of, sha256_of
from bench.models.tower_modules import Tower
from bench.models.tower_sources import TowerOptions, Wanted, build_tower
from bench.registry import load_reference
from bench.seeding import weights_fingerprint

EMBEDDED = re.compile(r"embed|token|position|cls|class")  # names of parameters that libraries keep on a module itself


def tower_options(towers: Mapping[str, Any]) -> dict[str, TowerOptions]:
    """The towers' options by modality; raises `ValueError` in one line for what is not allowed."""
    if not towers or not set(towers) <= set(MODALITIES):
        raise ValueError(f"towers are of {', '.join(towers) or 'nothing'}; allowed are {', '.join(MODALITIES)}")
    return {name: read_options(TowerOptions, f"towers.{name}", towers[name]) for name in MODALITIES if name in towers}


@contextmanager
def _of(name: str) -> Iterator[None]:
    """Errors inside are of that modality's tower."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"towers.{name}: {error}") from error


def file_digests(model_options: Mapping[str, Any], data_dir: Path | None) -> dict[str, str]:
    """The SHA-256 of every file that the towers are made of, `<modality>/<file>`, a user's source included.

    Raises `ValueError` where one is missing.
    """
    digests: dict[str, str] = {}
    for name, options in tower_options(model_options.get("towers", {})).items():
        with _of(name):
            if options.path is not None:
                paths = files_read(place_of(options.path, data_dir))
                digests |= {f"{name}/{path.name}": sha256_of(path) for path in paths}
            if options.source == "callable" and options.reference is not None:
                _, _, digest = load_reference(options.reference, "tower")
                digests[f"{name}/source"] = digest or "none"
    return digests


def ROLES(network: nn.Module) -> dict[str, str]:  # noqa: N802 - what every network's module calls it
    """The role of every parameter, by the kind of module that has it: names are the libraries' own."""
    return {
        f"{prefix}.{name}" if prefix else name: _role(prefix, module, name, parameter)
        for prefix, module in network.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
    }


def _role(prefix: str, module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    if prefix.startswith("projections."):
        return "bias" if name == "bias" else "head" if isinstance(module, nn.Linear) else "norm"
    if isinstance(module, nn.Embedding) or (EMBEDDED.search(name) and not isinstance(module, nn.Linear)):
        return "embedding"
    if name.endswith("bias"):
        return "bias"
    if parameter.ndim < 2:  # of normalisation, or a scale of a layer's result
        return "norm"
    return "convolution" if isinstance(module, _ConvNd) else "hidden_matrix" if parameter.ndim == 2 else "embedding"


class TowerNetwork(nn.Module):
    """Towers by modality and their projections; fresh weights come from torch's global generator.

    `cache` false has frozen towers encode anew in every step. `digests` are the SHA-256 of the files as the study was
    planned with. Raises `ValueError` where a file is missing, is no longer that one, or does not fit.
    """

    def __init__(
        self,
        *,
        towers: Mapping[str, Any],
        width: int,
        dropout: float = 0.0,
        cache: bool = True,
        vocab_size: int | None = None,
        data_dir: Path | None = None,
        digests: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        options = tower_options(towers)
        if digests is not None and file_digests({"towers": towers}, data_dir) != digests:
            raise ValueError("the towers' files are not those of the study's plan; start it again")
        self.dropout_probability, self._cache = dropout, cache
        self.remarks: tuple[str, ...] = ()
        self.towers, self.projections = nn.ModuleDict(), nn.ModuleDict()
        for name, own in options.items():
            with _of(name):
                self.towers[name] = self._built(name, own, data_dir, vocab_size)
        self._frozen = frozenset(name for name, own in options.items() if own.mode == "frozen")
        for name in options:
            W = self.tower(name).width
            self.projections[name] = nn.Sequential(nn.LayerNorm(W), nn.Linear(W, width))
        for name in self._frozen:
            self.towers[name].requires_grad_(False)
        self.train()

    def _built(self, name: Any, options: TowerOptions, data_dir: Path | None, vocab_size: int | None) -> Tower:
        """The tower, its load report kept as a remark where its weights did not fit exactly."""
        wanted = Wanted(modality=name, options=options, data_dir=data_dir, vocab_size=vocab_size)
        tower, report = build_tower(wanted)
        if report is not None and not report.exact:
            if options.strict:
                raise ValueError(f"{options.path}: {report}; strict = false would take it so")
            self.remarks += (f"towers.{name}: {options.path}: {report}",)
        if name == "text" and vocab_size is not None:
            _require_vocabulary(tower, vocab_size)
        return tower

    def tower(self, name: str) -> Tower:
        """The tower of a modality."""
        tower = self.towers[name]
        assert isinstance(tower, Tower)
        return tower

    def train(self, mode: bool = True) -> TowerNetwork:
        """As in torch, but frozen towers stay in evaluation mode."""
        super().train(mode)
        for name in self._frozen:
            self.towers[name].eval()
        return self

    def frozen(self) -> dict[str, FrozenEncoder]:
        """The frozen towers, whose results may stand for their inputs."""
        names = [name for name in self.towers if name in self._frozen and self._cache]
        return {name: FrozenEncoder(encode=lambda x, mask, name=name: self._unchanging(name, x, mask),
                                    identity=weights_fingerprint(self.towers[name])) for name in names}  # fmt: skip

    def forward(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor] = NO_MASKS, dropout: Dropout = NO_DROPOUT
    ) -> dict[str, Tensor]:
        """The embedding [B, D] of every modality in `inputs`: text ids, images, spectrograms, or a frozen tower's
        results [B, W]. `masks` are True at real tokens [B, L] and frames [B, T]."""
        return {name: self._projected(name, self._encoded(name, inputs[name], masks.get(name), dropout), dropout)
                for name in MODALITIES if name in inputs}  # fmt: skip

    def _encoded(self, name: str, x: Tensor, mask: Tensor | None, dropout: Dropout) -> Tensor:
        if name not in self.towers:
            raise ValueError(f"towers.{name} is missing; the data has {name}")
        if name in self._frozen:
            return x if x.dim() == 2 and x.is_floating_point() else self._unchanging(name, x, mask)
        tower = self.tower(name)
        with _masks_of(dropout, tower, MODALITIES.index(name)):
            return at_least_float32(_vectors(tower, tower(x, mask, dropout)))

    @torch.no_grad()
    def _unchanging(self, name: str, x: Tensor, mask: Tensor | None) -> Tensor:
        tower = self.tower(name)
        return at_least_float32(_vectors(tower, tower(x, mask, NO_DROPOUT)))

    def _projected(self, name: str, x_BW: Tensor, dropout: Dropout) -> Tensor:
        projection = self.projections[name]
        assert isinstance(projection, nn.Sequential)
        layer_norm, linear = projection
        assert isinstance(layer_norm, nn.LayerNorm)
        return linear(dropout(norm(layer_norm, x_BW)))


def _vectors(tower: Tower, result: Any) -> Tensor:
    """A tower's result where it is one vector a sample, of its width."""
    if isinstance(result, Tensor) and result.dim() == 2 and result.shape[1] == tower.width:
        return result
    found = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
    raise ValueError(f"{type(tower.network).__name__} gives {found}; expected one vector a sample, [B, {tower.width}]")


def _require_vocabulary(tower: Tower, vocab_size: int) -> None:
    """Raise `ValueError` where the data has token ids that no embedding of the tower is for."""
    known = max((module.num_embeddings for module in tower.modules() if isinstance(module, nn.Embedding)), default=None)
    if known is not None and known < vocab_size:
        raise ValueError(f"the data's tokenizer has {vocab_size} ids, the tower {known}; its own tokenizer is needed")


@contextmanager
def _masks_of(dropout: Dropout, tower: Tower, place: int) -> Iterator[None]:
    """Have a library's own dropout follow the run's: the global generator starts from the seed of the step's masks.

    Without masks in training (running statistics are gathered), whatever is no batch norm is in evaluation mode.
    """
    if not (tower.draws and tower.training):
        yield
    elif isinstance(dropout, DropoutStream | ShareOfDropout):
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(dropout.step_seed + place)
            yield
    else:
        modules = [module for module in tower.modules() if module.training and not isinstance(module, _BatchNorm)]
        for module in modules:
            module.training = False
        try:
            yield
        finally:
            for module in modules:
                module.training = True
