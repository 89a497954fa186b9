"""Activations that are computed again in the backward pass: less memory for a third more arithmetic.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from bench.errors import UsageError
from bench.models.dropout import DropoutStream, ShareOfDropout


def encoders(network: nn.Module) -> dict[str, nn.Module]:
    """The parts of a network that can be computed again: its encoders without batch norm, which would count twice.

    Raises `UsageError` where there is none.
    """
    found = {
        name: child
        for name, child in network.named_children()
        if name.endswith("_encoder") and not any(isinstance(module, _BatchNorm) for module in child.modules())
    }
    if not found:
        raise UsageError(f"technique checkpointing: {type(network).__name__} has no part named …_encoder without batch "
                         "norm; allowed are networks that have one")  # fmt: skip
    return found


def checkpoint_encoders(network: nn.Module) -> None:
    """Have each of a network's `encoders` keep its inputs alone; results keep their bits, dropout masks included."""
    for child in encoders(network).values():
        plain = child.forward

        def forward(*arguments: Any, plain: Any = plain) -> Any:
            streams = [x for x in arguments if isinstance(x, DropoutStream | ShareOfDropout)]
            places = [stream.place() for stream in streams]

            def again(*same: Any) -> Any:
                for stream, place in zip(streams, places, strict=True):
                    stream.return_to(place)
                return plain(*same)

            return checkpoint(again, *arguments, use_reentrant=False, preserve_rng_state=False)

        child.forward = forward
