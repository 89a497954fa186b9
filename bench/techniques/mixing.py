"""MixUp and CutMix: images mixed with others of their batch, and what the loss has to know of it.

    MixUp   x_i <- λ x_i + (1 − λ) x_π(i)                               λ ~ Beta(α, α), π a permutation of the batch
    CutMix  a box of area 1 − λ at a random place of x_i <- x_π(i)'s;   λ is then what is left of x_i

Zhang et al., "mixup: Beyond Empirical Risk Minimization", https://arxiv.org/abs/1710.09412; Yun et al., "CutMix:
Regularization Strategy to Train Strong Classifiers with Localizable Features", https://arxiv.org/abs/1905.04899
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from scipy.special import betaincinv
from torch import Tensor

from bench.datasets import noise
from bench.datasets.samples import Samples
from bench.techniques.draws import Draw, drawn_order, keys
from bench.techniques.objective import Mixed
from bench.techniques.options import MixUp


def mixed_batch(batch: Samples, options: MixUp | None, seed: int, step: int) -> tuple[Samples, Mixed | None]:
    """The batch of a step with its images mixed, and how; the same batch and None without `options`.

    One λ, one permutation and one box a step, as both papers have it; an image may be its own partner. Nothing but
    images changes.
    """
    if options is None:
        return batch, None
    images_B3HW = batch.image_N3HW
    assert images_B3HW is not None  # looked at before anything ran
    draws_K = noise.uniform(keys(seed, Draw.SHARE, step, torch.zeros(1, dtype=torch.int64)), 3)[0].tolist()
    share = float(betaincinv(options.alpha, options.alpha, draws_K[0]))  # Beta's quantile
    partner_B = drawn_order(seed, Draw.PARTNER, step, len(batch)).to(images_B3HW.device, non_blocking=True)
    if options.mode == "mixup":
        mixed_B3HW = torch.lerp(images_B3HW[partner_B], images_B3HW, share)
    else:
        rows, columns = _box(1 - share, draws_K[1], draws_K[2], *images_B3HW.shape[-2:])
        mixed_B3HW, share = cut_mixed(images_B3HW, partner_B, rows, columns)
    return replace(batch, image_N3HW=mixed_B3HW), Mixed(partner_B=partner_B, share=share)


def _box(area: float, for_row: float, for_column: float, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a box of an image's shape, its middle anywhere in the image, whose border cuts it off."""
    sides = []
    for place, length in ((for_row, height), (for_column, width)):
        side = round(length * math.sqrt(area))
        start = int(place * length) - side // 2
        sides.append(slice(max(start, 0), min(start + side, length)))
    return sides[0], sides[1]


def cut_mixed(images_B3HW: Tensor, partner_B: Tensor, rows: slice, columns: slice) -> tuple[Tensor, float]:
    """The images with the box of their partners', and the share of its pixels that an image keeps."""
    mixed_B3HW = images_B3HW.clone()
    mixed_B3HW[..., rows, columns] = images_B3HW[partner_B][..., rows, columns]
    height, width = images_B3HW.shape[-2:]
    cut = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed_B3HW, 1 - cut / (height * width)
