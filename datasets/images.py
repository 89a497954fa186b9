"""Images: decoded from files, cut square, cropped and flipped at random for training, normalised.

uint8 RGB of torchvision throughout; JPEG, PNG, WebP and GIF.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional

from bench.datasets import noise
from bench.datasets.samples import DataError, PixelLevels

# N images of 3 channels, H × W pixels, S pixels a side.
# The mean and standard deviation of ImageNet's training images by channel, as published with torchvision's models.
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALISED = PixelLevels(mean=IMAGENET_MEAN, deviation=IMAGENET_DEVIATION)

CROP_SCALE, CROP_RATIO, FLIP = (0.5, 1.0), (3 / 4, 4 / 3), 0.5
CROP_TRIES = 10  # torchvision's RandomResizedCrop gives up after as many
DRAWS_A_TRY = 4  # area, aspect ratio, top, left

SOURCE_PLACE = re.compile(r"^.*\.cpp:\d+, ")  # what torchvision's messages begin with
MOST_PIXELS = 1 << 28  # no WebP can have more
PNG_BEGIN, GIF_BEGIN, JPEG_BEGIN = b"\x89PNG\r\n\x1a\n", b"GIF8", b"\xff\xd8"
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that the height and width come after
OUT_OF_BYTES = re.compile(r"truncated|Out of bound read")


def decode(path: Path) -> Tensor:
    """The image of a file, uint8 [3, H, W] RGB; of several frames the first. Raises DataError that names the file.

    Turned upright by the EXIF orientation of a JPEG or PNG (torchvision does not look for one in WebP); transparency
    is dropped, not blended; of 16 bits the upper 8 are kept; CMYK is taken as inverted, as Adobe writes it. A cut file
    is an error, but what libjpeg itself mends (a hole in the middle, "Corrupt JPEG data" on stderr) is not seen.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    if not content.size:
        raise DataError(f"{path} is empty; expected an image")
    height, width = _stated_size(content.data)
    if height * width > MOST_PIXELS:
        raise DataError(f"{path} has {height:,} × {width:,} pixels; allowed are {MOST_PIXELS:,} at most")
    try:
        image = decode_image(torch.from_numpy(content), mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except RuntimeError as error:
        reason = SOURCE_PLACE.sub("", str(error).partition("\n")[0])
        fault = "is cut off" if OUT_OF_BYTES.search(reason) else "is not an image that can be read"
        raise DataError(f"{path} {fault} ({reason})") from error
    return functional.to_dtype(image[0] if image.ndim == 4 else image, torch.uint8, scale=True)


def _stated_size(content: memoryview) -> tuple[int, int]:
    """Height and width by the header of a PNG, GIF or JPEG; (0, 0) where it does not say."""
    try:
        if content[:8] == PNG_BEGIN:
            width, height = struct.unpack_from(">II", content, 16)
            return height, width
        if content[:4] == GIF_BEGIN:
            width, height = struct.unpack_from("<HH", content, 6)
            return height, width
        place = 2 if content[:2] == JPEG_BEGIN else len(content)
        while True:
            begin, marker, length, height, width = struct.unpack_from(">BBHxHH", content, place)
            if begin != 0xFF or marker in JPEG_FRAMES:
                return (height, width) if begin == 0xFF else (0, 0)
            place += 1 if marker == 0xFF else 2 + length  # a marker may have more than one FF before it
    except struct.error:  # the end
        return 0, 0


def square(image: Tensor, size: int) -> Tensor:
    """The square in the middle of an image [3, H, W], resized to `size` (bilinear, antialiased); [3, size, size].

    Cut before it is resized: the whole image, its shorter side at `size`, may be as long as it likes.
    """
    middle_part = functional.center_crop(image, [min(image.shape[-2:])] * 2)
    return functional.resize(middle_part, [size, size], antialias=True).contiguous()


def middle(images: Tensor, size: int) -> Tensor:
    """The `size` × `size` pixels in the middle of images […, H, W] that are no smaller: what `square` would keep."""
    return functional.center_crop(images, [size, size])


def random_crops(
    images_N3SS: Tensor,
    keys_N: Tensor,
    size: int,
    *,
    scale: tuple[float, float] = CROP_SCALE,
    ratio: tuple[float, float] = CROP_RATIO,
    flip: float = FLIP,
) -> Tensor:
    """A random part of each image, resized to `size`, mirrored with probability `flip`; uint8 [N, 3, size, size].

    The part's area is uniform on `scale` of the image's, the logarithm of its width / height uniform on `ratio`'s
    (torchvision's RandomResizedCrop). All is drawn from the image's own key, so its bits do not depend on the batch.
    """
    draws_NK = noise.uniform(keys_N, 1 + CROP_TRIES * DRAWS_A_TRY).tolist()
    height, width = images_N3SS.shape[-2:]
    crops = images_N3SS.new_empty(len(images_N3SS), 3, size, size)
    for image, draws, crop in zip(images_N3SS, draws_NK, crops, strict=True):
        part = functional.resized_crop(image, *_box(draws[1:], height, width, scale, ratio), [size, size])
        crop.copy_(functional.horizontal_flip(part) if draws[0] < flip else part)
    return crops


def _box(
    draws: Sequence[float], height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width of the first part drawn that fits; of the whole image where none does."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for k in range(0, CROP_TRIES * DRAWS_A_TRY, DRAWS_A_TRY):
        for_area, for_aspect, for_top, for_left = draws[k : k + DRAWS_A_TRY]
        area = height * width * (scale[0] + (scale[1] - scale[0]) * for_area)
        aspect = math.exp(low + (high - low) * for_aspect)
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(for_top * (height - h + 1)), int(for_left * (width - w + 1)), h, w
    return 0, 0, height, width


def normalised(
    images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, deviation: Sequence[float] = IMAGENET_DEVIATION
) -> Tensor:
    """(x / 255 − mean) / deviation by channel; uint8 […, 3, H, W] to float32."""
    scaled = functional.to_dtype(images, torch.float32, scale=True)
    return functional.normalize(scaled, list(mean), list(deviation))
