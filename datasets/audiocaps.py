"""AudioCaps: captions of ten-second clips of YouTube videos.

    train.csv, val.csv, test.csv      audiocap_id,youtube_id,start_time,caption; at the root or in dataset/

49,838 training clips of one caption, 495 validation and 975 test clips of five (version 2.0 has more training rows in
the same format). The set holds no audio: everyone downloads the clips and names them in an own way, which a template
says. Clips that could not be downloaded are normal; this reader does not look for the files.

Kim et al., "AudioCaps: Generating Captions for Audios in The Wild", https://aclanthology.org/N19-1011/
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from pathlib import Path

from bench.datasets.index import Index, Place, Row, claim, fault, first_of, inside, read_table
from bench.datasets.samples import DataError, Split

KIND = "audiocaps"
TEMPLATE = "audio/{youtube_id}_{start_time}.wav"
FIELDS = ("youtube_id", "start_time", "start_ms", "split", "audiocap_id")
FILES: Mapping[Split, str] = {"training": "train", "validation": "val", "test": "test"}
COLUMNS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "audiocap_id": (re.compile(r"[0-9]{1,12}"), "a whole number"),
    "youtube_id": (re.compile(r"[A-Za-z0-9_-]{11}"), "11 letters, digits, _ or -"),
    "start_time": (re.compile(r"[0-9]{1,12}"), "whole seconds"),
    "caption": (re.compile(r"(?s)\s*\S.*"), "text"),
}


def read(folder: Path, *, template: str = TEMPLATE) -> Index:
    """The captions of all clips under `folder`; a clip's share its `audio` and `match`, "<youtube_id>_<start_time>".

    `template` makes the clip's path from its first row: {youtube_id}, {start_time} in seconds, {start_ms} in
    milliseconds, {split} (train, val or test) and {audiocap_id}. Raises `DataError` for a template that has other
    fields, leaves the folder or names two clips alike, and for a clip that is in two splits.
    """
    _check_template(template)
    rows: list[Row] = []
    splits: dict[str, Split] = {}  # by clip
    audio: dict[str, str] = {}  # by clip
    clips: dict[str, str] = {}  # by path of the audio
    for split, name in FILES.items():
        path = first_of(KIND, folder, [f"{name}.csv", f"dataset/{name}.csv"])
        lines: dict[str, int] = {}  # by audiocap_id
        for place, row in read_table(KIND, folder, path, list(COLUMNS)):
            _check_row(place, row, lines)
            clip = f"{row['youtube_id']}_{row['start_time']}"
            claim(KIND, place, clip, split, splits)
            if clip not in audio:
                audio[clip] = _audio(template, name, row, place)
            if (other := clips.setdefault(audio[clip], clip)) != clip:
                raise fault(KIND, place, f"template {template!r} names {clip} and {other} alike: {audio[clip]}")
            rows.append(Row(split=split, match=clip, place=place, text=row["caption"].strip(), audio=audio[clip]))
    return Index(kind=KIND, folder=folder, rows=tuple(rows))


def _check_template(template: str) -> None:
    allowed = f"allowed are {', '.join(f'{{{field}}}' for field in FIELDS)}"
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(f"{KIND}: template {template!r} cannot be read ({error}); {allowed}") from None
    for _, field, style, conversion in parts:
        if field is not None and (field not in FIELDS or style or conversion):
            shown = field + (f"!{conversion}" if conversion else "") + (f":{style}" if style else "")
            raise DataError(f"{KIND}: template {template!r} has a field {{{shown}}}; {allowed}")
    inside(KIND, f"template {template!r}", template)


def _check_row(place: Place, row: Mapping[str, str], lines: dict[str, int]) -> None:
    """Raises `DataError` for a value that is none of its column, or an audiocap_id that `lines` has already."""
    for column, (pattern, expected) in COLUMNS.items():
        if not pattern.fullmatch(row[column]):
            raise fault(KIND, place, f"has {column} {row[column]!r}; expected {expected}")
    first = lines.setdefault(row["audiocap_id"], place.number)
    if first != place.number:
        raise fault(KIND, place, f"has audiocap_id {row['audiocap_id']} of line {first} again; expected each once")


def _audio(template: str, name: str, row: Mapping[str, str], place: Place) -> str:
    values = {field: row[field] for field in ("youtube_id", "start_time", "audiocap_id")}
    path = template.format(**values, start_ms=1000 * int(row["start_time"]), split=name)
    return inside(KIND, place, path)
