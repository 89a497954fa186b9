"""The captions of a set: how long they are, what a tokenizer drops, and which it leaves nothing of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.datasets import flickr8k, flickr30k
from bench.datasets.flickr_files import Layout, read_captions, read_token
from bench.datasets.index import Index, Row
from bench.datasets.samples import DataError
from bench.datasets.tokenizers import CharacterTokenizer, EmptyTextError, Tokenizer, tokenizer_from
from bench.errors import UsageError
from bench.verification.findings import Captions, Coverage, Named
from bench.verification.histogram import histogram_of

LONGEST = 77  # characters that the protocols by character take of a caption
CHUNK = 512  # captions encoded at once
LAYOUTS: Mapping[str, Layout] = {layout.kind: layout for layout in (flickr8k.LAYOUT, flickr30k.LAYOUT)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSettings:
    """A tokenizer's options, how many tokens are taken of a caption, and whose settings these are."""

    tokenizer: Mapping[str, Any]
    text_length: int
    source: str


def listed_captions(index: Index, annotations: str | None) -> dict[str, list[str]] | None:
    """By image, every caption that the set's file lists, Flickr8k's misnamed one too; None where the rows are all."""
    layout = LAYOUTS.get(index.kind)
    if layout is None or not index.rows:
        return None
    path = index.folder / index.rows[0].place.file
    if path.name == layout.annotations["token"][0]:
        captions, _ = read_token(index.kind, index.folder, path)
    else:
        captions, _ = read_captions(layout, index.folder, annotations)
    texts: dict[str, list[str]] = {}
    for image, numbered in captions.items():
        name = image.removesuffix(".1") if image == flickr8k.MISNAMED else image
        texts.setdefault(name, []).extend(caption.text for caption in numbered.values())
    return texts


def verify_captions(
    rows: Sequence[Row], listed: Sequence[str] | None, settings: TextSettings, data_dir: Path
) -> Captions:
    """What is to be said of the rows' captions under the tokenizer of `settings`, fitted as a study would fit it."""
    texts = [row.text or "" for row in rows]
    training, most = [row.text or "" for row in rows if row.split == "training"], settings.text_length
    tokenizer = _tokenizer(settings.tokenizer, training, data_dir)
    lengths = [n for i in range(0, len(texts), CHUNK) for n in token_counts(tokenizer, texts[i : i + CHUNK], most)]
    empty = [row for row, length in zip(rows, lengths, strict=True) if not length]
    return Captions(
        longest=LONGEST,
        text_length=most,
        settings=settings.source,
        listed=coverage(listed) if listed is not None and len(listed) != len(texts) else None,
        used=coverage(texts),
        outside=dict(outside_alphabet(texts).most_common()),
        characters=histogram_of([len(text) for text in texts], finest=1),
        words=histogram_of([len(text.split()) for text in texts], finest=1),
        tokenizer=settings.tokenizer["kind"],
        vocab_size=tokenizer.vocab_size,
        cut=sum(length > most for length in lengths),
        empty=tuple(Named(what=row.text or "", reason="leaves no token", place=str(row.place)) for row in empty),
    )


def _tokenizer(options: Mapping[str, Any], training: Sequence[str], data_dir: Path) -> Tokenizer:
    """Raises `UsageError` for options that are none, `DataError` for a file that is no tokenizer."""
    try:
        return tokenizer_from(options, training, data_dir)
    except DataError:
        raise
    except (TypeError, ValueError, ArithmeticError, OSError) as error:
        raise UsageError(f"--tokenizer: {' '.join(str(error).split()).removeprefix('tokenizer: ')}") from error


def coverage(texts: Sequence[str]) -> Coverage:
    """How much of the texts the character tokenizer takes."""
    return Coverage(
        captions=len(texts),
        characters=sum(map(len, texts)),
        outside=outside_alphabet(texts).total(),
        longer=sum(len(text) > LONGEST for text in texts),
    )


def outside_alphabet(texts: Sequence[str]) -> Counter[str]:
    """How often each character stands in the texts that the character tokenizer drops."""
    count = Counter("".join(texts).lower())
    for character in CharacterTokenizer().alphabet:
        del count[character]
    return count


def token_counts(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> list[int]:
    """How many tokens each text has, none counted behind `most` + 1; 0 of a text of which nothing is left."""
    lengths: list[int] = []
    while len(lengths) < len(texts):
        rest = texts[len(lengths) :]
        try:
            lengths += _counts(tokenizer, rest, most)
        except EmptyTextError as error:
            lengths += [*(_counts(tokenizer, rest[: error.row], most) if error.row else ()), 0]
    return lengths


def _counts(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> list[int]:
    _, mask_NL = tokenizer.encode_batch(texts, most + 1)
    return mask_NL.sum(dim=1).tolist()
