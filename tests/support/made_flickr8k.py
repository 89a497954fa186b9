"""A made-up Flickr8k folder: drawn scenes as JPEG, captions of them, and the captions spoken in tones as WAV."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import soundfile
import torch
from torchvision.io import write_jpeg

COLOURS = {"red": (220, 30, 30), "green": (30, 170, 50), "blue": (40, 60, 220), "yellow": (230, 210, 40),
           "white": (235, 235, 235), "black": (20, 20, 20)}  # fmt: skip
SHAPES = ("circle", "square", "bar", "stripe")
PHRASES = ("a {0} {1} on a {2} ground .", "the {1} is {0} and the ground is {2}", "{0} {1} , {2} behind it",
           "there is a {1} , {0} on {2}", "on {2} one sees a {0} {1} !")  # fmt: skip
RATE = 16000
SPLITS = ("train", "dev", "test")


def scenes(count: int) -> list[tuple[str, str, str]]:
    """Colour, shape and ground of `count` images, as different as they can be."""
    all_of_them = [(c, s, g) for c, s, g in product(COLOURS, SHAPES, COLOURS) if c != g]
    order = np.random.default_rng(0).permutation(len(all_of_them))
    return [all_of_them[order[i % len(order)]] for i in range(count)]


def picture(scene: tuple[str, str, str], height: int, width: int, rng: np.random.Generator) -> torch.Tensor:
    """uint8 [3, H, W]: the shape at a random place, on noise around the ground's colour."""
    colour, shape, ground = scene
    y, x = np.mgrid[0:height, 0:width]
    cy, cx, r = rng.uniform(0.3, 0.7) * height, rng.uniform(0.3, 0.7) * width, rng.uniform(0.15, 0.25) * height
    inside = {
        "circle": (y - cy) ** 2 + (x - cx) ** 2 < r**2,
        "square": (abs(y - cy) < r) & (abs(x - cx) < r),
        "bar": (abs(y - cy) < r / 3) & (abs(x - cx) < 2 * r),
        "stripe": abs(x - cx) < r / 3,
    }[shape]
    pixels = np.where(inside[..., None], COLOURS[colour], COLOURS[ground]) + rng.normal(0, 8, (height, width, 1))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()


def speech(caption: str, rng: np.random.Generator) -> np.ndarray:
    """A tone of two partials a word, a tenth of a second each: float32 at 16 kHz."""
    time = np.arange(RATE // 10) / RATE
    parts = []
    for word in caption.split():
        pitch = 150 + 40 * (sum(map(ord, word)) % 60)
        tone = np.sin(2 * np.pi * pitch * time) + 0.5 * np.sin(2 * np.pi * (pitch + 17 * len(word)) * time)
        parts.append(0.3 * tone * np.hanning(len(time)))
    return (np.concatenate(parts) + rng.normal(0, 0.003, len(parts) * len(time))).astype(np.float32)


def make_flickr8k(folder: Path, counts: Sequence[int] = (6, 3, 3), *, size: tuple[int, int] = (48, 64)) -> Path:
    """`counts` images for training, validation and test with five captions each, all of them spoken."""
    rng = np.random.default_rng(1)
    for part in ("Flicker8k_Dataset", "flickr_audio/wavs"):
        (folder / part).mkdir(parents=True)
    names = [f"{i:04}_{scene[1]}.jpg" for i, scene in enumerate(scenes(sum(counts)))]
    captions, clips, speakers = [], [], []
    for name, scene in zip(names, scenes(len(names)), strict=True):
        write_jpeg(picture(scene, *size, rng), str(folder / "Flicker8k_Dataset" / name), quality=90)
        for n, phrase in enumerate(PHRASES):
            caption, clip = phrase.format(*scene), f"{name.removesuffix('.jpg')}_{n}.wav"
            captions.append(f"{name}#{n}\t{caption}")
            clips.append(f"{clip} {name} #{n}")
            speakers.append(f"{clip} {len(speakers) % 7}")
            soundfile.write(folder / "flickr_audio" / "wavs" / clip, speech(caption, rng), RATE, subtype="PCM_16")
    (folder / "Flickr8k.token.txt").write_text("\n".join(captions) + "\n")
    (folder / "flickr_audio" / "wav2capt.txt").write_text("\n".join(clips) + "\n")
    (folder / "flickr_audio" / "wav2spk.txt").write_text("\n".join(speakers) + "\n")
    start = 0
    for split, count in zip(SPLITS, counts, strict=True):
        (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names[start : start + count]) + "\n")
        start += count
    return folder
