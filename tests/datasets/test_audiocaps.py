"""AudioCaps: what is read of its files, and what is said of bad ones."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets import audiocaps
from bench.datasets.index import Index, Place
from bench.datasets.samples import DataError

HEADER = "audiocap_id,youtube_id,start_time,caption"
LINES = {
    "train": ['97151,vfY_TJq7n_U,130,"Rustling occurs, ducks ""quack"""', "91139,r1nicOVtvkQ,30,A woman talks nearby"],
    "val": ["108945,tdWhHV3X25Q,60,An audience claps", "108946,tdWhHV3X25Q,60,A man yells", "7,tdWhHV3X25Q,0,Wind"],
    "test": ["103549,7fmOlUlwoNg,9,Constant rattling noise"],
}
ALLOWED = "{youtube_id}, {start_time}, {start_ms}, {split}, {audiocap_id}"


def write(folder: Path, **changed: list[str]) -> Path:
    for name, lines in (LINES | changed).items():
        (folder / f"{name}.csv").write_text("\r\n".join([HEADER, *lines, ""]), encoding="utf-8", newline="")
    return folder


def test_rows_of_one_clip_share_match_and_audio(tmp_path: Path):
    index = audiocaps.read(write(tmp_path))
    assert (index.kind, index.folder, index.remarks) == ("audiocaps", tmp_path, ())
    assert [(row.split, row.match, row.audio) for row in index.rows] == [
        ("training", "vfY_TJq7n_U_130", "audio/vfY_TJq7n_U_130.wav"),
        ("training", "r1nicOVtvkQ_30", "audio/r1nicOVtvkQ_30.wav"),
        ("validation", "tdWhHV3X25Q_60", "audio/tdWhHV3X25Q_60.wav"),
        ("validation", "tdWhHV3X25Q_60", "audio/tdWhHV3X25Q_60.wav"),
        ("validation", "tdWhHV3X25Q_0", "audio/tdWhHV3X25Q_0.wav"),
        ("test", "7fmOlUlwoNg_9", "audio/7fmOlUlwoNg_9.wav"),
    ]
    assert index.rows[0].text == 'Rustling occurs, ducks "quack"'
    assert index.rows[0].place == Place("train.csv", 2)
    assert all(row.image is None for row in index.rows)


def test_files_in_the_dataset_folder_are_found(tmp_path: Path):
    (tmp_path / "dataset").mkdir()
    write(tmp_path / "dataset")
    index = audiocaps.read(tmp_path)
    assert len(index.rows) == 6
    assert index.rows[0].place == Place("dataset/train.csv", 2)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{split}/Y{youtube_id}.flac", "val/YtdWhHV3X25Q.flac"),
        ("{youtube_id}_{start_ms}.wav", "tdWhHV3X25Q_60000.wav"),
        # The clip's second caption has another id; the clip is one file all the same.
        ("./clips//{audiocap_id}.wav", "clips/108945.wav"),
    ],
)
def test_template_makes_the_path_of_a_clip(template: str, expected: str, tmp_path: Path):
    write(tmp_path, val=LINES["val"][:2])
    rows = audiocaps.read(tmp_path, template=template).rows
    assert [row.audio for row in rows if row.split == "validation"] == [expected, expected]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{id}.wav", f"has a field {{id}}; allowed are {ALLOWED}"),
        ("{}.wav", f"has a field {{}}; allowed are {ALLOWED}"),
        ("{youtube_id.upper}.wav", f"has a field {{youtube_id.upper}}; allowed are {ALLOWED}"),
        ("{start_time:06}.wav", f"has a field {{start_time:06}}; allowed are {ALLOWED}"),
        ("{youtube_id!r}.wav", f"has a field {{youtube_id!r}}; allowed are {ALLOWED}"),
        ("{youtube_id.wav", f"cannot be read (expected '}}' before end of string); allowed are {ALLOWED}"),
        ("../{youtube_id}.wav", "leaves the folder"),
        ("/data/{youtube_id}.wav", "leaves the folder"),
        ("C:/{youtube_id}.wav", "leaves the folder"),
        ("", "names no file"),
        ("clip.wav", "names r1nicOVtvkQ_30 and vfY_TJq7n_U_130 alike: clip.wav"),
        ("{youtube_id}.wav", "names tdWhHV3X25Q_0 and tdWhHV3X25Q_60 alike: tdWhHV3X25Q.wav"),
    ],
)
def test_template_that_cannot_serve_is_refused(template: str, message: str, tmp_path: Path):
    write(tmp_path)
    with pytest.raises(DataError) as error:
        audiocaps.read(tmp_path, template=template)
    assert message in str(error.value)
    assert f"template {template!r}" in str(error.value)
    assert str(error.value).startswith("audiocaps: ")


FAULTS = {
    "id twice": (
        {"train": [*LINES["train"], "97151,aaaaaaaaaaa,1,Wind"]},
        "train.csv, line 4: has audiocap_id 97151 of line 2 again; expected each once",
    ),
    "clip in two splits": (
        {"test": ["1,r1nicOVtvkQ,30,Wind"]},
        "test.csv, line 2: r1nicOVtvkQ_30 is in test here, but in training before; expected it in one split only",
    ),
    "no id": ({"val": [",r1nicOVtvkQ,30,Wind"]}, "val.csv, line 2: has audiocap_id ''; expected a whole number"),
    "no YouTube id": ({"val": ["1,../etc/pass,30,Wind"]}, "has youtube_id '../etc/pass'; expected 11 letters, digits"),
    "no time": ({"val": ["1,r1nicOVtvkQ,3.5,Wind"]}, "val.csv, line 2: has start_time '3.5'; expected whole seconds"),
    "no caption": ({"val": ["1,aaaaaaaaaaa,30, "]}, "val.csv, line 2: has caption ' '; expected text"),
    "comma without quotes": ({"val": ["1,aaaaaaaaaaa,30,Wind, rain"]}, "val.csv, line 2: has 5 fields; expected 4"),
    "cut off": ({"val": ["1,aaaaaaaaaaa"]}, "val.csv, line 2: has 2 fields; expected 4"),
    "quote left open": ({"val": ['1,aaaaaaaaaaa,30,"Wind']}, "val.csv, line 2: is not a row that can be read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_names_file_and_line(fault: str, tmp_path: Path):
    changed, message = FAULTS[fault]
    write(tmp_path, **changed)
    with pytest.raises(DataError) as error:
        audiocaps.read(tmp_path)
    assert str(error.value).startswith("audiocaps: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_column_are_named(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "val.csv").write_text("audiocap_id,youtube_id,caption\n")
    with pytest.raises(DataError, match=r"audiocaps: val\.csv, line 1: has no column start_time; columns are a"):
        audiocaps.read(tmp_path)
    (tmp_path / "val.csv").unlink()
    with pytest.raises(DataError, match=r"holds none of val\.csv, dataset/val\.csv; one of them is needed"):
        audiocaps.read(tmp_path)


@settings(derandomize=True, deadline=None, database=None)
@given(start=st.sampled_from([b"", HEADER.encode() + b"\n", HEADER.encode() + b"\n1,aaaaaaaaaaa,"]), rest=st.binary())
def test_any_bytes_are_an_index_or_a_data_error(start: bytes, rest: bytes, tmp_path_factory: pytest.TempPathFactory):
    folder = write(tmp_path_factory.getbasetemp())
    (folder / "test.csv").write_bytes(start + rest)
    try:
        assert isinstance(audiocaps.read(folder), Index)
    except DataError as error:
        assert "test.csv" in str(error)
