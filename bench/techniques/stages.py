"""Training in stages: what stands still, and how much slower or faster the rest learns, epoch by epoch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from torch import nn

from bench.errors import UsageError
from bench.spec import RoledParameter
from bench.techniques.options import Stage, Stages


class StageSwitch:
    """Puts a network into the stage of an epoch; what is in no stage's patterns is left alone.

    A module whose parameters all stand still is in evaluation mode. Raises `UsageError` where a pattern is found in no
    parameter's name, or a stage trains nothing.
    """

    def __init__(self, stages: Stages, network: nn.Module, roled: Sequence[RoledParameter]) -> None:
        self._stages, self._network, self._roled = stages, network, roled
        for stage in stages.stages:
            for pattern in (*stage.freeze, *stage.rates):
                if not any(re.search(pattern, p.name) for p in roled):
                    raise UsageError(f"technique stages: {pattern!r} is found in no trainable parameter; their names "
                                     f"begin with {', '.join(_beginnings(roled))}")  # fmt: skip
            if all(_frozen(p, stage) for p in roled):
                raise UsageError(f"technique stages: freeze {list(stage.freeze)} leaves nothing to train")

    def number(self, epoch: int) -> int:
        """The stage, from 0, of an epoch, from 1."""
        behind = itertools.accumulate(stage.epochs for stage in self._stages.stages)
        return sum(epoch > epochs for epochs in behind)

    def enter(self, epoch: int) -> None:
        """Freeze what stands still in the epoch's stage, and thaw the rest; the network is in training mode before."""
        stage = self._stages.at(epoch)
        for p in self._roled:
            p.parameter.requires_grad_(not _frozen(p, stage))
        for module in self._network.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()


def _frozen(p: RoledParameter, stage: Stage) -> bool:
    return any(re.search(pattern, p.name) for pattern in stage.freeze)


def _beginnings(roled: Sequence[RoledParameter]) -> list[str]:
    return sorted({p.name.partition(".")[0] for p in roled})
