"""Flickr30k's annotations: every form of them, and every fault that Flickr8k's forms do not have."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets.captions import Caption, Captions, draw
from bench.datasets.flickr30k import read
from bench.datasets.index import Index, Place
from bench.datasets.samples import DataError

TOKEN, TABLE, KARPATHY = "results_20130124.token", "results.csv", "dataset_flickr30k.json"
HEADER = "image_name| comment_number| comment\n"
BROKEN = "2199200615.jpg| 4   A cat sits on the mat .\n"
LISTS = {"train.txt": ("10", "11", "12"), "val.txt": ("20",), "test.txt": ("31", "30")}
SEEDED = settings(derandomize=True, deadline=None, database=None)


def say(image: str, number: int) -> str:
    return f'A "dog , {number} | of {image} .'


def names() -> list[str]:
    return sorted(f"{name}.jpg" for images in LISTS.values() for name in images)


def write_token(folder: Path) -> None:
    (folder / TOKEN).write_text("".join(f"{image}#{n}\t{say(image, n)}\n" for image in names() for n in range(5)))


def write_table(folder: Path, more: str = "") -> None:
    rows = "".join(f"{image}| {n}| {say(image, n)}\n" for image in names() for n in range(5))
    (folder / TABLE).write_text(HEADER + rows + more)


def write_karpathy(folder: Path) -> None:
    splits = {f"{name}.jpg": file[:-4] for file, images in LISTS.items() for name in images}
    images = [
        {"filename": image, "split": splits[image], "sentences": [{"raw": say(image, n)} for n in range(5)]}
        for image in names()
    ]
    (folder / KARPATHY).write_text(json.dumps({"images": images}))


def write_lists(folder: Path, ending: str = ".jpg") -> None:
    for file, images in LISTS.items():
        (folder / file).write_text("".join(f"{name}{ending}\n" for name in images))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_token(tmp_path)
    write_table(tmp_path)
    write_karpathy(tmp_path)
    return tmp_path


def texts(index: Index) -> list[tuple[str, str, str | None]]:
    return [(row.split, row.match, row.text) for row in index.rows]


@pytest.mark.parametrize("ending", [".jpg", ""])
def test_every_form_gives_the_same_rows(ending: str, folder: Path):
    write_lists(folder, ending)
    expected = [
        (split, f"{name}.jpg", say(f"{name}.jpg", n))
        for split, file in (("training", "train.txt"), ("validation", "val.txt"), ("test", "test.txt"))
        for name in LISTS[file]
        for n in range(5)
    ]
    for annotations in ("token", "csv", "karpathy"):
        index = read(folder, annotations=annotations)
        assert texts(index) == expected
        assert (index.kind, index.folder, index.remarks) == ("flickr30k", folder, ())


def test_splits_of_karpathy_are_in_the_order_of_the_file(folder: Path):
    index = read(folder)
    assert [row.match for row in index.rows[::5]] == names()
    assert Counter(row.split for row in index.rows) == {"training": 15, "validation": 5, "test": 10}
    assert read(folder, splits="karpathy") == index
    assert texts(read(folder, annotations="karpathy")) == texts(index)


def test_first_form_that_is_there_is_read(folder: Path):
    for name in (TOKEN, TABLE, KARPATHY):
        assert {row.place.file for row in read(folder).rows} == {name}
        (folder / name).unlink()
    with pytest.raises(
        DataError, match=r"holds none of results_20130124\.token, results\.csv, dataset_flickr30k\.json"
    ):
        read(folder)


@pytest.mark.parametrize("name", ["flickr30k-images", "flickr30k_images", "Images", "images"])
def test_image_folder_in_every_spelling(name: str, folder: Path):
    assert read(folder).rows[0].image == "flickr30k-images/10.jpg"
    (folder / name).mkdir()
    assert read(folder).rows[0].image == f"{name}/10.jpg"


def captions(count: int) -> Captions:
    return {f"{n}.jpg": {0: Caption(Place(TOKEN, n), "A dog .")} for n in range(1, count + 1)}


def test_drawn_splits_have_the_proportions_of_karpathy():
    members = draw("flickr30k", captions(31_014), test=1000, validation=1014, of=31_014)
    assert Counter(member.split for member in members.values()) == {
        "training": 29_000,
        "validation": 1_014,
        "test": 1_000,
    }


@SEEDED
@given(order=st.permutations(range(1, 10)))
def test_drawn_splits_do_not_depend_on_the_order(order: list[int]):
    whole = captions(9)
    shuffled = {f"{n}.jpg": whole[f"{n}.jpg"] for n in order}
    members = draw("flickr30k", shuffled, test=1, validation=1, of=4)
    assert members == draw("flickr30k", whole, test=1, validation=1, of=4)
    assert Counter(member.split for member in members.values()) == {"training": 5, "validation": 2, "test": 2}


def test_drawn_splits_of_a_small_set_are_not_empty(folder: Path):
    index = read(folder, splits="drawn")
    assert Counter(row.split for row in index.rows) == {"training": 20, "validation": 5, "test": 5}


def test_known_broken_row_is_repaired_and_remarked_on(folder: Path):
    write_table(folder, BROKEN + "".join(f"2199200615.jpg| {n}| A cat {n} .\n" for n in range(4)))
    with (folder / KARPATHY).open() as file:
        content = json.load(file)
    content["images"][0]["filename"] = "2199200615.jpg"
    (folder / KARPATHY).write_text(json.dumps(content))
    index = read(folder, annotations="csv")
    assert [row.text for row in index.rows[:5]] == [f"A cat {n} ." for n in range(4)] + ["A cat sits on the mat ."]
    assert [str(remark) for remark in index.remarks] == [
        f"{TABLE}, line 32: 2199200615.jpg 4 lacks a |, a known fault; repaired",
        f"{TABLE}, line 2: 1 images with captions are in no split; left out",
    ]


FAULTS = {
    "other broken row": ("10.jpg| 4   A dog .\n", "line 32: has 2 fields; expected <image>| <0-4>| <caption>"),
    "known row broken otherwise": ("2199200615.jpg 4 A dog .\n", "line 32: has 1 fields; expected <image>| <0-4>|"),
    "known image, other number": ("2199200615.jpg| 3   A dog .\n", "line 32: has 2 fields; expected <image>|"),
    "known row without caption": ("2199200615.jpg| 4   \n", "line 32: has 2 fields; expected <image>| <0-4>|"),
    "number": ("9.jpg| 5| A dog .\n", "line 32: has the caption number '5'; allowed are 0 to 4"),
    "number twice": ("10.jpg| 4| A dog .\n", f"line 32: is caption 4 of 10.jpg, as {TABLE}, line 6 is; expected"),
    "no caption": ("9.jpg| 0| \n", "line 32: has '' for the caption; expected text"),
    "no image": ("| 0| A dog .\n", "line 32: has '' for the image; expected text"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_of_the_table_names_the_line(name: str, folder: Path):
    row, message = FAULTS[name]
    write_table(folder, row)
    with pytest.raises(DataError) as error:
        read(folder, annotations="csv")
    assert str(error.value).startswith(f"flickr30k: {TABLE}, {message}")


@pytest.mark.parametrize("header", ["", "image|number|comment\n", "10.jpg| 0| A dog .\n"])
def test_table_without_its_header(header: str, folder: Path):
    (folder / TABLE).write_text(header)
    with pytest.raises(DataError, match=r"results\.csv, line 1: is '.*'; expected the header image_name\| comment_num"):
        read(folder, annotations="csv")


def test_split_of_karpathy_without_captions(folder: Path):
    lines = (folder / TOKEN).read_text().splitlines(keepends=True)
    (folder / TOKEN).write_text("".join(lines[5:]))
    with pytest.raises(DataError) as error:
        read(folder)
    assert (
        str(error.value) == f"flickr30k: {KARPATHY}, entry 1: lists 10.jpg, which has no caption; expected one or more"
    )


def test_without_splits_the_error_says_what_is_needed_and_that_they_can_be_drawn(folder: Path):
    (folder / KARPATHY).unlink()
    with pytest.raises(DataError) as error:
        read(folder)
    for part in ("flickr30k", "train.txt, val.txt, test.txt or dataset_flickr30k.json", 'splits = "drawn"'):
        assert part in str(error.value)


def test_options_that_are_not_allowed(folder: Path):
    with pytest.raises(ValueError, match="flickr30k: annotations is 'captions'; allowed are token, csv, karpathy"):
        read(folder, annotations="captions")
    with pytest.raises(ValueError, match="flickr30k: splits is 'none'; allowed are lists, karpathy, drawn"):
        read(folder, splits="none")


@settings(SEEDED, max_examples=150)
@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.text("ab|0123 .\n", max_size=60).map(lambda text: (HEADER + BROKEN + text).encode()),
        st.from_regex(r"([a-d]\| [0-5]\| [a-z]?\n){0,6}", fullmatch=True).map(lambda text: (HEADER + text).encode()),
    )
)
def test_any_bytes_are_an_index_or_a_data_error(content: bytes, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.getbasetemp() / "any_flickr30k"
    folder.mkdir(exist_ok=True)
    (folder / TABLE).write_bytes(content)
    try:
        index = read(folder, annotations="csv", splits="drawn")
    except DataError as error:
        assert str(error).startswith("flickr30k: ")
    else:
        assert {row.split for row in index.rows} == {"training", "validation", "test"}
