"""The one training loop. It names no optimizer and no workload."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from bench import environment, multipliers
from bench.bank import joins
from bench.cadence import require_plain_step
from bench.cadenced import CadencedOptimizer
from bench.checkpoint import Keeper
from bench.clock import Clock
from bench.datasets.network_files import WithNetworkFiles
from bench.datasets.samples import Dataset, HeldOut, Samples, SampleSource
from bench.diagnostics import DivergenceWatch, UpdateWatch
from bench.embeddings import embeddings_alone
from bench.kinds import KINDS
from bench.metrics import NonFiniteEmbeddingError
from bench.models.dropout import DropoutStream
from bench.models.multimodal_memory import NO_DROPOUT
from bench.optimizer_state import plain_attributes, restore_optimizer
from bench.plan import TUNING_SEEDS, Run
from bench.record import CurvePoint, Failure, Number, Seconds, read_curve_point
from bench.registry import entry
from bench.schedule import learning_rate_factor
from bench.seeding import (
    batch_order,
    generator_states,
    order_fingerprint,
    role_seed,
    set_generator_states,
    torch_seeded,
    weights_fingerprint,
)
from bench.spec import Need, OptimizerSpec, RoledParameter
from bench.step import Evaluation, OptimizerStep, autocast
from bench.techniques.augmentation import augmented
from bench.techniques.checkpointing import checkpoint_encoders
from bench.techniques.data import changed_modalities
from bench.techniques.mixing import mixed_batch
from bench.techniques.order import decided_order
from bench.techniques.stages import StageSwitch
from bench.test_time import test_time_effect
from bench.together import Member
from bench.workload import Workload, roled_parameters

if TYPE_CHECKING:
    from bench.ddp import Ranks
    from bench.protocol import Protocol
    from bench.weights import Weights
    from bench.workload import FileNetwork


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


def _planned_data(run: Run, data_dir: Path | None, device: torch.device) -> Dataset:
    """The run's data.

    Raises `ValueError` where its files are no longer what they were when the study was planned.
    """
    dataset = resident_dataset(run.protocol.workload.model_dump_json(), data_dir, str(device))
    if run.data_digest is not None and dataset.digest != run.data_digest:
        raise ValueError(f"{run.protocol.workload.name}: its files are not those of the study's plan; start it again")
    return dataset


def _optimizer(
    run: Run, spec: OptimizerSpec, roled: Sequence[RoledParameter]
) -> tuple[Optimizer, list[multipliers.Factors]]:
    """The entry's optimizer, one for each level where the protocol has a cadence, and the factors of its groups."""
    protocol, factors = run.protocol, []
    # Later patterns overrule: a stage's own come last, also one that the protocol names too.
    everywhere = protocol.rate_multipliers.items()
    patterns = [{key: factor for key, factor in everywhere if key not in own} | own for own in protocol.stage_rates]

    def build(own: Sequence[RoledParameter]) -> Optimizer:
        found = multipliers.factors_of(own, patterns)
        optimizer, of_groups = multipliers.build(spec, own, run.hyperparameters, found)
        factors.extend(of_groups)
        return optimizer

    if protocol.cadence is None:
        return build(roled), factors
    require_plain_step(spec)
    return CadencedOptimizer(protocol.cadence, roled, build, protocol.clip_norm), factors


def with_frozen_results(dataset: Dataset, model: nn.Module, protocol: Protocol, device: torch.device) -> Dataset:
    """The data with what the network's frozen encoders make of it, where it has any."""
    if not isinstance(dataset, WithNetworkFiles):
        return dataset
    changing = changed_modalities(protocol.techniques)
    # What an encoder's results depend on besides its weights: how it is used, and the precision.
    use = json.dumps([protocol.precision, protocol.workload.model_options], sort_keys=True)
    encoders = {name: replace(each, identity=f"{each.identity} {use}")
                for name, each in cast("FileNetwork", model).frozen().items() if name not in changing}  # fmt: skip
    return dataset.encoded(encoders, lambda: autocast(protocol, device))


@dataclass(slots=True)
class _EpochTotals:
    """What the steps of an epoch leave on the device until its end; `done` of them have been taken."""

    names: tuple[str, ...]  # of the pairs
    pairs: Tensor  # [steps, pairs]
    gradient_norms: Tensor  # [steps]
    done: int = 0


@lru_cache(maxsize=2)
def resident_dataset(workload_json: str, data_dir: Path | None, device: str) -> Dataset:
    """The dataset of a workload, built once a process."""
    return Workload.model_validate_json(workload_json).build_dataset(data_dir, device)


class Trainer:
    """One run from fresh weights, or those of `start`, to its record; holds what changes over the run's steps.

    With `ranks` it is one of the processes that carry out the run, each of which has a trainer.
    """

    def __init__(
        self,
        run: Run,
        device: torch.device,
        data_dir: Path | None = None,
        member: Member | None = None,
        ranks: Ranks | None = None,
        start: Weights | None = None,
    ) -> None:
        protocol, workload = run.protocol, run.protocol.workload
        self.run, self.protocol, self.device, self.kind = run, protocol, device, KINDS[workload.kind]
        self.clock = Clock(device)
        environment.reset_peak_memory(device)
        with self.clock.part("setup"):
            self.dataset = _planned_data(run, data_dir, device)
            with torch_seeded(role_seed(run.seed, "init")):
                self.model = workload.build_model(self.dataset.network_options)
            if start is not None:
                self.model.load_state_dict(start.network)
            self.initial_weights = weights_fingerprint(self.model)
            self.model.to(device)
            self.dataset = with_frozen_results(self.dataset, self.model, protocol, device)
            if ranks is not None:
                ranks.use_global_statistics(self.model)
            with torch_seeded(role_seed(run.seed, "objective")):
                self.objective = self.kind.objective(protocol, self.model, self.dataset).to(device)
            if start is not None:
                self.objective.load_state_dict(start.objective)
            own = self.objective.roled_parameters()
            # What is trained: names of the network's parameters alone where the loss has none.
            trained = nn.ModuleDict({"network": self.model, "objective": self.objective}) if own else self.model
            roled = [*roled_parameters(self.model, workload.roles()), *own]
            techniques = protocol.techniques
            self.stages = StageSwitch(techniques.stages, self.model, roled) if techniques.stages else None
            if techniques.checkpointing is not None:
                checkpoint_encoders(self.model)
            spec = _planned_entry(run)
            self.needs = spec.needs
            self.optimizer, self.rate_factors = _optimizer(run, spec, roled)
            self.cadence = self.optimizer if isinstance(self.optimizer, CadencedOptimizer) else None
            self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
            self.updates = UpdateWatch(trained)
            self.divergence = DivergenceWatch(
                trained, protocol, at_least=0.0 if start is None else protocol.chance_loss
            )
            self.dropout = DropoutStream(self.model.dropout_probability, role_seed(run.seed, "dropout"), device)
            self.take_step = OptimizerStep(
                self.optimizer, spec.needs, self.model, self.objective, self.dropout, protocol, device, ranks
            )
            if start is not None and protocol.start is not None and protocol.start.optimizer_state:
                self._take_over(start)
        self._noise_seed = role_seed(run.seed, "augmentation")
        # The streams of batches, noise and dropout go on where those of the weights' own run would have.
        self.epochs_before, self.steps_before = (0, 0) if start is None else (start.head.epoch, start.head.step)
        self._ranks, self._processes = ranks, 1 if ranks is None else ranks.size
        self._member = member if member is not None and ranks is None and joins(self) else None
        self._foreign = 0.0  # seconds just counted that were other runs'
        self.step = self.samples = self.epoch = 0
        self.totals: _EpochTotals | None = None  # of the epoch under way
        self._data: tuple[SampleSource, Tensor] | None = None  # of the same
        self._in_training: bool | None = None  # which weights are in place; None: those of a new optimizer
        self.curve: list[CurvePoint] = []
        self.first_order = ""
        self.initial_loss: float | None = None
        self.last_loss: float | None = None

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        """Count the block's seconds under `part`, without those that were other runs'."""
        with self.clock.part(part):
            yield
        self.clock.carry(part, -self._foreign)
        self._foreign = 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        size, batch = self.dataset.training_size, self.protocol.batch_size
        return size // batch if self.protocol.drop_last else -(-size // batch)

    @property
    def stream_step(self) -> int:
        """The number of the step under way in the stream of dropout masks."""
        return self.steps_before + self.step

    def train(self, until: int, check: Callable[[], None] = lambda: None) -> None:
        """The steps of the epoch under way up to number `until`, `check` called before each.

        Nothing is read back from the device but at the epoch's first step, which is watched.
        """
        self.model.train()
        self.objective.train()
        if self.stages is not None:
            self.stages.enter(self.epoch + 1)
        self._switch_weights(training=True)
        samples, order = self._epoch_data()
        for i in range(self.totals.done if self.totals else 0, until):
            check()
            indices = order[i * self.protocol.batch_size : (i + 1) * self.protocol.batch_size]
            batch = samples.take(indices if self._ranks is None else self._ranks.share(indices))
            evaluation = self._train_step(batch, watched=i == 0)
            totals = self.totals = self.totals or self._new_totals(evaluation.pairs)
            totals.pairs[i] = evaluation.losses
            totals.gradient_norms[i] = evaluation.gradient_norm
            totals.done = i + 1

    def _epoch_data(self) -> tuple[SampleSource, Tensor]:
        """The training samples of the epoch under way, and the order in which it visits them."""
        if self._data is None:
            epoch = self.epochs_before + self.epoch + 1
            samples = self._training_samples(epoch, self._noise_seed)
            order_seed = role_seed(self.run.seed, "order")
            order = decided_order(self.protocol, self.dataset, samples, order_seed, epoch, done=self.epoch)
            if order is None:
                order = batch_order(order_seed, epoch, len(samples))
            samples = augmented(samples, self.dataset, self.protocol.techniques, self._noise_seed, epoch)
            self.first_order = self.first_order or order_fingerprint(order)
            self._data = samples, order.to(self.device)
        return self._data

    def _training_samples(self, epoch: int, noise_seed: int) -> SampleSource:
        if self._member is None:
            return self.dataset.training(epoch, noise_seed)
        samples, foreign = self._member.training(self.dataset, epoch, noise_seed)
        self._foreign += foreign
        return samples

    def _new_totals(self, names: tuple[str, ...]) -> _EpochTotals:
        steps = self.steps_per_epoch
        pairs, norms = torch.zeros(steps, len(names), device=self.device), torch.zeros(steps, device=self.device)
        return _EpochTotals(names=names, pairs=pairs, gradient_norms=norms)

    def _train_step(self, batch: Samples, *, watched: bool) -> Evaluation:
        """One step at its learning rate."""
        total = self.protocol.epochs * self.steps_per_epoch
        warmup = round(self.protocol.warmup * total)
        options = self.protocol.schedule_options
        factor = learning_rate_factor(self.protocol.schedule, self.step, total, warmup, options)
        stage = 0 if self.stages is None else self.stages.number(self.epoch + 1)
        groups = zip(self.optimizer.param_groups, self.base_rates, self.rate_factors, strict=True)
        for group, rate, multipliers_of_stages in groups:
            group["lr"] = rate * multipliers_of_stages[stage] * factor
        batch, mixed = mixed_batch(batch, self.protocol.techniques.mixup, self._noise_seed, self.stream_step)
        evaluation = None
        if self._member is not None:
            evaluation, foreign = self._member.evaluation(self, batch)
            self._foreign += foreign
        watch = self.updates.observe(self.cadence) if watched else nullcontext()
        progress = self.epoch / self.protocol.epochs
        evaluation = self.take_step(batch, self.stream_step, watch, evaluation, progress=progress, mixed=mixed)
        self.step += 1
        self.samples += len(batch) * self._processes
        return evaluation

    def _switch_weights(self, *, training: bool) -> None:
        """To the weights that are trained, or to those that are looked at, where the optimizer tells them apart."""
        if Need.TRAIN_EVAL_SWITCH in self.needs and training != self._in_training:
            optimizer: Any = self.optimizer
            optimizer.train() if training else optimizer.eval()
            self._in_training = training

    @torch.no_grad()
    def _gather_statistics(self, samples: SampleSource, order: Tensor) -> None:
        """Running statistics for the weights at hand: the mean over the epoch's batches."""
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm) and module.training]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean
        first = self.stream_step - self.steps_per_epoch
        for i, indices in enumerate(order.split(self.protocol.batch_size) if norms else ()):
            batch, _ = mixed_batch(samples.take(indices), self.protocol.techniques.mixup, self._noise_seed, first + i)
            with autocast(self.protocol, self.device):
                self.model(batch.inputs(), batch.masks(), NO_DROPOUT)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def embeddings(self, split: HeldOut) -> dict[str, Tensor]:
        """Embeddings [N, D] of every modality's items in the pools of a held-out split, float32."""
        if self._member is None:
            return embeddings_alone(self.model, self.dataset, split, self.protocol, self.device)
        embeddings, foreign = self._member.embeddings(self, split)
        self._foreign += foreign
        return embeddings

    def evaluate(self, split: HeldOut) -> dict[str, float]:
        """Metrics of a held-out split, in percent unless named rank."""
        with self._timed("evaluation"):
            return self.kind.scores(self, split)

    def final_metrics(self) -> tuple[dict[str, float], dict[str, float]]:
        """Validation metrics, and the test split's at the level of classes (see `Kind.class_scores`).

        Raises `DivergedError` where an embedding is not finite.
        """
        try:
            validation = self.evaluate("validation")
            with self._timed("evaluation"):
                return validation, self.kind.class_scores(self)
        except NonFiniteEmbeddingError as error:
            raise DivergedError(Failure(reason=str(error), epoch=self.protocol.epochs, step=self.step - 1)) from error

    @property
    def skipped_steps(self) -> int:
        """Steps that were not taken because their gradients were not finite."""
        return self.take_step.skipped + (0 if self.cadence is None else self.cadence.skipped)

    @property
    def figures(self) -> dict[str, float]:
        """What the run counted beyond metrics, by name."""
        return {**self.kind.figures(self), **({} if self.cadence is None else self.cadence.figures)}

    def test_time_figures(self) -> dict[str, float]:
        """What test-time training changes on the test split, where the protocol has it; {} else."""
        if self.protocol.techniques.test_time_training is None:
            return {}
        with self._timed("evaluation"):
            return test_time_effect(
                self.model, self.dataset, "test", lambda: autocast(self.protocol, self.device),
                metric=self.protocol.primary_metric, batch=self.protocol.batch_size,
            ).figures()  # fmt: skip

    def has_non_finite_loss(self) -> bool:
        """Whether the latest step's loss is NaN or infinite."""
        return not self.take_step.last_losses.isfinite().all().item()

    def end_epoch(self) -> _EpochTotals:
        """Close the epoch whose steps have all been taken, the weights left as they are looked at."""
        totals = self.totals
        assert totals is not None and totals.done == self.steps_per_epoch
        if Need.TRAIN_EVAL_SWITCH in self.needs:
            self._switch_weights(training=False)
            self._gather_statistics(*self._epoch_data())
        self.epoch, self.totals, self._data = self.epoch + 1, None, None
        if self.cadence is not None and self.epoch == self.protocol.epochs:
            self.cadence.flush()
        return totals

    def epochs(self, keeper: Keeper) -> Iterator[CurvePoint]:
        """Train epoch by epoch; in between, and within epochs where it says so, `keeper` may keep the state.

        Raises `DivergedError` after the epoch in which the run left the protocol's limits, and what `keeper` raises.
        """
        steps, every = self.steps_per_epoch, keeper.steps or self.steps_per_epoch
        while self.epoch < self.protocol.epochs:
            while (done := self.totals.done if self.totals else 0) < steps:
                # Before the state is kept: what an optimizer puts away while its weights are looked at is in no state.
                self._switch_weights(training=True)
                if self.step:
                    keeper.at_a_stop(self.step, self.state)
                with self._timed("training"):
                    self.train(min(steps, done + every), keeper.check_time)
            with self.clock.part("training"):
                totals = self.end_epoch()
                losses = totals.pairs.sum(dim=1)
                values = losses.tolist()
            point, failure = self._judge(totals, losses.mean().item(), values)
            self.curve.append(point)
            yield point
            if failure is not None:
                raise DivergedError(failure)

    def _judge(self, totals: _EpochTotals, loss: float, losses: list[float]) -> tuple[CurvePoint, Failure | None]:
        """The point of the epoch that has ended, and why the run cannot go on."""
        self.initial_loss = losses[0] if self.initial_loss is None else self.initial_loss
        self.last_loss = sum(losses) / len(losses)
        failure = self.divergence.check(losses, self.epoch, self.step - len(losses))
        metrics: dict[str, float] = {}
        if failure is None and self._evaluation_due():
            try:
                metrics = self.evaluate("test")
            except NonFiniteEmbeddingError as error:
                failure = Failure(reason=str(error), epoch=self.epoch, step=self.step - 1)
        return self._curve_point(totals, loss, metrics), failure

    def _evaluation_due(self) -> bool:
        """At the last epoch, and in between as protocol and workload have it; a search needs the workload's alone."""
        if self.epoch == self.protocol.epochs or self.kind.evaluation_due(self):
            return True
        return self.epoch % self.protocol.evaluate_every == 0 and self.run.seed < TUNING_SEEDS

    def _curve_point(self, totals: _EpochTotals, loss: float, metrics: dict[str, Number]) -> CurvePoint:
        pairs = totals.pairs.mean(dim=0).tolist()
        return CurvePoint(
            epoch=self.epoch,
            step=self.step,
            samples=self.samples,
            loss=loss,
            pair_losses=dict(zip(totals.names, pairs, strict=True)),
            gradient_norm=totals.gradient_norms.mean().item(),
            update_ratio=self.updates.last_ratio,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            metrics=metrics,
            seconds=self.seconds(),
            peak_bytes=environment.peak_memory(self.device),
        )

    def seconds(self) -> Seconds:
        """Time of the run so far, that before a restart included."""
        parts = {name: self.clock.seconds(name) for name in ("training", "evaluation", "setup")}
        return Seconds(**parts, optimizer_step=self.take_step.seconds(), total=sum(parts.values()))

    def identity(self) -> dict[str, Any]:
        """What a state must have in common with the trainer that goes on from it: all that the last bits depend on."""
        here = environment.environment(self.device)
        return {"run_id": self.run.run_id, "device": self.device.type, "threads": here.threads,
                "versions": here.versions,
                "shared_passes": self._member is not None, "processes": self._processes}  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Everything a fresh trainer of this run needs to go on with the same bits, as plain data and tensors."""
        totals = self.totals
        return {
            **self.identity(),
            "step": self.step, "samples": self.samples, "epoch": self.epoch,
            "model": {name: value.clone() for name, value in self.model.state_dict().items()},
            "objective": {name: value.clone() for name, value in self.objective.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "attributes": plain_attributes(self.optimizer),
            "totals": None if totals is None else
                      (totals.names, totals.pairs, totals.gradient_norms, totals.done),
            "losses": (self.initial_loss, self.last_loss), "first_order": self.first_order,
            "take_step": self.take_step.state(), "updates": self.updates.state(),
            "divergence": self.divergence.initial_loss,
            "curve": [point.model_dump_json() for point in self.curve],
            "seconds": self.seconds().model_dump(), "generators": generator_states(),
        }  # fmt: skip

    def training_state(self) -> dict[str, Any]:
        """What another run needs beyond the weights to go on with the training, as plain data and tensors."""
        return {
            "optimizer": self.optimizer.state_dict(), "attributes": plain_attributes(self.optimizer),
            "scaler": self.take_step.state()["scaler"], "generators": generator_states(),
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same identity; the trainer must be fresh."""
        self.step, self.samples, self.epoch = state["step"], state["samples"], state["epoch"]
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        restore_optimizer(self.optimizer, state["optimizer"], state["attributes"], self.device)
        if state["totals"] is not None:
            names, pairs, norms, done = state["totals"]
            self.totals = _EpochTotals(tuple(names), pairs.to(self.device), norms.to(self.device), done)
        (self.initial_loss, self.last_loss), self.first_order = state["losses"], state["first_order"]
        self.take_step.restore(state["take_step"])
        self.updates.restore(state["updates"])
        self.divergence.initial_loss = state["divergence"]
        self.curve = [read_curve_point(line, "checkpoint") for line in state["curve"]]
        for name in ("training", "evaluation", "setup"):
            self.clock.carry(name, state["seconds"][name])
        self._in_training = True
        set_generator_states(state["generators"])

    def _take_over(self, start: Weights) -> None:
        """Go on with the optimizer of stored weights; its rates are the protocol's."""
        training = start.training
        if training is None:
            raise ValueError(f"{start.path.name}: holds no state of the optimizer, as the protocol says it does")
        restore_optimizer(self.optimizer, training["optimizer"], training["attributes"], self.device)
        if self.cadence is not None:
            self.cadence.count_anew()
        self.take_step.restore_scale(training["scaler"])
        if start.head.device == self.device.type:  # of another kind there are no states for these generators
            set_generator_states(training["generators"])
