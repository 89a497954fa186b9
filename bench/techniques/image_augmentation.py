"""Images changed at random: cropped and resized, mirrored, jittered in colour, turned grey; a batch at once.

What torchvision's RandomResizedCrop, RandomHorizontalFlip, ColorJitter and RandomGrayscale do one after the other, with
figures for each image of its own. Shapes: N images of 3 channels, H × W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.datasets import noise
from bench.datasets.images import CROP_RATIO, CROP_TRIES, DRAWS_A_TRY
from bench.datasets.samples import PixelLevels
from bench.techniques.options import ImageAugmentation

BRIGHTNESS, CONTRAST, SATURATION = range(3)
ORDERS = tuple(permutations((BRIGHTNESS, CONTRAST, SATURATION)))
LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue in a grey, as torchvision has it (ITU-R BT.601)
FLIP = 0.5
FOR_ONE_IMAGE = 6 + CROP_TRIES * DRAWS_A_TRY  # mirror, grey, three factors, their order; then the crop
CACHED_VALUES = 1 << 18  # images changed at once on a CPU, so that what lies in between stays in its caches


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDraws:
    """What happens to each of N images; the operations of colour take place in the order of `order_N3`."""

    box_N4: Tensor  # int64: top, left, height, width of the part that is kept
    mirrored_N: Tensor
    factor_N3: Tensor  # of brightness, contrast and saturation; 1 leaves an image as it is
    order_N3: Tensor
    grey_N: Tensor

    def rows(self, part: slice) -> ImageDraws:
        """Those of some of the images."""
        return ImageDraws(box_N4=self.box_N4[part], mirrored_N=self.mirrored_N[part], factor_N3=self.factor_N3[part],
                          order_N3=self.order_N3[part], grey_N=self.grey_N[part])  # fmt: skip


def draw_images(keys_N: Tensor, height: int, width: int, options: ImageAugmentation) -> ImageDraws:
    """What the images of `keys_N` get; each image's draws depend on its own key alone."""
    draws_NK = noise.uniform(keys_N, FOR_ONE_IMAGE)
    order_of = torch.tensor(ORDERS, device=keys_N.device)
    return ImageDraws(
        box_N4=_boxes(draws_NK[:, 6:].unflatten(1, (CROP_TRIES, DRAWS_A_TRY)), height, width, options.smallest_crop),
        mirrored_N=(draws_NK[:, 0] < FLIP) if options.flip else torch.zeros_like(keys_N, dtype=torch.bool),
        factor_N3=(1 + options.jitter * (2 * draws_NK[:, 2:5] - 1)).float(),
        order_N3=order_of[(draws_NK[:, 5] * len(ORDERS)).long()],
        grey_N=draws_NK[:, 1] < options.grey,
    )


def _boxes(draws_NT4: Tensor, height: int, width: int, smallest: float) -> Tensor:
    """The first part drawn that fits, of the whole image where none does: top, left, height and width, [N, 4].

    The part's area is uniform on [smallest, 1] of the image's, the logarithm of its width / height uniform.
    """
    for_area, for_aspect, for_top, for_left = draws_NT4.unbind(2)
    low, high = (math.log(ratio) for ratio in CROP_RATIO)
    area_NT = height * width * (smallest + (1 - smallest) * for_area)
    aspect_NT = torch.exp(low + (high - low) * for_aspect)
    h_NT, w_NT = (area_NT / aspect_NT).sqrt().round(), (area_NT * aspect_NT).sqrt().round()
    fits_NT = (h_NT > 0) & (h_NT <= height) & (w_NT > 0) & (w_NT <= width)
    top_NT, left_NT = (for_top * (height - h_NT + 1)).floor(), (for_left * (width - w_NT + 1)).floor()
    box_NT4 = torch.stack([top_NT, left_NT, h_NT, w_NT], dim=2).long()
    first_N11 = fits_NT.to(torch.uint8).argmax(dim=1)[:, None, None]
    box_N4 = box_NT4.gather(1, first_N11.expand(-1, 1, 4))[:, 0]
    return torch.where(fits_NT.any(dim=1, keepdim=True), box_N4, box_N4.new_tensor([0, 0, height, width]))


def changed_images(
    images_N3HW: Tensor, draws: ImageDraws, options: ImageAugmentation, levels: PixelLevels | None
) -> Tensor:
    """The images as `draws` says, of the same size; a new tensor.

    `levels` says what black and white are, between which operations of colour stay; it is needed where there are any.
    """
    cached = CACHED_VALUES // max(1, images_N3HW[:1].numel()) if images_N3HW.device.type == "cpu" else len(images_N3HW)
    changed = torch.empty_like(images_N3HW)
    for start in range(0, len(images_N3HW), max(1, cached)):
        part = slice(start, start + max(1, cached))
        changed[part] = _changed(images_N3HW[part], draws.rows(part), options, levels)
    return changed


def _changed(images_N3HW: Tensor, draws: ImageDraws, options: ImageAugmentation, levels: PixelLevels | None) -> Tensor:
    if options.smallest_crop < 1 or options.flip:
        images_N3HW = _cropped(images_N3HW, draws.box_N4, draws.mirrored_N)
    if not has_colour(options):
        return images_N3HW
    assert levels is not None
    mean_311, deviation_311 = (
        images_N3HW.new_tensor(values)[:, None, None] for values in (levels.mean, levels.deviation)
    )
    level_N3HW = (images_N3HW * deviation_311).add_(mean_311)
    if options.jitter:
        level_N3HW = _jittered(level_N3HW, draws.factor_N3, draws.order_N3)
    if options.grey:
        level_N3HW = torch.where(draws.grey_N[:, None, None, None], _grey(level_N3HW), level_N3HW)
    return level_N3HW.sub_(mean_311).div_(deviation_311)


def has_colour(options: ImageAugmentation) -> bool:
    """Whether any operation needs to know what black and white are."""
    return options.jitter > 0 or options.grey > 0


def _cropped(images_N3HW: Tensor, box_N4: Tensor, mirrored_N: Tensor) -> Tensor:
    """The parts of `box_N4`, enlarged to the images' size (bilinear), then mirrored where it says so."""
    height, width = images_N3HW.shape[-2:]
    top_N, left_N, h_N, w_N = box_N4.to(images_N3HW.dtype).unbind(1)
    row_NH, column_NW = _sources(top_N, h_N, height), _sources(left_N, w_N, width)
    column_NW = torch.where(mirrored_N[:, None], column_NW.flip(1), column_NW)
    x_NHW, y_NHW = column_NW[:, None, :].expand(-1, height, -1), row_NH[:, :, None].expand(-1, -1, width)
    grid_NHW2 = torch.stack([x_NHW, y_NHW], dim=3)
    return F.grid_sample(images_N3HW, grid_NHW2, mode="bilinear", padding_mode="border", align_corners=False)


def _sources(start_N: Tensor, length_N: Tensor, places: int) -> Tensor:
    """Where each of an axis' `places` comes from, in `grid_sample`'s measure; [N, places].

    The middle of a pixel is half a pixel inside; beyond the part's first and last pixel nothing is looked at.
    """
    middle_P = torch.arange(places, dtype=start_N.dtype, device=start_N.device) + 0.5
    inside_NP = middle_P * (length_N[:, None] / places) - 0.5
    source_NP = start_N[:, None] + inside_NP.clamp(min=0).minimum(length_N[:, None] - 1)
    return (2 * source_NP + 1) / places - 1


def _jittered(level_N3HW: Tensor, factor_N3: Tensor, order_N3: Tensor) -> Tensor:
    """Each image moved away from, or towards, black, its mean grey and its own grey, in the order that it has."""
    for operation_N in order_N3.unbind(1):
        factor_N111 = factor_N3.gather(1, operation_N[:, None])[..., None, None].to(level_N3HW.dtype)
        operation_N111 = operation_N[:, None, None, None]
        grey_N1HW = _grey(level_N3HW)
        mean_N111 = grey_N1HW.mean(dim=(1, 2, 3), keepdim=True) * (operation_N111 == CONTRAST)
        other_N1HW = torch.where(operation_N111 == SATURATION, grey_N1HW, mean_N111)
        level_N3HW = torch.lerp(other_N1HW.expand_as(level_N3HW), level_N3HW, factor_N111).clamp_(0, 1)
    return level_N3HW


def _grey(level_N3HW: Tensor, weights: Sequence[float] = LUMA) -> Tensor:
    """[N, 1, H, W]."""
    red, green, blue = level_N3HW.split(1, dim=1)
    return (red * weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2])
