"""The training loss: InfoNCE over the pairs of modalities, both directions of each."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

PAIR_ORDER = ("image", "text", "audio")


def info_nce(a_BD: Tensor, b_BD: Tensor, temperature: float) -> Tensor:
    """Mean of both directions' cross-entropies of the cosines over `temperature`; row i of a and b are a pair."""
    logits_BB = F.normalize(a_BD, dim=1) @ F.normalize(b_BD, dim=1).T / temperature
    target_B = torch.arange(len(a_BD), device=a_BD.device)
    return (F.cross_entropy(logits_BB, target_B) + F.cross_entropy(logits_BB.T, target_B)) / 2


def multi_positive_info_nce(a_BD: Tensor, b_BD: Tensor, temperature: float, match_B: Tensor) -> Tensor:
    """InfoNCE where all items of one match id are positives: −ln of their share of the softmax, both directions."""
    logits_BB = F.normalize(a_BD, dim=1) @ F.normalize(b_BD, dim=1).T / temperature
    negative_BB = match_B[:, None] != match_B[None, :]
    both = torch.stack([logits_BB, logits_BB.T])
    share = both.masked_fill(negative_BB, -torch.inf).logsumexp(dim=2) - both.logsumexp(dim=2)
    return -share.mean()


def pair_losses(
    embeddings: Mapping[str, Tensor], match_B: Tensor, *, temperature: float, multi_positive: bool
) -> dict[str, Tensor]:
    """The loss of every pair of modalities, by name (image_text, image_audio, text_audio), in float32 or better."""
    names = [m for m in PAIR_ORDER if m in embeddings]
    full = {m: x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for m, x in embeddings.items()}
    if multi_positive:
        return {f"{a}_{b}": multi_positive_info_nce(full[a], full[b], temperature, match_B)
                for a, b in combinations(names, 2)}  # fmt: skip
    return {f"{a}_{b}": info_nce(full[a], full[b], temperature) for a, b in combinations(names, 2)}


def bank_pair_losses(
    embeddings: Mapping[str, Tensor], match_KB: Tensor, *, temperature: float, multi_positive: bool
) -> dict[str, Tensor]:
    """`pair_losses` of K runs at once, [K] each; embeddings are [K, B, D]."""
    names = [m for m in PAIR_ORDER if m in embeddings]
    unit = {m: F.normalize(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, dim=2)
            for m, x in embeddings.items()}  # fmt: skip
    positive_KBB = match_KB[:, :, None] == match_KB[:, None, :] if multi_positive else None
    losses = {}
    for a, b in combinations(names, 2):
        logits_KBB = torch.bmm(unit[a], unit[b].transpose(1, 2)) / temperature
        losses[f"{a}_{b}"] = _bank_info_nce(logits_KBB, positive_KBB)
    return losses


def _bank_info_nce(logits_KBB: Tensor, positive_KBB: Tensor | None) -> Tensor:
    """[K]: the mean of both directions; without positives, row i belongs to column i."""
    if positive_KBB is None:
        wanted = logits_KBB.diagonal(dim1=1, dim2=2).mean(dim=1)
        return (logits_KBB.logsumexp(dim=2).mean(dim=1) + logits_KBB.logsumexp(dim=1).mean(dim=1)) / 2 - wanted
    only = logits_KBB.masked_fill(~positive_KBB, -torch.inf)
    shares = [(only.logsumexp(dim=d) - logits_KBB.logsumexp(dim=d)).mean(dim=1) for d in (1, 2)]
    return -(shares[0] + shares[1]) / 2
