"""The embeddings of a held-out split, by a network alone or by a bank of networks, whose sums round otherwise.

Shapes: N items, D embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench.datasets.samples import Dataset, HeldOut
from bench.models.multimodal_memory import NO_DROPOUT
from bench.step import autocast

if TYPE_CHECKING:
    from bench.models.multimodal_memory_bank import NetworkBank
    from bench.protocol import Protocol

BATCH = 256
BANK_BATCH = 100  # of each network


@torch.inference_mode()
def embeddings_alone(
    network: nn.Module, dataset: Dataset, split: HeldOut, protocol: Protocol, device: torch.device
) -> dict[str, Tensor]:
    """Embeddings [N, D] of every modality's items in the split's pools, float32; `network` is left in evaluation mode.

    Items come pool by pool, in order.
    """
    network.eval()
    parts: dict[str, list[Tensor]] = {}
    for pool in dataset.pools(split):
        for start in range(0, len(pool), BATCH):
            batch = pool.take(slice(start, start + BATCH))
            with autocast(protocol, device):
                embeddings = network(batch.inputs(), batch.masks(), NO_DROPOUT)
            for name, x in embeddings.items():
                parts.setdefault(name, []).append(x.float())
    return {name: torch.cat(xs) for name, xs in parts.items()}


@torch.no_grad()
def embeddings_together(
    bank: NetworkBank, networks: int, dataset: Dataset, split: HeldOut, protocol: Protocol, device: torch.device
) -> list[dict[str, Tensor]]:
    """The same of every network in a bank, which has gathered their weights."""
    parts: list[dict[str, list[Tensor]]] = [{} for _ in range(networks)]
    for pool in dataset.pools(split):
        for start in range(0, len(pool), BANK_BATCH):
            batch = pool.take(slice(start, start + BANK_BATCH))
            inputs, masks = ({name: x.expand(networks, *x.shape) for name, x in each.items()}
                             for each in (batch.inputs(), batch.masks()))  # fmt: skip
            with autocast(protocol, device):
                found = bank.forward(inputs, masks, NO_DROPOUT, training=False)
            for name, x in found.items():
                for own, collected in zip(x.float(), parts, strict=True):
                    collected.setdefault(name, []).append(own)
    return [{name: torch.cat(xs) for name, xs in own.items()} for own in parts]
