"""Which optimizers there are: the catalog's entries, and any class by reference; and what `--optimizers` selects."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from bench.errors import UsageError
from bench.optimizers.catalog import CATALOG, GROUPS
from bench.spec import Need, OptimizerSpec, Role, RoledParameter, resolve
from bench.suggestions import unknown

Rates = Literal["default", "documents"]
MAX_CLASSES = 10  # how many of a module's classes an error lists
# What somebody else's code may raise when it is imported or called: libraries have exception classes of their own.
PLUGIN_FAULTS = (Exception,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """An entry, the reference a worker finds it by, and the settings it will run with."""

    spec: OptimizerSpec
    reference: str
    hyperparameters: Mapping[str, Any]


def entry(reference: str) -> OptimizerSpec:
    """The entry of that name, or one made for the class behind `module:Class` or `file.py:Class`.

    A file's entry is named by the file without its folder; its source's digest tells two files of one name apart.
    Raises `UsageError` where there is no such entry, file, module, class, or the class is no optimizer.
    """
    if reference in CATALOG:
        return CATALOG[reference]
    if ":" not in reference:
        raise UsageError(unknown("optimizer", reference, [*CATALOG, *GROUPS]) + ", or module:Class, or file.py:Class")
    return _entry_of_class(reference)


def _entry_of_class(reference: str) -> OptimizerSpec:
    """The entry of a `module:Class` or `file.py:Class`; one with a catalog entry's class has that entry's ways."""
    module, attribute, digest = load_reference(reference, "optimizer")
    place, _, _ = reference.rpartition(":")
    name = f"{Path(place).name}:{attribute}" if place.endswith(".py") else reference
    found = getattr(module, attribute, None)
    if found is None:
        raise UsageError(f"optimizer {reference!r}: {_unknown_class(attribute, module)}")
    if isinstance(found, OptimizerSpec):
        return replace(found, name=name, source_digest=digest)
    if not (inspect.isclass(found) and issubclass(found, Optimizer)):
        raise UsageError(f"optimizer {reference!r}: {attribute} is a {type(found).__name__} and no optimizer; allowed "
                         "are a subclass of torch.optim.Optimizer and an OptimizerSpec")  # fmt: skip
    plain = OptimizerSpec(
        name=name, title=attribute, constructor=found, defaults={"lr": _default_rate(found)},
        reference=name, source_digest=digest,
    )  # fmt: skip
    twin = next((spec for spec in CATALOG.values() if _is_constructor(spec, found)), None)
    if twin is None:
        return plain
    return replace(
        plain, groups=twin.groups, needs=twin.needs, matrix_algorithm=twin.matrix_algorithm, packages=twin.packages
    )


def _is_constructor(spec: OptimizerSpec, found: type[Optimizer]) -> bool:
    """Whether the class is the entry's; imports no package that the class is not from."""
    if not isinstance(spec.constructor, str):
        return spec.constructor is found
    return _package(spec.constructor) == _package(found.__module__) and resolve(spec.constructor) is found


def _package(reference: str) -> str:
    """The top package of a module or reference."""
    return reference.partition(":")[0].partition(".")[0]


def _unknown_class(name: str, module: Any) -> str:
    """What to say of a class that a module lacks; letters' case does not matter for the guess."""
    classes = {k.lower(): k for k, v in vars(module).items() if inspect.isclass(v) and issubclass(v, Optimizer)}
    close = difflib.get_close_matches(name.lower(), classes, n=1, cutoff=0.4)
    hint = f"did you mean {classes[close[0]]!r}? " if close else ""
    shown = sorted(classes.values())[:MAX_CLASSES]
    more = f" and {len(classes) - len(shown)} more" if len(classes) > len(shown) else ""
    return f"unknown class {name!r}: {hint}allowed are {', '.join(shown)}{more}"


def load_reference(reference: str, what: str) -> tuple[Any, str, str | None]:
    """The module behind `module:Class` or `file.py:Class`, the class's name, and the SHA-256 of the module's source.

    Modules of the current folder are found too. Raises `UsageError`, which begins with `what` it is, where there is
    no such file or module or it cannot be imported; whether it has the class is not looked at.
    """
    place, _, attribute = reference.rpartition(":")
    if not (place and attribute):
        raise UsageError(f"{what} {reference!r}: allowed are module:Class and file.py:Class")
    load = _load_file if place.endswith(".py") else _load_module
    module, digest = load(place, f"{what} {reference!r}")
    return module, attribute, digest


def _load_file(place: str, who: str) -> tuple[Any, str]:
    """The module of a Python file, and the SHA-256 of its source."""
    path = Path(place)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{who}: cannot read {place}: {error.strerror}") from None
    digest = hashlib.sha256(source).hexdigest()
    module_name = f"bench_plugin_{digest[:16]}"
    if module_name in sys.modules:
        return sys.modules[module_name], digest
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickling look their module up
    try:
        spec.loader.exec_module(module)
    except PLUGIN_FAULTS as error:
        del sys.modules[module_name]
        raise UsageError(f"{who}: {place} fails at import: {type(error).__name__}: {error}") from error
    return module, digest


def _load_module(place: str, who: str) -> tuple[Any, str | None]:
    """The module, also of the current folder, and the SHA-256 of its source where it has one."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(place)
    except PLUGIN_FAULTS as error:
        extras = {_package(spec.constructor): spec.extra for spec in CATALOG.values()
                  if isinstance(spec.constructor, str) and spec.extra}  # fmt: skip
        cure = f"; {_install(extra)}" if (extra := extras.get(_package(place))) else ""
        raise UsageError(f"{who}: cannot import module {place!r}: {error}{cure}") from None
    source = getattr(module, "__file__", None)
    return module, hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else None


def _install(extra: str) -> str:
    return f"pip install 'optimizer-bench[{extra}]'"


def _default_rate(constructor: type[Optimizer]) -> float:
    """The class's own default rate; 1e-3 where it has none."""
    parameter = inspect.signature(constructor).parameters.get("lr")
    default = None if parameter is None else parameter.default
    return float(default) if isinstance(default, int | float) and not isinstance(default, bool) else 1e-3


def select(
    patterns: Sequence[str],
    overrides: Mapping[str, Mapping[str, Any]],
    rates: Rates,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Selected]:
    """The entries that `patterns` name (names, groups, globs, references; commas allowed), in order, each once.

    `overrides` maps an entry's name to settings that replace its defaults, and those of a protocol's `settings`, which
    may also be of entries of the catalog that are not selected. Raises `UsageError` where a pattern selects nothing, a
    setting is not allowed or its optimizer unknown.
    """
    references: dict[str, None] = {}
    for pattern in (part.strip() for text in patterns for part in text.split(",")):
        if pattern:
            references.update(dict.fromkeys(_expand(pattern)))
    if not references:
        raise UsageError(f"no optimizers given; allowed are {', '.join([*GROUPS, *CATALOG])}")
    specs = {reference: entry(reference) for reference in references}
    names = [spec.name for spec in specs.values()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"optimizer {twice[0]!r} is selected twice from different files; rename one of the files")
    if idle := sorted(set(overrides) - set(names)):
        raise UsageError(f"-O {idle[0]}: that optimizer is not selected; selected are {', '.join(names)}")
    if strange := sorted(set(settings or {}) - {*CATALOG, *names}):
        raise UsageError(f"protocol's settings: {unknown('optimizer', strange[0], {*CATALOG, *names})}")
    changes = {name: {**(settings or {}).get(name, {}), **overrides.get(name, {})} for name in names}
    return [_selected(spec, reference, changes[spec.name], rates) for reference, spec in specs.items()]


def _expand(pattern: str) -> Sequence[str]:
    """The references behind one pattern."""
    if pattern in GROUPS:
        return GROUPS[pattern]
    if any(sign in pattern for sign in "*?[") and ":" not in pattern:
        matches = fnmatch.filter(CATALOG, pattern)
        if not matches:
            raise UsageError(f"optimizer pattern {pattern!r} matches none of {', '.join(CATALOG)}")
        return matches
    return [pattern]


def _selected(spec: OptimizerSpec, reference: str, overrides: Mapping[str, Any], rates: Rates) -> Selected:
    _require_packages(spec)
    base = spec.documents if rates == "documents" and spec.documents is not None else spec.defaults
    chosen = {**base, **overrides}
    _try_constructor(spec, chosen, overrides)
    return Selected(spec=spec, reference=reference, hyperparameters=_complete(spec, chosen))


def _require_packages(spec: OptimizerSpec) -> None:
    """Raise `UsageError` where the entry's package cannot be imported."""
    try:
        spec.load()
    except PLUGIN_FAULTS as error:
        cure = f"; {_install(spec.extra)}" if spec.extra else ""
        raise UsageError(f"optimizer {spec.name}: {' '.join(str(error).split())}{cure}") from None


def _complete(spec: OptimizerSpec, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen settings and the constructor's own defaults for the others, as plain data: all that a record needs.

    Left out are defaults that JSON cannot hold: objects, and an infinite bound.
    """
    parameters = inspect.signature(spec.load()).parameters.items()
    defaults = {key: _plain(p.default) for key, p in parameters if p.default is not inspect.Parameter.empty}
    given = {key: _plain(value) for key, value in chosen.items()}
    for key, value in given.items():
        if not _is_finite(value):
            raise UsageError(f"optimizer {spec.name}: {key} is {value!r}; allowed are finite numbers")
    complete = {**{key: value for key, value in defaults.items() if _is_finite(value)}, **given}
    return {key: v for key, v in complete.items() if v is None or isinstance(v, bool | int | float | str | list)}


def _plain(value: Any) -> Any:
    """A tuple as a list, a number that has a name as a number."""
    if isinstance(value, tuple):
        return [_plain(x) for x in value]
    return int(value) if isinstance(value, IntEnum) else value


def _is_finite(value: Any) -> bool:
    return all(math.isfinite(x) for x in (value if isinstance(value, list) else [value]) if isinstance(x, float))


def _try_constructor(spec: OptimizerSpec, hyperparameters: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Build the optimizer on a few parameters, so that a bad setting is found before anything runs."""
    parameters = [
        RoledParameter(name=role, parameter=nn.Parameter(torch.zeros(2, 2)), role=role)
        for role in (Role.HIDDEN_MATRIX, Role.HEAD)
    ]
    accepted = inspect.signature(spec.load()).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
    extra = sorted(set(hyperparameters) - set(accepted))
    if extra and not open_ended:
        allowed = [name for name in accepted if name not in ("self", "params")]
        raise UsageError(f"optimizer {spec.name}: {unknown('hyper-parameter', extra[0], allowed)}")
    lr = hyperparameters["lr"]
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 <= lr < float("inf"):
        raise UsageError(f"optimizer {spec.name}: lr is {lr!r}; allowed is a finite number >= 0")
    try:
        groups = spec.build(parameters, hyperparameters).param_groups
    except PLUGIN_FAULTS as error:
        given = ", ".join(f"{key}={value!r}" for key, value in overrides.items())  # not every library names the value
        line = " ".join(str(error).split())
        raise UsageError(f"optimizer {spec.name}: {line}{f'; given {given}' if given else ''}") from None
    if not all("lr" in group for group in groups):
        raise UsageError(f"optimizer {spec.name}: its parameter groups have no lr, which the schedule needs")
    if lost := [key for key in extra if not all(key in group for group in groups)]:
        raise UsageError(f"optimizer {spec.name}: {unknown('hyper-parameter', lost[0], accepted)}")


def require_precision(spec: OptimizerSpec, precision: str) -> None:
    """Raise `UsageError` where the entry cannot be trained in a precision."""
    unscalable = sorted(spec.needs & {Need.CLOSURE, Need.SECOND_ORDER})
    if precision == "fp16" and unscalable:
        raise UsageError(
            f"optimizer {spec.name}: precision is 'fp16', whose scaled gradients do not go with the need "
            f"{' and '.join(unscalable)}; allowed are 'float32' and 'bf16'"
        )


def matrix_warnings(spec: OptimizerSpec, roled: Sequence[RoledParameter]) -> list[str]:
    """A line, if its policy hands embeddings or heads to an algorithm that is meant for hidden matrices."""
    if not spec.matrix_algorithm:
        return []
    groups = [dict(group) for group in spec.groups(roled)]
    members = [{id(parameter) for parameter in group.pop("params")} for group in groups]
    hidden = {id(p.parameter) for p in roled if p.role is Role.HIDDEN_MATRIX}
    # A group is the matrices' where it holds one, or has the settings of one that does.
    of_matrices = [group for group, ids in zip(groups, members, strict=True) if ids & hidden or not hidden]
    reached = {i for group, ids in zip(groups, members, strict=True) if group in of_matrices for i in ids}
    names = [
        p.name
        for p in roled
        if p.role in (Role.EMBEDDING, Role.HEAD) and p.parameter.ndim >= 2 and id(p.parameter) in reached
    ]
    if not names:
        return []
    return [
        f"{spec.name} is an algorithm for hidden matrices and is also given {len(names)} embeddings or heads: "
        f"{', '.join(names)}"
    ]
