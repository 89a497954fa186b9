"""The runs of `bench check --run`: the baseline's protocol, optimizers, settings and seeds with today's code.

A baseline file names no code. Its optimizers are looked up by name in the registry; an optimizer of the user's is given
by reference, and its network and data must be built-in ones.

Records of other code must never pass for today's, and an interrupted check should go on. So the study's folder is named
after a digest of the code, and of versions and hardware: the same code finds its own records and nobody else's.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import JsonValue

from bench.check.sides import platform
from bench.check.snapshot import Entry, Snapshot, idle, matches
from bench.environment import environment
from bench.errors import UsageError
from bench.optimizers.catalog import CATALOG
from bench.plan import slug
from bench.registry import Selected, entry, select
from bench.runner import Basis, Plan, make_plan, placed
from bench.spec import OptimizerSpec
from bench.study import Study
from bench.suggestions import unknown
from bench.workloads import WORKLOADS


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What will run, and what is to be said about it. `baseline` is the part of the baseline that it answers."""

    plan: Plan
    baseline: Snapshot
    notes: tuple[str, ...]

    def of(self, study: Study) -> Study:
        """The plan's own runs of a study."""
        planned = {run.run_id for run in self.plan.runs}
        return replace(study, records=tuple(r for r in study.records if r.run_id in planned))


def plan_candidate(
    baseline: Snapshot,
    optimizers: Sequence[str] = (),
    *,
    results: Path,
    allow_removed: Sequence[str] = (),
    data_dir: Path | None = None,
    device: str | None = None,
    workers: int | None = None,
    fresh: bool = False,
    command: str | None = None,
) -> Candidate:
    """The plan of the runs; `fresh` runs everything again.

    `optimizers` are names or globs of baseline entries; a reference (`file.py:Mine`) for the entry that has its name;
    or `NAME=REFERENCE`, which runs that class in the place of entry NAME. Raises `UsageError` where that cannot be.
    """
    _require_built_in(baseline)
    references = _references(baseline, optimizers)
    notes: list[str] = []
    selected = [_selected(baseline.entry(name), reference or name, notes) for name, reference in references.items()
                if reference or _is_there(name, allow_removed)]  # fmt: skip
    if not selected:
        raise UsageError("none of the baseline's optimizers is in the registry any more")
    placement = placed(device=device, data_dir=data_dir, workers=workers, command=command, retry_failed=True,
                       repeat=fresh)  # fmt: skip
    part = baseline.only(list(references))
    digest = code_digest(placement.device, placement.threads)
    folder = results / f"check-{slug(baseline.protocol.name)}-{digest}"
    basis = Basis(protocol=baseline.protocol, selected=selected, folder=folder, placement=placement)
    plan = make_plan(basis, sorted({run.seed for run in part.runs}))
    return Candidate(plan=plan, baseline=part, notes=tuple(notes))


def _require_built_in(baseline: Snapshot) -> None:
    """Raise `UsageError` where the protocol in the file would import somebody's code."""
    workload = baseline.protocol.workload
    known = {"dataset": {w.dataset for w in WORKLOADS.values()}, "model": {w.model for w in WORKLOADS.values()}}
    named = {key: name for key, allowed in known.items() if (name := getattr(workload, key)) not in allowed}
    for key in ("dataset_options", "model_options"):
        if (reference := _reference(getattr(workload, key))) is not None:
            named[f"{key}, reference"] = reference
    for key, name in named.items():
        raise UsageError(f"--run: the baseline's workload.{key} is {name!r}, and a result file is never asked to name "
                         "code; use `bench run --protocol FILE` and check that study")  # fmt: skip


def _reference(options: JsonValue) -> JsonValue:
    """What stands under the key `reference` anywhere in the options."""
    if isinstance(options, list):
        return next((found for value in options if (found := _reference(value)) is not None), None)
    if isinstance(options, dict):
        return options["reference"] if "reference" in options else _reference(list(options.values()))
    return None


def _references(baseline: Snapshot, optimizers: Sequence[str]) -> dict[str, str | None]:
    """The entries to run, in the baseline's order, and the reference where one was given."""
    parts = [part.strip() for text in optimizers for part in text.split(",") if part.strip()]
    given: dict[str, str] = {}
    patterns: list[str] = []
    for part in parts:
        name, equals, reference = part.partition("=")
        if equals and ":" in reference:
            given[name] = reference
        elif ":" in part:
            given[entry(part).name] = part
        else:
            patterns.append(part)
    for name in (*given, *idle(patterns, baseline.names)):
        if name not in baseline.names:
            raise UsageError(f"--optimizers: {unknown('entry of the baseline', name, baseline.names)}; another class "
                             "takes an entry's place as NAME=file.py:Class")  # fmt: skip
    chosen = [name for name in baseline.names
              if name in given or ((patterns or not parts) and matches(name, patterns))]  # fmt: skip
    return {name: given.get(name) for name in chosen}


def _is_there(name: str, allow_removed: Sequence[str]) -> bool:
    """Whether the registry has an entry; the gate judges one that has left it.

    Raises `UsageError` for a plugin that nobody has said where to find.
    """
    if name in CATALOG or ":" not in name:
        return name in CATALOG
    if allow_removed and matches(name, allow_removed):
        return False
    raise UsageError(f"--run: baseline entry {name!r} is not built in, and a result file is never asked to name code; "
                     f"say where it is with --optimizers, or leave it out with --allow-removed {name!r}")  # fmt: skip


def _selected(kept: Entry, reference: str, notes: list[str]) -> Selected:
    """The entry's recorded settings on the class behind `reference`, under the entry's name."""
    spec = entry(reference)
    taken = {key: value for key, value in kept.hyperparameters.items() if _takes(spec, key)}
    if left_out := sorted(kept.hyperparameters.keys() - taken.keys()):
        notes.append(f"{kept.optimizer}: {reference} does not take the recorded settings {', '.join(left_out)}")
    (chosen,) = select([reference], {spec.name: taken}, "default")
    if spec.name != kept.optimizer:
        notes.append(f"{kept.optimizer} is run as {spec.name}")
    return replace(chosen, spec=replace(chosen.spec, name=kept.optimizer))


def _takes(spec: OptimizerSpec, key: str) -> bool:
    """Whether the constructor has the argument, or takes any."""
    parameters = inspect.signature(spec.load()).parameters
    return key in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def code_digest(device: str, threads: int) -> str:
    """8 digits over what decides a run's bits besides its plan: sources, versions, hardware.

    Sources are this package's, and those that are loaded from outside installed packages, so a user's optimizer and
    what it imported. What such code imports later than that is not seen.
    """
    place = environment(torch.device(device)).model_copy(update={"threads": threads})
    digest = hashlib.sha256(repr(sorted(platform(place).items())).encode())
    for name, path in sorted(_sources().items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def _sources() -> dict[str, Path]:
    """Every source by a name that does not depend on the folder of the checkout."""
    package = Path(__file__).resolve().parents[1]
    found = {}
    for folder, _, files in os.walk(package, followlinks=True):
        for file in files:
            if file.endswith(".py"):
                path = Path(folder, file)
                found[str(path.relative_to(package))] = path
    installed = tuple(sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib"))
    for name, module in list(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "")
        own = name.partition(".")[0] == "bench" or path.is_relative_to(package)
        if path.suffix == ".py" and path.is_file() and not own and not str(path).startswith(installed):
            found[name] = path
    return found
