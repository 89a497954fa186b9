"""Tokenizers: known answers, round trips, byte pairs that come out the same every time, and files that are none."""

import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from bench.datasets.samples import DataError
from bench.datasets.tokenizers import (
    PAD_ID,
    CharacterTokenizer,
    EmptyTextError,
    SubwordTokenizer,
    Tokenizer,
    read_tokenizer_file,
    tokenizer_from,
    train_byte_pairs,
)

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
    with pytest.raises(EmptyTextError, match=f"text 1, '{text}', has no character of") as caught:
        TOKENIZER.encode_batch(["a", text, ""], 4)
    assert caught.value.row == 1


def test_the_error_of_an_empty_text_comes_back_from_another_process_whole():
    error = pickle.loads(pickle.dumps(EmptyTextError("text 3 is empty", 3)))
    assert (str(error), error.row) == ("text 3 is empty", 3)


def test_an_alphabet_is_ascii():
    with pytest.raises(ValueError, match="alphabet 'äb' must be of ASCII characters only"):
        CharacterTokenizer("äb")


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
@given(texts=st.lists(st.text().map(lambda text: text + "a"), max_size=5), max_length=st.integers(1, 12))
@example(["\udc80a", "İI", "K", "A\0a"], 4)  # half a surrogate pair, two characters in lower case, the Kelvin sign
def test_batch_is_encode_truncated_and_padded(texts: list[str], max_length: int):
    ids, mask = TOKENIZER.encode_batch(texts, max_length)
    for row, text in enumerate(texts):
        expected = TOKENIZER.encode(text)[:max_length]
        assert ids[row].tolist() == expected + [PAD_ID] * (max_length - len(expected))
        assert mask[row].sum().item() == len(expected)
    torch.testing.assert_close(mask, ids != PAD_ID, rtol=0, atol=0)


def captions(count: int, seed: int = 0) -> list[str]:
    """Sentences of 60 invented words, the first ones more often."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("aeioulnrstd", k=draw.randint(2, 7))) for _ in range(60)]
    return [" ".join(draw.choices(words, weights=range(60, 0, -1), k=draw.randint(3, 9))) + " ." for _ in range(count)]


@pytest.fixture(scope="module")
def byte_pairs() -> SubwordTokenizer:
    return train_byte_pairs(captions(300), 320)


def text_of(tokenizer: SubwordTokenizer, ids: list[int]) -> str:
    return tokenizers.Tokenizer.from_str(tokenizer.to_json()).decode(ids)


def test_byte_pairs_by_hand():
    # " ab" stands four times, " ac" twice: merged are " a" (six times), " ab", " ac"; padding and 256 bytes precede.
    tokenizer = train_byte_pairs(["ab ab", "ab ac", "Ab  AC"], 1000)
    assert tokenizer.vocab_size == 260
    a, ab, ac = 257, 258, 259
    assert tokenizer.encode("ab ac a") == [ab, ac, a]
    ids, mask = tokenizer.encode_batch(["ab ac ab", "AC"], 2)
    assert ids.dtype == torch.int64
    assert ids.tolist() == [[ab, ac], [ac, PAD_ID]]
    assert mask.tolist() == [[True, True], [True, False]]


def test_byte_pairs_learn_no_pair_that_occurs_once():
    assert train_byte_pairs(["xy"], 1000).vocab_size == 257
    assert train_byte_pairs([], 1000).vocab_size == 257


def test_byte_pairs_stop_at_the_vocabulary_wanted(byte_pairs: SubwordTokenizer):
    assert byte_pairs.vocab_size == 320
    assert {i for text in captions(300) for i in byte_pairs.encode(text)} <= set(range(1, 320))


@SEEDED
@given(text=st.text())
@example("漢字 🐕 é")
@example("a <pad> b")
def test_no_text_is_unknown_to_byte_pairs_and_none_is_padding(byte_pairs: SubwordTokenizer, text: str):
    ids = byte_pairs.encode(text)
    assert all(1 <= i < byte_pairs.vocab_size for i in ids)
    normalizer = tokenizers.Tokenizer.from_str(byte_pairs.to_json()).normalizer
    assert text_of(byte_pairs, ids).lstrip(" ") == normalizer.normalize_str(text)


def test_byte_pairs_do_not_see_case_composition_or_blanks(byte_pairs: SubwordTokenizer):
    assert byte_pairs.encode(" A\tdog,\n Café ") == byte_pairs.encode("a dog, cafe\u0301")
    assert byte_pairs.encode("a\ud800") == byte_pairs.encode("a?")


@pytest.mark.parametrize("text", ["", " \n"])
def test_text_without_a_token_is_refused(byte_pairs: SubwordTokenizer, text: str):
    with pytest.raises(EmptyTextError, match=r"bpe: text 2, .* has no token") as caught:
        byte_pairs.encode_batch(["a", "b", text], 4)
    assert caught.value.row == 2


def test_byte_pairs_survive_json_and_pickle(byte_pairs: SubwordTokenizer):
    for copy in (SubwordTokenizer.from_json(byte_pairs.to_json()), pickle.loads(pickle.dumps(byte_pairs))):
        assert copy == byte_pairs
        assert copy.sha256 == byte_pairs.sha256
        assert copy.encode("a <pad> dog") == byte_pairs.encode("a <pad> dog")


TRAINED = """
import hashlib, json, sys
from bench.datasets.tokenizers import train_byte_pairs
tokenizer = train_byte_pairs(json.load(sys.stdin), 400)
ids, _ = tokenizer.encode_batch(["a dog runs"] * 1000, 8)
print(tokenizer.sha256, ids.sum().item())
"""


def test_byte_pairs_are_the_same_in_every_process_and_at_every_number_of_threads():
    texts = captions(2000)
    settings = [{"TOKENIZERS_PARALLELISM": "false"}, {"RAYON_NUM_THREADS": "1"}, {"RAYON_NUM_THREADS": "2"}]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TRAINED],
            env=os.environ | {"TOKENIZERS_PARALLELISM": "true", "PYTHONHASHSEED": str(number)} | setting,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, setting in enumerate(settings)
    ]
    printed = {run.communicate(json.dumps(texts))[0] for run in runs}
    tokenizer = train_byte_pairs(texts, 400)
    assert train_byte_pairs(iter(texts), 400) == tokenizer
    assert printed == {f"{tokenizer.sha256} {1000 * sum(tokenizer.encode('a dog runs')[:8])}\n"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Words with [CLS] and [SEP] around a text; ids 3 … 7 of 0 … 7, and truncation of its own."""
    library = tokenizers.Tokenizer(models.WordLevel({"[CLS]": 3, "[SEP]": 4, "?": 5, "dog": 6, "[PAD]": 7}, "?"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    around = [("[CLS]", 3), ("[SEP]", 4)]
    library.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    library.enable_truncation(3, direction="left")
    library.add_special_tokens(["[PAD]"])
    path = tmp_path / "words" / "tokenizer.json"
    path.parent.mkdir()
    path.write_text(library.to_str())
    return path


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_file_keeps_its_special_tokens_and_its_pad_token_but_not_its_truncation(file: Path):
    tokenizer = read_tokenizer_file(file)
    assert (tokenizer.vocab_size, tokenizer.pad_id) == (8, 7)
    assert tokenizer.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert tokenizer.encode("dog cat dog") == [3, 6, 5, 6, 4]
    ids, mask = tokenizer.encode_batch(["dog cat dog", "dog"], 4)
    assert ids.tolist() == [[3, 6, 5, 4], [3, 6, 4, 7]]
    assert mask.tolist() == [[True] * 4, [True] * 3 + [False]]


def test_a_files_special_tokens_alone_are_no_text(file: Path):
    tokenizer = read_tokenizer_file(file)
    with pytest.raises(EmptyTextError, match=r"tokenizer\.json: text 1, ' ', has no token"):
        tokenizer.encode_batch(["dog", " "], 4)
    with pytest.raises(ValueError, match="max_length=2 must be at least 3"):
        tokenizer.encode_batch(["dog"], 2)


@pytest.mark.parametrize(
    ("changes", "pad_id"),
    [
        ({"padding": {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 4,
                      "pad_type_id": 0, "pad_token": "[SEP]"}}, 4),
        ({"added_tokens": []}, 0),
    ],
)  # fmt: skip
def test_a_files_pad_token_is_that_of_its_padding_settings_or_id_0(file: Path, changes: dict, pad_id: int):
    change(file, **changes)
    tokenizer = read_tokenizer_file(file)
    assert tokenizer.pad_id == pad_id
    ids, mask = tokenizer.encode_batch(["dog"], 5)
    assert ids.tolist() == [[3, 6, 4, pad_id, pad_id]]
    assert mask.sum() == 3


def test_a_file_without_an_unknown_token_says_what_it_cannot_do(file: Path):
    change(file, model={"type": "WordLevel", "vocab": {"dog": 0}, "unk_token": "?"}, post_processor=None)
    with pytest.raises(ValueError, match=r"tokenizer\.json: cannot encode the texts: WordLevel error: Missing"):
        read_tokenizer_file(file).encode_batch(["dog", "cat"], 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"a dog", "is not JSON"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"{}", "is not a tokenizer.json"),
        (b"[1, 2]", "is not a tokenizer.json"),
        (b'{"version": "1.0", "model": {"type": "Nonsense"}}', "is not a tokenizer.json"),
        (b'{"version": "1.0", "model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}}', "without a token"),
    ],
)
def test_files_that_are_no_tokenizer_are_refused_in_one_line(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_tokenizer_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str):
    with pytest.raises(DataError, match=r"cannot be read \(.*\); a tokenizer.json is needed"):
        read_tokenizer_file(tmp_path / name)


def test_options_lead_to_each_tokenizer(file: Path):
    data_dir, texts = file.parent.parent, captions(20)
    made: list[Tokenizer] = [
        tokenizer_from(options, iter(texts), data_dir)
        for options in ({"kind": "character"}, {"kind": "bpe", "vocab_size": 300},
                        {"kind": "file", "path": "words/tokenizer.json"}, {"kind": "file", "path": str(file)})
    ]  # fmt: skip
    assert made == [TOKENIZER, train_byte_pairs(texts, 300), read_tokenizer_file(file), read_tokenizer_file(file)]
    assert [tokenizer.vocab_size for tokenizer in made] == [34, 300, 8, 8]
    assert len({tokenizer.sha256 for tokenizer in made}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "tokenizer: kind 'None' is not known; allowed are character, bpe, file"),
        ({"kind": "words"}, "tokenizer: kind 'words' is not known; allowed are character, bpe, file"),
        ({"kind": "character", "vocab_size": 9}, "tokenizer character: options are vocab_size; needed are none"),
        ({"kind": "bpe"}, "tokenizer bpe: options are none; needed are vocab_size"),
        ({"kind": "file", "path": "a", "name": "b"}, "tokenizer file: options are name, path; needed are path"),
        ({"kind": "bpe", "vocab_size": 256}, "bpe: vocab_size=256 must be a whole number of at least 257"),
        ({"kind": "bpe", "vocab_size": "8192"}, "bpe: vocab_size='8192' must be a whole number of at least 257"),
        ({"kind": "file", "path": 3}, "tokenizer file: path is 3; a path is needed"),
    ],
)
def test_options_that_are_not_allowed_are_refused(options: dict, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        tokenizer_from(options, [], tmp_path)


def test_characters_need_no_tokenizers_package():
    code = "import sys, bench.datasets.tokenizers as t; t.CharacterTokenizer(); print('tokenizers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
