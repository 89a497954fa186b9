"""A protocol's study cut short so that its parts keep their proportions."""

from __future__ import annotations

from bench.protocol import Protocol
from bench.protocols import changed, limited

SPLITS = ("training", "validation", "test")


def shortened(protocol: Protocol, steps: int, epochs: int) -> Protocol:
    """The protocol with about `steps` steps an epoch, all splits smaller by one factor; as it is where it has no more.

    Data of files is cut by its limit, and made data by the sizes of its splits.
    """
    options, size = protocol.workload.dataset_options, steps * protocol.batch_size
    shorter = changed(protocol, {"epochs": epochs}, "bench speed")
    if "limit" in options:
        return limited(shorter, size)
    counts = {split: count for split in SPLITS if isinstance(count := options.get(split), int)}
    if len(counts) < len(SPLITS) or counts["training"] <= size:
        return shorter
    factor = size / counts["training"]
    sizes = {split: max(protocol.batch_size, round(factor * count)) for split, count in counts.items()}
    return changed(shorter, {"workload": {"dataset_options": sizes}}, "bench speed")
