"""A batch in parts whose gradients are those of the whole, in the memory of a part.

A contrastive loss compares each sample with all others, so sums of the parts' own losses are another loss. Here the
embeddings of all parts come first, without a graph; the loss of all of them gives each embedding its gradient; then
every part is embedded again, with a graph, and its embeddings hand their gradients on. Gao et al., "Scaling Deep
Contrastive Learning Batch Size under Memory Limited Setup", https://arxiv.org/abs/2101.06983

Batch norm normalises a part by its own statistics, as it would any batch of that size; all else is as for the whole,
dropout masks included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.datasets.samples import Samples
from bench.models.dropout import DropoutStream, ShareOfDropout
from bench.techniques.objective import Objective, Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """How a batch is worked through: in `count` parts, on network and objective, under the masks of step `step`."""

    count: int
    network: nn.Module
    objective: Objective
    dropout: DropoutStream
    step: int
    precision: Callable[[], AbstractContextManager[object]]

    def backward(
        self, batch: Samples, targets: Targets, scaled: Callable[[Tensor], Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms of the loss and the embeddings, both detached; gradients are added to the parameters'.

        `scaled` is what a loss is multiplied with before its backward pass.
        """
        found = self._embeddings(batch)
        leaves = {name: x.requires_grad_() for name, x in found.items()}
        terms = self.objective.of_batch(leaves, targets)
        scaled(torch.stack(list(terms.values())).sum()).backward()
        of_samples: dict[str, Tensor] = {}
        for rows, part, masks in self._parts(batch):
            with self.precision():
                embeddings = self.network(part.inputs(), part.masks(), masks)
                means = self.objective.of_samples(self.network, part, embeddings, masks)
            weighted = {name: mean * (len(part) / len(batch)) for name, mean in means.items()}
            handed_on = sum((embeddings[name].to(leaf.dtype) * _gradient(leaf)[rows]).sum()
                            for name, leaf in leaves.items())  # fmt: skip
            own = [scaled(term) for term in weighted.values()]
            total = torch.stack([torch.as_tensor(handed_on), *own]).sum()
            if total.requires_grad:  # not where a stage trains the loss alone
                total.backward()
            for name, term in weighted.items():
                of_samples[name] = of_samples.get(name, 0) + term.detach()
        losses = {name: term.detach() for name, term in terms.items()} | of_samples
        return losses, {name: leaf.detach() for name, leaf in leaves.items()}

    @torch.no_grad()
    def _embeddings(self, batch: Samples) -> dict[str, Tensor]:
        """Of the whole batch, in float32 or better; running statistics count the pass that has a graph alone."""
        buffers = list(self.network.buffers())
        before = [buffer.clone() for buffer in buffers]
        parts: list[Mapping[str, Tensor]] = []
        for _, part, masks in self._parts(batch):
            with self.precision():
                parts.append(self.network(part.inputs(), part.masks(), masks))
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        return {name: torch.cat([part[name].to(_at_least_float32(part[name])) for part in parts]) for name in parts[0]}

    def _parts(self, batch: Samples) -> Iterator[tuple[slice, Samples, ShareOfDropout]]:
        size = -(-len(batch) // self.count)
        for start in range(0, len(batch), size):
            rows = slice(start, min(start + size, len(batch)))
            self.dropout.start_step(self.step)
            yield rows, batch.take(rows), ShareOfDropout(self.dropout, start, rows.stop - start, len(batch))


def _gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
