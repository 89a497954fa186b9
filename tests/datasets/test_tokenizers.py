"""The character tokenizer: known answers and round trips."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets.tokenizers import PAD_ID, CharacterTokenizer

SEEDED = settings(derandomize=True, deadline=None, database=None)
ALPHABET = " abcdefghijklmnopqrstuvwxyz.,!?'-"
TOKENIZER = CharacterTokenizer()


def test_a_dog_as_the_specification_has_it():
    assert TOKENIZER.encode("A dog.") == [2, 1, 5, 16, 8, 28]


def test_ids_are_1_to_33_in_the_order_of_the_alphabet():
    assert TOKENIZER.encode(ALPHABET) == list(range(1, 34))
    assert TOKENIZER.vocab_size == 34


def test_characters_outside_the_alphabet_are_dropped():
    assert TOKENIZER.encode('2 "Dögs";\t(é)') == TOKENIZER.encode(" dgs")
    assert TOKENIZER.encode("1984\n") == []


def test_batch_is_padded_and_truncated_to_max_length():
    ids, mask = TOKENIZER.encode_batch(["A dog.", "be", "cats"], 4)
    assert ids.dtype == torch.int64
    assert mask.dtype == torch.bool
    assert ids.tolist() == [[2, 1, 5, 16], [3, 6, 0, 0], [4, 2, 21, 20]]
    assert mask.tolist() == [[True] * 4, [True, True, False, False], [True] * 4]


def test_batch_of_no_texts():
    ids, mask = TOKENIZER.encode_batch([], 4)
    assert ids.shape == mask.shape == (0, 4)


@pytest.mark.parametrize("text", ["", "1984"])
def test_text_without_a_character_is_refused(text: str):
    with pytest.raises(ValueError, match=f"text 1, '{text}', has no character of"):
        TOKENIZER.encode_batch(["a", text], 4)


def test_max_length_must_be_positive():
    with pytest.raises(ValueError, match="max_length=0 must be at least 1"):
        TOKENIZER.encode_batch(["a"], 0)


@SEEDED
@given(text=st.text(ALPHABET))
def test_decoding_gives_the_text_back(text: str):
    assert "".join(ALPHABET[i - 1] for i in TOKENIZER.encode(text)) == text


@SEEDED
@given(text=st.text())
def test_every_text_gives_ids_of_the_alphabet_only_and_case_does_not_matter(text: str):
    ids = TOKENIZER.encode(text)
    assert all(1 <= i <= 33 for i in ids)
    assert ids == [i for character in text.lower() for i in TOKENIZER.encode(character)]


@SEEDED
@given(texts=st.lists(st.text(ALPHABET, min_size=1), max_size=5), max_length=st.integers(1, 12))
def test_batch_is_encode_truncated_and_padded(texts: list[str], max_length: int):
    ids, mask = TOKENIZER.encode_batch(texts, max_length)
    for row, text in enumerate(texts):
        expected = TOKENIZER.encode(text)[:max_length]
        assert ids[row].tolist() == expected + [PAD_ID] * (max_length - len(expected))
        assert mask[row].sum().item() == len(expected)
    torch.testing.assert_close(mask, ids != PAD_ID, rtol=0, atol=0)
