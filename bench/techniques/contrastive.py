"""Losses of a pair of modalities in one general form, of which the plain losses of `bench.objective` are cases.

Every item of one modality is a row, every item of the other a column, and so is every earlier item of a queue. Ids say
what belongs together; a row's loss compares the columns that do with all of them. Both directions count.

Shapes: B batch, D embedding, Q earlier items, C = B + Q columns, K kinds of ids, S sides. A mixed image has two sides:
what belongs to itself, and what belongs to its partner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """One modality of a batch: unit vectors, those of earlier items, and ids.

    Two items of a batch are positives of each other where they share an id of one kind.
    """

    unit_BD: Tensor
    positive_SKB: Tensor
    earlier_QD: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What the rows of one modality see of the other: cosines, and the columns that belong to a row.

    Earlier items are no one's positives. `hidden_BQ` is −∞ where one is left out, else 0.
    """

    cosine_BB: Tensor
    positive_BB: Tensor
    cosine_BQ: Tensor | None = None
    hidden_BQ: Tensor | None = None

    def columns(self) -> tuple[Tensor, Tensor]:
        """Of all columns the cosines, without a gradient, and which are a row's negatives: [B, C]."""
        cosine_BB = self.cosine_BB.detach()
        if self.cosine_BQ is None or self.hidden_BQ is None:
            return cosine_BB, ~self.positive_BB
        negative_BC = torch.cat([~self.positive_BB, self.hidden_BQ == 0], dim=1)
        return torch.cat([cosine_BB, self.cosine_BQ.detach()], dim=1), negative_BC


def rows(a: Items, b: Items, side: int, hidden_BQ: Tensor | None = None) -> Rows:
    """Items of `a` against items of `b`, and against the earlier ones of `b` where they are not hidden."""
    positive_BB = sharing(_side(a.positive_SKB, side), _side(b.positive_SKB, side))
    cosine_BB = a.unit_BD @ b.unit_BD.T
    if b.earlier_QD is None:
        return Rows(cosine_BB=cosine_BB, positive_BB=positive_BB)
    return Rows(cosine_BB=cosine_BB, positive_BB=positive_BB, cosine_BQ=a.unit_BD @ b.earlier_QD.T, hidden_BQ=hidden_BQ)


def _side(ids_SKB: Tensor, side: int) -> Tensor:
    """The ids of one side; what is not mixed has but one."""
    return ids_SKB[min(side, len(ids_SKB) - 1)]


def sharing(a_KB: Tensor, b_KC: Tensor) -> Tensor:
    """[B, C]: whether two items share an id of any kind."""
    return (a_KB[:, :, None] == b_KC[:, None, :]).any(dim=0)


def mean_of_directions(
    a: Items, b: Items, loss: Callable[[Rows], Tensor], share: float = 1.0, hidden_BQ: Tensor | None = None
) -> Tensor:
    """The mean of a loss of rows over both directions; of mixed images `share` is the own side's."""
    sides = max(len(a.positive_SKB), len(b.positive_SKB))
    losses = [(loss(rows(a, b, side, hidden_BQ)) + loss(rows(b, a, side, hidden_BQ))) / 2 for side in range(sides)]
    return losses[0] if sides == 1 else share * losses[0] + (1 - share) * losses[1]


# ---------------------------------------------------------------------- losses of rows


def logits(seen: Rows, scale: Tensor | float, hard_BC: Tensor | None = None, factor: float = 1.0) -> Tensor:
    """[B, C]: cosines times `scale`, −∞ where hidden; in a softmax a hard column counts `factor` times."""
    logits_BC = seen.cosine_BB * scale
    if seen.cosine_BQ is not None and seen.hidden_BQ is not None:
        logits_BC = torch.cat([logits_BC, seen.cosine_BQ * scale + seen.hidden_BQ], dim=1)
    return logits_BC if hard_BC is None else torch.where(hard_BC, logits_BC + log(factor), logits_BC)


def pooled_loss(logits_BC: Tensor, positive_BB: Tensor) -> Tensor:
    """−ln of the positives' share of the softmax, the mean over rows; InfoNCE where each row has one positive."""
    among_BB = logits_BC[:, : len(logits_BC)].masked_fill(~positive_BB, -torch.inf)
    return (logits_BC.logsumexp(dim=1) - among_BB.logsumexp(dim=1)).mean()


def averaged_loss(logits_BC: Tensor, positive_BB: Tensor) -> Tensor:
    """The mean of −ln softmax over a row's positives, and over rows: L_out of Khosla et al."""
    wanted_BB = logits_BC[:, : len(logits_BC)].masked_fill(~positive_BB, 0)
    return (logits_BC.logsumexp(dim=1) - wanted_BB.sum(dim=1) / positive_BB.sum(dim=1)).mean()


def sigmoid_loss(seen: Rows, scale: Tensor | float, bias: Tensor | float) -> Tensor:
    """−ln σ(±(scale · cosine + bias)), + where a column belongs to the row; summed over columns, the mean over rows."""
    sign_BB = torch.where(seen.positive_BB, 1.0, -1.0)
    return -F.logsigmoid(sign_BB * (seen.cosine_BB * scale + bias)).sum(dim=1).mean()


# ---------------------------------------------------------------------- hard negatives


def semi_hard(seen: Rows, margin: float) -> Tensor:
    """[B, C]: negatives whose cosine lies in (m − margin, m), m being the mean cosine of the batch's positives."""
    cosine_BC, negative_BC = seen.columns()
    mean = seen.cosine_BB.detach().masked_fill(~seen.positive_BB, 0).sum() / seen.positive_BB.sum()
    return negative_BC & (cosine_BC > mean - margin) & (cosine_BC < mean)


def hardest(seen: Rows, share: float) -> Tensor:
    """[B, C]: of each row the given share of its negatives with the largest cosines, at least one; ties are all in."""
    cosine_BC, negative_BC = seen.columns()
    most = max(1, round(share * cosine_BC.shape[1]))
    largest_BN = cosine_BC.masked_fill(~negative_BC, -torch.inf).topk(most, dim=1).values
    count_B1 = (negative_BC.sum(dim=1, keepdim=True) * share).round().long().clamp(1, most)
    return negative_BC & (cosine_BC >= largest_BN.gather(1, count_B1 - 1))


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
