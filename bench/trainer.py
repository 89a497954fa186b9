"""The one training loop. It names no optimizer and no workload."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from bench import environment
from bench.bounds import ceiling, chance_level
from bench.clock import Clock
from bench.datasets.samples import Dataset, HeldOut, Samples
from bench.diagnostics import DivergenceWatch, UpdateWatch
from bench.metrics import (
    NonFiniteEmbeddingError,
    embedding_scores,
)
from bench.models.dropout import DropoutStream
from bench.models.multimodal_memory import NO_DROPOUT
from bench.paths import without_folders
from bench.plan import TUNING_SEEDS, Run, ended
from bench.record import CurvePoint, Failure, Fingerprints, MemoryUse, Number, Outcome, RunRecord, Seconds
from bench.registry import entry
from bench.schedule import learning_rate_factor
from bench.seeding import batch_order, globally_seeded, order_fingerprint, role_seed, torch_seeded, weights_fingerprint
from bench.spec import Need, OptimizerSpec
from bench.step import Evaluation, OptimizerStep, autocast
from bench.workload import Workload, roled_parameters

EVALUATION_BATCH = 256
OnEpoch = Callable[[CurvePoint], None]


class DivergedError(ArithmeticError):
    """A run left the region its protocol allows; a result, not a fault."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def _planned_entry(run: Run) -> OptimizerSpec:
    """The run's entry.

    Raises `ValueError` where a plugin's source is no longer what it was when the study was planned.
    """
    spec = entry(run.reference)
    if spec.source_digest != run.source_digest:
        raise ValueError(f"{run.optimizer}: its source has changed since the study was planned; start the study again")
    return spec


@dataclass(slots=True, kw_only=True)
class _EpochTotals:
    """What the steps of an epoch leave on the device until its end."""

    losses: Tensor  # [steps]
    pairs: Tensor  # [steps, pairs]
    gradient_norms: Tensor  # [steps]


@lru_cache(maxsize=2)
def resident_dataset(workload_json: str, data_dir: Path | None, device: str) -> Dataset:
    """The dataset of a workload, built once a process."""
    return Workload.model_validate_json(workload_json).build_dataset(data_dir, device)


class Trainer:
    """One run from fresh weights to its record; holds what changes over the run's steps."""

    def __init__(self, run: Run, device: torch.device, data_dir: Path | None = None) -> None:
        protocol, workload = run.protocol, run.protocol.workload
        self.run, self.protocol, self.device = run, protocol, device
        self.clock = Clock(device)
        environment.reset_peak_memory(device)
        with self.clock.part("setup"):
            self.dataset = resident_dataset(workload.model_dump_json(), data_dir, str(device))
            with torch_seeded(role_seed(run.seed, "init")):
                self.model = workload.build_model()
            self.initial_weights = weights_fingerprint(self.model)
            self.model.to(device)
            roled = roled_parameters(self.model, workload.roles())
            spec = _planned_entry(run)
            self.needs = spec.needs
            self.optimizer: Optimizer = spec.build(roled, run.hyperparameters)
            self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
            self.updates = UpdateWatch(self.model)
            self.divergence = DivergenceWatch(self.model, protocol)
            dropout = DropoutStream(self.model.dropout_probability, role_seed(run.seed, "dropout"), device)
            self.take_step = OptimizerStep(self.optimizer, spec.needs, self.model, dropout, protocol, device)
        self.step = self.samples = 0
        self.first_order = ""
        self.initial_loss: float | None = None
        self.last_loss: float | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        size, batch = self.dataset.training_size, self.protocol.batch_size
        return size // batch if self.protocol.drop_last else -(-size // batch)

    def train_epoch(self, epoch: int) -> _EpochTotals:
        """All steps of an epoch; nothing is read back from the device but at the first step, which is watched."""
        self.model.train()
        self._switch_weights(training=True)
        samples = self.dataset.training(epoch, role_seed(self.run.seed, "augmentation"))
        order = batch_order(role_seed(self.run.seed, "order"), epoch, len(samples))
        self.first_order = self.first_order or order_fingerprint(order)
        order = order.to(self.device)
        steps, totals = self.steps_per_epoch, None
        for i in range(steps):
            batch = samples.take(order[i * self.protocol.batch_size : (i + 1) * self.protocol.batch_size])
            evaluation = self._train_step(batch, watched=i == 0)
            if totals is None:
                totals = _EpochTotals(
                    losses=torch.zeros(steps, device=self.device),
                    pairs=torch.zeros(steps, len(evaluation.pairs), device=self.device),
                    gradient_norms=torch.zeros(steps, device=self.device),
                )
            totals.pairs[i] = evaluation.losses
            totals.gradient_norms[i] = evaluation.gradient_norm
            self._pair_names = evaluation.pairs
        assert totals is not None
        totals.losses = totals.pairs.sum(dim=1)
        if Need.TRAIN_EVAL_SWITCH in self.needs:
            self._switch_weights(training=False)
            self._gather_statistics(samples, order)
        return totals

    def _train_step(self, batch: Samples, *, watched: bool) -> Evaluation:
        """One step at its learning rate."""
        total = self.protocol.epochs * self.steps_per_epoch
        warmup = round(self.protocol.warmup * total)
        factor = learning_rate_factor(self.protocol.schedule, self.step, total, warmup)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        evaluation = self.take_step(batch, self.step, self.updates.observe() if watched else nullcontext())
        self.step += 1
        self.samples += len(batch)
        return evaluation

    def _switch_weights(self, *, training: bool) -> None:
        """To the weights that are trained, or to those that are looked at, where the optimizer tells them apart."""
        if Need.TRAIN_EVAL_SWITCH in self.needs:
            optimizer: Any = self.optimizer
            optimizer.train() if training else optimizer.eval()

    @torch.no_grad()
    def _gather_statistics(self, samples: Samples, order: Tensor) -> None:
        """Running statistics for the weights at hand: the mean over the epoch's batches."""
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean
        for indices in order.split(self.protocol.batch_size) if norms else ():
            batch = samples.take(indices)
            with autocast(self.protocol, self.device):
                self.model(batch.inputs(), batch.text_mask_NL, NO_DROPOUT)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    @torch.inference_mode()
    def embeddings(self, split: HeldOut) -> tuple[dict[str, Tensor], Samples]:
        """Embeddings [N, D] of every modality of a held-out split, float32, and the split."""
        self.model.eval()
        samples = self.dataset.held_out(split)
        parts: dict[str, list[Tensor]] = {}
        for start in range(0, len(samples), EVALUATION_BATCH):
            batch = samples.take(slice(start, start + EVALUATION_BATCH))
            with autocast(self.protocol, self.device):
                embeddings = self.model(batch.inputs(), batch.text_mask_NL, NO_DROPOUT)
            for name, x in embeddings.items():
                parts.setdefault(name, []).append(x.float())
        return {name: torch.cat(xs) for name, xs in parts.items()}, samples

    def evaluate(self, split: HeldOut) -> dict[str, float]:
        """Instance-level retrieval metrics of a held-out split, in percent."""
        embeddings, samples = self.embeddings(split)
        return embedding_scores(embeddings, samples.match_N)

    def final_metrics(self) -> tuple[dict[str, float], dict[str, float]]:
        """Validation metrics, and the test split's where every item of the query's class counts as found.

        Raises `DivergedError` where an embedding is not finite.
        """
        with self.clock.part("evaluation"):
            try:
                embeddings, test = self.embeddings("test")
                return self.evaluate("validation"), embedding_scores(embeddings, test.label_N)
            except NonFiniteEmbeddingError as error:
                raise DivergedError(
                    Failure(reason=str(error), epoch=self.protocol.epochs, step=self.step - 1)
                ) from error

    def has_non_finite_loss(self) -> bool:
        """Whether the latest step's loss is NaN or infinite."""
        return not self.take_step.last_losses.isfinite().all().item()

    def epochs(self) -> Iterator[CurvePoint]:
        """Train epoch by epoch.

        Raises `DivergedError` after the epoch in which the run left the protocol's limits.
        """
        for epoch in range(1, self.protocol.epochs + 1):
            first_step = self.step
            with self.clock.part("training"):
                totals = self.train_epoch(epoch)
                losses = totals.losses.tolist()
            if self.initial_loss is None:
                self.initial_loss = losses[0]
            self.last_loss = sum(losses) / len(losses)
            failure = self.divergence.check(losses, epoch, first_step)
            metrics: dict[str, float] = {}
            last = epoch == self.protocol.epochs
            # A search looks at the last score alone.
            due = last or (epoch % self.protocol.evaluate_every == 0 and self.run.seed < TUNING_SEEDS)
            if due and failure is None:
                with self.clock.part("evaluation"):
                    try:
                        metrics = self.evaluate("test")
                    except NonFiniteEmbeddingError as error:
                        failure = Failure(reason=str(error), epoch=epoch, step=self.step - 1)
            yield self._curve_point(epoch, totals, metrics)
            if failure is not None:
                raise DivergedError(failure)

    def _curve_point(self, epoch: int, totals: _EpochTotals, metrics: dict[str, Number]) -> CurvePoint:
        pairs = totals.pairs.mean(dim=0).tolist()
        return CurvePoint(
            epoch=epoch,
            step=self.step,
            samples=self.samples,
            loss=totals.losses.mean().item(),
            pair_losses=dict(zip(self._pair_names, pairs, strict=True)),
            gradient_norm=totals.gradient_norms.mean().item(),
            update_ratio=self.updates.last_ratio,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            metrics=metrics,
            seconds=self.seconds(),
            peak_bytes=environment.peak_memory(self.device),
        )

    def seconds(self) -> Seconds:
        """Time of the run so far."""
        parts = {name: self.clock.seconds(name) for name in ("training", "evaluation", "setup")}
        return Seconds(**parts, optimizer_step=self.take_step.seconds(), total=sum(parts.values()))


def execute(
    run: Run,
    *,
    device: torch.device,
    data_dir: Path | None = None,
    on_epoch: OnEpoch = lambda point: None,
    command: str | None = None,
) -> RunRecord:
    """Carry out a run. Whatever happens to it becomes its record's outcome."""
    trainer: Trainer | None = None
    outcome, failure, metrics = Outcome.OK, None, _Metrics()
    test: dict[str, float] = {}
    try:
        with globally_seeded(role_seed(run.seed, "optimizer")):
            trainer = Trainer(run, device, data_dir)
            for point in trainer.epochs():
                on_epoch(point)
                test = point.metrics
            metrics = _Metrics(test, *trainer.final_metrics())
    except DivergedError as error:
        outcome, failure = Outcome.DIVERGED, error.failure
    except (torch.OutOfMemoryError, MemoryError) as error:
        outcome, failure = Outcome.OUT_OF_MEMORY, Failure(reason=_line(error), traceback=_traceback())
    except Exception as error:  # the one place where a run's failure becomes a result
        # Code that cannot bear NaN raises once a run has diverged; what happened is the divergence.
        diverged = trainer is not None and trainer.has_non_finite_loss()
        full = "can't allocate memory" in str(error)  # what torch raises where the CPU's memory is full
        outcome = Outcome.DIVERGED if diverged else Outcome.OUT_OF_MEMORY if full else Outcome.ERROR
        at = {} if trainer is None else {"epoch": trainer.step // trainer.steps_per_epoch + 1, "step": trainer.step}
        failure = Failure(reason=_line(error), traceback=_traceback(), **at)
    record = ended(run, outcome, failure, command)
    return record if trainer is None else record.model_copy(update=_findings(trainer, metrics, outcome))


@dataclass(frozen=True, slots=True)
class _Metrics:
    """A finished run's metrics; empty for one that is not ok."""

    test: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, float] = field(default_factory=dict)


def _traceback() -> str:
    """The current exception's traceback."""
    return without_folders(traceback.format_exc())


def _line(error: BaseException) -> str:
    """An exception in one line."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return without_folders(text)[:500]


def _findings(trainer: Trainer, metrics: _Metrics, outcome: Outcome) -> dict[str, Any]:
    """The fields of the record of a run that could be set up."""
    dataset, modalities = trainer.dataset, trainer.protocol.workload.modalities
    test = dataset.held_out("test")
    return {
        "metrics": metrics.test,
        "validation_metrics": metrics.validation,
        "class_metrics": metrics.by_class,
        "chance": chance_level(test.match_N, modalities),
        "class_chance": chance_level(test.label_N, modalities),
        "ceiling": ceiling(dataset, "test", modalities),
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
        "diagnostics": trainer.updates.diagnostics(trainer.take_step.skipped),
        "environment": environment.environment(trainer.device),
    }


def _best_loss(trainer: Trainer) -> float | None:
    """The lowest expected mean of an epoch's losses, over its batches as they are."""
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
    )
