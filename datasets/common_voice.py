"""Common Voice: sentences read aloud by volunteers, one language a folder.

    train.tsv, dev.tsv, test.tsv      with a header; of its columns client_id, path and sentence are needed
    clips/<path>                      MP3

The columns differ between releases and are found by name. There is no quoting: a " is part of the sentence. The oldest
releases give `path` without its .mp3.

Ardila et al., "Common Voice: A Massively-Multilingual Speech Corpus", https://arxiv.org/abs/1912.06670
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.datasets.index import Index, Place, Remark, Row, claim, first_of, inside, read_table
from bench.datasets.samples import Split

KIND = "common_voice"
COLUMNS = ("client_id", "path", "sentence")


class _Clip(NamedTuple):
    """A line of a list; its sentence may be empty."""

    place: Place
    name: str
    sentence: str


def read(folder: Path, *, train: str = "train.tsv", validation: str = "dev.tsv", test: str = "test.tsv") -> Index:
    """The clips of three lists under `folder`, whose names the arguments give; a row's `match` is its `path`.

    Clips of the training list that validation or test lists too are left out, with one remark: `validated.tsv` holds
    them all. A clip without a sentence is left out and remarked on. Raises `DataError` for a clip that is in validation
    and test.
    """
    clips: dict[Split, list[_Clip]] = {
        "training": list(_listed(folder, "train", train)),
        "validation": list(_listed(folder, "validation", validation)),
        "test": list(_listed(folder, "test", test)),
    }
    held_out: dict[str, Split] = {}  # by clip
    for split in ("validation", "test"):
        for clip in clips[split]:
            claim(KIND, clip.place, clip.name, split, held_out)
    rows: list[Row] = []
    remarks: list[Remark] = []
    if twice := [clip.place for clip in clips["training"] if clip.name in held_out]:
        text = f"the first of {len(twice):,} clips of the training list that validation or test lists too; left out"
        remarks.append(Remark(twice[0], text))
        clips["training"] = [clip for clip in clips["training"] if clip.name not in held_out]
    for split, listed in clips.items():
        for place, name, sentence in listed:
            if sentence:
                rows.append(Row(split=split, match=name, place=place, text=sentence, audio=f"clips/{name}"))
            else:
                remarks.append(Remark(place, f"{name} has no sentence; it is left out"))
    return Index(kind=KIND, folder=folder, rows=tuple(rows), remarks=tuple(remarks))


def _listed(folder: Path, option: str, file: str) -> Iterator[_Clip]:
    """The lines of the list that `option` names."""
    path = first_of(KIND, folder, [inside(KIND, f"the {option} list", file)])
    for place, row in read_table(KIND, folder, path, COLUMNS, delimiter="\t", quoting=False):
        name = inside(KIND, place, row["path"].strip())
        yield _Clip(place, name if name.endswith(".mp3") else f"{name}.mp3", row["sentence"].strip())
