"""Keeping weights while a run goes on. Nothing of the run depends on it: it looks, and puts everything back."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.errors import BadRecordError
from bench.metrics import NonFiniteEmbeddingError
from bench.seeding import generator_states, set_generator_states
from bench.store import storing
from bench.summary import lower_is_better
from bench.weights import Head, Kind, digest_path, packed, read_weights, write_weights

if TYPE_CHECKING:
    from bench.record import CurvePoint
    from bench.trainer import Trainer


class WeightKeeper:
    """Writes a run's best weights whenever the validation split says so, and its last ones at its end.

    The split is looked at after the epochs at which the protocol evaluates; the first of equal scores is the best.
    """

    def __init__(self, folder: Path | None = None, *, best: bool = False, last: bool = False) -> None:
        self._folder, self._best, self._last = folder, best, last
        self._score = -math.inf  # the best so far, the larger the better
        self._plain: bool | None = None  # whether the optimizer's state can be loaded again; None: not tried

    def begin(self, trainer: Trainer) -> None:
        """Go on with what there is of a run that goes on; weights of an earlier attempt of one that begins anew go."""
        if self._folder is None:
            return
        for kind, wanted in (("best", self._best), ("last", self._last)):
            path = self._folder / f"{kind}.pt"
            if wanted and (kind == "last" or trainer.epoch == 0):
                with storing(path):
                    path.unlink(missing_ok=True)
                    digest_path(path).unlink(missing_ok=True)
        if self._best and trainer.epoch:
            self._score = self._stored_score(trainer)

    def _stored_score(self, trainer: Trainer) -> float:
        """The score of the best weights that are there; that of no weights where they are torn or of another run."""
        assert self._folder is not None
        try:
            head = read_weights(self._folder / "best.pt").head
        except BadRecordError:
            return -math.inf
        mine = head.run_id == trainer.run.run_id and head.metric == trainer.protocol.primary_metric
        return _sign(head.metric) * head.score if mine else -math.inf

    def after_epoch(self, trainer: Trainer, point: CurvePoint) -> None:
        """Keep the weights of an epoch that was evaluated, where they are the best so far."""
        if not self._best or not point.metrics:
            return
        metric, generators = trainer.protocol.primary_metric, generator_states()
        try:
            score = trainer.evaluate("validation")[metric]
        except NonFiniteEmbeddingError:  # what that means for the run is for the run to say
            return
        finally:
            set_generator_states(generators)  # of a network that draws random numbers
        if _sign(metric) * score > self._score:
            self._score = _sign(metric) * score
            self._write("best", trainer, score)

    def at_end(self, trainer: Trainer, validation: Mapping[str, float]) -> None:
        """Keep the weights that a run has ended with, whose metrics are its record's."""
        if self._last:
            self._write("last", trainer, validation[trainer.protocol.primary_metric])

    def _write(self, kind: Kind, trainer: Trainer, score: float) -> None:
        assert self._folder is not None
        # The parameters of networks in a bank are views of one tensor, all of which would be stored.
        network, objective = _copy(trainer.model), _copy(trainer.objective)
        content = packed(_head(kind, trainer, score), network, objective, self._training(trainer))
        write_weights(self._folder / f"{kind}.pt", content)

    def _training(self, trainer: Trainer) -> Mapping[str, Any] | None:
        """What training goes on with; None, which is said once, where it could not be loaded again."""
        if self._plain is False:
            return None
        try:
            state = trainer.training_state()
            if self._plain is None:
                buffer = io.BytesIO()
                torch.save(state, buffer)
                buffer.seek(0)
                torch.load(buffer, weights_only=True)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception:  # whatever a user's optimizer says when its state is asked for, or pickle of what it gives
            self._plain = False
            print(f"{trainer.run.run_id}: its optimizer's state holds more than plain data and tensors; weights are "
                  "kept without it", file=sys.stderr)  # fmt: skip
            return None
        self._plain = True
        return state


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def _sign(metric: str) -> int:
    return -1 if lower_is_better(metric) else 1


def _head(kind: Kind, trainer: Trainer, score: float) -> Head:
    run, identity = trainer.run, trainer.identity()
    return Head(
        kind=kind, run_id=run.run_id, protocol=run.protocol, protocol_hash=run.protocol.hash, optimizer=run.optimizer,
        hyperparameters=run.hyperparameters, revision=run.revision, source_digest=run.source_digest,
        data_digest=trainer.dataset.digest, seed=run.seed, epoch=trainer.epochs_before + trainer.epoch,
        step=trainer.stream_step, metric=run.protocol.primary_metric, score=score,
        shared_passes=identity["shared_passes"],
        threads=identity["threads"], device=identity["device"], versions=identity["versions"],
    )  # fmt: skip
