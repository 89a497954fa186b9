"""Tensors that can be reached from a value, through containers and the attributes of objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor

_LEAVES = (str, bytes, int, float, complex, type, ModuleType, FunctionType, BuiltinFunctionType)


def tensors_reachable(value: Any) -> list[Tensor]:
    """Every tensor once. Not followed: what functions close over, and attributes that a class names in WORKSPACE.

    `WORKSPACE: ClassVar[tuple[str, ...]]` names attributes whose content does not outlive a step.
    """
    found: list[Tensor] = []
    known: dict[int, Any] = {}  # holds what it has seen, so that no identity is used twice
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if each is None or isinstance(each, _LEAVES) or id(each) in known:
            continue
        known[id(each)] = each
        if isinstance(each, Tensor):
            found.append(each)
        waiting.extend(_parts(each))
    return found


def _parts(value: Any) -> Iterator[Any]:
    """What a container holds, and an object's attributes."""
    if isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from value
    elif isinstance(value, MethodType):
        yield value.__self__
    yield from attributes(value).values()


def attributes(value: Any) -> dict[str, Any]:
    """An object's attributes, in `__dict__` and in slots, without its class's workspace."""
    found = {name: getattr(value, name) for name in _slots(type(value)) if hasattr(value, name)}
    found |= getattr(value, "__dict__", {})
    workspace = getattr(type(value), "WORKSPACE", ())
    return {name: each for name, each in found.items() if name not in workspace}


def _slots(cls: type) -> Iterable[str]:
    """The slots of a class written in Python and of its bases, as they are looked up."""
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                hidden = name.startswith("__") and not name.endswith("__")
                yield f"_{base.__name__.lstrip('_')}{name}" if hidden else name
