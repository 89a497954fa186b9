"""Losses of a pair of modalities in one general form, of which the plain losses of `bench.objective` are cases.

Every item of one modality is a row, every item of the other a column, and so is every earlier item of a queue. Ids say
what belongs together; a row's loss compares the columns that do with all of them. Both directions count.

Shapes: B batch, D embedding, Q earlier items, C = B + Q columns, K and J kinds of ids, S sides. A mixed image has two
sides: what belongs to itself, and what belongs to its partner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """Items of one modality from earlier steps: unit vectors, what they are, and which of the Q places hold one."""

    unit_QD: Tensor
    thing_SJQ: Tensor
    filled_Q: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """One modality of a batch: unit vectors and ids.

    Two items of a batch are positives of each other where they share an id of one kind in `positive_SKB`. An earlier
    item is no negative of one with which it shares an id of `thing_SJB`.
    """

    unit_BD: Tensor
    positive_SKB: Tensor
    thing_SJB: Tensor
    earlier: Earlier | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What the rows of one modality see of the other: cosines, the columns that belong to a row, and those left out."""

    cosine_BC: Tensor
    positive_BC: Tensor
    left_out_BC: Tensor | None = None

    @property
    def negative_BC(self) -> Tensor:
        return ~self.positive_BC if self.left_out_BC is None else ~(self.positive_BC | self.left_out_BC)


def rows(a: Items, b: Items, side: int) -> Rows:
    """Items of `a` against items of `b`, and against the earlier ones of `b`."""
    cosine_BB = a.unit_BD @ b.unit_BD.T
    positive_BB = _sharing(_side(a.positive_SKB, side), _side(b.positive_SKB, side))
    if b.earlier is None:
        return Rows(cosine_BC=cosine_BB, positive_BC=positive_BB)
    B, Q = len(cosine_BB), len(b.earlier.filled_Q)
    same_BQ = torch.zeros(B, Q, dtype=torch.bool, device=cosine_BB.device)
    for thing_JB in a.thing_SJB:
        for thing_JQ in b.earlier.thing_SJQ:
            same_BQ |= _sharing(thing_JB, thing_JQ)
    return Rows(
        cosine_BC=torch.cat([cosine_BB, a.unit_BD @ b.earlier.unit_QD.T], dim=1),
        positive_BC=torch.cat([positive_BB, torch.zeros_like(same_BQ)], dim=1),
        left_out_BC=torch.cat([torch.zeros_like(positive_BB), same_BQ | ~b.earlier.filled_Q], dim=1),
    )


def _side(ids_SKB: Tensor, side: int) -> Tensor:
    """The ids of one side; what is not mixed has but one."""
    return ids_SKB[min(side, len(ids_SKB) - 1)]


def _sharing(a_KB: Tensor, b_KC: Tensor) -> Tensor:
    """[B, C]: whether two items share an id of any kind."""
    return (a_KB[:, :, None] == b_KC[:, None, :]).any(dim=0)


def mean_of_directions(a: Items, b: Items, loss: Callable[[Rows], Tensor], share: float = 1.0) -> Tensor:
    """The mean of a loss of rows over both directions; of mixed images `share` is the own side's."""
    sides = max(len(a.positive_SKB), len(b.positive_SKB))
    losses = [(loss(rows(a, b, side)) + loss(rows(b, a, side))) / 2 for side in range(sides)]
    return losses[0] if sides == 1 else share * losses[0] + (1 - share) * losses[1]


# ---------------------------------------------------------------------- losses of rows


def logits(seen: Rows, scale: Tensor | float, hard_BC: Tensor | None = None, factor: float = 1.0) -> Tensor:
    """Cosines times `scale`, −∞ where left out; in a softmax a hard column counts `factor` times."""
    logits_BC = seen.cosine_BC * scale
    if hard_BC is not None:
        logits_BC = torch.where(hard_BC, logits_BC + log(factor), logits_BC)
    return logits_BC if seen.left_out_BC is None else logits_BC.masked_fill(seen.left_out_BC, -torch.inf)


def pooled_loss(logits_BC: Tensor, positive_BC: Tensor) -> Tensor:
    """−ln of the positives' share of the softmax, the mean over rows; InfoNCE where each row has one positive."""
    among_BC = logits_BC.masked_fill(~positive_BC, -torch.inf)
    return (logits_BC.logsumexp(dim=1) - among_BC.logsumexp(dim=1)).mean()


def averaged_loss(logits_BC: Tensor, positive_BC: Tensor) -> Tensor:
    """The mean of −ln softmax over a row's positives, and over rows: L_out of Khosla et al."""
    wanted_B = logits_BC.masked_fill(~positive_BC, 0).sum(dim=1) / positive_BC.sum(dim=1)
    return (logits_BC.logsumexp(dim=1) - wanted_B).mean()


def sigmoid_loss(seen: Rows, scale: Tensor | float, bias: Tensor | float) -> Tensor:
    """−ln σ(±(scale · cosine + bias)), + where a column belongs to the row; summed over columns, the mean over rows."""
    sign_BC = torch.where(seen.positive_BC, 1.0, -1.0)
    return -F.logsigmoid(sign_BC * (seen.cosine_BC * scale + bias)).sum(dim=1).mean()


# ---------------------------------------------------------------------- hard negatives


def semi_hard(seen: Rows, margin: float) -> Tensor:
    """[B, C]: negatives whose cosine lies in (m − margin, m), m being the mean cosine of the batch's positives."""
    cosine_BC = seen.cosine_BC.detach()
    mean = cosine_BC.masked_fill(~seen.positive_BC, 0).sum() / seen.positive_BC.sum()
    return seen.negative_BC & (cosine_BC > mean - margin) & (cosine_BC < mean)


def hardest(seen: Rows, share: float) -> Tensor:
    """[B, C]: of each row the given share of its negatives with the largest cosines, at least one; ties are all in."""
    cosine_BC, negative_BC = seen.cosine_BC.detach(), seen.negative_BC
    ranked_BC = cosine_BC.masked_fill(~negative_BC, -torch.inf).sort(dim=1, descending=True).values
    count_B1 = (negative_BC.sum(dim=1, keepdim=True) * share).round().long().clamp_min(1)
    return negative_BC & (cosine_BC >= ranked_BC.gather(1, count_B1 - 1))


# ---------------------------------------------------------------------- distillation


def distillation_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], scale: float, T: float) -> Tensor:
    """T² · KL(teacher ‖ student) of a pair of modalities, [B, D] each: the mean over rows and both directions.

    A row's distribution is the softmax of its cosines times `scale` / `T`. Teacher and student may differ in width.
    """
    own_BB, wanted_BB = (_cosines(*each) * (scale / T) for each in (student, teacher))
    both = ((own_BB, wanted_BB), (own_BB.T, wanted_BB.T))
    divergences = [F.kl_div(own.log_softmax(dim=1), wanted.log_softmax(dim=1), reduction="batchmean", log_target=True)
                   for own, wanted in both]  # fmt: skip
    return T**2 * (divergences[0] + divergences[1]) / 2


def _cosines(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    return F.normalize(a_BD, dim=1) @ F.normalize(b_BD, dim=1).T
