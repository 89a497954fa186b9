"""Files in the idx format of MNIST, packed or not. What is wrong with one is a DataError that begins with the set."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from bench.datasets.samples import DataError

BYTES_TYPE = 8  # the type code of unsigned bytes in the magic number


def idx_path(of: str, folder: Path, name: str) -> Path:
    """Where the file `name` of the set `of` lies."""
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise DataError(f"{of}: {folder / name}.gz is missing; expected the file of MNIST, packed or not")


def read_unpacked(of: str, path: Path) -> bytes:
    """The file's bytes, unpacked if they are a gzip stream."""
    content = path.read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{of}: {path} is a damaged gzip file ({error}); expected it whole") from error


def read_idx(of: str, path: Path, item_shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 array [N, *item_shape] of an idx file."""
    content = read_unpacked(of, path)
    dimensions = 1 + len(item_shape)
    header = struct.Struct(f">{1 + dimensions}I")
    expected_magic = BYTES_TYPE << 8 | dimensions
    if len(content) < header.size:
        raise DataError(f"{of}: {path} has {len(content)} bytes; an idx header has {header.size}")
    magic, count, *shape = header.unpack_from(content)
    if magic != expected_magic:
        raise DataError(f"{of}: {path} has the magic number {magic:#010x}; expected {expected_magic:#010x}")
    if tuple(shape) != item_shape:
        raise DataError(f"{of}: {path} holds items of shape {tuple(shape)}; expected {item_shape}")
    expected_size = header.size + count * int(np.prod(item_shape))
    if len(content) != expected_size:
        raise DataError(f"{of}: {path} has {len(content)} bytes; {count} items need {expected_size}")
    return np.frombuffer(content, np.uint8, offset=header.size).reshape(count, *item_shape)
