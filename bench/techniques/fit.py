"""Whether a protocol's techniques suit its optimizers, network and data: told before anything runs."""

from __future__ import annotations

from bench.datasets.samples import Dataset
from bench.errors import UsageError
from bench.kinds import KINDS
from bench.protocol import Protocol
from bench.spec import Need, OptimizerSpec
from bench.techniques.checkpointing import encoders
from bench.techniques.data import require_data
from bench.techniques.stages import StageSwitch
from bench.test_time import require_adapting
from bench.workload import roled_parameters


def require_techniques(spec: OptimizerSpec, protocol: Protocol) -> None:
    """Raise `UsageError` where an entry cannot be trained with a technique of the protocol."""
    evaluates = sorted(spec.needs & {Need.CLOSURE, Need.SECOND_ORDER})
    stages = protocol.techniques.stages
    if stages is not None and any(stage.freeze for stage in stages.stages) and Need.CLOSURE in spec.needs:
        raise UsageError(f"optimizer {spec.name}: technique stages does not go with its need closure, whose steps move "
                         "what stands still; allowed are optimizers without")  # fmt: skip
    for name in ("accumulation", "checkpointing"):
        if getattr(protocol.techniques, name) is not None and evaluates:
            raise UsageError(f"optimizer {spec.name}: technique {name} does not go with its need "
                             f"{' and '.join(evaluates)}; allowed are optimizers without")  # fmt: skip


def require_fit(protocol: Protocol, dataset: Dataset) -> None:
    """Raise `UsageError` where a technique that is on does not suit the workload's network or data."""
    techniques, workload = protocol.techniques, protocol.workload
    require_data(protocol, dataset)
    network = workload.example(dataset.network_options)
    own = KINDS[workload.kind].objective(protocol, network, dataset).roled_parameters()
    if techniques.stages is not None:
        StageSwitch(techniques.stages, network, [*roled_parameters(network, workload.roles()), *own])
    if techniques.checkpointing is not None:
        encoders(network)
    if techniques.test_time_training is not None:
        require_adapting(protocol, network, dataset)
