"""Which optimizer trains a multimodal network best: studies, records and reports.

import bench
study = bench.run("sgd,adamw", epochs=5, seeds=3)
study.frame()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.errors import UsageError
    from bench.runner import run
    from bench.study import Study, load_study

__all__ = ["Study", "UsageError", "load_study", "run"]

_HOMES = {"UsageError": "bench.errors", "run": "bench.runner", "Study": "bench.study", "load_study": "bench.study"}


def __getattr__(name: str) -> Any:
    """Import the public names on first use: `bench --help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
