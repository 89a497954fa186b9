"""The loss of a step under a protocol's techniques: what it learns, and what it keeps from step to step.

Two kinds of terms. Those of a batch compare embeddings with each other; those of a sample are means over samples, so
that a part of a batch has a part of them. The sum of all terms is the loss. Shapes: B batch, D embedding, L tokens,
K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Protocol as Shape
from typing import runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.datasets.samples import Dataset, Samples
from bench.errors import UsageError
from bench.models.multimodal_memory import NO_DROPOUT, Dropout, at_least_float32, evaluating
from bench.objective import PAIR_ORDER
from bench.protocol import Protocol
from bench.spec import Role, RoledParameter
from bench.techniques.contrastive import distillation_loss
from bench.techniques.pairs import PairLosses
from bench.techniques.targets import Mixed, Targets, text_ids
from bench.techniques.teacher import Teacher, teacher_of

__all__ = ["Mixed", "Objective", "Targets"]

_ROLES = {"classifier.head.weight": Role.HEAD}  # all else is like a bias: a number that is added or multiplied


@runtime_checkable
class Reconstructs(Shape):
    """A network with a decoder of audio."""

    def reconstruction(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor], dropout: Dropout
    ) -> tuple[Tensor, Tensor]:
        """What it makes of text and image seen together, and what it is to be: [B, D] each."""
        ...


@runtime_checkable
class ModelsLanguage(Shape):
    """A network with a language model."""

    def language_model_loss(self, text_BL: Tensor, mask_BL: Tensor | None, dropout: Dropout) -> Tensor:
        """The mean cross-entropy of the next token."""
        ...


class Classifier(nn.Module):
    """One linear head for the embeddings of all modalities, which are compared with each other too."""

    def __init__(self, width: int, label_N: Tensor) -> None:
        """`label_N` are those of all training samples; they need not be consecutive numbers."""
        super().__init__()
        self.register_buffer("label_K", label_N.unique(), persistent=False)
        self.label_K: Tensor
        self.head = nn.Linear(width, len(self.label_K))

    def forward(self, embeddings: Mapping[str, Tensor], targets: Targets) -> Tensor:
        """Cross-entropy of the label, the mean over modalities; a mixed image has two labels."""
        class_B, mixed = torch.searchsorted(self.label_K, targets.label_B), targets.mixed
        losses = []
        for name, x_BD in embeddings.items():
            logits_BK = self.head(at_least_float32(x_BD))
            loss = F.cross_entropy(logits_BK, class_B)
            if name == "image" and mixed is not None:
                other = F.cross_entropy(logits_BK, class_B[mixed.partner_B])
                loss = mixed.share * loss + (1 - mixed.share) * other
            losses.append(loss)
        return torch.stack(losses).mean()


class Objective(nn.Module):
    """The terms of a protocol's loss; its parameters are trained with the network's."""

    def __init__(self, protocol: Protocol, network: nn.Module, dataset: Dataset) -> None:
        """Raises `UsageError` where a technique that is on does not suit the network or the data."""
        super().__init__()
        self._temperature, on = protocol.workload.temperature, protocol.techniques
        self._techniques = on
        _require_modalities(protocol)
        _require_network(protocol, network)
        width = _width(network, dataset) if on.queue or on.classification else 0
        self.pairs = PairLosses(protocol, width)
        if on.classification is not None:
            self.classifier = Classifier(width, _labels(dataset))
        # No part of the module: a teacher is neither trained nor kept in a run's state.
        self._teacher: tuple[Teacher, ...] = ()
        if on.distillation is not None:
            self._teacher = (teacher_of(on.distillation, protocol, dataset),)

    def roled_parameters(self) -> list[RoledParameter]:
        """What is trained of the loss itself; empty where its figures are fixed."""
        return [RoledParameter(name=f"objective.{name}", parameter=p, role=_ROLES.get(name, Role.BIAS))
                for name, p in self.named_parameters()]  # fmt: skip

    def text_ids(self, batch: Samples) -> Tensor | None:
        """[B]: equal for equal texts; None where that does not matter."""
        if not self.pairs.reads_texts or batch.text_NL is None:
            return None
        return text_ids(batch.text_NL, batch.text_mask_NL)

    def taught(self, batch: Samples) -> dict[str, Tensor] | None:
        """The teacher's embeddings of a batch; None where there is none."""
        return self._teacher[0].embeddings(batch) if self._teacher else None

    def of_batch(self, embeddings: Mapping[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """Terms by name of the embeddings [B, D] of a whole batch, in float32 or better."""
        on, terms = self._techniques, self.pairs(embeddings, targets)
        if on.classification is not None:
            weight = on.classification.contrastive_weight
            terms = {name: weight * loss for name, loss in terms.items()}
            terms["classification"] = self.classifier(embeddings, targets)
        if on.distillation is not None:
            share = on.distillation.alpha
            terms = {name: share * loss for name, loss in terms.items()}
            terms["distillation"] = (1 - share) * self._distillation(embeddings, targets, on.distillation.temperature)
        return terms

    def _distillation(self, embeddings: Mapping[str, Tensor], targets: Targets, temperature: float) -> Tensor:
        """The sum over pairs of modalities."""
        assert targets.teacher is not None, "targets lack the teacher's embeddings"
        own, taught = ({name: at_least_float32(x) for name, x in each.items()}
                       for each in (embeddings, targets.teacher))  # fmt: skip
        names = [name for name in PAIR_ORDER if name in own]
        losses = [distillation_loss((own[a], own[b]), (taught[a], taught[b]), 1 / self._temperature, temperature)
                  for a, b in combinations(names, 2)]  # fmt: skip
        return torch.stack(losses).sum()

    def of_samples(
        self, network: nn.Module, batch: Samples, embeddings: Mapping[str, Tensor], dropout: Dropout
    ) -> dict[str, Tensor]:
        """Terms by name that are means over the samples of a batch, or of a part of one."""
        del embeddings
        on, terms = self._techniques, {}
        if on.reconstruction is not None:
            assert isinstance(network, Reconstructs)
            made_BD, wanted_BD = network.reconstruction(batch.inputs(), batch.masks(), dropout)
            error = F.mse_loss(at_least_float32(made_BD), at_least_float32(wanted_BD).detach())
            terms["reconstruction"] = on.reconstruction.weight * error
        if on.language_model is not None:
            assert isinstance(network, ModelsLanguage) and batch.text_NL is not None
            loss = network.language_model_loss(batch.text_NL, batch.text_mask_NL, dropout)
            terms["language_model"] = on.language_model.weight * at_least_float32(loss)
        return terms

    def end_step(self, embeddings: Mapping[str, Tensor], targets: Targets) -> None:
        """Keep of a step's embeddings, which are detached, what later steps need; once a step."""
        self.pairs.end_step(embeddings, targets)


def _require_modalities(protocol: Protocol) -> None:
    """Raise `UsageError` where a technique needs a modality that the workload does not have."""
    on, workload = protocol.techniques, protocol.workload
    of_texts = on.multi_positive is not None and "text" in on.multi_positive.equal
    needs = {
        "reconstruction": ("text", "image", "audio") if on.reconstruction else (),
        "language_model": ("text",) if on.language_model else (),
        "multi_positive.equal=text": ("text",) if of_texts else (),
    }
    for name, modalities in needs.items():
        if missing := [each for each in modalities if each not in workload.modalities]:
            raise UsageError(f"technique {name}: workload {workload.name!r} has no {' and no '.join(missing)}; allowed "
                             "are workloads that have")  # fmt: skip


def _require_network(protocol: Protocol, network: nn.Module) -> None:
    """Raise `UsageError` where a technique needs what the network does not offer."""
    on = protocol.techniques
    lacks = {
        "reconstruction": on.reconstruction is not None and not isinstance(network, Reconstructs),
        "language_model_loss": on.language_model is not None and not isinstance(network, ModelsLanguage),
    }
    for method in (name for name, lacking in lacks.items() if lacking):
        raise UsageError(f"technique {method.removesuffix('_loss')}: {type(network).__name__} has no {method}; allowed "
                         "are networks that have")  # fmt: skip


@torch.no_grad()
def _width(network: nn.Module, dataset: Dataset) -> int:
    """D, as two samples show it."""
    batch = dataset.held_out("test").take(slice(0, 2))
    with evaluating(network):
        embeddings = network(batch.inputs(), batch.masks(), NO_DROPOUT)
    return next(iter(embeddings.values())).shape[1]


def _labels(dataset: Dataset) -> Tensor:
    """Of all training samples; raises `UsageError` where each has a label of its own."""
    label_N = dataset.training(1, 0).label_N
    if len(label_N.unique()) == len(label_N):
        raise UsageError(f"technique classification: the {len(label_N)} training samples have as many labels; allowed "
                         "are data with classes")  # fmt: skip
    return label_N
