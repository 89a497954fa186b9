"""Captions as token ids, kept in the cache: a vocabulary is fitted on the training captions alone.

Shapes: N captions, L tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.datasets.cache import Recipe, Shape, cached, versions
from bench.datasets.index import Row, fault
from bench.datasets.tokenizers import EmptyTextError, Tokenizer, tokenizer_from

RECIPE = 1  # raised when our own tokenisation changes what it gives: it is among the settings that name an entry
CHUNK = 4096  # captions encoded at once
COMPARED = 256  # captions that a tokenizer fitted again has to encode as before


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Row i's ids, int32 [N, L], the first `length_N[i]` of them real; `digest` covers captions and tokenizer."""

    ids_NL: Tensor
    length_N: Tensor
    vocab_size: int
    digest: str


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
        return {"vocab_size": tokenizer.vocab_size}

    shapes = {"ids": Shape((len(rows), length), "int32"), "length": Shape((len(rows),), "int32")}
    settings = {"tokenizer": dict(options), "length": length, "content": content.hexdigest(), "recipe": RECIPE,
                "versions": versions("tokenizers")}  # fmt: skip
    entry = cached(Recipe(name=f"{kind}-text", settings=settings, stamp="", shapes=shapes, steps=len(rows), fill=fill))
    return Tokens(
        ids_NL=entry.arrays["ids"], length_N=entry.arrays["length"], vocab_size=entry.facts["vocab_size"],
        digest=content.hexdigest(),
    )  # fmt: skip


def refitted(
    kind: str, texts: Sequence[str], training: Iterable[str], tokens: Tokens, options: Mapping[str, Any], data_dir: Path
) -> Tokenizer:
    """The tokenizer that made `tokens` of `texts`, fitted once more to the training ones: the cache keeps ids alone.

    Raises `DataError` where it gives other tokens than before.
    """
    tokenizer = tokenizer_from(options, training, data_dir)
    ids_NL, _ = tokenizer.encode_batch(texts[:COMPARED], tokens.ids_NL.shape[1])
    if not torch.equal(ids_NL, tokens.ids_NL[:COMPARED].long()):
        raise fault(
            kind, "cache", f"holds other tokens than the {options['kind']} tokenizer gives; bench cache --remove"
        )
    return tokenizer
