"""COCO's captions: the official files of both years, Karpathy's file, and what is said of bad ones."""

import gc
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets.coco import read
from bench.datasets.samples import DataError

TRAIN, VAL = "annotations/captions_train2017.json", "annotations/captions_val2017.json"
KARPATHY = "dataset_coco.json"
SEEDED = settings(derandomize=True, deadline=None, database=None, max_examples=150)


def official(ids: Sequence[int], captions: int = 5) -> dict[str, list[dict[str, Any]]]:
    """Captions in rounds, as the official files mix images; caption n of an image is the n-th of the file."""
    return {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "height": 4} for i in ids],
        "annotations": [
            {"image_id": i, "id": 1000 - n * len(ids) - k, "caption": f"Dog {n} of {i}.\n"}
            for n in range(captions)
            for k, i in enumerate(ids)
        ],
    }


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def write_karpathy(folder: Path) -> None:
    splits = ["train", "restval", "val", "test"]
    write(
        folder,
        KARPATHY,
        {
            "images": [
                {
                    "filepath": "train2014" if split == "train" else "val2014",
                    "filename": f"{n}.jpg",
                    "split": split,
                    "sentences": [{"raw": f"Dog {k}.", "tokens": ["dog"], "sentid": k} for k in range(5 + n)],
                }
                for n, split in enumerate(splits)
            ]
        },
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, TRAIN, official(range(1, 21)))
    write(tmp_path, VAL, official([40, 30]))
    return tmp_path


def test_official_files_give_the_first_five_captions_in_the_order_of_the_file(folder: Path):
    write(folder, VAL, official([40, 30], captions=7))
    index = read(folder)
    test = [row for row in index.rows if row.split == "test"]
    assert [(row.match, row.text) for row in test] == [
        (f"{i:012d}.jpg", f"Dog {n} of {i}.") for i in (40, 30) for n in range(5)
    ]
    assert test[0].image == "val2017/000000000040.jpg"
    assert str(test[1].place) == f"{VAL}, entry 3"
    assert test[0].audio is None
    assert [str(remark) for remark in index.remarks] == [
        f"{VAL}, entry 1: 4 captions beyond the first 5 of their image; left out"
    ]


def test_validation_is_a_tenth_of_the_training_images_drawn_by_name(folder: Path):
    index = read(folder)
    assert Counter(row.split for row in index.rows) == {"training": 90, "validation": 10, "test": 10}
    # SHA-256 of "000000000011.jpg" is 17b5…, of "000000000014.jpg" 1e22…, the two smallest of the twenty
    assert {row.match for row in index.rows if row.split == "validation"} == {"000000000011.jpg", "000000000014.jpg"}
    assert {row.image.split("/")[0] for row in index.rows if row.split != "test"} == {"train2017"}
    content = official(range(1, 21))
    write(folder, TRAIN, {key: entries[::-1] for key, entries in content.items()})
    again = read(folder)
    assert {(row.match, row.split) for row in again.rows} == {(row.match, row.split) for row in index.rows}


def test_validation_of_a_large_set_is_five_thousand_images(folder: Path):
    write(folder, TRAIN, official(range(100, 50_100), captions=1))
    index = read(folder)
    assert Counter(row.split for row in index.rows) == {"training": 45_000, "validation": 5_000, "test": 10}
    assert "50000 images have fewer than 5 captions, the first 000000000100.jpg" in str(index.remarks[0])


@pytest.mark.parametrize("prefix", ["", "annotations/"])
@pytest.mark.parametrize("images", ["", "images/"])
def test_files_and_folders_of_the_images_in_either_place(prefix: str, images: str, tmp_path: Path):
    write(tmp_path, f"{prefix}captions_train2014.json", official(range(10)))
    write(tmp_path, f"{prefix}captions_val2014.json", official([10]))
    for part in ("train", "val"):
        (tmp_path / f"{images}{part}2014").mkdir(parents=True)
    index = read(tmp_path)
    assert index.rows[0].image == f"{images}train2014/000000000000.jpg"
    assert index.rows[-1].image == f"{images}val2014/000000000010.jpg"


def test_year_and_form_are_chosen_or_the_first_that_are_there(folder: Path):
    write(folder, "captions_train2014.json", official(range(10)))
    write(folder, "captions_val2014.json", official([10]))
    write_karpathy(folder)
    files = {
        TRAIN: read(folder),
        "captions_train2014.json": read(folder, year=2014),
        KARPATHY: read(folder, annotations="karpathy"),
    }
    for name, index in files.items():
        assert index.rows[0].place.file == name
    (folder / TRAIN).unlink()
    assert read(folder) == files["captions_train2014.json"]
    (folder / "captions_train2014.json").unlink()
    assert read(folder) == files[KARPATHY] == read(folder, year=2014)
    for options in ({"year": 2017}, {"annotations": "captions"}):
        with pytest.raises(DataError, match=r"^coco: .* holds none of annotations/captions_train2017\.json, "):
            read(folder, **options)


def test_karpathy_splits_folders_and_first_five_captions(tmp_path: Path):
    write_karpathy(tmp_path)
    (tmp_path / "images" / "val2014").mkdir(parents=True)
    index = read(tmp_path)
    assert [(row.split, row.image) for row in index.rows[::5]] == [
        ("training", "train2014/0.jpg"),
        ("training", "images/val2014/1.jpg"),
        ("validation", "images/val2014/2.jpg"),
        ("test", "images/val2014/3.jpg"),
    ]
    assert [row.text for row in index.rows[-5:]] == [f"Dog {n}." for n in range(5)]
    assert {row.match for row in index.rows} == {f"{n}.jpg" for n in range(4)}
    assert [str(remark) for remark in index.remarks] == [
        f"{KARPATHY}, entry 1: 6 captions beyond the first 5 of their image; left out"
    ]


def test_karpathy_without_the_folder_of_an_image(tmp_path: Path):
    write(tmp_path, KARPATHY, {"images": [{"filename": "a.jpg", "split": "val", "sentences": [{"raw": "A dog."}]}]})
    with pytest.raises(DataError, match=f"^coco: {KARPATHY}, entry 1: a.jpg has no filepath; expected the folder of"):
        read(tmp_path)


def test_options_that_are_not_allowed(folder: Path):
    with pytest.raises(ValueError, match="coco: year is 2015; allowed are 2017, 2014"):
        read(folder, year=2015)
    with pytest.raises(ValueError, match="coco: annotations is 'token'; allowed are captions, karpathy"):
        read(folder, annotations="token")
    with pytest.raises(ValueError, match="coco: year is 2017; Karpathy's splits are of the images of 2014"):
        read(folder, year=2017, annotations="karpathy")


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_as_before(enabled: bool, folder: Path):
    (folder / VAL).write_text("{}")
    try:
        if not enabled:
            gc.disable()
        with pytest.raises(DataError):
            read(folder)
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


# ---- faults

Content = dict[str, Any]
IMAGE_KEYS, ANNOTATION_KEYS = "expected the keys id, file_name", "expected the keys image_id, caption"


def change(list_name: str, **values: object) -> Callable[[Content], object]:
    return lambda content: content[list_name][1].update(values)


def put(list_name: str, entry: object) -> Callable[[Content], object]:
    return lambda content: content[list_name].__setitem__(1, entry)


FAULTS: Mapping[str, tuple[Callable[[Content], object], str]] = {
    "no images": (lambda content: content.pop("images"), ": has annotations; expected the keys images, annotations"),
    "no list": (lambda content: content.update(images={}), ": has images or annotations that are no list; expected"),
    "image that is no object": (put("images", 3), f", entry 2: has 3; {IMAGE_KEYS}"),
    "image without a name": (put("images", {"id": 3}), f", entry 2: has id; {IMAGE_KEYS}"),
    "id that is text": (change("images", id="2"), ", entry 2: has the id '2'; expected an integer"),
    "id that is true": (change("images", id=True), ", entry 2: has the id True; expected an integer"),
    "id twice": (change("images", id=1), f", entry 2: has the id 1, as {TRAIN}, entry 1 has; expected each id once"),
    "name twice": (
        change("images", file_name="000000000001.jpg"),
        f", entry 2: is 000000000001.jpg, as {TRAIN}, entry 1 is; expected each image once",
    ),
    "name elsewhere": (change("images", file_name="../a"), ", entry 2: '../a' leaves the folder; expected a path"),
    "caption that is no object": (put("annotations", []), f", entry 2: has []; {ANNOTATION_KEYS}"),
    "caption without text": (put("annotations", {"image_id": 2}), f", entry 2: has image_id; {ANNOTATION_KEYS}"),
    "blank caption": (change("annotations", caption=" "), ", entry 2: has ' ' for caption; expected text"),
    "caption of no image": (
        change("annotations", image_id=99),
        ", entry 2: is of the image 99; expected the id of one of the images",
    ),
    "caption of a list": (
        change("annotations", image_id=[2]),
        ", entry 2: is of the image [2]; expected the id of one of the images",
    ),
    "image without captions": (
        lambda content: content["images"].append({"id": 99, "file_name": "x.jpg"}),
        ", entry 21: lists x.jpg, which has no caption; expected one or more",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_names_the_set_the_file_and_the_entry(name: str, folder: Path):
    damage, message = FAULTS[name]
    content = official(range(1, 21))
    damage(content)
    write(folder, TRAIN, content)
    with pytest.raises(DataError) as error:
        read(folder)
    assert str(error.value).startswith(f"coco: {TRAIN}{message}")


def test_image_in_both_files(folder: Path):
    write(folder, VAL, official([7]))
    with pytest.raises(DataError) as error:
        read(folder)
    assert str(error.value) == (
        f"coco: {VAL}, entry 1: lists 000000000007.jpg for test, which {TRAIN}, entry 7 lists for training; "
        "expected each image once"
    )


def test_training_images_too_few_for_a_validation_split(folder: Path):
    write(folder, TRAIN, official([1]))
    with pytest.raises(DataError, match="no image is in training; expected images in training, validation and test"):
        read(folder)


def test_missing_validation_file(folder: Path):
    (folder / VAL).unlink()
    with pytest.raises(DataError, match=f"^coco: .* holds none of {VAL}, captions_val2017.json; one of them is needed"):
        read(folder)


VALUES = st.one_of(
    st.none(), st.integers(0, 3), st.booleans(), st.text(max_size=2), st.lists(st.integers(), max_size=1)
)
LISTS = st.fixed_dictionaries(
    {
        "images": st.lists(st.fixed_dictionaries({"id": VALUES, "file_name": VALUES}), max_size=3),
        "annotations": st.lists(st.fixed_dictionaries({"image_id": VALUES, "caption": VALUES}), max_size=4),
    }
)


@SEEDED
@given(content=st.one_of(st.binary(max_size=40), st.one_of(VALUES, LISTS).map(lambda x: json.dumps(x).encode())))
def test_any_file_is_an_index_or_a_data_error(content: bytes, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.getbasetemp() / "any_coco"
    folder.mkdir(exist_ok=True)
    write(folder, TRAIN, official(range(10, 20)))
    (folder / VAL).write_bytes(content)
    try:
        index = read(folder)
    except DataError as error:
        assert str(error).startswith("coco: ")
    else:
        assert {row.split for row in index.rows} == {"training", "validation", "test"}
