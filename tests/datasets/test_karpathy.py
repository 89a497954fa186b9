"""Karpathy's files of splits: what is read of good ones, and which entry is named of bad ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets.captions import Caption, Member
from bench.datasets.index import Place
from bench.datasets.karpathy import Entry, captions_of, members_of, read_karpathy
from bench.datasets.samples import DataError

NAME = "dataset_coco.json"
SEEDED = settings(derandomize=True, deadline=None, database=None, max_examples=200)


def entry(filename: str = "a.jpg", split: str = "train", raws: tuple[str, ...] = ("A dog.",)) -> dict[str, Any]:
    sentences = [{"raw": raw, "tokens": raw.split(), "sentid": n} for n, raw in enumerate(raws)]
    return {"filename": filename, "split": split, "sentences": sentences, "imgid": 7}


def write(folder: Path, content: object) -> Path:
    (folder / NAME).write_text(json.dumps(content))
    return folder / NAME


def test_entries_in_the_order_of_the_file(tmp_path: Path):
    images = [
        {**entry("b.jpg", "restval", ("Two dogs .\n", " One cat")), "filepath": "val2014"},
        entry("a.jpg", "test"),
        entry("c.jpg", "val", ("Ein Hund läuft",)),
        entry("d.jpg", "train"),
    ]
    entries = read_karpathy("coco", tmp_path, write(tmp_path, {"images": images, "dataset": "coco"}))
    assert entries[0] == Entry(
        place=Place(NAME, 1),
        name="b.jpg",
        folder="val2014",
        split="training",
        captions=("Two dogs .", "One cat"),
    )
    assert [(e.name, e.folder, e.split, e.captions) for e in entries[1:]] == [
        ("a.jpg", None, "test", ("A dog.",)),
        ("c.jpg", None, "validation", ("Ein Hund läuft",)),
        ("d.jpg", None, "training", ("A dog.",)),
    ]


def test_captions_are_numbered_by_their_order(tmp_path: Path):
    images = [entry("a.jpg", "train", ("x", "y", "z")), entry("b.jpg", "test", ("u",))]
    entries = read_karpathy("coco", tmp_path, write(tmp_path, {"images": images}))
    first, second = Place(NAME, 1), Place(NAME, 2)
    assert captions_of(entries, 2) == {
        "a.jpg": {0: Caption(first, "x"), 1: Caption(first, "y")},
        "b.jpg": {0: Caption(second, "u")},
    }
    assert len(captions_of(entries)["a.jpg"]) == 3
    assert members_of(entries) == {"a.jpg": Member("training", first), "b.jpg": Member("test", second)}


WITHOUT = {key: {k: v for k, v in entry().items() if k != key} for key in ("filename", "split", "sentences")}
KEYS = "filename, split, sentences"
ENTRY_FAULTS: Mapping[str, tuple[object, str]] = {
    "no object": (["a.jpg"], f"has ['a.jpg']; expected the keys {KEYS}"),
    "empty object": ({}, f"has no key; expected the keys {KEYS}"),
    "no filename": (WITHOUT["filename"], f"has split, sentences, imgid; expected the keys {KEYS}"),
    "no split": (WITHOUT["split"], f"has filename, sentences, imgid; expected the keys {KEYS}"),
    "no sentences": (WITHOUT["sentences"], f"has filename, split, imgid; expected the keys {KEYS}"),
    "empty sentences": ({**entry(), "sentences": []}, "has [] for sentences; expected a list of one or more"),
    "sentences that are text": ({**entry(), "sentences": "a"}, "has 'a' for sentences; expected a list of one or"),
    "unknown split": (entry(split="dev"), "has the split 'dev'; allowed are train, restval, val, test"),
    "split that is a list": ({**entry(), "split": ["train"]}, "has the split ['train']; allowed are train, restval"),
    "filename that is a number": ({**entry(), "filename": 3}, "has 3 for filename; expected text"),
    "filename elsewhere": (entry("/etc/a.jpg"), "'/etc/a.jpg' leaves the folder; expected a path under it"),
    "filepath elsewhere": ({**entry(), "filepath": ".."}, "'..' leaves the folder; expected a path under it"),
    "name that is no Unicode": (entry("\ud800.jpg"), "has half a surrogate pair in filename; expected valid Unicode"),
    "sentence that is text": ({**entry(), "sentences": ["a"]}, "has 'a'; expected the keys raw"),
    "sentence without raw": ({**entry(), "sentences": [{"sentid": 1}]}, "has sentid; expected the keys raw"),
    "raw that is null": ({**entry(), "sentences": [{"raw": None}]}, "has None for raw; expected text"),
    "blank raw": (entry(raws=("A dog.", " \n")), "has ' \\n' for raw; expected text"),
    "raw that is no Unicode": (entry(raws=("\udc00",)), "has half a surrogate pair in raw; expected valid Unicode"),
    "duplicate filename": (entry("z.jpg"), f"is z.jpg, as {NAME}, entry 1 is; expected each image once"),
}


@pytest.mark.parametrize("name", ENTRY_FAULTS)
def test_fault_names_the_entry(name: str, tmp_path: Path):
    image, message = ENTRY_FAULTS[name]
    path = write(tmp_path, {"images": [entry("z.jpg"), image]})
    with pytest.raises(DataError) as error:
        read_karpathy("coco", tmp_path, path)
    assert str(error.value).startswith(f"coco: {NAME}, entry 2: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [[], {}, {"images": {}}, {"images": []}, {"images": None}, "images"])
def test_file_without_images(content: object, tmp_path: Path):
    with pytest.raises(DataError, match=rf'^coco: {NAME}: has no list "images"; expected'):
        read_karpathy("coco", tmp_path, write(tmp_path, content))


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff", b'{"images": [', b"[" * 100_000, b"9" * 5000])
def test_file_that_is_no_json(content: bytes, tmp_path: Path):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(DataError, match=f"^coco: {NAME}: is not JSON"):
        read_karpathy("coco", tmp_path, tmp_path / NAME)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.sampled_from(["val"])),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["raw", "x"]), inner)),
    max_leaves=4,
)
IMAGES = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {
            "filename": st.one_of(VALUES, st.sampled_from(["a.jpg", "b.jpg"])),
            "split": st.one_of(VALUES, st.just("train")),
            "sentences": st.one_of(VALUES, st.just([{"raw": "A dog."}])),
        },
        optional={"filepath": VALUES},
    ),
)


@SEEDED
@given(images=st.lists(IMAGES, max_size=3))
def test_any_json_is_entries_or_a_data_error(images: list[object], tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.getbasetemp() / "any_karpathy"
    folder.mkdir(exist_ok=True)
    try:
        entries = read_karpathy("coco", folder, write(folder, {"images": images}))
    except DataError as error:
        assert str(error).startswith(f"coco: {NAME}")
    else:
        assert len(entries) == len(images)
