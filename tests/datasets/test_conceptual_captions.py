"""Conceptual Captions: what is read of lists and downloaded folders, and what is said of bad ones."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets import conceptual_captions
from bench.datasets.index import Index, Place, Remark, drawn
from bench.datasets.samples import DataError

TRAIN_LIST, VALIDATION_LIST = "Train_GCC-training.tsv", "Validation_GCC-1.1.0-Validation.tsv"


def url(number: int) -> str:
    return f"http://example.org/{number}.jpg"


def write_image(folder: Path, name: str, number: int, **sidecar: str | None) -> Path:
    """One image as img2dataset leaves it; returns its path without suffix."""
    path = folder / name / f"{number // 10:05d}" / f"{number:09d}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".jpg").write_bytes(b"")
    content = {"caption": f"caption {number}", "url": url(number), "key": path.name, "status": "success"}
    path.with_suffix(".json").write_text(json.dumps(content | sidecar))
    return path


@pytest.fixture
def downloaded(tmp_path: Path) -> Path:
    """40 training images in 4 shards, and 3 of the published validation list."""
    for number in range(40):
        write_image(tmp_path, "train", number)
    for number in range(100, 103):
        write_image(tmp_path, "validation", number)
    (tmp_path / "train" / "00000.parquet").write_bytes(b"")
    (tmp_path / "train" / "00000_stats.json").write_text("{}")
    return tmp_path


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """The same as lists of paths."""
    for name, numbers in (("train", range(40)), ("validation", range(100, 103))):
        lines = "".join(f"images/{number}.jpg\tcaption {number}\n" for number in numbers)
        (tmp_path / f"{name}_paths.tsv").write_text(lines)
    return tmp_path


def write_list(path: Path, numbers: range | list[int]) -> None:
    path.write_text("".join(f"caption {number}\t{url(number)}\n" for number in numbers))


def smallest(names: list[str], count: int) -> set[str]:
    return set(sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:count])


def test_drawn_names_have_the_smallest_hashes():
    # printf a | sha256sum: ca97…, b: 3e23…, c: 2e7d…, d: 18ac…
    assert drawn(["a", "b", "c", "d"], 2) == {"c", "d"}
    assert drawn(iter(["d", "d", "b", "a"]), 2) == {"d", "b"}
    assert drawn(["a"], 5) == {"a"}
    assert drawn(["a"], 0) == set()


def test_validation_is_drawn_from_training_and_test_is_the_published_validation(downloaded: Path):
    index = conceptual_captions.read(downloaded)
    assert (index.kind, index.folder, index.remarks) == ("conceptual_captions", downloaded, ())
    held_out = smallest([url(number) for number in range(40)], 2)  # one of twenty
    assert {row.match for row in index.rows if row.split == "validation"} == held_out
    assert [row.match for row in index.rows if row.split != "test"] == [url(number) for number in range(40)]
    assert [row.match for row in index.rows if row.split == "test"] == [url(number) for number in range(100, 103)]
    row = index.rows[12]
    assert (row.text, row.image, row.audio) == ("caption 12", "train/00001/000000012.jpg", None)
    assert row.place == Place("train/00001/000000012.json", 1)


def test_list_of_paths_is_read_and_drawn_by_path(listed: Path):
    index = conceptual_captions.read(listed)
    held_out = smallest([f"images/{number}.jpg" for number in range(40)], 2)
    assert {row.image for row in index.rows if row.split == "validation"} == held_out
    assert [len([row for row in index.rows if row.split == s]) for s in ("training", "test")] == [38, 3]
    row = index.rows[-1]
    assert (row.text, row.image, row.match) == ("caption 102", "images/102.jpg", "images/102.jpg")
    assert row.place == Place("validation_paths.tsv", 3)


def test_draw_does_not_depend_on_order(listed: Path):
    def held_out() -> set[str | None]:
        return {row.image for row in conceptual_captions.read(listed).rows if row.split == "validation"}

    before, path = held_out(), listed / "train_paths.tsv"
    path.write_text("\r\n".join(reversed(path.read_text().splitlines())))
    assert held_out() == before


def test_draw_is_of_5000_at_most(listed: Path):
    lines = "".join(f"train/{number}.jpg\tcaption\n" for number in range(100_020))
    (listed / "train_paths.tsv").write_text(lines)
    rows = conceptual_captions.read(listed).rows
    assert sum(row.split == "validation" for row in rows) == 5000
    assert sum(row.split == "training" for row in rows) == 95_020


def test_caption_may_be_in_a_text_file(downloaded: Path):
    only_text, both = (downloaded / f"train/00000/00000000{number}" for number in (1, 2))
    only_text.with_suffix(".json").unlink()
    only_text.with_suffix(".txt").write_text("a dog\n")
    both.with_suffix(".json").write_text("{}")
    both.with_suffix(".txt").write_text("a cat\nasleep")
    rows = conceptual_captions.read(downloaded).rows
    assert [(row.text, row.match) for row in rows[1:3]] == [
        ("a dog", "train/00000/000000001.jpg"),
        ("a cat asleep", "train/00000/000000002.jpg"),
    ]
    assert rows[1].place == Place("train/00000/000000001.txt", 1)


def test_images_of_other_formats_are_found(downloaded: Path):
    path = downloaded / "train/00000/000000001.jpg"
    path.rename(path.with_suffix(".webp"))
    assert conceptual_captions.read(downloaded).rows[1].image == "train/00000/000000001.webp"


def test_hidden_files_are_passed_over(downloaded: Path):
    (downloaded / "train/00000/._000000001.jpg").write_bytes(b"x")
    assert conceptual_captions.read(downloaded).remarks == ()


def test_failed_downloads_are_one_remark(downloaded: Path):
    (downloaded / "train/00000/000000003.jpg").unlink()
    write_image(downloaded, "train", 15, status="failed_to_download")
    write_image(downloaded, "train", 16, caption=None)
    (downloaded / "train/00002/000000020.json").unlink()
    (downloaded / "validation/00010/000000100.jpg").unlink()
    index = conceptual_captions.read(downloaded)
    assert len(index.rows) == 43 - 5
    assert [str(remark) for remark in index.remarks] == [
        "train/00000/000000003.json, entry 1: the first of 2 train images that were not downloaded; left out",
        "train/00001/000000016.json, entry 1: the first of 2 train images without a caption; left out",
        "validation/00010/000000100.json, entry 1: the first of 1 validation images that were not downloaded; left out",
    ]


@pytest.mark.parametrize("names", [(TRAIN_LIST, VALIDATION_LIST), ("train.tsv", "validation.tsv")])
def test_list_says_what_was_not_downloaded(names: tuple[str, str], downloaded: Path):
    (downloaded / "train/00000/000000003.jpg").unlink()
    write_list(downloaded / names[0], range(60))
    write_list(downloaded / names[1], [102, 101, 100])
    (downloaded / names[1]).write_text("caption\turl\n" + (downloaded / names[1]).read_text())
    index = conceptual_captions.read(downloaded)
    text = "the first of 21 train images that were not downloaded; left out"
    assert index.remarks == (Remark(Place(names[0], 4), text),)
    assert len(index.rows) == 42


def test_images_that_the_list_does_not_have_are_left_out(downloaded: Path):
    write_list(downloaded / TRAIN_LIST, range(2, 40))
    (downloaded / "train/00000/000000000.json").unlink()
    (downloaded / "train/00000/000000000.txt").write_text("no address, so the list cannot tell")
    index = conceptual_captions.read(downloaded)
    assert [row.image for row in index.rows[:2]] == ["train/00000/000000000.jpg", "train/00000/000000002.jpg"]
    text = f"the first of 1 train images whose address is not in {TRAIN_LIST}; left out"
    assert index.remarks == (Remark(Place("train/00000/000000001.json", 1), text),)


def test_images_without_address_count_as_downloaded(downloaded: Path):
    write_list(downloaded / TRAIN_LIST, range(41))
    for path in sorted((downloaded / "train/00000").glob("*.json")):
        path.with_suffix(".txt").write_text(f"caption {int(path.stem)}")
        path.unlink()
    index = conceptual_captions.read(downloaded)
    text = "the first of 1 train images that were not downloaded; left out"  # 11 addresses are missing for 10 images
    assert index.remarks == (Remark(Place(TRAIN_LIST, 1), text),)


def test_address_of_both_lists_is_for_test_only(downloaded: Path):
    write_image(downloaded, "train", 5, url=url(101))
    index = conceptual_captions.read(downloaded)
    assert [row.split for row in index.rows if row.match == url(101)] == ["test"]
    text = "the first of 1 train images that are in the validation list too; left out"
    assert index.remarks == (Remark(Place("train/00000/000000005.json", 1), text),)


def test_path_of_both_lists_is_for_test_only(listed: Path):
    lines = (listed / "train_paths.tsv").read_text().replace("images/5.jpg", "images/101.jpg")
    (listed / "train_paths.tsv").write_text(lines)
    index = conceptual_captions.read(listed)
    assert [row.split for row in index.rows if row.image == "images/101.jpg"] == ["test"]
    text = "the first of 1 train images that are in the validation list too; left out"
    assert index.remarks == (Remark(Place("train_paths.tsv", 6), text),)


def test_same_address_is_drawn_into_one_split(downloaded: Path):
    for number in range(20):
        write_image(downloaded, "train", number, url=url(0))
    rows = conceptual_captions.read(downloaded).rows
    assert len({row.split for row in rows if row.match == url(0)}) == 1
    assert len({row.match for row in rows if row.split == "validation"}) == 1  # one of the 21 addresses


SIDECAR = "train/00001/000000015.json"
FAULTS = {
    "no folder": ({"train": None}, "holds none of train_paths.tsv, train; one of them is needed"),
    "sidecar cut off": ({SIDECAR: b'{"caption": "a'}, f"{SIDECAR}: is not JSON (Unterminated string"),
    "sidecar not UTF-8": ({SIDECAR: b'{"caption": "\xff"}'}, f"{SIDECAR}: is not JSON ('utf-8' codec"),
    "sidecar of endless nesting": ({SIDECAR: b"[" * 100_000}, f"{SIDECAR}: is not JSON (maximum recursion"),
    "sidecar no object": ({SIDECAR: b"[1]"}, f"{SIDECAR}: is no JSON object; expected one with caption, url, key"),
    "caption no text": ({SIDECAR: b'{"caption": 1}'}, f"{SIDECAR}: has caption 1; expected text"),
    "half a character": ({SIDECAR: b'{"url": "\\ud800"}'}, f"{SIDECAR}: has url '\\ud800', which is not Unicode text"),
    "list without a tab": (
        {TRAIN_LIST: b"a\tb\nc d\n"},
        f"{TRAIN_LIST}, line 2: has 1 fields; expected caption<TAB>url",
    ),
    "list not UTF-8": ({TRAIN_LIST: b"a\tb\n\xff\td\n"}, f"{TRAIN_LIST}, line 2: is not UTF-8"),
    "list of other images": (
        {VALIDATION_LIST: b"a\tb\n"},
        "validation has no image with a caption; 1 validation images that were not downloaded; 3 validation images"
        f" whose address is not in {VALIDATION_LIST}; expected lines path<TAB>caption in validation_paths.tsv, or",
    ),
    "paths without a tab": (
        {"validation_paths.tsv": b"a.jpg\tb\n\nc d\n"},
        "validation_paths.tsv, line 3: has 1 fields; expected path<TAB>caption",
    ),
    "paths with two tabs": (
        {"train_paths.tsv": b"a\tb\tc"},
        "train_paths.tsv, line 1: has 3 fields; expected path<TAB>",
    ),
    "path outside": ({"train_paths.tsv": b"../a.jpg\tb"}, "train_paths.tsv, line 1: '../a.jpg' leaves the folder"),
    "empty list of paths": ({"train_paths.tsv": b"\n"}, "train_paths.tsv has no image with a caption; expected lines"),
    "too few to draw from": ({"train_paths.tsv": b"a\tb"}, "has 1 training images with a caption; 20 are needed"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_names_the_file(fault: str, downloaded: Path):
    files, message = FAULTS[fault]
    for name, content in files.items():
        if content is None:
            (downloaded / name).rename(downloaded / "elsewhere")
        else:
            (downloaded / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        conceptual_captions.read(downloaded)
    assert str(error.value).startswith("conceptual_captions: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def read_or_refuse(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    try:
        assert isinstance(conceptual_captions.read(folder), Index)
    except DataError as error:
        assert name.partition(".")[0] in str(error)


BYTES = st.binary() | st.text("ab\t\n.", max_size=50).map(str.encode)


@settings(derandomize=True, deadline=None, database=None)
@given(content=BYTES)
def test_any_list_of_paths_is_an_index_or_a_data_error(content: bytes, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.getbasetemp()
    (folder / "train_paths.tsv").write_text("".join(f"{number}.jpg\tb\n" for number in range(20)))
    read_or_refuse(folder, "validation_paths.tsv", content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["caption", "url", "status", "x"]), inner)
    ),
)


@settings(derandomize=True, deadline=None, database=None)
@given(content=st.binary() | JSON.map(json.dumps).map(str.encode))
def test_any_sidecar_is_an_index_or_a_data_error(content: bytes, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.getbasetemp() / "sidecars"
    if not folder.exists():
        folder.mkdir()
        write_image(folder, "validation", 0)
        (folder / "train_paths.tsv").write_text("".join(f"{number}.jpg\tb\n" for number in range(20)))
    read_or_refuse(folder, "validation/00000/000000000.json", content)
