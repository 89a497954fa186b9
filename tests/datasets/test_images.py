"""Images of every kind of file against Pillow and known pixels; crops against torchvision's own."""

import io
import math
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from bench.datasets import images, noise
from bench.datasets.images import decode, middle, normalised, random_crops, square
from bench.datasets.samples import DataError

# Another build of libjpeg or libwebp may round otherwise; those of today give the same pixels.
ROUNDING = 2
ORIENTATION, LEFT_SIDE_DOWN = 0x0112, 6


def picture(height: int = 45, width: int = 60, channels: int = 3) -> np.ndarray:
    """Smooth colours, so that JPEG keeps them, without any symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (9 + c) + c) + np.cos(y / (7 + 2 * c)) + x / width - y / height for c in range(channels)]
    return (60 * np.stack(waves, axis=-1) + 120).clip(0, 255).astype(np.uint8)


RGB = Image.fromarray(picture())
GREY, PALETTE = RGB.convert("L"), RGB.quantize(50)
CMYK = Image.fromarray(picture(channels=4), mode="CMYK")


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.fromarray(np.arange(45 * 60, dtype=np.uint16).reshape(45, 60).astype(np.uint8)))
    return image


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


FILES: dict[str, tuple[str, Image.Image, dict[str, Any]]] = {
    "JPEG": ("x.jpg", RGB, {"quality": 90}),
    "progressive JPEG": ("x.jpg", RGB, {"progressive": True}),
    "JPEG of RGB, not YCbCr": ("x.jpg", RGB, {"keep_rgb": True}),
    "grey JPEG": ("x.jpg", GREY, {}),
    "CMYK JPEG": ("x.jpg", CMYK, {"quality": 95}),
    "PNG": ("x.png", RGB, {}),
    "1-bit PNG": ("x.png", RGB.convert("1"), {}),
    "PNG with a palette": ("x.png", PALETTE, {}),
    "PNG with a transparent colour": ("x.png", PALETTE, {"transparency": 3}),
    "PNG with alpha": ("x.png", with_alpha(RGB), {}),
    "grey PNG with alpha": ("x.png", with_alpha(GREY), {}),
    "WebP": ("x.webp", RGB, {"quality": 90}),
    "lossless WebP with alpha": ("x.webp", with_alpha(RGB), {"lossless": True}),
    "GIF": ("x.gif", PALETTE, {}),
    "moving GIF": ("x.gif", PALETTE, {"save_all": True, "append_images": [PALETTE.rotate(180)], "duration": 40}),
    "JPEG that is named PNG": ("x.png", RGB, {"format": "JPEG"}),
}


def by_pillow(path: Path) -> Tensor:
    with Image.open(path) as file:
        upright = ImageOps.exif_transpose(file).convert("RGB")
    return torch.from_numpy(np.array(upright)).permute(2, 0, 1).int()


@pytest.mark.parametrize("kind", FILES)
def test_decode_gives_what_pillow_gives(kind: str, tmp_path: Path):
    name, image, options = FILES[kind]
    path = save(tmp_path / name, image, **options)
    found = decode(path)
    assert found.dtype == torch.uint8
    torch.testing.assert_close(found.int(), by_pillow(path), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("inks", "colour"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 255, 0), (255, 255, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((51, 102, 204, 51), (163, 122, 41)),  # 255 (1 - ink) (1 - black): 0.8 · 0.8, 0.6 · 0.8, 0.2 · 0.8
    ],
)
def test_inks_of_a_cmyk_jpeg_have_their_colours(inks: tuple[int, ...], colour: tuple[int, int, int], tmp_path: Path):
    image = Image.new("CMYK", (16, 16), inks)
    found = decode(save(tmp_path / "x.jpg", image, quality=100, subsampling=0))
    assert ((found.int() - torch.tensor(colour)[:, None, None]).abs() <= ROUNDING).all()


def test_ycck_jpeg_has_the_colours_pillow_sees(tmp_path: Path):
    path = save(tmp_path / "x.jpg", CMYK, quality=95)
    content = bytearray(path.read_bytes())
    content[content.index(b"Adobe") + 11] = 2  # the marker's colour transform: the same numbers, read as YCCK
    path.write_bytes(content)
    torch.testing.assert_close(decode(path).int(), by_pillow(path), rtol=0, atol=ROUNDING)


def test_16_bits_keep_their_upper_8(tmp_path: Path):
    values = [(0, 257, 514), (65535, 32896, 255)]
    (tmp_path / "x.png").write_bytes(png(2, 1, 16, 2, b"\0" + b"".join(struct.pack(">3H", *v) for v in values)))
    assert decode(tmp_path / "x.png").tolist() == [[[0, 255]], [[1, 128]], [[2, 0]]]
    save(tmp_path / "grey.png", Image.fromarray(np.array([[256, 65535]], np.uint16)))
    assert decode(tmp_path / "grey.png").tolist() == [[[1, 255]]] * 3


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_turned_upright(orientation: int, name: str, tmp_path: Path):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / name, RGB, exif=exif)
    torch.testing.assert_close(decode(path).int(), by_pillow(path), rtol=0, atol=ROUNDING)
    if orientation == LEFT_SIDE_DOWN:  # to be turned a quarter clockwise
        upright = decode(save(tmp_path / f"upright_{name}", RGB))
        torch.testing.assert_close(decode(path), upright.rot90(-1, (1, 2)), rtol=0, atol=0)


# ---- files that are no images


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "PNG", "WebP", "lossless WebP with alpha", "moving GIF"])
def test_cut_file_is_an_error_wherever_it_is_cut(kind: str, tmp_path: Path):
    name, image, options = FILES[kind]
    path = save(tmp_path / name, image, **options)
    content, whole = path.read_bytes(), decode(path)
    for size in [*range(30), *range(30, len(content) - 30, 53), *range(len(content) - 30, len(content))]:
        path.write_bytes(content[:size])
        if name == "x.png" and size >= len(content) - 12:  # all pixels are there, and only the end mark is not
            torch.testing.assert_close(decode(path), whole, rtol=0, atol=0)
            continue
        with pytest.raises(DataError) as error:
            decode(path)
        assert str(error.value).startswith(f"{path} is ")
        assert "\n" not in str(error.value)


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def half(path: Path, rest: int = 0) -> None:
    """The first half of a JPEG, with `rest` zeros after it."""
    content = save(path, RGB, format="JPEG").read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(rest))


def stretch(path: Path) -> None:
    """A JPEG with a thumbnail in its header and a stuffed marker, that says it is larger than it is."""
    thumbnail = io.BytesIO()
    RGB.save(thumbnail, format="JPEG")
    content = bytearray(save(path, RGB, format="JPEG").read_bytes())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 60000)
    header = b"\xff\xff\xe2" + struct.pack(">H", 2 + len(thumbnail.getvalue())) + thumbnail.getvalue()
    path.write_bytes(content[:2] + header + content[2:])


FAULTS = {
    "missing": (lambda path: None, r" cannot be read \(No such file or directory\)"),
    "folder": (lambda path: path.mkdir(), r" cannot be read \(Is a directory\)"),
    "empty": (write(b""), " is empty; expected an image"),
    "web page": (write(b"<!DOCTYPE html><html>not found</html>"), r" is not an image that can be read \(Unsupported"),
    "first half": (half, r" is cut off \(Image is incomplete or truncated\)"),
    "download that did not end": (lambda path: half(path, rest=1000), " is cut off"),
    "PNG of no width": (write(png(0, 1, 8, 2, b"")), " is not an image that can be read"),
    "PNG without its pixels": (write(png(40, 40, 8, 2, b"\0")), " is not an image that can be read"),
    "PNG larger than memory": (write(png(10**6, 10**6, 8, 2, b"")), r" has 1,000,000 × 1,000,000 pixels; allowed"),
    "GIF larger than memory": (
        write(b"GIF89a" + struct.pack("<HH", 65535, 65534) + bytes(9)),
        r" has 65,534 × 65,535 pixels; allowed are 268,435,456 at most",
    ),
    "JPEG larger than memory": (lambda path: stretch(path), r" has 65,000 × 60,000 pixels; allowed"),
    "another format": (lambda path: save(path, RGB, format="BMP"), " is not an image that can be read"),
    "moving WebP": (
        lambda path: save(path, RGB, format="WEBP", save_all=True, append_images=[RGB.rotate(90)]),
        r" is not an image that can be read \(Animated webp files are not supported",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_one_line_that_names_the_file(fault: str, tmp_path: Path):
    make, message = FAULTS[fault]
    make(tmp_path / "bad.jpg")
    with pytest.raises(DataError, match=r"bad\.jpg" + message) as error:
        decode(tmp_path / "bad.jpg")
    assert "\n" not in str(error.value)
    assert ".cpp" not in str(error.value)


# ---- the square


@pytest.mark.parametrize("kind", FILES)
def test_the_size_in_the_header_is_that_of_the_image(kind: str, tmp_path: Path):
    name, image, options = FILES[kind]
    content = save(tmp_path / name, image, **options).read_bytes()
    assert images._stated_size(memoryview(content)) == ((0, 0) if name == "x.webp" else (45, 60))


@settings(derandomize=True, deadline=None, database=None)
@given(begin=st.sampled_from([images.PNG_BEGIN, images.GIF_BEGIN, images.JPEG_BEGIN, b""]), rest=st.binary())
def test_any_bytes_have_a_size_or_none(begin: bytes, rest: bytes):
    height, width = images._stated_size(memoryview(begin + rest))
    assert height >= 0 and width >= 0


@pytest.mark.parametrize(("height", "width"), [(45, 60), (60, 45), (32, 32), (20, 20), (7, 100)])
def test_square_is_torchvisions_centre_crop_and_resize(height: int, width: int):
    image = torch.from_numpy(picture(height, width)).permute(2, 0, 1)
    found = square(image, 32)
    assert (found.shape, found.dtype) == ((3, 32, 32), torch.uint8)
    expected = v2.Compose([v2.CenterCrop(min(height, width)), v2.Resize((32, 32), antialias=True)])(image)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("height", "width"), [(100, 130), (131, 100), (100, 100)])
def test_square_is_the_usual_resize_and_crop_but_for_its_border(height: int, width: int):
    image = torch.from_numpy(picture(height, width)).permute(2, 0, 1)
    usual = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(32)])(image)
    apart = (square(image, 32).int() - usual.int()).abs()[:, 1:-1, 1:-1]
    # The usual crop begins at a whole pixel of the small image: less than one of those apart.
    assert apart.max() <= max(usual.int().diff(dim=axis).abs().max() for axis in (1, 2))


@pytest.mark.parametrize(("width", "height"), [(1, 60000), (60000, 1)])
def test_a_long_thin_image_needs_no_more_memory_than_its_square(width: int, height: int, tmp_path: Path):
    """Resized whole, to 256 pixels across, it had 256 · 15,360,000."""
    path = tmp_path / "x.png"
    path.write_bytes(png(width, height, 8, 2, (b"\0" + b"\x10\x20\x30" * width) * height))
    before = peak()
    found = square(decode(path), 256)
    assert peak() - before < 100e6
    assert found.shape == (3, 256, 256) and found.flatten(1).unique(dim=1).tolist() == [[16], [32], [48]]


def peak() -> int:
    """The most memory this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_square_keeps_the_middle():
    thirds = torch.zeros(3, 100, 300, dtype=torch.uint8)
    for c in range(3):
        thirds[c, :, 100 * c : 100 * (c + 1)] = 255
    assert square(thirds, 50)[:, :, 2:-2].flatten(1).unique(dim=1).tolist() == [[0], [255], [0]]
    assert square(thirds.mT, 50)[:, 2:-2].flatten(1).unique(dim=1).tolist() == [[0], [255], [0]]


def test_middle_is_the_central_part():
    stored = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8).to(torch.uint8)
    torch.testing.assert_close(middle(stored, 4), stored[:, :, 2:6, 2:6], rtol=0, atol=0)
    torch.testing.assert_close(middle(stored, 8), stored, rtol=0, atol=0)


# ---- random crops


def ramps(count: int, size: int) -> Tensor:
    """Images whose first channel is the column of a pixel and whose second its row; [N, 3, size, size]."""
    place = torch.arange(size)
    image = torch.stack([place.expand(size, size), place[:, None].expand(size, size), torch.zeros(size, size)])
    return image.to(torch.uint8).expand(count, 3, size, size)


def test_crops_have_the_same_bits_alone_in_any_order_and_in_any_batch():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 3, 20, 20), dtype=np.uint8))
    keys = noise.sample_keys(1, indices=torch.arange(12))
    together = random_crops(pixels, keys, 16)
    assert (together.shape, together.dtype) == ((12, 3, 16, 16), torch.uint8)
    order = torch.tensor([7, 3, 11, 0])
    torch.testing.assert_close(random_crops(pixels[order], keys[order], 16), together[order], rtol=0, atol=0)
    for crop, image, key in zip(together, pixels.split(1), keys.split(1), strict=True):
        torch.testing.assert_close(random_crops(image, key, 16)[0], crop, rtol=0, atol=0)
    assert random_crops(pixels[:0], keys[:0], 16).shape == (0, 3, 16, 16)


def test_crop_of_the_whole_is_the_image_resized_or_its_mirror():
    pixels = torch.from_numpy(picture(40, 40)).permute(2, 0, 1)[None]
    keys = noise.sample_keys(2, indices=torch.arange(1))
    expected = v2.functional.resize(pixels, [24, 24], antialias=True)
    for flip, flipped in ((0.0, expected), (1.0, expected.flip(-1))):
        found = random_crops(pixels, keys, 24, scale=(1, 1), ratio=(1, 1), flip=flip)
        torch.testing.assert_close(found, flipped, rtol=0, atol=0)


def test_a_crop_is_a_part_of_its_area_and_shape_and_half_are_mirrored():
    crops = random_crops(ramps(400, 128), noise.sample_keys(3, indices=torch.arange(400)), 64).double()
    across, down = crops[:, 0], crops[:, 1]
    width, height = ((x.amax((1, 2)) - x.amin((1, 2)) + 1) for x in (across, down))
    area, ratio = width * height / 128**2, width / height
    assert (area.min() > 0.48) & (area.max() <= 1)  # antialiasing takes a little of the ramp's ends
    assert (ratio.min() > 0.73) & (ratio.max() < 1.37)
    mirrored = int((across[:, :, 0] > across[:, :, -1]).all(1).sum())
    assert abs(mirrored - 200) < 50  # five standard deviations of 400 tosses
    assert (down[:, 0] < down[:, -1]).all()


def test_crops_are_distributed_as_torchvisions():
    count, size = 3000, 100
    transform = v2.RandomResizedCrop(size, scale=images.CROP_SCALE, ratio=images.CROP_RATIO)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [transform.make_params([torch.empty(3, size, size)]) for _ in range(count)]
    theirs = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in drawn], float)
    draws = noise.uniform(noise.sample_keys(4, indices=torch.arange(count)), 40).tolist()
    ours = np.array([images._box(d, size, size, images.CROP_SCALE, images.CROP_RATIO) for d in draws], float)

    def values(box: np.ndarray) -> list[np.ndarray]:
        top, left, height, width = box.T
        return [height * width, width / height, top / (size - height + 1), left / (size - width + 1)]

    for mine, other in zip(values(ours), values(theirs), strict=True):
        assert stats.kstest(mine, other).pvalue > 0.001
    assert ((ours[:, :2] >= 0) & (ours[:, :2] + ours[:, 2:] <= size)).all()


def test_where_no_part_fits_the_whole_image_is_taken():
    assert images._box([0.5] * 40, 10, 10, (1, 1), (4, 4)) == (0, 0, 10, 10)


# ---- normalising


def test_normalised_by_imagenets_mean_and_deviation():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    found = normalised(pixels)
    assert found.dtype == torch.float32
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for c in range(3):
        assert math.isclose(found[0, c, 0, 0].item(), -mean[c] / deviation[c], rel_tol=1e-6)
        assert math.isclose(found[1, c, 1, 1].item(), (1 - mean[c]) / deviation[c], rel_tol=1e-6)
