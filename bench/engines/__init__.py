"""Engines: one file each, loaded only when asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.executor import Engine, Listener
    from bench.placement import Placement

    # Starts an engine for (where runs go, the study's folder, whom to tell).
    Build = Callable[[Placement, Path, Listener], Engine]

ENGINES = ("local", "ray")


def engine_for(name: str = "local", address: str | None = None) -> Build:
    """What starts the engine of that name; `address` is where a Ray cluster is.

    Raises `UsageError` where there is no such engine, its packages are not installed, or it has no such address.
    """
    if name not in ENGINES:
        raise UsageError(f"--engine {name!r}: allowed are {', '.join(ENGINES)}")
    if name == "ray":
        from bench.engines.ray import RayEngine, require_ray

        require_ray(address)
        return partial(RayEngine, address=address)
    if address is not None:
        raise UsageError(f"--address {address!r}: allowed with --engine ray alone")
    return _local


def _local(placement: Placement, study: Path, listener: Listener) -> Engine:
    from bench.engines.local import LocalEngine

    return LocalEngine(placement, study / "logs", listener)
