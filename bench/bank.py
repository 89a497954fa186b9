"""Forward and backward passes of several runs as one, by a bank of their networks.

Shapes: K runs, B batch, N all parameters with a gradient of one run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench.datasets.samples import HeldOut, Samples
from bench.embeddings import embeddings_together
from bench.errors import UsageError
from bench.models.dropout import BankDropout
from bench.models.multimodal_memory import MultiModalMemoryNetwork
from bench.models.multimodal_memory_bank import NetworkBank
from bench.objective import bank_pair_losses
from bench.placement import Placement
from bench.plan import Run
from bench.protocol import Protocol
from bench.registry import entry
from bench.spec import Need
from bench.step import Evaluation, autocast
from bench.techniques.options import OUTSIDE_THE_STEP

if TYPE_CHECKING:
    from bench.trainer import Trainer

MOST_PARAMETERS = 2_000_000  # of networks that are bound by the number of operators; larger ones gain nothing on a CPU
ALONE = {Need.CLOSURE, Need.SECOND_ORDER, Need.TRAIN_EVAL_SWITCH}


def bankable(protocol: Protocol, device: torch.device, network: nn.Module) -> bool:
    """Whether runs of a protocol may share passes on a device; nothing of the run itself enters."""
    small = sum(p.numel() for p in network.parameters()) <= MOST_PARAMETERS
    techniques = OUTSIDE_THE_STEP.issuperset(protocol.techniques.on) and protocol.cadence is None
    known = type(network) is MultiModalMemoryNetwork and techniques
    return device.type == "cpu" and small and known and protocol.precision != "fp16"


def joins(trainer: Trainer) -> bool:
    """Whether a run's passes may be shared: optimizers that evaluate losses themselves work alone."""
    return not ALONE & trainer.needs and bankable(trainer.protocol, trainer.device, trainer.model)


@lru_cache(maxsize=16)
def _protocol_is_bankable(protocol_json: str, device: str) -> bool:
    protocol = Protocol.model_validate_json(protocol_json)
    if protocol.workload.model_reads_files:
        return False
    try:
        network = protocol.workload.example()
    except UsageError:  # the runs themselves say so
        return False
    return bankable(protocol, torch.device(device), network)


def runs_at_once(run: Run, placement: Placement) -> int:
    """How many runs like this one a worker takes at once; 1 for a run that works alone, or cannot be set up."""
    try:
        if placement.batch_runs == 1 or placement.parallel == "ddp" or ALONE & entry(run.reference).needs:
            return 1
    except UsageError:
        return 1
    if not _protocol_is_bankable(run.protocol.model_dump_json(), placement.device):
        return 1
    return placement.batch_runs


class _Gradients:
    """The gradients of all runs as one tensor [K, N], and its part for every parameter: None where it gets none."""

    def __init__(self, gradients: Mapping[str, Tensor], parameters: Sequence[Mapping[str, nn.Parameter]]) -> None:
        self.names = tuple(gradients)
        sizes = [gradient[0].numel() for gradient in gradients.values()]
        first = next(iter(gradients.values()))
        self.flat_KN = first.new_empty(len(parameters), sum(sizes))
        self.places: list[tuple[nn.Parameter, Tensor | None]] = []
        for own_N, of_run in zip(self.flat_KN, parameters, strict=True):
            parts = dict(zip(self.names, own_N.split(sizes), strict=True))
            self.places += [(p, parts[name].view(p.shape) if name in parts else None) for name, p in of_run.items()]


class Bank:
    """Trainers of one protocol, whose networks' parameters are views of the bank's."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers = list(trainers)
        self._network = NetworkBank([trainer.model for trainer in trainers])
        self._dropout = BankDropout([trainer.dropout for trainer in trainers])
        self._parameters = [dict(trainer.model.named_parameters()) for trainer in trainers]
        self._gradients: _Gradients | None = None

    def evaluations(self, batches: Sequence[Samples]) -> list[Evaluation]:
        """Losses of a batch each, in the order of the trainers, the clipped gradients left on their parameters."""
        first = self.trainers[0]
        protocol, workload = first.protocol, first.protocol.workload
        self._network.gather()
        for trainer in self.trainers:
            trainer.dropout.start_step(trainer.stream_step)
        inputs = _stacked([batch.inputs() for batch in batches])
        with autocast(protocol, first.device):
            embeddings = self._network.forward(
                inputs, _stacked([batch.masks() for batch in batches]), self._dropout, training=True
            )
        losses = bank_pair_losses(
            embeddings, torch.stack([batch.match_N for batch in batches]), temperature=workload.temperature,
            multi_positive=workload.multi_positive,
        )  # fmt: skip
        losses_KP = torch.stack(list(losses.values()), dim=1)
        names = list(self._network.weights)
        gradients = torch.autograd.grad(losses_KP.sum(), [self._network.weights[n] for n in names], allow_unused=True)
        norm_K = self._hand_out({n: g for n, g in zip(names, gradients, strict=True) if g is not None}, protocol)
        return [Evaluation(pairs=tuple(losses), losses=own, gradient_norm=norm)
                for own, norm in zip(losses_KP.detach(), norm_K, strict=True)]  # fmt: skip

    def _hand_out(self, gradients: Mapping[str, Tensor], protocol: Protocol) -> Tensor:
        """Clip each run's gradients and leave them on its parameters; returns the norms before, [K]."""
        if self._gradients is None or self._gradients.names != tuple(gradients):
            self._gradients = _Gradients(gradients, self._parameters)
        flat_KN = self._gradients.flat_KN
        torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1, out=flat_KN)
        norm_K = flat_KN.norm(dim=1)
        if protocol.clip_norm is not None:
            flat_KN.mul_((protocol.clip_norm / (norm_K + 1e-6)).clamp(max=1.0).unsqueeze(1))  # as `clip_grad_norm_`
        for parameter, own in self._gradients.places:
            if parameter.grad is not own:
                parameter.grad = own
        return norm_K

    @torch.no_grad()
    def embeddings(self, split: HeldOut) -> list[dict[str, Tensor]]:
        """Every trainer's embeddings of the pools of a held-out split; see `Trainer.embeddings`."""
        first = self.trainers[0]
        self._network.gather()
        return embeddings_together(
            self._network, len(self.trainers), first.dataset, split, first.protocol, first.device
        )


def _stacked(each: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The runs' tensors by name, with a leading axis of runs."""
    return {name: torch.stack([own[name] for own in each]) for name in each[0]}
