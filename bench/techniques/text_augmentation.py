"""Captions that lose words, or get others for them.

With probability `captions` a caption of more than `longest_kept` words is changed: each of its words, with probability
`words`, is deleted or replaced, as a coin decides, by a synonym drawn from the user's table. A word that the table does
not have stays then, so that without a table the half that deletes is all that happens. A caption of which no word is
left stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bench.datasets import noise
from bench.datasets.samples import Samples, Words
from bench.techniques.options import TextAugmentation

DELETED = 0.5
DRAWS_A_WORD = 3  # whether anything happens, what, and which synonym


def changed_words(words: Sequence[str], draws: Sequence[float], options: TextAugmentation) -> list[str]:
    """A caption's words after what `draws` in [0, 1) says, the first for the caption, then three for each word.

    Synonyms are looked up by the word in lower case.
    """
    if len(words) <= options.longest_kept or draws[0] >= options.captions:
        return list(words)
    kept = []
    for i, word in enumerate(words):
        happens, what, which = draws[1 + DRAWS_A_WORD * i : 1 + DRAWS_A_WORD * (i + 1)]
        if happens >= options.words:
            kept.append(word)
        elif what >= DELETED:
            kept += _synonym(word, which, options.synonyms)
    return kept or list(words)


def _synonym(word: str, draw: float, table: Mapping[str, Sequence[str]]) -> list[str]:
    """Another word, or several, for a word; itself where the table has none."""
    found = table.get(word.lower(), ())
    return found[int(draw * len(found))].split() if found else [word]


def changed_texts(
    batch: Samples, indices_B: Tensor, keys_B: Tensor, words: Words, options: TextAugmentation
) -> Samples:
    """The batch of the samples `indices_B` with captions changed by the draws of `keys_B`, and made tokens anew.

    Its text has a mask, whether it had one or not. A caption of which no token would be left stays as it was.
    """
    text_BL = batch.text_NL
    assert text_BL is not None  # looked at before anything ran
    mask_BL = batch.text_mask_NL
    mask_BL = torch.ones_like(text_BL, dtype=torch.bool) if mask_BL is None else mask_BL
    captions = words.of(indices_B)
    most = max(map(len, captions))
    draws = noise.uniform(keys_B.cpu(), 1 + DRAWS_A_WORD * most).tolist()
    rows, ids, masks = [], [], []
    for row, (before, own) in enumerate(zip(captions, draws, strict=True)):
        if (after := changed_words(before, own, options)) == before:
            continue
        try:
            ids_L, mask_L = words.tokens(after)
        except ValueError:
            continue
        rows.append(row)
        ids.append(ids_L)
        masks.append(mask_L)
    if rows:
        place = torch.tensor(rows, device=text_BL.device)
        text_BL = text_BL.index_copy(0, place, torch.stack(ids).to(text_BL.device))
        mask_BL = mask_BL.index_copy(0, place, torch.stack(masks).to(text_BL.device))
    return replace(batch, text_NL=text_BL, text_mask_NL=mask_BL)
