"""The character tokenizer: 33 symbols as ids 1–33, and 0 for padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAD_ID = 0


@dataclass(frozen=True, slots=True)
class CharacterTokenizer:
    """Text in lower case, a character an id (its place in `alphabet`, from 1); characters outside it are dropped."""

    alphabet: str = " abcdefghijklmnopqrstuvwxyz.,!?'-"

    @property
    def vocab_size(self) -> int:
        """Number of ids, padding included."""
        return len(self.alphabet) + 1

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, neither padded nor truncated."""
        return [place + 1 for character in text.lower() if (place := self.alphabet.find(character)) >= 0]

    def encode_batch(self, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
        """`texts` truncated and padded to `max_length`: int64 ids and a bool mask, True at characters; [N, L] each.

        A text of which no character is left raises ValueError: a mean over no token is not a number.
        """
        if max_length < 1:
            raise ValueError(f"CharacterTokenizer: {max_length=} must be at least 1")
        ids_NL = torch.full((len(texts), max_length), PAD_ID, dtype=torch.int64)
        for row, text in enumerate(texts):
            ids = self.encode(text)[:max_length]
            if not ids:
                raise ValueError(f"CharacterTokenizer: text {row}, {text!r}, has no character of {self.alphabet!r}")
            ids_NL[row, : len(ids)] = torch.tensor(ids)
        return ids_NL, ids_NL != PAD_ID
