"""Flickr8k's annotations: every form of them, every fault, and the real files where BENCH_DATA names their folder."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets.flickr8k import KIND, read, read_clips, speakers
from bench.datasets.flickr_files import read_token
from bench.datasets.index import Index
from bench.datasets.samples import DataError

IMAGES = tuple(f"{letter}.jpg" for letter in "abcdefgh")
TOKEN, TABLE, KARPATHY = "Flickr8k.token.txt", "captions.txt", "dataset_flickr8k.json"
TRAINING, VALIDATION, TEST = (f"Flickr_8k.{name}Images.txt" for name in ("train", "dev", "test"))
WAV2CAPT, WAV2SPK = "flickr_audio/wav2capt.txt", "flickr_audio/wav2spk.txt"
LISTS = {TRAINING: ("c.jpg", "a.jpg", "b.jpg"), VALIDATION: ("d.jpg",), TEST: ("f.jpg", "e.jpg")}
ANY_FILE = settings(derandomize=True, deadline=None, database=None, max_examples=150)


def say(image: str, number: int) -> str:
    return f'Dog {number} of {image} , "here" .'


def write_token(folder: Path, name: str = TOKEN) -> None:
    lines = [f"{image}#{n}\t{say(image, n)}\n" for image in IMAGES for n in range(5)]
    (folder / name).write_text("".join(lines))


def write_table(folder: Path) -> None:
    quoted = [(image, say(image, n).replace('"', '""')) for image in IMAGES for n in range(5)]
    (folder / TABLE).write_text("image,caption\n" + "".join(f'{image},"{text}"\n' for image, text in quoted))


def write_karpathy(folder: Path) -> None:
    splits = {**dict.fromkeys("abch", "train"), "d": "val", "e": "test", "f": "test"}
    images = [
        {"filename": f"{x}.jpg", "split": split, "sentences": [{"raw": say(f"{x}.jpg", n)} for n in range(5)]}
        for x, split in splits.items()
    ]
    (folder / KARPATHY).write_text(json.dumps({"images": images}))


def write_lists(folder: Path) -> None:
    for name, images in LISTS.items():
        (folder / name).write_text("".join(f"{image}\n" for image in images))


def write_audio(folder: Path) -> None:
    (folder / "flickr_audio").mkdir()
    clips = [(image, n) for images in LISTS.values() for image in images for n in (3, 0, 1, 2, 4)]
    (folder / WAV2CAPT).write_text("".join(f"{i[0]}_{n}.wav {i} #{n}\n" for i, n in clips))
    (folder / WAV2SPK).write_text("".join(f"{i[0]}_{n}.wav {n % 2 + 7}\n" for i, n in clips))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images in the lists, two in none; every caption of the six is spoken."""
    write_token(tmp_path)
    write_lists(tmp_path)
    write_audio(tmp_path)
    return tmp_path


def texts(index: Index) -> list[tuple[str, str, str | None]]:
    return [(row.split, row.match, row.text) for row in index.rows]


EXPECTED = [
    (split, image, say(image, n))
    for split, name in (("training", TRAINING), ("validation", VALIDATION), ("test", TEST))
    for image in LISTS[name]
    for n in range(5)
]


def test_rows_are_in_the_order_of_the_lists_and_of_the_caption_numbers(folder: Path):
    lines = (folder / TOKEN).read_text().splitlines(keepends=True)
    (folder / TOKEN).write_text("".join(reversed(lines)))
    index = read(folder)
    assert texts(index) == EXPECTED
    assert (index.kind, index.folder) == ("flickr8k", folder)
    assert index.rows[0].image == "Flicker8k_Dataset/c.jpg"
    assert index.rows[0].audio is None
    assert str(index.rows[0].place) == f"{TOKEN}, line {len(lines) - 10}"
    assert [str(remark) for remark in index.remarks] == [
        f"{TOKEN}, line 1: 2 images with captions are in no split; left out"
    ]


@pytest.mark.parametrize("annotations", ["token", "captions", "karpathy"])
@pytest.mark.parametrize("place", ["", "Flickr8k_text"])
def test_every_form_gives_the_same_rows(annotations: str, place: str, tmp_path: Path):
    (tmp_path / place).mkdir(exist_ok=True)
    for write in (write_token, write_table, write_karpathy, write_lists):
        write(tmp_path / place)
    assert texts(read(tmp_path, annotations=annotations)) == EXPECTED


def test_first_form_that_is_there_is_read(folder: Path):
    write_table(folder)
    write_karpathy(folder)
    for name in (TOKEN, TABLE, KARPATHY):
        assert {row.place.file for row in read(folder).rows} == {name}
        (folder / name).unlink()
    with pytest.raises(DataError, match=r"^flickr8k: .* holds none of Flickr8k\.token\.txt, .*captions\.txt, .*json"):
        read(folder)


@pytest.mark.parametrize("name", ["Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images"])
def test_image_folder_in_every_spelling(name: str, folder: Path):
    (folder / name).mkdir()
    assert read(folder).rows[0].image == f"{name}/c.jpg"


def test_splits_of_karpathy_are_in_the_order_of_the_file(folder: Path):
    write_karpathy(folder)
    index = read(folder, splits="karpathy")
    assert [row.match[0] for row in index.rows[::5]] == list("abchdef")
    assert Counter(row.split for row in index.rows) == {"training": 20, "validation": 5, "test": 10}
    assert {row.place.file for row in index.rows} == {TOKEN}
    for name in LISTS:
        (folder / name).unlink()
    assert read(folder) == index


def test_drawn_splits_are_fixed_by_the_names(tmp_path: Path):
    write_token(tmp_path)
    index = read(tmp_path, splits="drawn")
    split_of = {row.match: row.split for row in index.rows}
    assert [row.match for row in index.rows[::5]] == list(IMAGES)
    # SHA-256 of "h.jpg" is 10ee…, of "e.jpg" 1afd…, the two smallest of the eight
    assert {image: split for image, split in split_of.items() if split != "training"} == {
        "h.jpg": "test",
        "e.jpg": "validation",
    }
    assert index.remarks == ()


def test_drawn_splits_with_audio_leave_out_images_without_clips(folder: Path):
    for number in range(5):
        append(WAV2CAPT, f"h_{number}.wav h.jpg #{number}")(folder)
    spoken = {row.match: row.split for row in read(folder, splits="drawn", audio=True).rows}
    every = {row.match: row.split for row in read(folder, splits="drawn").rows}
    assert spoken == {image: split for image, split in every.items() if image != "g.jpg"}


def test_without_splits_the_error_says_what_is_needed_and_that_they_can_be_drawn(tmp_path: Path):
    write_token(tmp_path)
    with pytest.raises(DataError) as error:
        read(tmp_path)
    for part in ("flickr8k", TRAINING, VALIDATION, TEST, KARPATHY, 'splits = "drawn"'):
        assert part in str(error.value)


def test_options_that_are_not_allowed(folder: Path):
    with pytest.raises(ValueError, match="flickr8k: annotations is 'csv'; allowed are token, captions, karpathy"):
        read(folder, annotations="csv")
    with pytest.raises(ValueError, match="flickr8k: splits is 'random'; allowed are lists, karpathy, drawn"):
        read(folder, splits="random")


def test_line_ends_blanks_and_byte_order_marks_change_nothing(folder: Path):
    before = read(folder, audio=True)
    for name in (TOKEN, TRAINING, VALIDATION, TEST, WAV2CAPT):
        lines = (folder / name).read_bytes().split(b"\n")
        (folder / name).write_bytes(b"\xef\xbb\xbf" + b" \t\r\n".join(lines).rstrip())
    assert read(folder, audio=True) == before


def test_table_with_quoted_commas_and_line_breaks(folder: Path):
    rows = "".join(f'{image},"A dog ,{n}\nand ""a"" cat"\r\n' for n in range(5) for image in IMAGES)
    (folder / TABLE).write_bytes(b"image,caption\r\n" + rows.encode())
    row = read(folder, annotations="captions").rows[0]
    assert row.text == 'A dog ,0\nand "a" cat'
    assert str(row.place) == "captions.txt, line 7"  # the third row of two lines each, after the header


def test_misnamed_image_is_left_out_by_name(folder: Path):
    good, bad = "2258277193_586949ec62.jpg", "2258277193_586949ec62.jpg.1"
    with (folder / TOKEN).open("a") as file:
        file.write(f"{bad}#0\ta\n" + "".join(f"{good}#{n}\tb\n" for n in range(1, 5)))
    for splits in ("lists", "drawn"):
        index = read(folder, splits=splits)
        assert str(index.remarks[0]) == f"{TOKEN}, line 41: {bad} is a known fault; left out with {good}, 5 captions"
        assert {row.match for row in index.rows} <= set(IMAGES)


def test_fewer_captions_than_five_are_remarked_on_once(folder: Path):
    drop(TOKEN, "a.jpg#2")(folder)
    drop(TOKEN, "c.jpg#4")(folder)
    index = read(folder)
    assert len(index.rows) == 28
    assert "2 images have fewer than 5 captions, the first c.jpg" in str(index.remarks[-1])


# ---- audio


@pytest.mark.parametrize("annotations", ["token", "captions", "karpathy"])
def test_every_caption_has_its_clip(annotations: str, folder: Path):
    write_table(folder)
    write_karpathy(folder)
    index = read(folder, audio=True, annotations=annotations)
    assert texts(index) == EXPECTED
    for n, row in enumerate(index.rows):
        assert row.audio == f"flickr_audio/wavs/{row.match[0]}_{n % 5}.wav"


def test_clips_of_images_in_no_split_are_counted(folder: Path):
    append(WAV2CAPT, "g_0.wav g.jpg #0")(folder)
    index = read(folder, audio=True)
    assert len(index.rows) == 30
    assert f"{WAV2CAPT}, line 31: 1 clips are of images in no split; left out" in map(str, index.remarks)


def test_speakers(folder: Path):
    assert Counter(speakers(folder).values()) == {"7": 18, "8": 12}
    assert speakers(folder)["a_1.wav"] == "8"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("z.wav", "has 1 fields; expected <wav> <speaker>"),
        ("z.wav 1 2", "has 3 fields; expected <wav> <speaker>"),
        ("a_1.wav 9", "names a_1.wav again; expected each clip once"),
    ],
)
def test_faults_of_the_speakers(line: str, message: str, folder: Path):
    append(WAV2SPK, line)(folder)
    with pytest.raises(DataError) as error:
        speakers(folder)
    assert str(error.value) == f"flickr8k: {WAV2SPK}, line 31: {message}"


# ---- faults

Damage = Callable[[Path], object]


def append(name: str, line: str) -> Damage:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + line + "\n")


def drop(name: str, start: str) -> Damage:
    def drop_(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(line for line in lines if not line.startswith(start)))

    return drop_


def replace(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


TABLE_HEAD = b"image,caption\n"
FAULTS: Mapping[str, tuple[Damage, str]] = {
    "no tab": (append(TOKEN, "i.jpg#0 a dog"), f"{TOKEN}, line 41: is 'i.jpg#0 a dog'; expected <image>#<0-4><tab>"),
    "no caption": (
        append(TOKEN, "i.jpg#0\t "),
        f"{TOKEN}, line 41: is 'i.jpg#0'; expected <image>#<0-4><tab><caption>",
    ),
    "no image": (append(TOKEN, "#0\ta"), f"{TOKEN}, line 41: is '#0\\ta'; expected <image>#<0-4><tab><caption>"),
    "number too high": (
        append(TOKEN, "i.jpg#5\ta"),
        f"{TOKEN}, line 41: has the caption number '5'; allowed are 0 to 4",
    ),
    "number of two digits": (append(TOKEN, "i.jpg#00\ta"), f"{TOKEN}, line 41: has the caption number '00'; allowed"),
    "number of another script": (replace(TOKEN, "i.jpg#٣\ta".encode()), f"{TOKEN}, line 1: has the caption number '٣'"),
    "number twice": (
        append(TOKEN, "b.jpg#1\ta"),
        f"{TOKEN}, line 41: is caption 1 of b.jpg, as {TOKEN}, line 7 is; expected each number once",
    ),
    "image elsewhere": (append(TOKEN, "../i.jpg#0\ta"), f"{TOKEN}, line 41: '../i.jpg' leaves the folder; expected a"),
    "no UTF-8": (replace(TOKEN, b"a.jpg#0\ta\nb.jpg#0\t\xff\n"), f"{TOKEN}, line 2: is not UTF-8"),
    "no captions at all": (replace(TOKEN, b"\n \n"), f"{TOKEN}: has no captions; expected one or more"),
    "twice in a list": (
        append(TRAINING, "a.jpg"),
        f"{TRAINING}, line 4: lists a.jpg for training, which {TRAINING}, line 2 lists for training; expected each",
    ),
    "in two lists": (
        append(TEST, "d.jpg"),
        f"{TEST}, line 3: lists d.jpg for test, which {VALIDATION}, line 1 lists for validation; expected each",
    ),
    "listed without captions": (
        append(VALIDATION, "z.jpg"),
        f"{VALIDATION}, line 2: lists z.jpg, which has no caption; expected one or more",
    ),
    "empty list": (replace(TEST, b""), "splits: no image is in test; expected images in training, validation and test"),
    "missing list": (lambda folder: (folder / TEST).unlink(), f"holds none of {TEST}, Flickr8k_text/{TEST}; one of"),
    "clip of two fields": (append(WAV2CAPT, "g.wav g.jpg"), f"{WAV2CAPT}, line 31: is 'g.wav g.jpg'; expected <wav> <"),
    "clip without the sign": (
        append(WAV2CAPT, "g.wav g.jpg 0"),
        f"{WAV2CAPT}, line 31: is 'g.wav g.jpg 0'; expected <",
    ),
    "clip of caption 7": (
        append(WAV2CAPT, "g.wav g.jpg #7"),
        f"{WAV2CAPT}, line 31: has the caption number '7'; allow",
    ),
    "clip twice": (
        append(WAV2CAPT, "a_3.wav g.jpg #0"),
        f"{WAV2CAPT}, line 31: names a_3.wav, as {WAV2CAPT}, line 6 does; expected each clip once",
    ),
    "two clips of a caption": (
        append(WAV2CAPT, "a_5.wav a.jpg #3"),
        f"{WAV2CAPT}, line 31: is caption 3 of a.jpg, as {WAV2CAPT}, line 6 is; expected one clip a caption",
    ),
    "caption without a clip": (
        drop(WAV2CAPT, "a_3.wav"),
        f"{TOKEN}, line 4: caption 3 of a.jpg has no clip in {WAV2CAPT}; expected one a caption of a split",
    ),
    "clip without a caption": (
        drop(TOKEN, "a.jpg#3"),
        f"{WAV2CAPT}, line 6: a_3.wav speaks caption 3 of a.jpg, which is not among the captions; expected a caption",
    ),
    "no list of clips": (lambda folder: (folder / WAV2CAPT).unlink(), f"holds none of {WAV2CAPT}; one of them is"),
}
TABLE_FAULTS: Mapping[str, tuple[bytes, str]] = {
    "other columns": (b"image,text\na.jpg,x\n", f"{TABLE}, line 1: has no column caption; columns are image, text"),
    "comma not quoted": (TABLE_HEAD + b"a.jpg,a dog, a cat\n", f"{TABLE}, line 2: has 3 fields; expected 2"),
    "no caption": (TABLE_HEAD + b"a.jpg,\n", f"{TABLE}, line 2: has '' for the caption; expected text"),
    "six captions": (
        TABLE_HEAD + 6 * b"a.jpg,a\n",
        f"{TABLE}, line 7: is caption 6 of a.jpg; allowed are 5 an image",
    ),
}


def check_fault(folder: Path, message: str, **options: object) -> None:
    with pytest.raises(DataError) as error:
        read(folder, **options)
    assert str(error.value).startswith("flickr8k: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_one_line_that_names_the_set_the_file_and_the_line(name: str, folder: Path):
    damage, message = FAULTS[name]
    damage(folder)
    check_fault(folder, message, audio=True)


@pytest.mark.parametrize("name", TABLE_FAULTS)
def test_fault_of_the_table(name: str, folder: Path):
    content, message = TABLE_FAULTS[name]
    (folder / TABLE).write_bytes(content)
    check_fault(folder, message, annotations="captions")


def test_too_few_images_to_draw_splits(tmp_path: Path):
    (tmp_path / TOKEN).write_text("a.jpg#0\ta\nb.jpg#0\tb\n")
    check_fault(tmp_path, "2 images have captions; expected 3 or more to draw three splits", splits="drawn")


# ---- any bytes

LINES = st.one_of(
    st.builds("{}#{}\t{}".format, st.sampled_from("abcd"), st.integers(0, 5), st.text(max_size=3)).map(str.encode),
    st.binary(max_size=12),
)
CONTENTS = st.one_of(st.binary(max_size=60), st.lists(LINES, max_size=12).map(b"\n".join))


@ANY_FILE
@given(content=CONTENTS, form=st.sampled_from([(TOKEN, "token"), (TABLE, "captions"), (KARPATHY, "karpathy")]))
def test_any_bytes_are_an_index_or_a_data_error(
    content: bytes, form: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.getbasetemp() / "any_flickr8k"
    folder.mkdir(exist_ok=True)
    name, annotations = form
    (folder / name).write_bytes(b"image,caption\n" + content.replace(b"\t", b",") if name == TABLE else content)
    try:
        index = read(folder, annotations=annotations, splits="drawn")
    except DataError as error:
        assert str(error).startswith("flickr8k: ")
    else:
        assert {row.split for row in index.rows} == {"training", "validation", "test"}
        assert all(row.text and row.text == row.text.strip() for row in index.rows)


@ANY_FILE
@given(content=st.one_of(st.binary(max_size=60), st.from_regex(rb"([ab]_[0-5] [ab] #[0-5]\n){0,4}", fullmatch=True)))
def test_any_bytes_are_clips_and_speakers_or_a_data_error(content: bytes, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.getbasetemp() / "any_flickr8k"
    folder.mkdir(exist_ok=True)
    (folder / "flickr_audio").mkdir(exist_ok=True)
    for name, parse in ((WAV2CAPT, read_clips), (WAV2SPK, speakers)):
        (folder / name).write_bytes(content)
        try:
            parse(folder)
        except DataError as error:
            assert str(error).startswith(f"flickr8k: {name}, line ")


# ---- the real files


@pytest.fixture(scope="module")
def real() -> Path:
    folder = os.environ.get("BENCH_DATA")
    if not folder or not (Path(folder) / "flickr8k" / TOKEN).is_file():
        pytest.skip("BENCH_DATA names no folder of real data")
    return Path(folder) / "flickr8k"


def test_real_captions(real: Path):
    captions, _ = read_token(KIND, real, real / TOKEN)
    assert sum(map(len, captions.values())) == 40_460
    assert len({image.removesuffix(".1") for image in captions}) == 8_092


def test_real_set_has_the_published_splits_and_one_misnamed_image(real: Path):
    index = read(real)
    assert Counter(row.split for row in index.rows) == {"training": 30_000, "validation": 5_000, "test": 5_000}
    assert len({row.match for row in index.rows}) == 8_000
    misnamed, unlisted = map(str, index.remarks)
    assert "line 6731: 2258277193_586949ec62.jpg.1 is a known fault; left out with" in misnamed
    assert misnamed.endswith("5 captions")
    assert unlisted.endswith("91 images with captions are in no split; left out")


def test_real_corpus_speaks_every_caption_of_the_splits(real: Path):
    index = read(real, audio=True)
    clips = {row.audio for row in index.rows}
    assert len(index.rows) == len(clips) == 40_000
    found = speakers(real)
    assert {f"flickr_audio/wavs/{wav}" for wav in found} == clips
    assert len(set(found.values())) == 183
    assert len(index.remarks) == 2


def test_real_captions_drawn(real: Path):
    assert Counter(row.split for row in read(real, splits="drawn").rows) == {
        "training": 6_069 * 5,  # of the 8,091 images that have photographs
        "validation": 1_011 * 5,
        "test": 1_011 * 5,
    }
