"""What a tracker is told of a run: no paths, no names of users or hosts, no command line, no traceback."""

from __future__ import annotations

import json
from typing import Any

from bench.paths import without_folders
from bench.plan import Run
from bench.record import CurvePoint, RunRecord

PROTOCOL_FIELDS = ("epochs", "batch_size", "precision", "clip_norm", "schedule", "warmup", "primary_metric")


def settings(run: Run) -> dict[str, str | int | float | None]:
    """What a run is, by flat names; values that are neither text nor number as JSON."""
    protocol = run.protocol
    found: dict[str, Any] = {
        "run_id": run.run_id,
        "optimizer": run.optimizer,
        "seed": run.seed,
        "configuration": run.configuration,
        "protocol.name": protocol.name,
        "protocol.hash": protocol.hash,
        "protocol.workload": protocol.workload.name,
        **{f"protocol.{name}": getattr(protocol, name) for name in PROTOCOL_FIELDS},
        **{f"hyperparameters.{name}": value for name, value in run.hyperparameters.items()},
    }
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> str | int | float | None:
    if value is None or isinstance(value, int | float):
        return value
    return without_folders(value if isinstance(value, str) else json.dumps(value))


def scalars(point: CurvePoint) -> dict[str, float]:
    """An epoch's numbers; some may be NaN or infinite."""
    return {
        "loss": point.loss,
        **{f"pair_losses/{name}": value for name, value in point.pair_losses.items()},
        **{f"metrics/{name}": value for name, value in point.metrics.items()},
        "learning_rate": point.learning_rate,
        "gradient_norm": point.gradient_norm,
        "update_ratio": point.update_ratio,
        "samples": point.samples,
        "optimizer_steps": point.step,
        "peak_bytes": point.peak_bytes,
        **_seconds(point),
    }


def results(record: RunRecord) -> dict[str, float]:
    """A record's numbers; a run that is not ok has no metrics."""
    device_use = {} if record.device_use is None else record.device_use.model_dump()
    found = {
        "final/loss": record.loss,
        **{f"final/{name}": value for name, value in record.metrics.items()},
        **{f"final/validation/{name}": value for name, value in record.validation_metrics.items()},
        "final/epochs": record.epochs,
        "final/optimizer_steps": record.steps,
        "final/peak_bytes": record.memory.peak_bytes,
        "final/state_bytes": record.memory.state_bytes,
        **{f"final/{name}": value for name, value in _seconds(record).items()},
        **{f"final/device/{name}": value for name, value in device_use.items()},
    }
    return {name: value for name, value in found.items() if value is not None}


def _seconds(source: CurvePoint | RunRecord) -> dict[str, float]:
    return {f"seconds/{name}": value for name, value in source.seconds.model_dump(mode="python").items()}


def ending(record: RunRecord) -> dict[str, str]:
    """How a run ended, in words."""
    reason = {} if record.failure is None else {"reason": without_folders(record.failure.reason)}
    return {"outcome": str(record.outcome), **reason}
