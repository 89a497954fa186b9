"""Common Voice: sentences read aloud by volunteers, one language a folder.

    train.tsv, dev.tsv, test.tsv      with a header; of its columns client_id, path and sentence are needed
    clips/<path>                      MP3

The columns differ between releases and are found by name. There is no quoting: a " is part of the sentence. The oldest
releases give `path` without its .mp3.

Ardila et al., "Common Voice: A Massively-Multilingual Speech Corpus", https://arxiv.org/abs/1912.06670
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.datasets.index import Index, Remark, Row, claim, first_of, inside, read_table
from bench.datasets.samples import Split

KIND = "common_voice"
COLUMNS = ("client_id", "path", "sentence")


def read(folder: Path, *, train: str = "train.tsv", validation: str = "dev.tsv", test: str = "test.tsv") -> Index:
    """The clips of three lists under `folder`, whose names the arguments give; a row's `match` is its `path`.

    A clip without a sentence is left out and remarked on. Raises `DataError` for a clip that is in two splits.
    """
    files: Mapping[Split, str] = {"training": train, "validation": validation, "test": test}
    rows: list[Row] = []
    remarks: list[Remark] = []
    splits: dict[str, Split] = {}  # by clip
    for split, name in files.items():
        path = first_of(KIND, folder, [inside(KIND, f"the {split} list", name)])
        for place, row in read_table(KIND, folder, path, COLUMNS, delimiter="\t", quoting=False):
            clip = inside(KIND, place, row["path"].strip())
            clip = clip if clip.endswith(".mp3") else f"{clip}.mp3"
            claim(KIND, place, clip, split, splits)
            if sentence := row["sentence"].strip():
                rows.append(Row(split=split, match=clip, place=place, text=sentence, audio=f"clips/{clip}"))
            else:
                remarks.append(Remark(place, f"{clip} has no sentence; it is left out"))
    return Index(kind=KIND, folder=folder, rows=tuple(rows), remarks=tuple(remarks))
