"""Counter-based noise: the same key gives the same bits on every device, in every order.

A key is a 64-bit integer mixed from its parts (seed, split, modality, epoch, sample index). Word i of a key's stream is
mix(key + (i + 1)·golden ratio), the SplitMix64 generator; a normal variate is the quantile of one of the word's four
16-bit lanes, read from a table, so no device's own logarithm or cosine enters.

`normal`, `uniform` and `integers` all read a key's stream from its start: take one draw from a key and cut it up, or
use keys of different parts; two draws from one key are not independent.

Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

LANES = 4
LEVELS = 1 << 16
CACHED_VARIATES = 1 << 18  # added at once on a CPU, so that what lies in between stays in its caches


def _int64(value: int) -> int:
    """The signed 64-bit integer with the same bits as `value`."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


GOLDEN = _int64(0x9E3779B97F4A7C15)
MULTIPLIER_1 = _int64(0xBF58476D1CE4E5B9)
MULTIPLIER_2 = _int64(0x94D049BB133111EB)


def _xor_shift(x: Tensor, bits: int) -> Tensor:
    """x ^ (x >>> bits); torch shifts arithmetically, so the sign's copies are masked off."""
    return x ^ ((x >> bits) & ((1 << (64 - bits)) - 1))


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection of 64-bit integers; int64 in and out."""
    x = _xor_shift(x, 30) * MULTIPLIER_1
    x = _xor_shift(x, 27) * MULTIPLIER_2
    return _xor_shift(x, 31)


def sample_keys(*parts: int, indices: Tensor) -> Tensor:
    """One int64 key a sample: `parts` (seed, split, …) folded in order, then the sample's index; [n]."""
    key = torch.zeros((), dtype=torch.int64, device=indices.device)
    for part in parts:
        key = mix(key + GOLDEN + _int64(part))
    return mix(mix(key + GOLDEN) + indices)


def _words(keys_N: Tensor, n_words: int) -> Tensor:
    """The first `n_words` words of each key's stream; [N, n_words] int64."""
    counter = torch.arange(1, n_words + 1, dtype=torch.int64, device=keys_N.device) * GOLDEN
    return mix(keys_N[:, None] + counter)


def _lanes(keys_N: Tensor, n: int) -> Tensor:
    """`n` integers uniform on 0 … 65535 for each key; [N, n] int32."""
    words = _words(keys_N, -(-n // LANES))
    return words.view(torch.int16).to(torch.int32).bitwise_and_(LEVELS - 1)[:, :n]


@cache
def _quantiles(device: torch.device) -> Tensor:
    """Standard normal quantiles at the midpoints of 65,536 equal cells; float32."""
    midpoints = (np.arange(LEVELS) + 0.5) / LEVELS
    return torch.from_numpy(ndtri(midpoints).astype(np.float32)).to(device)


def normal(keys_N: Tensor, *shape: int) -> Tensor:
    """Standard normal variates of `shape` for each key, float32 [N, *shape]; none beyond ±4.33."""
    lanes = _lanes(keys_N, math.prod(shape))
    return _quantiles(keys_N.device).index_select(0, lanes.flatten()).view(len(keys_N), *shape)


def add_normal_(x: Tensor, keys_N: Tensor, deviation: float) -> Tensor:
    """Adds `deviation` times `normal(keys_N, …)` to x [N, …] in place and returns it."""
    rows = max(1, CACHED_VARIATES // max(1, x[:1].numel())) if x.device.type == "cpu" else max(1, len(x))
    for part, keys in zip(x.split(rows), keys_N.split(rows), strict=True):
        # Product and sum stay apart: a fused multiply-add rounds once, and not every device has it.
        part.add_(normal(keys, *part.shape[1:]).mul_(deviation))
    return x


def uniform(keys_N: Tensor, n: int) -> Tensor:
    """Variates uniform on [0, 1), float64 of 53 bits; [N, n]."""
    return ((_words(keys_N, n) >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53


def integers(keys_N: Tensor, n: int, high: int) -> Tensor:
    """Integers uniform on 0 … high − 1, int64; [N, n]."""
    return (uniform(keys_N, n) * high).to(torch.int64)
