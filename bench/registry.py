"""Which optimizers there are: the catalog's entries, and any class by reference; and what `--optimizers` selects."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from bench.errors import UsageError
from bench.optimizers.catalog import CATALOG, GROUPS
from bench.spec import OptimizerSpec, Role, RoledParameter
from bench.suggestions import unknown

Rates = Literal["default", "documents"]
# What somebody else's code may raise when it is imported or constructed.
PLUGIN_FAULTS = (
    ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, OSError, RuntimeError, AssertionError,
    LookupError, ArithmeticError,
)  # fmt: skip


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
    place, _, attribute = reference.rpartition(":")
    if not (place and attribute):
        raise UsageError(f"optimizer {reference!r}: allowed are module:Class and file.py:Class")
    is_file = place.endswith(".py")
    module, digest = _load_file(place, reference) if is_file else _load_module(place, reference)
    name = f"{Path(place).name}:{attribute}" if is_file else reference
    found = getattr(module, attribute, None)
    if found is None:
        classes = [k for k, v in vars(module).items() if inspect.isclass(v) and issubclass(v, Optimizer)]
        raise UsageError(f"optimizer {reference!r}: {unknown('class', attribute, classes)}")
    if isinstance(found, OptimizerSpec):
        return replace(found, name=name, source_digest=digest)
    if not (inspect.isclass(found) and issubclass(found, Optimizer)):
        raise UsageError(f"optimizer {reference!r}: {attribute} is a {type(found).__name__} and no optimizer; allowed "
                         "are a subclass of torch.optim.Optimizer and an OptimizerSpec")  # fmt: skip
    return OptimizerSpec(
        name=name, title=attribute, constructor=found, defaults={"lr": _default_rate(found)},
        reference=name, source_digest=digest,
    )  # fmt: skip


def _load_file(place: str, name: str) -> tuple[Any, str]:
    """The module of a Python file, and the SHA-256 of its source."""
    path = Path(place)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"optimizer {name!r}: cannot read {place}: {error.strerror}") from None
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
        raise UsageError(f"optimizer {name!r}: {place} fails at import: {type(error).__name__}: {error}") from error
    return module, digest


def _load_module(place: str, name: str) -> tuple[Any, str | None]:
    """The module, also of the current folder, and the SHA-256 of its source where it has one."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(place)
    except PLUGIN_FAULTS as error:
        raise UsageError(f"optimizer {name!r}: cannot import module {place!r}: {error}") from None
    source = getattr(module, "__file__", None)
    return module, hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else None


def _default_rate(constructor: type[Optimizer]) -> float:
    """The class's own default rate; 1e-3 where it has none."""
    parameter = inspect.signature(constructor).parameters.get("lr")
    default = None if parameter is None else parameter.default
    return float(default) if isinstance(default, int | float) and not isinstance(default, bool) else 1e-3


def select(patterns: Sequence[str], overrides: Mapping[str, Mapping[str, Any]], rates: Rates) -> list[Selected]:
    """The entries that `patterns` name (names, groups, globs, references; commas allowed), in order, each once.

    `overrides` maps an entry's name to settings that replace its defaults.
    Raises `UsageError` where a pattern selects nothing or a setting is not allowed.
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
    return [_selected(spec, reference, overrides.get(spec.name, {}), rates) for reference, spec in specs.items()]


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
    base = spec.documents if rates == "documents" and spec.documents is not None else spec.defaults
    chosen = {**base, **overrides}
    _try_constructor(spec, chosen)
    return Selected(spec=spec, reference=reference, hyperparameters=_complete(spec, chosen))


def _complete(spec: OptimizerSpec, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen settings and the constructor's own defaults for the others, as plain data: all that a record needs."""
    parameters = inspect.signature(spec.load()).parameters.items()
    defaults = {key: p.default for key, p in parameters if p.default is not inspect.Parameter.empty}
    complete = {key: list(v) if isinstance(v, tuple) else v for key, v in {**defaults, **chosen}.items()}
    plain = {key: v for key, v in complete.items() if v is None or isinstance(v, bool | int | float | str | list)}
    for key, value in plain.items():
        if not all(math.isfinite(x) for x in (value if isinstance(value, list) else [value]) if isinstance(x, float)):
            raise UsageError(f"optimizer {spec.name}: {key} is {value!r}; allowed are finite numbers")
    return plain


def _try_constructor(spec: OptimizerSpec, hyperparameters: Mapping[str, Any]) -> None:
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
        spec.build(parameters, hyperparameters)
    except PLUGIN_FAULTS as error:
        raise UsageError(f"optimizer {spec.name}: {' '.join(str(error).split())}") from None
