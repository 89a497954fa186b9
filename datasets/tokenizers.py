"""Text as ids: a character an id, byte pairs fitted to the training captions, or somebody's `tokenizer.json`.

Shapes: N texts, L ids a text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bench.datasets.samples import DataError

if TYPE_CHECKING:
    import tokenizers

PAD_ID = 0
BYTES = 256
MIN_FREQUENCY = 2  # of a pair of tokens in the training captions, to become a token
OPTIONS: Mapping[str, frozenset[str]] = {
    "character": frozenset(),
    "bpe": frozenset({"vocab_size"}),
    "file": frozenset({"path"}),
}


class EmptyTextError(ValueError):
    """Nothing is left of a text to encode, and a mean over no token is not a number; `row` is its place, from 0."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message, row)
        self.row = row

    def __str__(self) -> str:
        return self.args[0]


class Tokenizer(Protocol):
    """What turns texts into ids below `vocab_size`."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, padding included."""
        ...

    @property
    def pad_id(self) -> int:
        """What fills a batch behind a text. The mask, never this id, says what is padding."""
        ...

    @property
    def sha256(self) -> str:
        """Of everything that decides the ids."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, neither padded nor truncated."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text that `ids` stand for, without padding and special tokens."""
        ...

    def encode_batch(self, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
        """`texts` truncated and padded to `max_length`: int64 ids and a bool mask, True at real ids; [N, L] each.

        A text of which nothing is left raises `EmptyTextError`.
        """
        ...


@dataclass(frozen=True, slots=True)
class CharacterTokenizer:
    """Text in lower case, a character an id (its place in `alphabet`, from 1); characters outside it are dropped."""

    alphabet: str = " abcdefghijklmnopqrstuvwxyz.,!?'-"

    def __post_init__(self) -> None:
        if not self.alphabet.isascii():
            raise ValueError(f"CharacterTokenizer: alphabet {self.alphabet!r} must be of ASCII characters only")

    @property
    def vocab_size(self) -> int:
        """Number of ids, padding included."""
        return len(self.alphabet) + 1

    @property
    def pad_id(self) -> int:
        """What fills a batch behind a text."""
        return PAD_ID

    @property
    def sha256(self) -> str:
        """Of the alphabet."""
        return hashlib.sha256(self.alphabet.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, neither padded nor truncated."""
        return [place + 1 for character in text.lower() if (place := self.alphabet.find(character)) >= 0]

    def decode(self, ids: Sequence[int]) -> str:
        """The text that `ids` stand for."""
        return "".join(self.alphabet[number - 1] for number in ids if number != PAD_ID)

    def encode_batch(self, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
        """`texts` truncated and padded to `max_length`: int64 ids and a bool mask, True at characters; [N, L] each.

        A text of which no character is left raises `EmptyTextError`.
        """
        _require_length("CharacterTokenizer", max_length, 1)
        ids = bytes(max(self.alphabet.find(chr(code)), -1) + 1 for code in range(BYTES))
        dropped = bytes(code for code in range(BYTES) if not ids[code])
        rows = [text.lower().encode("ascii", "ignore").translate(ids, dropped)[:max_length] for text in texts]
        if b"" in rows:
            row = rows.index(b"")
            message = f"CharacterTokenizer: text {row}, {texts[row]!r}, has no character of {self.alphabet!r}"
            raise EmptyTextError(message, row)
        return _padded(np.frombuffer(b"".join(rows), np.uint8), [len(row) for row in rows], max_length, PAD_ID)


@dataclass(frozen=True, slots=True)
class SubwordTokenizer:
    """What a `tokenizer.json` of the `tokenizers` package says, but for its truncation and padding, which are ours.

    Its own pad token is the padding where it has one (in its padding settings, or a special token such as [PAD] or
    <pad>), else id 0. Texts get the special tokens that it puts around each, which truncation keeps; special tokens
    that stand in a text are taken as the characters they are.
    """

    json_text: str
    name: str = "bpe"  # in messages: a file's path, or what was fitted
    pad_id: int = field(init=False)
    vocab_size: int = field(init=False)
    _library: tokenizers.Tokenizer = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        library = _read(self.json_text, self.name)
        object.__setattr__(self, "pad_id", _pad_id(library))
        # Not the count of tokens: the ids of a file may have gaps.
        object.__setattr__(self, "vocab_size", max(library.get_vocab().values()) + 1)
        library.no_truncation()
        library.no_padding()
        library.encode_special_tokens = True
        object.__setattr__(self, "_library", library)

    def __reduce__(self) -> tuple[type[SubwordTokenizer], tuple[str, str]]:
        return type(self), (self.json_text, self.name)  # a pickle of the package's own loses encode_special_tokens

    @classmethod
    def from_json(cls, text: str, name: str = "bpe") -> SubwordTokenizer:
        """What `to_json` has given; raises `DataError` where it is something else."""
        return cls(text, name)

    def to_json(self) -> str:
        """The `tokenizer.json`, from which `from_json` gives an equal tokenizer."""
        return self.json_text

    @property
    def sha256(self) -> str:
        """Of the `tokenizer.json`: for a file that of its bytes."""
        return hashlib.sha256(self.json_text.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, neither padded nor truncated."""
        return self._encodings([text])[0].ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text that `ids` stand for, without padding and special tokens."""
        return self._library.decode([number for number in ids if number != self.pad_id]).strip()

    def encode_batch(self, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
        """`texts` truncated and padded to `max_length`: int64 ids and a bool mask, True at tokens; [N, L] each.

        A text of which no token is left, or only the special ones that are put around every text, raises
        `EmptyTextError`.
        """
        _require_length(self.name, max_length, self._library.num_special_tokens_to_add(is_pair=False) + 1)
        rows: list[list[int]] = []
        for row, encoding in enumerate(self._encodings(texts)):
            ids, special = encoding.ids, encoding.special_tokens_mask
            if 0 not in special:
                raise EmptyTextError(f"{self.name}: text {row}, {texts[row]!r}, has no token", row)
            rows.append(ids if len(ids) <= max_length else _truncated(ids, special, max_length))
        lengths = [len(ids) for ids in rows]
        flat = np.fromiter(chain.from_iterable(rows), np.int64, sum(lengths))
        return _padded(flat, lengths, max_length, self.pad_id)

    def _encodings(self, texts: Sequence[str]) -> Sequence[tokenizers.Encoding]:
        try:
            return self._library.encode_batch_fast([_valid(text) for text in texts])
        except Exception as error:  # the package has no narrower one
            raise ValueError(f"{self.name}: cannot encode the texts: {error}") from None


def train_byte_pairs(texts: Iterable[str], vocab_size: int) -> SubwordTokenizer:
    """Byte-level byte pairs (as GPT-2's and CLIP's) fitted to `texts`; id 0 is <pad>, and no text is unknown.

    Texts are taken in NFC and lower case with blanks as one blank. A word is the same token at the start of a text
    and inside it. `vocab_size` is the most; texts with fewer pairs that occur twice give fewer ids.
    """
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < BYTES + 1:
        raise ValueError(f"bpe: {vocab_size=} must be a whole number of at least {BYTES + 1}: the bytes and padding")
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    library = tokenizers.Tokenizer(models.BPE())
    blanks = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    library.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), blanks, normalizers.Strip()])
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator((_valid(text) for text in texts), trainer)
    return SubwordTokenizer(library.to_str())


def read_tokenizer_file(path: Path) -> SubwordTokenizer:
    """The tokenizer of a `tokenizer.json`; raises `DataError` that names the file where it is none."""
    try:
        return SubwordTokenizer(path.read_bytes().decode(), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); a tokenizer.json is needed") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8; a tokenizer.json is needed") from None


def tokenizer_from(options: Mapping[str, Any], training_texts: Iterable[str], data_dir: Path) -> Tokenizer:
    """The tokenizer of {"kind": "character"}, {"kind": "bpe", "vocab_size": 8192} or {"kind": "file", "path": "…"}.

    Only bpe reads `training_texts`. A relative path is one under `data_dir`.
    """
    kind, given = str(options.get("kind")), set(options) - {"kind"}
    if kind not in OPTIONS:
        raise ValueError(f"tokenizer: kind {kind!r} is not known; allowed are {', '.join(OPTIONS)}")
    if given != OPTIONS[kind]:
        found, allowed = (", ".join(sorted(names)) or "none" for names in (given, OPTIONS[kind]))
        raise ValueError(f"tokenizer {kind}: options are {found}; needed are {allowed}")
    if kind == "bpe":
        return train_byte_pairs(training_texts, options["vocab_size"])
    if kind == "file":
        if not isinstance(options["path"], str | Path):
            raise ValueError(f"tokenizer file: path is {options['path']!r}; a path is needed")
        return read_tokenizer_file(data_dir / options["path"])
    return CharacterTokenizer()


def _read(text: str, name: str) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{name}: is not JSON ({error})") from None
    try:
        library = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the package has no narrower one
        raise DataError(f"{name}: is not a tokenizer.json ({error})") from None
    if not library.get_vocab():
        raise DataError(f"{name}: is a tokenizer.json without a token")
    return library


def _pad_id(library: tokenizers.Tokenizer) -> int:
    """The id of its pad token: that of its padding settings, or the special token of such a name; else 0."""
    settings = library.padding or {}
    if (known := library.token_to_id(settings.get("pad_token", ""))) is not None:
        return known
    special = {number: token.content for number, token in library.get_added_tokens_decoder().items() if token.special}
    named = (number for number, name in special.items() if re.fullmatch(r"\W*pad(ding)?\W*", name, re.IGNORECASE))
    return min(named, default=PAD_ID)


def _valid(text: str) -> str:
    """`text` as the package takes it: half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes "?"."""
    return text.encode(errors="replace").decode()


def _require_length(name: str, max_length: int, least: int) -> None:
    if max_length < least:
        raise ValueError(f"{name}: {max_length=} must be at least {least}")


def _truncated(ids: list[int], special: list[int], max_length: int) -> list[int]:
    """The first of the text's own `ids`, and all of the special ones around them."""
    own = [place for place, is_special in enumerate(special) if not is_special]
    dropped = set(own[max_length - len(ids) :])
    return [number for place, number in enumerate(ids) if place not in dropped]


def _padded(flat: np.ndarray, lengths: Sequence[int], max_length: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of `lengths`, one behind the other in `flat`, side by side."""
    mask_NL = np.arange(max_length) < np.array(lengths, dtype=np.int64)[:, None]
    ids_NL = np.full(mask_NL.shape, pad_id, dtype=np.int64)
    ids_NL[mask_NL] = flat
    return torch.from_numpy(ids_NL), torch.from_numpy(mask_NL)
