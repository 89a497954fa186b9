"""A run from its plan to its record: whatever happens to it becomes an outcome."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench import environment
from bench.checkpoint import Keeper, StoppedError, TimedOutError
from bench.errors import LostProcessError, StorageError
from bench.paths import without_folders
from bench.plan import Run, ended
from bench.record import CurvePoint, Failure, Fingerprints, MemoryUse, Outcome, RunRecord
from bench.seeding import generator_states, globally_seeded, role_seed, set_generator_states
from bench.techniques.options import CHANGES_THE_LOSS
from bench.telemetry import DeviceWatch
from bench.together import Member
from bench.trainer import DivergedError, Trainer
from bench.weight_keeping import WeightKeeper
from bench.weights import Weights, read_start

if TYPE_CHECKING:
    from bench.ddp import Ranks


def execute(
    run: Run,
    *,
    device: torch.device,
    data_dir: Path | None = None,
    on_start: Callable[[Sequence[CurvePoint]], None] = lambda behind: None,
    on_epoch: Callable[[CurvePoint], None] = lambda point: None,
    command: str | None = None,
    keeper: Keeper | None = None,
    member: Member | None = None,
    ranks: Ranks | None = None,
    weights: WeightKeeper | None = None,
    study: Path | None = None,
) -> RunRecord:
    """Carry out a run, from the state that `keeper` has of it where there is one, beside others where it is a `member`,
    by several processes where it has `ranks`. `weights` are kept on the way; a run that goes on from stored ones finds
    them in the folder `study`.

    `on_start` is told the epochs it has behind it, `on_epoch` each one that follows. Raises only what is no result:
    `StoppedError` where the run was asked to end early, `StorageError` where something could not be stored,
    `LostProcessError` where one of its processes is gone.
    """
    trainer: Trainer | None = None
    outcome, failure, metrics = Outcome.OK, None, _Metrics()
    keeper, weights, watch = keeper or Keeper(), weights or WeightKeeper(), DeviceWatch(device)
    try:
        with watch, globally_seeded(role_seed(run.seed, "optimizer")):
            generators, start = generator_states(), _start(run, study)
            trainer = Trainer(run, device, data_dir, member, ranks, start)
            if (state := keeper.restored(trainer.identity())) and _goes_on(trainer, state):
                keeper.count(state["seconds"]["total"])
            elif state:
                set_generator_states(generators)
                trainer = Trainer(run, device, data_dir, member, ranks, start)
            on_start(trainer.curve)
            weights.begin(trainer)
            for point in trainer.epochs(keeper):
                on_epoch(point)
                weights.after_epoch(trainer, point)
            metrics = _Metrics(trainer.curve[-1].metrics, *trainer.final_metrics())
            weights.at_end(trainer, metrics.validation)
    except (StoppedError, StorageError, LostProcessError):
        raise
    except DivergedError as error:
        outcome, failure = Outcome.DIVERGED, error.failure
    except TimedOutError as error:
        outcome, failure = Outcome.TIMEOUT, Failure(reason=str(error), **_place(trainer))
    except (torch.OutOfMemoryError, MemoryError) as error:
        outcome, failure = Outcome.OUT_OF_MEMORY, Failure(reason=_line(error), traceback=_traceback())
    except Exception as error:  # the one place where a run's failure becomes a result
        # Code that cannot bear NaN raises once a run has diverged; what happened is the divergence.
        diverged = trainer is not None and trainer.has_non_finite_loss()
        full = "can't allocate memory" in str(error)  # what torch raises where the CPU's memory is full
        outcome = Outcome.DIVERGED if diverged else Outcome.OUT_OF_MEMORY if full else Outcome.ERROR
        failure = Failure(reason=_line(error), traceback=_traceback(), **_place(trainer))
    record = ended(run, outcome, failure, command)
    if trainer is None:
        return record
    return record.model_copy(update={**_findings(trainer, metrics, outcome), "device_use": watch.use()})


def _start(run: Run, study: Path | None) -> Weights | None:
    """The weights that a run goes on from; None where they are fresh ones.

    Raises `ValueError` where they are not in the study, or not as they were.
    """
    start = run.protocol.start
    if start is None:
        return None
    if study is None:
        raise ValueError(f"protocol {run.protocol.name!r}: start: goes on from weights of a study, and there is none")
    return read_start(study, start.sha256)


def _goes_on(trainer: Trainer, state: Mapping[str, Any]) -> bool:
    """Whether the trainer could take the state over; where not, it is of no use any more."""
    try:
        trainer.restore(state)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever a user's optimizer says of the state that it once gave
        print(f"{trainer.run.run_id}: its state cannot be loaded again, so it begins anew: {_line(error)}",
              file=sys.stderr)  # fmt: skip
        return False
    return True


def _place(trainer: Trainer | None) -> dict[str, Any]:
    """Epoch (from 1) and step (from 0) that a run has come to."""
    return {} if trainer is None else {"epoch": trainer.epoch + 1, "step": trainer.step}


@dataclass(frozen=True, slots=True)
class _Metrics:
    """A finished run's metrics; empty for one that is not ok."""

    test: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, float] = field(default_factory=dict)


def _traceback() -> str:
    """The current exception's traceback."""
    return _plain(traceback.format_exc())


def _line(error: BaseException) -> str:
    """An exception in one line."""
    return _plain(f"{type(error).__name__}: {' '.join(str(error).split())}")[:500]


def _plain(text: str) -> str:
    """`text` without folders, and as UTF-8 can hold it: a file's name in a message may be any bytes."""
    return without_folders(text.encode(errors="replace").decode())


def _findings(trainer: Trainer, metrics: _Metrics, outcome: Outcome) -> dict[str, Any]:
    """The fields of the record of a run that could be set up."""
    return {
        **trainer.kind.findings(trainer),
        "metrics": metrics.test,
        "validation_metrics": metrics.validation,
        "class_metrics": metrics.by_class,
        "loss": trainer.last_loss,
        "best_loss": _best_loss(trainer),
        "epochs": trainer.protocol.epochs if outcome is Outcome.OK else trainer.step // trainer.steps_per_epoch,
        "steps": trainer.step,
        "fingerprints": _fingerprints(trainer),
        "seconds": trainer.seconds(),
        "memory": MemoryUse(
            peak_bytes=environment.peak_memory(trainer.device),
            state_bytes=environment.state_bytes(trainer.optimizer),
        ),
        "diagnostics": trainer.updates.diagnostics(trainer.skipped_steps),
        "environment": environment.environment(trainer.device),
        "figures": trainer.figures,
    }


def _best_loss(trainer: Trainer) -> float | None:
    """The lowest expected mean of an epoch's losses, over its batches as they are; None where none is known."""
    if not CHANGES_THE_LOSS.isdisjoint(trainer.protocol.techniques.on):
        return None
    size, batch = trainer.dataset.training_size, trainer.protocol.batch_size
    batches = [min(batch, size - start) for start in range(0, trainer.steps_per_epoch * batch, batch)]
    bounds = [trainer.dataset.best_pair_loss(count) for count in batches]
    known = [bound for bound in bounds if bound is not None]
    if len(known) < len(bounds):
        return None
    modalities = len(trainer.protocol.workload.modalities)
    return modalities * (modalities - 1) / 2 * sum(known) / len(known)


def _fingerprints(trainer: Trainer) -> Fingerprints:
    return Fingerprints(
        initial_weights=trainer.initial_weights,
        batch_order=trainer.first_order,
        initial_loss=trainer.initial_loss,
        data=trainer.dataset.digest,
        files=dict(trainer.dataset.network_files),
    )
