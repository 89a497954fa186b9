"""The words of captions: those of a text, or, where a set keeps no text, its tokens.

Shapes: N samples, B of a batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.datasets.samples import Samples, SampleSource


@dataclass(frozen=True, slots=True, kw_only=True)
class TextWords:
    """Words are what blanks separate; sample i has the text number `place_N[i]`, on the CPU.

    `encode` gives ids and mask [1, L] of one text, and raises `EmptyTextError` where no token is left.
    """

    texts: Sequence[str]
    place_N: Tensor
    encode: Callable[[str], tuple[Tensor, Tensor]]

    @property
    def count_N(self) -> Tensor:
        """See `samples.Words`."""
        return torch.tensor([len(self._words(place)) for place in self.place_N.tolist()])

    def of(self, indices_B: Tensor) -> list[list[str]]:
        """See `samples.Words`."""
        return [self._words(place) for place in self.place_N[indices_B.cpu()].tolist()]

    def tokens(self, words: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See `samples.Words`."""
        ids, mask = self.encode(" ".join(words))  # [1, L]
        return ids[0], mask[0]

    def _words(self, place: int) -> list[str]:
        text: str = self.texts[place]
        return text.split()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWords:
    """A token is a word, its id in digits; ids are below `vocab_size`, and 0 is behind a text's end."""

    text_NL: Tensor
    mask_NL: Tensor
    vocab_size: int

    @property
    def count_N(self) -> Tensor:
        """See `samples.Words`."""
        return self.mask_NL.sum(dim=1).cpu()

    def of(self, indices_B: Tensor) -> list[list[str]]:
        """See `samples.Words`."""
        rows = zip(self.text_NL[indices_B].tolist(), self.mask_NL[indices_B].tolist(), strict=True)
        return [[str(number) for number, real in zip(*row, strict=True) if real] for row in rows]

    def tokens(self, words: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See `samples.Words`."""
        if not words:
            raise ValueError("a text without a word has no token")
        if odd := [word for word in words if not (word.isdecimal() and int(word) < self.vocab_size)]:
            raise ValueError(f"{odd[0]!r} is no word; words are the tokens' ids, 0 to {self.vocab_size - 1}")
        length = self.text_NL.shape[1]
        ids_L, real = torch.zeros(length, dtype=torch.int64), min(len(words), length)
        ids_L[:real] = torch.tensor([int(word) for word in words[:real]])
        return ids_L, torch.arange(length) < real


def token_words(training: SampleSource, vocab_size: int) -> TokenWords | None:
    """The words of samples that keep no text; None where they have no captions."""
    assert isinstance(training, Samples)
    text_NL, mask_NL = training.text_NL, training.text_mask_NL
    if text_NL is None:
        return None
    mask_NL = torch.ones_like(text_NL, dtype=torch.bool) if mask_NL is None else mask_NL
    return TokenWords(text_NL=text_NL, mask_NL=mask_NL, vocab_size=vocab_size)
