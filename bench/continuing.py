"""Going on from stored weights: a run of a protocol of its own, whose hash says what it began with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.optimizers.catalog import CATALOG
from bench.placement import Placement
from bench.protocol import Protocol
from bench.protocols import changed
from bench.registry import Selected, select
from bench.runner import Basis, Plan, make_plan
from bench.store import study_name
from bench.weights import Weights, keep_start

ENDING = "-continued"


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What goes on: the plan of its one run, and why the optimizer begins anew; None where its state is kept."""

    plan: Plan
    anew: str | None


def continuation(
    weights: Weights,
    *,
    epochs: int,
    overrides: Mapping[str, Any],
    optimizer: str | None,
    reset: bool,
    results: Path,
    study: str | None,
    placement: Placement,
) -> Continuation:
    """A plan of `epochs` more epochs; the weights are kept in the study, nothing else is written.

    `optimizer` is another one than the weights' own, or the reference of one that is no catalog entry: a stored file
    names no code. Raises `UsageError` where a value is not allowed, or the data are not the run's.
    """
    head = weights.head
    chosen = _selected(weights, optimizer, overrides)
    anew = "--reset-optimizer" if reset else _why_anew(weights, chosen)
    protocol = _protocol(head.protocol, weights.sha256, epochs, optimizer_state=anew is None)
    folder = results / study_name(study or protocol.name)
    plan = make_plan(Basis(protocol=protocol, selected=[chosen], folder=folder, placement=placement), [head.seed])
    if plan.runs[0].data_digest != head.data_digest:
        raise UsageError(f"{weights.path}: the files of {protocol.workload.name} are not those of the run (SHA-256)")
    keep_start(folder, weights)
    return Continuation(plan=plan, anew=anew)


def _selected(weights: Weights, optimizer: str | None, overrides: Mapping[str, Any]) -> Selected:
    """The optimizer with the settings that it had, but for the overrides; another one has its defaults."""
    head = weights.head
    if optimizer is None and head.optimizer not in CATALOG:
        raise UsageError(f"{weights.path}: its optimizer {head.optimizer!r} is no entry of the catalog; allowed is "
                         "--optimizer with module:Class or file.py:Class")  # fmt: skip
    (plain,) = select([optimizer or head.optimizer], {}, head.protocol.rates)
    before = head.hyperparameters if plain.spec.name == head.optimizer else {}
    (chosen,) = select([plain.reference], {plain.spec.name: {**before, **overrides}}, head.protocol.rates)
    return chosen


def _why_anew(weights: Weights, chosen: Selected) -> str | None:
    """Why the optimizer's state is of no use; None where it is."""
    head, spec = weights.head, chosen.spec
    if spec.name != head.optimizer:
        return f"the optimizer is {spec.name}, was {head.optimizer}"
    if (spec.revision, spec.source_digest) != (head.revision, head.source_digest):
        return f"the code of {spec.name} has changed"
    stages = head.protocol.techniques.stages
    if stages is not None and len(stages.stages) > 1 and any(stage.rates for stage in stages.stages):
        return "its stages had rates, so that its groups are not those of the last stage alone"
    then, now = head.hyperparameters, chosen.hyperparameters
    if other := [key for key in {**then, **now} if then.get(key) != now.get(key)]:
        return f"{other[0]} is {now.get(other[0])!r}, was {then.get(other[0])!r}"
    return "the file holds none that could be loaded" if weights.training is None else None


def _protocol(base: Protocol, sha256: str, epochs: int, *, optimizer_state: bool) -> Protocol:
    """The weights' protocol for the epochs that follow; its schedule begins anew."""
    changes: dict[str, Any] = {
        "name": base.name.removesuffix(ENDING) + ENDING, "epochs": epochs, "seeds": 1,
        "start": {"sha256": sha256, "optimizer_state": optimizer_state},
    }  # fmt: skip
    if (stages := base.techniques.stages) is not None:  # the last one goes on
        last = stages.stages[-1].model_copy(update={"epochs": epochs})
        changes["techniques"] = {"stages": {"stages": [last.model_dump(mode="json")]}}
    return changed(base, changes, f"--epochs {epochs}")
