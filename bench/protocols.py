"""The built-in protocols, and a user's own from a TOML file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from bench.cadence import Level
from bench.continual.figures import PRIMARY as AVERAGE_ACCURACY
from bench.errors import UsageError
from bench.protocol import Protocol
from bench.suggestions import unknown
from bench.techniques.options import Classification, Techniques
from bench.workloads import WORKLOADS

# Post-norm layers leave the class level (R@1 about 4 %) only after a warm-up: at a constant 1e-3 Adam stays there.
_RECIPE: dict[str, Any] = {"schedule": "cosine", "warmup": 0.1}
TASKS = 5  # of two classes each, of ten


def _real(name: str, title: str, *, epochs: int, batch_size: int) -> Protocol:
    """A large set with the large network, meant for a GPU."""
    return Protocol(
        name=name, title=title, workload=WORKLOADS[name], epochs=epochs, batch_size=batch_size, precision="bf16",
        **_RECIPE,
    )  # fmt: skip


def _nlmm_levels(*chunks: int) -> tuple[Level, ...]:
    """The continuum memory's levels at the documents' rates 1, ½, ¼; everything else is in the first."""
    slow = tuple(
        Level(name=f"level{i}", pattern=rf"cms\.levels\.level{i}\.", chunk=chunk, lr_scale=0.5**i)
        for i, chunk in enumerate(chunks)
        if i
    )
    first = Level(name="level0", pattern=r"^(?!.*cms\.levels\.level[1-9])", chunk=chunks[0])
    return (first, *slow)


def _tasks(name: str, title: str, *, batch_size: int, precision: Literal["float32", "bf16"] = "bf16") -> Protocol:
    """Tasks in sequence, scored at the end of each; the rate is the same in the last task as in the first.

    Two classes have a small loss to begin with, and who is sure of them a large one at the next two: neither is lost.
    """
    workload = WORKLOADS[name]
    each = workload.dataset_options["epochs_per_task"]
    assert isinstance(each, int)
    return Protocol(
        name=name, title=title, workload=workload, epochs=TASKS * each, batch_size=batch_size, precision=precision,
        evaluate_every=each, primary_metric=AVERAGE_ACCURACY, warmup=0.02, diverged_loss_factor=100.0,
        techniques=Techniques(classification=Classification(contrastive_weight=0.3)),
    )  # fmt: skip


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
        Protocol(
            name="flickr8k",
            title="the documents' training on Flickr8k: images and captions by character",
            workload=WORKLOADS["flickr8k"],
            epochs=30,
            batch_size=64,
            drop_last=False,
            precision="bf16",
            schedule="cosine",
            rates="documents",
            settings={"sgd": {"nesterov": True}},
        ),
        _real("flickr8k_bpe", "the same with byte pairs instead of characters", epochs=30, batch_size=64),
        _real("flickr8k_audio", "Flickr8k with its spoken captions", epochs=30, batch_size=64),
        Protocol(
            name="flickr8k_mini",
            title="Flickr8k with its spoken captions at mini size",
            workload=WORKLOADS["flickr8k_small"],
            **_RECIPE,
        ),
        Protocol(
            name="nlmm",
            title="NL-MM on Flickr8k with its spoken captions, its levels updated every 1, 16 and 256 batches",
            workload=WORKLOADS["nlmm"],
            epochs=30,
            batch_size=64,
            precision="bf16",
            cadence=_nlmm_levels(1, 16, 256),
            **_RECIPE,
        ),
        Protocol(
            name="nlmm_mini",
            title="NL-MM at test size, its levels updated every 1, 4 and 16 batches",
            workload=WORKLOADS["nlmm_small"],
            epochs=10,
            evaluate_every=2,
            cadence=_nlmm_levels(1, 4, 16),
            **_RECIPE,
        ),
        _real("flickr30k", "Flickr30k, one caption an image and epoch", epochs=30, batch_size=128),
        Protocol(
            name="finetune",
            title="pretrained ViT-B/16 and MobileBERT from your files, trained on with Flickr30k",
            workload=WORKLOADS["flickr30k_towers"],
            batch_size=64,
            precision="bf16",
            rate_multipliers={r"^towers\.": 0.05},
            **_RECIPE,
        ),
        _real("coco", "COCO captions, one caption an image and epoch", epochs=30, batch_size=128),
        _real("audiocaps", "AudioCaps, clips that are there", epochs=30, batch_size=64),
        _real("common_voice", "Common Voice", epochs=10, batch_size=64),
        _real("conceptual_captions", "Conceptual Captions, images that are there", epochs=10, batch_size=256),
        *(
            Protocol(
                name=name,
                title=f"{WORKLOADS[name].title}, at mini size",
                workload=WORKLOADS[name],
                epochs=10,
                batch_size=128,
                **_RECIPE,
            )
            for name in ("fashion_mnist", "cifar10", "cifar100")
        ),
        _tasks("continual", "Fashion-MNIST in tasks, balanced between speed and accuracy", batch_size=256),
        _tasks("continual_speed", "Fashion-MNIST in tasks, for speed", batch_size=256),
        _tasks("continual_accuracy", "Fashion-MNIST in tasks, for accuracy", batch_size=128, precision="float32"),
        _tasks("continual_fusion", "Fashion-MNIST in tasks, image and prompts fused", batch_size=256),
        _tasks("continual_mini", "MNIST in tasks at mini size", batch_size=16, precision="float32"),
        Protocol(name="manifest", title="a folder of your own at mini size", workload=WORKLOADS["manifest"], **_RECIPE),
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

    Another dataset or model than the base's has no options but those of `changes`.
    Raises `UsageError` that begins with `source` and names the key and value.
    """
    content = base.model_dump(mode="json")
    workload = changes.get("workload")
    if isinstance(workload, str):
        if workload not in WORKLOADS:
            raise UsageError(f"{source}: {unknown('workload', workload, WORKLOADS)}")
        content["workload"] = WORKLOADS[workload].model_dump(mode="json")
        changes = {key: value for key, value in changes.items() if key != "workload"}
    elif isinstance(workload, dict):
        content["workload"] |= _reset(content["workload"], workload)
    try:
        return Protocol.model_validate_json(json.dumps(_merged(content, changes)))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        found = first["input"]
        if isinstance(found, dict):  # without the many techniques that are off
            found = {name: value for name, value in found.items() if value is not None}
        given = "" if first["type"] == "missing" else f" is {found!r}"
        allowed = f"; keys are {', '.join(Protocol.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise UsageError(f"{source}: {key}{given}: {first['msg'].removeprefix('Value error, ')}{allowed}") from None
    except TypeError as error:  # a TOML date or time
        raise UsageError(f"{source}: {error}") from None


def with_epochs(base: Protocol, epochs: int, source: str) -> Protocol:
    """`base` over so many epochs, which tasks in sequence share evenly.

    Raises `UsageError` that begins with `source` where a task would have a part of an epoch.
    """
    each = base.workload.dataset_options.get("epochs_per_task")
    if base.workload.kind != "continual" or not isinstance(each, int) or base.epochs % each:
        return changed(base, {"epochs": epochs}, source)
    tasks = base.epochs // each
    if epochs < 1 or epochs % tasks:
        raise UsageError(f"{source}: protocol {base.name!r} has {tasks} tasks; allowed are multiples of {tasks}")
    changes = {"epochs": epochs, "workload": {"dataset_options": {"epochs_per_task": epochs // tasks}}}
    return changed(base, changes, source)


def limited(base: Protocol, limit: int) -> Protocol:
    """`base` on the first `limit` images or clips of each split: a look, not a result of the set.

    A batch of more is made as small as the limit. Raises `UsageError` where the protocol's data has no limit.
    """
    if "limit" not in base.workload.dataset_options:
        able = [name for name, protocol in PROTOCOLS.items() if "limit" in protocol.workload.dataset_options]
        raise UsageError(f"--limit {limit}: protocol {base.name!r} has no limit; allowed with {', '.join(able)}")
    batch_size = max(2, min(base.batch_size, limit))  # of a limit below 2 the data says what is allowed
    changes = {"batch_size": batch_size, "workload": {"dataset_options": {"limit": limit}}}
    return changed(base, changes, f"--limit {limit}")


def _reset(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """What does not hold any more of the workload `base` where `changes` name another dataset or model."""
    reset: dict[str, Any] = {}
    if changes.get("dataset", base["dataset"]) != base["dataset"]:
        reset = {"name": str(changes["dataset"]), "title": "own data", "dataset_options": {}, "reads_files": False}
    if changes.get("model", base["model"]) != base["model"]:
        reset |= {"model_options": {}, "model_reads_files": False}
    return reset


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, tables merged key by key."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = _merged(base[key], value) if both else value
    return result
