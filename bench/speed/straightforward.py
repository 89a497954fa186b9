"""A study written the obvious way, as a yardstick: torch's layers, one pass a modality, loops over tensors and items.

Network `bench.models.multimodal_memory_reference`, optimizers tensor by tensor (their plain form, or torch's without
`foreach` and `fused`), every loss read back, items with noise by numpy through a loader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from bench.datasets.samples import Samples
from bench.errors import UsageError
from bench.metrics import embedding_scores
from bench.models import multimodal_memory_reference as reference
from bench.models.multimodal_memory import MultiModalMemoryNetwork
from bench.objective import pair_losses
from bench.optimizers.reference.catalog import REFERENCES
from bench.protocol import Protocol
from bench.registry import Selected
from bench.seeding import torch_seeded
from bench.spec import RoledParameter

LOADERS = 2  # processes


def network_of(protocol: Protocol, options: dict[str, int] | None = None) -> MultiModalMemoryNetwork:
    """A network of the protocol with fresh weights.

    Raises `UsageError` where it is none of the harness' own, of which there is no straightforward form.
    """
    with torch_seeded(0):
        network = protocol.workload.build_model(options)
    if type(network) is not MultiModalMemoryNetwork:
        raise UsageError(f"protocol {protocol.name!r}: {type(network).__name__} has no straightforward form; allowed "
                         "are protocols with the harness' own network")  # fmt: skip
    return network


def losses_of(network: MultiModalMemoryNetwork, batch: Samples, protocol: Protocol, dtype: torch.dtype) -> Tensor:
    """The loss [] of a batch, products in `dtype`."""
    with torch.autocast(batch.match_N.device.type, dtype, enabled=dtype != torch.float32):
        embeddings = reference.forward(network, batch.inputs(), batch.masks())
    workload = protocol.workload
    losses = pair_losses(
        embeddings, batch.match_N, temperature=workload.temperature, multi_positive=workload.multi_positive
    )
    return torch.stack(list(losses.values())).sum()


def plain_optimizer(chosen: Selected, roled: Sequence[RoledParameter]) -> Optimizer:
    """The entry as a loop over tensors."""
    settings = dict(chosen.hyperparameters)
    if (plain := REFERENCES.get(chosen.spec.name)) is not None:
        return plain(chosen.spec.groups(roled), **settings)
    optimizer = chosen.spec.build(roled, settings)
    for group in optimizer.param_groups:
        group.update({name: False for name in ("foreach", "fused") if name in group})
    return optimizer


class Loop:
    """One optimizer's training of a fresh network, step by step."""

    def __init__(
        self, chosen: Selected, network: MultiModalMemoryNetwork, roled: Sequence[RoledParameter], protocol: Protocol
    ) -> None:
        self._network, self._protocol = network, protocol
        self._optimizer = plain_optimizer(chosen, roled)
        self._dtype = torch.bfloat16 if protocol.precision == "bf16" else torch.float32

    def step(self, batch: Samples) -> float:
        """Take a step; returns the loss."""
        self._network.train()
        self._optimizer.zero_grad()
        loss = losses_of(self._network, batch, self._protocol, self._dtype)
        loss.backward()
        if self._protocol.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._protocol.clip_norm, foreach=False)
        self._optimizer.step()
        return loss.item()

    @torch.no_grad()
    def evaluate(self, samples: Samples) -> dict[str, float]:
        """Retrieval metrics of held-out samples, embedded a training batch at a time."""
        self._network.eval()
        size, parts = self._protocol.batch_size, []
        for start in range(0, len(samples), size):
            batch = samples.take(slice(start, start + size))
            with torch.autocast(batch.match_N.device.type, self._dtype, enabled=self._dtype != torch.float32):
                parts.append(reference.forward(self._network, batch.inputs(), batch.masks()))
        embeddings = {name: torch.cat([part[name].float() for part in parts]) for name in parts[0]}
        return embedding_scores(embeddings, samples.match_N)


def samples_of(items: Mapping[str, Tensor], device: torch.device) -> Samples:
    """A loader's batch on the device; its labels are its match ids."""
    found = {name: x.to(device) for name, x in items.items()}
    return Samples(
        label_N=found["match"], match_N=found["match"], text_NL=found.get("text"), image_N3HW=found.get("image"),
        audio_N1FT=found.get("audio"),
    )  # fmt: skip


class Items(Dataset[dict[str, Any]]):
    """Samples one by one, pixels and spectrograms with fresh noise by numpy."""

    def __init__(self, samples: Samples, noise: float) -> None:
        self._inputs = {name: x.cpu().numpy() for name, x in samples.inputs().items()}
        self._match, self._noise = samples.match_N.tolist(), noise
        self._generator = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self._match)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {name: x[index] for name, x in self._inputs.items()}
        for name, x in item.items():
            if name != "text":
                item[name] = x + self._noise * self._generator.standard_normal(x.shape).astype(np.float32)
        return {**item, "match": self._match[index]}


def loader(samples: Samples, batch_size: int, noise: float, workers: int = LOADERS) -> DataLoader[dict[str, Any]]:
    """Batches of items, shuffled, by loader processes."""
    generator = torch.Generator().manual_seed(0)
    return DataLoader(Items(samples, noise), batch_size, shuffle=True, num_workers=workers, drop_last=True,
                      persistent_workers=workers > 0, generator=generator)  # fmt: skip
