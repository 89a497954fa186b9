"""Common Voice: what is read of its lists, and what is said of bad ones."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets import common_voice
from bench.datasets.index import Index, Place
from bench.datasets.samples import DataError

HEADER = "client_id\tpath\tsentence\tup_votes"
LINES = {
    "train": ['ann\tcv_1.mp3\tHe said "hm and left\t2', "bob\tcv_2.mp3\tÇa va.\t0"],
    "dev": ["cid\tcv_3.mp3\tA dog.\t2"],
    "test": ["dan\tcv_4.mp3\tA cat, too.\t2"],
}


def write(folder: Path, **changed: list[str]) -> Path:
    for name, lines in (LINES | changed).items():
        (folder / f"{name}.tsv").write_text("\n".join([HEADER, *lines, ""]), encoding="utf-8")
    return folder


def test_rows_are_found_by_column_name_and_quotes_are_text(tmp_path: Path):
    index = common_voice.read(write(tmp_path))
    assert (index.kind, index.folder, index.remarks) == ("common_voice", tmp_path, ())
    assert [(row.split, row.match, row.audio, row.text) for row in index.rows] == [
        ("training", "cv_1.mp3", "clips/cv_1.mp3", 'He said "hm and left'),
        ("training", "cv_2.mp3", "clips/cv_2.mp3", "Ça va."),
        ("validation", "cv_3.mp3", "clips/cv_3.mp3", "A dog."),
        ("test", "cv_4.mp3", "clips/cv_4.mp3", "A cat, too."),
    ]
    assert index.rows[1].place == Place("train.tsv", 3)
    assert all(row.image is None for row in index.rows)


def test_columns_may_stand_in_any_order_and_lines_end_in_any_way(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "dev.tsv").write_bytes(b'\xef\xbb\xbfsentence\tlocale\tpath\tclient_id\r\nA " dog.\ten\tcv_9.mp3\tann')
    (row,) = [row for row in common_voice.read(tmp_path).rows if row.split == "validation"]
    assert (row.text, row.audio) == ('A " dog.', "clips/cv_9.mp3")


def test_clip_of_an_old_release_gets_its_suffix(tmp_path: Path):
    index = common_voice.read(write(tmp_path, test=["dan\t00ab\tA cat.\t2"]))
    assert (index.rows[-1].match, index.rows[-1].audio) == ("00ab.mp3", "clips/00ab.mp3")


def test_empty_sentence_is_left_out_and_remarked_on(tmp_path: Path):
    index = common_voice.read(write(tmp_path, dev=["cid\tcv_3.mp3\t \t2", *LINES["dev"]]))
    assert [row.place for row in index.rows if row.split == "validation"] == [Place("dev.tsv", 3)]
    assert [str(remark) for remark in index.remarks] == ["dev.tsv, line 2: cv_3.mp3 has no sentence; it is left out"]


def test_other_lists_are_read_where_they_are_named(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "train.tsv").rename(tmp_path / "lists" / "validated.tsv")
    index = common_voice.read(tmp_path, train="lists/validated.tsv", validation="test.tsv", test="dev.tsv")
    assert [row.split for row in index.rows] == ["training", "training", "validation", "test"]
    assert [row.match for row in index.rows] == ["cv_1.mp3", "cv_2.mp3", "cv_4.mp3", "cv_3.mp3"]


def test_training_leaves_out_what_the_other_lists_hold(tmp_path: Path):
    """As the documentation has it: --reader train=validated.tsv, whose clips are those of all lists and more."""
    write(tmp_path, validated=["zed\tcv_0.mp3\tNew.\t2", *LINES["dev"], *LINES["train"], *LINES["test"]])
    index = common_voice.read(tmp_path, train="validated.tsv")
    assert [(row.split, row.match) for row in index.rows] == [
        ("training", "cv_0.mp3"), ("training", "cv_1.mp3"), ("training", "cv_2.mp3"),
        ("validation", "cv_3.mp3"), ("test", "cv_4.mp3"),
    ]  # fmt: skip
    assert [str(remark) for remark in index.remarks] == [
        "validated.tsv, line 3: the first of 2 clips of the training list that validation or test lists too; left out"
    ]


@pytest.mark.parametrize("option", ["train", "validation", "test"])
def test_a_list_that_is_no_text_is_refused(option: str, tmp_path: Path):
    with pytest.raises(ValueError) as error:
        common_voice.read(write(tmp_path), **{option: 3})  # pyright: ignore[reportArgumentType]
    expected = f"common_voice: the {option} list is 3; allowed is text, the path of a file under the folder"
    assert str(error.value) == expected and not isinstance(error.value, DataError)


FAULTS = {
    "clip in two splits": (
        {"test": ["dan\tcv_3.mp3\tA cat.\t2"]},
        "test.tsv, line 2: cv_3.mp3 is in test here, but in validation before; expected it in one split only",
    ),
    "path that leaves the folder": (
        {"test": ["dan\t../cv_5.mp3\tA cat.\t2"]},
        "test.tsv, line 2: '../cv_5.mp3' leaves the folder; expected a path under it",
    ),
    "absolute path": ({"test": ["dan\t/cv_5.mp3\tA cat.\t2"]}, "test.tsv, line 2: '/cv_5.mp3' leaves the folder"),
    "no path": ({"test": ["dan\t\tA cat.\t2"]}, "test.tsv, line 2: '' names no file"),
    "too few fields": ({"dev": ["cid\tcv_3.mp3"]}, "dev.tsv, line 2: has 2 fields; expected 4"),
    "too many fields": ({"dev": ["cid\tcv_3.mp3\tA\tdog.\t2"]}, "dev.tsv, line 2: has 5 fields; expected 4"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_names_file_and_line(fault: str, tmp_path: Path):
    changed, message = FAULTS[fault]
    write(tmp_path, **changed)
    with pytest.raises(DataError) as error:
        common_voice.read(tmp_path)
    assert str(error.value).startswith("common_voice: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_column_are_named(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "dev.tsv").write_text("client_id\tpath\n")
    with pytest.raises(DataError, match=r"common_voice: dev\.tsv, line 1: has no column sentence; columns are cl"):
        common_voice.read(tmp_path)
    with pytest.raises(DataError, match=r"holds none of other\.tsv"):
        common_voice.read(tmp_path, validation="other.tsv")
    with pytest.raises(DataError, match=r"the validation list: '\.\./dev\.tsv' leaves the folder"):
        common_voice.read(tmp_path, validation="../dev.tsv")


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "dev.tsv").write_bytes(HEADER.encode() + b"\ncid\tcv_3.mp3\t\xc7a va.\t2\n")
    with pytest.raises(DataError, match=r"common_voice: dev\.tsv: is not UTF-8 \(invalid continuation byte at byte"):
        common_voice.read(tmp_path)


@settings(derandomize=True, deadline=None, database=None)
@given(start=st.sampled_from([b"", HEADER.encode() + b"\n", HEADER.encode() + b"\nann\tx\t"]), rest=st.binary())
def test_any_bytes_are_an_index_or_a_data_error(start: bytes, rest: bytes, tmp_path_factory: pytest.TempPathFactory):
    folder = write(tmp_path_factory.getbasetemp())
    (folder / "test.tsv").write_bytes(start + rest)
    try:
        assert isinstance(common_voice.read(folder), Index)
    except DataError as error:
        assert "test.tsv" in str(error)
