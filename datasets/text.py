"""Captions as token ids, kept in the cache: a vocabulary is fitted on the training captions alone.

Shapes: N captions, L tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bench.datasets.cache import Recipe, Shape, cached, versions
from bench.datasets.index import Row, fault
from bench.datasets.tokenizers import EmptyTextError, SubwordTokenizer, tokenizer_from

RECIPE = 2  # raised when our own tokenisation changes what it gives: it is among the settings that name an entry
CHUNK = 4096  # captions encoded at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Row i's ids, int32 [N, L], the first `length_N[i]` of them real; `digest` covers captions and tokenizer."""

    ids_NL: Tensor
    length_N: Tensor
    vocab_size: int
    digest: str
    tokenizer: str | None  # as JSON; None where an id is a character


def tokenised(kind: str, rows: Sequence[Row], options: Mapping[str, Any], length: int, data_dir: Path) -> Tokens:
    """The rows' texts by the tokenizer of `options`, cut to `length` tokens.

    Raises `DataError` naming file and line of a text of which no token is left.
    """
    texts = [row.text or "" for row in rows]
    content = hashlib.sha256(json.dumps([[row.split, text] for row, text in zip(rows, texts, strict=True)]).encode())
    if options.get("kind") == "file":
        content.update(tokenizer_from(options, (), data_dir).sha256.encode())

    def fill(arrays: Mapping[str, np.ndarray], advance: Callable[[int], None]) -> Mapping[str, Any]:
        training = (text for row, text in zip(rows, texts, strict=True) if row.split == "training")
        tokenizer = tokenizer_from(options, training, data_dir)
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            try:
                ids, mask = tokenizer.encode_batch(chunk, length)
            except EmptyTextError as error:
                row = rows[start + error.row]
                raise fault(
                    kind, row.place, f"{row.text!r} leaves no token of the {options['kind']} tokenizer"
                ) from None
            arrays["ids"][start : start + len(chunk)] = ids.numpy()
            arrays["length"][start : start + len(chunk)] = mask.sum(dim=1).numpy()
            advance(len(chunk))
        fitted = tokenizer.to_json() if isinstance(tokenizer, SubwordTokenizer) else None
        return {"vocab_size": tokenizer.vocab_size, "tokenizer": fitted}

    shapes = {"ids": Shape((len(rows), length), "int32"), "length": Shape((len(rows),), "int32")}
    settings = {"tokenizer": dict(options), "length": length, "content": content.hexdigest(), "recipe": RECIPE,
                "versions": versions("tokenizers")}  # fmt: skip
    entry = cached(Recipe(name=f"{kind}-text", settings=settings, stamp="", shapes=shapes, steps=len(rows), fill=fill))
    return Tokens(
        ids_NL=entry.arrays["ids"], length_N=entry.arrays["length"], vocab_size=entry.facts["vocab_size"],
        digest=content.hexdigest(), tokenizer=entry.facts["tokenizer"],
    )  # fmt: skip
