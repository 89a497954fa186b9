"""Files of pretrained networks: which of a folder are read, their SHA-256, and their weights, with a report.

Only local files are read, and only tensors are loaded from them: safetensors, or what torch loads with `weights_only`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import MissingExtraError

# What a folder's weights are called by those who publish them, in order of preference; indices lead to several files.
WEIGHTS = ("model.safetensors", "open_clip_model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
           "open_clip_pytorch_model.bin", "pytorch_model.bin.index.json")  # fmt: skip
ENDINGS = (".safetensors", ".pt", ".pth", ".bin")
# What says how the weights are to be used.
DESCRIPTIONS = ("config.json", "preprocessor_config.json", "open_clip_config.json")
WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys under which checkpoints keep their weights
NAMED = 3  # keys of each kind that a report names
CHUNK = 1 << 20


def place_of(path: str, data_dir: Path | None) -> Path:
    """The file or folder of a tower; a relative path is one under `data_dir`.

    Raises `ValueError` where there is none: a name of a model on a hub is not looked up anywhere.
    """
    if data_dir is None and not Path(path).is_absolute():
        raise ValueError(f"path is {path!r}; pass --data-dir or set BENCH_DATA to the folder that it is in")
    place = Path(path) if data_dir is None else data_dir / path
    if not place.exists():
        where = "" if Path(path).is_absolute() else f" in {data_dir}"
        raise ValueError(f"path is {path!r}, which is no file or folder{where}; nothing is downloaded (docs/towers.md)")
    return place


def weight_files(place: Path) -> tuple[Path, ...]:
    """The files of weights of a tower's file or folder; of several forms of a folder the safest.

    Raises `ValueError` where there are none, or several of which none has a usual name.
    """
    if place.is_file():
        if place.suffix not in ENDINGS:
            raise ValueError(f"{place.name} is no file of weights; allowed are {', '.join(ENDINGS)}")
        return (place,)
    usual = next((place / name for name in WEIGHTS if (place / name).is_file()), None)
    if usual is not None:
        return _parts(usual) if usual.suffix == ".json" else (usual,)
    found = sorted(path for path in place.iterdir() if path.suffix in ENDINGS)
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "no weights"
        raise ValueError(f"folder {place.name} has {listed}; expected one of {', '.join(WEIGHTS)}, or one single file")
    return (found[0],)


def _parts(index: Path) -> tuple[Path, ...]:
    """The files that an index distributes the weights over, all of its own folder."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(f"{index.name} is no index of weights") from None
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise ValueError(f"{index.name} names {name!r}, which is no file beside it")
    return (index, *(index.parent / name for name in names))


def files_read(place: Path) -> tuple[Path, ...]:
    """All files of a tower that decide what it computes."""
    beside = [place / name for name in DESCRIPTIONS if (place / name).is_file()]
    return (*beside, *weight_files(place))


def sha256_of(path: Path) -> str:
    """Of a file's bytes; read again only where size or time of change are others."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    del size, changed
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def description(place: Path, name: str) -> dict[str, Any]:
    """A JSON file of a tower's folder; {} where there is none.

    Raises `ValueError` where it is no JSON object.
    """
    if not (place / name).is_file():
        return {}
    try:
        content = json.loads((place / name).read_bytes())
    except ValueError as error:
        raise ValueError(f"{place.name}/{name} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{place.name}/{name} is {type(content).__name__}; expected an object")
    return content


def read_weights(files: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of weight files by name, on the CPU; raises `ValueError` where a file holds anything else."""
    weights: dict[str, Tensor] = {}
    for path in files:
        if path.suffix != ".json":
            weights |= _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    return weights


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise MissingExtraError("safetensors") from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is not safetensors: {error}") from None


def _torch_file(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch finds wrong with a foreign file
        raise ValueError(f"{path.name} holds more than tensors, or is no file of torch's: {brief(error)}") from None
    wrapper = next((key for key in WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)), None)
    weights = content if wrapper is None else content[wrapper]
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path.name} is no state_dict; expected tensors by name, or under {', '.join(WRAPPERS)}")
    if weights and all(name.startswith("module.") for name in weights):  # of torch's DataParallel
        return {name.removeprefix("module."): value for name, value in weights.items()}
    return weights


def brief(error: BaseException) -> str:
    """What a library says, as the beginning of one line without colours."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:160] or type(error).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """How weights and a network's tensors fit, by name; `left_out` are weights that the tower is meant to lack."""

    loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        """One line: a count of each kind with the first few names."""
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "mismatched": self.mismatched}
        left_out = {"left out": self.left_out} if self.left_out else {}
        return ", ".join([f"{self.loaded} tensors loaded", *(_counted(*each) for each in (kinds | left_out).items())])


def _counted(kind: str, names: Sequence[str]) -> str:
    if not names:
        return f"none {kind}"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} {kind} ({', '.join(names[:NAMED])}{more})"


def left_out_by(patterns: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Those of the names that a pattern matches from their beginning on."""
    return tuple(name for name in names if any(re.match(pattern, name) for pattern in patterns))


def load_into_(module: nn.Module, weights: Mapping[str, Tensor], leave_out: Sequence[str] = ()) -> LoadReport:
    """Give a module the weights that fit it, and report on all; weights that `leave_out` matches are ignored.

    A count of batches that batch norm keeps may be missing: torch itself did not always write it.
    """
    own = module.state_dict()
    left_out = left_out_by(leave_out, [name for name in weights if name not in own])
    mismatched = [name for name in weights if name in own and weights[name].shape != own[name].shape]
    fitting = {name: value for name, value in weights.items() if name in own and name not in mismatched}
    module.load_state_dict(fitting, strict=False)
    return LoadReport(
        loaded=len(fitting),
        missing=tuple(name for name in own if name not in weights and not name.endswith("num_batches_tracked")),
        unexpected=tuple(name for name in weights if name not in own and name not in left_out),
        mismatched=tuple(mismatch(name, weights[name].shape, own[name].shape) for name in mismatched),
        left_out=left_out,
    )


def mismatch(name: str, found: Sequence[int], expected: Sequence[int]) -> str:
    """A tensor whose shape is another one."""
    return f"{name}: {list(found)} in the file, {list(expected)} in the network"
