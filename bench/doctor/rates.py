"""A learning-rate range test: the loss after a few steps at rates over five decades."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.doctor.network import train, trainer_at
from bench.protocol import Protocol
from bench.registry import Selected
from bench.seeding import globally_seeded, role_seed

FACTORS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
RATE_STEPS = 20
ALIKE_WITHIN = 0.002
TAIL = 5  # steps whose mean is the last loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A rate, the first loss, the mean over its last five, and the step whose loss is not finite."""

    rate: float
    first: float
    last: float
    failed_at: int | None

    def blew_up(self, limit: float) -> bool:
        """Whether the loss is not finite or over `limit` times the first."""
        return self.failed_at is not None or not self.last <= limit * self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRange:
    """The trials from the lowest rate to the highest.

    `given`: the rate under test. `limit`: by what factor a loss may rise in this protocol. `alike`: the loss of
    embeddings that are all alike, where collapsed runs end; None where the objective has no such level.
    """

    protocol: str
    steps: int
    given: float
    limit: float
    alike: float | None
    trials: tuple[Trial, ...]

    def best(self) -> Trial | None:
        """Where the loss falls fastest; None where it falls nowhere."""
        standing = [trial for trial in self.trials if not trial.blew_up(self.limit) and not self.collapsed(trial)]
        falling = [trial for trial in standing if trial.last < trial.first]
        return min(falling, key=lambda trial: trial.last, default=None)

    def collapsed(self, trial: Trial) -> bool:
        """Whether a trial ended where embeddings are all alike."""
        return self.alike is not None and abs(trial.last - self.alike) < ALIKE_WITHIN * self.alike

    def blow_up(self) -> Trial | None:
        """The lowest rate at which the loss blows up."""
        return next((trial for trial in self.trials if trial.blew_up(self.limit)), None)


def try_rates(selected: Selected, protocol: Protocol, seed: int, data_dir: Path | None) -> RateRange:
    """Short runs from the same weights over the same batches."""
    given = float(selected.hyperparameters["lr"])
    trials = []
    for factor in FACTORS:
        with globally_seeded(role_seed(seed, "optimizer")):
            trainer = trainer_at(selected, protocol, given * factor, seed, data_dir)
            losses: list[float] = []
            train(trainer, RATE_STEPS, _recorder(losses))
        finite = [x for x in losses if math.isfinite(x)]
        tail = finite[-TAIL:] or [math.nan]
        failed_at = len(losses) if len(finite) < len(losses) else None
        trials.append(Trial(rate=given * factor, first=losses[0], last=sum(tail) / len(tail), failed_at=failed_at))
    return RateRange(
        protocol=protocol.name,
        steps=RATE_STEPS,
        given=given,
        limit=protocol.diverged_loss_factor,
        alike=_loss_of_all_alike(protocol),
        trials=tuple(trials),
    )


def _loss_of_all_alike(protocol: Protocol) -> float | None:
    """Every pair's cross-entropy over a batch whose scores are all the same."""
    modalities = len(protocol.workload.modalities)
    pairs = modalities * (modalities - 1) / 2
    return None if protocol.workload.multi_positive else pairs * math.log(protocol.batch_size)


def _recorder(losses: list[float]) -> Callable[[int, float], bool]:
    """Appends every step's loss; False where it is not finite."""

    def watch(step: int, loss: float) -> bool:
        losses.append(loss)
        return math.isfinite(losses[-1])

    return watch
