"""A user's own folder: what is read of its manifest, and what is said of a bad one."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets import manifest
from bench.datasets.index import Index, Place, Remark, inside
from bench.datasets.samples import DataError

GOOD = """split,text,image
training,"a dog, asleep",images/1.jpg
val,a cat,images/2.jpg
test,a bird,images/3.jpg
"""
SPLITS = "training, train, validation, val, dev, test"


def write_csv(folder: Path, text: str) -> Path:
    (folder / "manifest.csv").write_text(text, encoding="utf-8")
    return folder


def write_jsonl(folder: Path, *rows: object) -> Path:
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def good_rows() -> list[dict[str, object]]:
    return [{"split": split, "text": split, "audio": f"{split}.wav"} for split in ("train", "validation", "test")]


def matches(folder: Path) -> list[str]:
    return [row.match for row in manifest.read(folder).rows if row.split == "training"]


def test_csv_is_read_by_column(tmp_path: Path):
    index = manifest.read(write_csv(tmp_path, GOOD))
    assert (index.kind, index.folder, index.remarks) == ("manifest", tmp_path, ())
    assert [(row.split, row.text, row.image, row.audio, row.match) for row in index.rows] == [
        ("training", "a dog, asleep", "images/1.jpg", None, "images/1.jpg"),
        ("validation", "a cat", "images/2.jpg", None, "images/2.jpg"),
        ("test", "a bird", "images/3.jpg", None, "images/3.jpg"),
    ]
    assert index.rows[2].place == Place("manifest.csv", 4)


def test_jsonl_is_read_by_key(tmp_path: Path):
    first, *others = good_rows()
    index = manifest.read(write_jsonl(tmp_path, first | {"image": None, "match": 7}, *others))
    assert [(row.split, row.text, row.image, row.audio, row.match) for row in index.rows] == [
        ("training", "train", None, "train.wav", "7"),
        ("validation", "validation", None, "validation.wav", "validation.wav"),
        ("test", "test", None, "test.wav", "test.wav"),
    ]
    assert index.rows[1].place == Place("manifest.jsonl", 2)


def test_image_and_audio_without_text_are_enough(tmp_path: Path):
    lines = ["split,audio,image", "train,1.wav,1.jpg", "dev,2.wav,2.jpg", "test,3.wav,3.jpg"]
    row = manifest.read(write_csv(tmp_path, "\r\n".join(lines))).rows[0]
    assert (row.text, row.image, row.audio, row.match) == (None, "1.jpg", "1.wav", "1.jpg")


def test_another_file_is_read_where_it_is_named(tmp_path: Path):
    write_csv(tmp_path, GOOD)
    (tmp_path / "lists").mkdir()
    (tmp_path / "manifest.csv").rename(tmp_path / "lists" / "mine.csv")
    assert manifest.read(tmp_path, file="lists/mine.csv").rows[0].place == Place("lists/mine.csv", 2)


HELD_OUT = "test,a,y.jpg,y.wav,\ndev,a,z.jpg,z.wav,\n"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["1.jpg,1.wav,", "2.jpg,2.wav,"], ["1.jpg", "2.jpg"]),
        (["1.jpg,1.wav,", "1.jpg,2.wav,"], ["1.jpg", "1.jpg"]),
        (["1.jpg,1.wav,", "./1.jpg,2.wav,"], ["1.jpg", "1.jpg"]),
        (["1.jpg,1.wav,", "2.jpg,1.wav,"], ["1.jpg", "1.jpg"]),
        # The last row ties the first, by its image, to the second, by its clip.
        (["1.jpg,1.wav,", "2.jpg,2.wav,", "3.jpg,3.wav,", "1.jpg,2.wav,"], ["1.jpg", "1.jpg", "3.jpg", "1.jpg"]),
        (["1.jpg,1.wav,", "2.jpg,2.wav,", "2.jpg,1.wav,"], ["1.jpg", "1.jpg", "1.jpg"]),
        # A match of one's own is kept, and does not tie others.
        (["1.jpg,1.wav,m", "1.jpg,2.wav,", "3.jpg,2.wav,m"], ["m", "1.jpg", "m"]),
    ],
)
def test_rows_that_share_an_image_or_a_clip_are_positives(lines: list[str], expected: list[str], tmp_path: Path):
    text = "split,text,image,audio,match\n" + "".join(f"train,a,{line}\n" for line in lines) + HELD_OUT
    assert matches(write_csv(tmp_path, text)) == expected


@settings(derandomize=True, deadline=None, database=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_matches_are_the_connected_groups(pairs: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory):
    lines = "".join(f"train,a,{image}.jpg,{clip}.wav,\n" for image, clip in pairs)
    found = matches(write_csv(tmp_path_factory.getbasetemp(), "split,text,image,audio,match\n" + lines + HELD_OUT))
    groups = [{index} for index in range(len(pairs))]
    for _ in pairs:  # merged until nothing can change any more
        for i, one in enumerate(pairs):
            for j, other in enumerate(pairs):
                if one[0] == other[0] or one[1] == other[1]:
                    groups[i] |= groups[j]
                    groups[j] |= groups[i]
    assert found == [f"{pairs[min(group)][0]}.jpg" for group in groups]


def test_unknown_columns_are_one_remark(tmp_path: Path):
    text = "split,text,image,mood,\ntrain,a,1.jpg,good,\nval,a,2.jpg,bad,\ntest,a,3.jpg,,x\n"
    expected = "ignored: 'mood', ''; columns are split, text, image, audio, match"
    assert manifest.read(write_csv(tmp_path, text)).remarks == (Remark(Place("manifest.csv", 2), expected),)


def test_unknown_keys_are_one_remark(tmp_path: Path):
    first, *others = good_rows()
    write_jsonl(tmp_path, first, *(row | {"Mood": [1], "x": None} for row in others))
    expected = "ignored: 'Mood', 'x'; columns are split, text, image, audio, match"
    assert manifest.read(tmp_path).remarks == (Remark(Place("manifest.jsonl", 2), expected),)


CSV_FAULTS = {
    "no split column": ("text,image\n", "manifest.csv, line 1: has no column split; columns are text, image"),
    "column twice": ("split,text,image,text\n", "manifest.csv, line 1: has more than one column text"),
    "unknown split": (
        GOOD.replace("val,", "eval,"),
        f"manifest.csv, line 3: has split 'eval'; allowed are {SPLITS}",
    ),
    "no rows": ("split,text,image\n", "manifest.csv: has no rows of test, training, validation; each split needs some"),
    "split missing": (GOOD.replace("val,", "train,"), "manifest.csv: has no rows of validation; each split needs some"),
    "one modality": (
        "split,text\ntrain,a\n",
        "manifest.csv, line 2: has text; at least two of text, image, audio are needed",
    ),
    "other modalities": (
        GOOD.replace("text,image", "text,image,audio").replace(".jpg", ".jpg,").replace("2.jpg,", "2.jpg,2.wav"),
        "manifest.csv, line 3: has text and image and audio; manifest.csv, line 2 has text and image, and all rows",
    ),
    "nothing": ("split,text,image\ntrain,,\n", "manifest.csv, line 2: has nothing; at least two of text, image, audio"),
    "path outside": (
        GOOD.replace("images/2", "../2"),
        "manifest.csv, line 3: '../2.jpg' leaves the folder; expected a path under it with / between its parts",
    ),
    "absolute path": (GOOD.replace("images/2", "/images/2"), "manifest.csv, line 3: '/images/2.jpg' leaves the folder"),
    "Windows path": (GOOD.replace("images/2", "images\\2"), "line 3: 'images\\\\2.jpg' leaves the folder"),
    "folder for a file": (GOOD.replace("images/2.jpg", "."), "manifest.csv, line 3: '.' names no file"),
    "image in two splits": (
        GOOD.replace("images/3", "images/1"),
        "manifest.csv, line 4: images/1.jpg is in test here, but in training before; expected it in one split only",
    ),
    "comma without quotes": (GOOD.replace("a cat", "a cat, asleep"), "manifest.csv, line 3: has 4 fields; expected 3"),
    "quote left open": (GOOD.replace("a bird", '"a bird'), "manifest.csv, line 4: is not a row that can be read"),
    "quote that ends early": (GOOD.replace("a cat", '"a" cat'), "manifest.csv, line 3: is not a row that can be read"),
    "quote in the header": ('"split" ,text\n', "manifest.csv, line 1: is not a row that can be read"),
}


@pytest.mark.parametrize("fault", CSV_FAULTS)
def test_fault_of_a_csv_names_file_and_line(fault: str, tmp_path: Path):
    text, message = CSV_FAULTS[fault]
    with pytest.raises(DataError) as error:
        manifest.read(write_csv(tmp_path, text))
    assert str(error.value).startswith("manifest: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


JSONL_FAULTS = {
    "no JSON": ("split,text", "manifest.jsonl, line 2: is not JSON (Expecting value"),
    "a list": ("[1]", "manifest.jsonl, line 2: is no JSON object; expected one with keys of split, text, image, audio"),
    "a number of many digits": ("1" * 5000, "manifest.jsonl, line 2: is not JSON (Exceeds the limit"),
    "no split": ('{"text": "a"}', f"manifest.jsonl, line 2: has split ''; allowed are {SPLITS}"),
    "split no text": ('{"split": 1}', "manifest.jsonl, line 2: has split 1; expected text"),
    "path no text": (
        '{"split": "val", "audio": ["1.wav"]}',
        "manifest.jsonl, line 2: has audio ['1.wav']; expected text",
    ),
    "match no text": ('{"split": "val", "match": true}', "manifest.jsonl, line 2: has match True; expected text"),
    "half a character": ('{"split": "\\udc00"}', "line 2: has split '\\udc00', which is not Unicode text"),
    "path outside": ('{"split": "val", "text": "a", "audio": "a/../../b"}', "line 2: 'a/../../b' leaves the folder"),
    "path of a drive": ('{"split": "val", "text": "a", "audio": "C:b"}', "line 2: 'C:b' leaves the folder"),
    "path with a zero": ('{"split": "val", "text": "a", "audio": "\\u0000"}', "line 2: '\\x00' leaves the folder"),
    "empty text": (
        '{"split": "val", "text": " ", "audio": "2.wav"}',
        "manifest.jsonl, line 2: has audio; at least two of text, image, audio are needed",
    ),
}


@pytest.mark.parametrize("fault", JSONL_FAULTS)
def test_fault_of_a_jsonl_names_file_and_line(fault: str, tmp_path: Path):
    line, message = JSONL_FAULTS[fault]
    first, _, last = map(json.dumps, good_rows())
    (tmp_path / "manifest.jsonl").write_text("\n".join([first, line, last]))
    with pytest.raises(DataError) as error:
        manifest.read(tmp_path)
    assert str(error.value).startswith("manifest: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_manifest_must_be_one_file_of_a_known_kind(tmp_path: Path):
    with pytest.raises(DataError, match=r"holds none of manifest\.csv, manifest\.jsonl; one of them is needed"):
        manifest.read(tmp_path)
    write_jsonl(write_csv(tmp_path, GOOD), *good_rows())
    with pytest.raises(DataError, match=r"holds both manifest\.csv and manifest\.jsonl; name one of them"):
        manifest.read(tmp_path)
    assert manifest.read(tmp_path, file="manifest.jsonl").rows[0].audio == "train.wav"
    with pytest.raises(DataError, match=r"manifest: the manifest's name: '\.\./manifest\.csv' leaves the folder"):
        manifest.read(tmp_path, file="../manifest.csv")
    (tmp_path / "manifest.txt").touch()
    with pytest.raises(DataError, match=r"manifest\.txt is of an unknown kind; allowed are \.csv and \.jsonl"):
        manifest.read(tmp_path, file="manifest.txt")


@settings(derandomize=True, deadline=None, database=None)
@given(name=st.text("ab./\\: C", max_size=8))
def test_path_inside_cannot_leave_the_folder(name: str):
    try:
        path = inside("manifest", "here", name)
    except DataError as error:
        assert str(error).startswith("manifest: here: ")
    else:
        assert ".." not in path.split("/")
        assert not path.startswith("/")
        assert (Path("data") / path).relative_to("data").as_posix() == path


VALUE = st.none() | st.integers() | st.text(max_size=4) | st.sampled_from(["train", "dev", "test", "a.jpg", "b.wav"])
ROW = st.dictionaries(st.sampled_from(["split", "text", "image", "audio", "match", "x"]), VALUE)


@settings(derandomize=True, deadline=None, database=None)
@given(
    name=st.sampled_from(["any.csv", "any.jsonl"]),
    start=st.sampled_from([b"", b"split,text,image\ntrain,a,b\n", b'{"split": "train", "text": "a", "image": "b"}\n']),
    rest=st.binary() | st.lists(ROW, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
)
def test_any_bytes_are_an_index_or_a_data_error(
    name: str, start: bytes, rest: bytes, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.getbasetemp()
    (folder / name).write_bytes(start + rest)
    try:
        assert isinstance(manifest.read(folder, file=name), Index)
    except DataError as error:
        assert name in str(error)
