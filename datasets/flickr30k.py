"""Flickr30k: 31,783 photographs with five captions each.

    results_20130124.token, results.csv or dataset_flickr30k.json         the captions
    {train,val,test}.txt                                                  the splits; or Karpathy's, in that JSON
    flickr30k-images/, flickr30k_images/, Images/ or images/              the photographs

Young et al., "From image descriptions to visual denotations", https://doi.org/10.1162/tacl_a_00166
"""

from __future__ import annotations

from pathlib import Path

from bench.datasets.captions import Captions, remarks_on, rows_of
from bench.datasets.flickr_files import (
    Layout,
    add_numbered,
    read_captions,
    read_karpathy_captions,
    read_members,
    read_token,
)
from bench.datasets.index import Index, Place, Remark, fault, read_lines, relative

KIND = "flickr30k"
HEADER = ("image_name", "comment_number", "comment")
BROKEN_IMAGE, BROKEN_NUMBER = "2199200615.jpg", "4"  # the row of results.csv without its second delimiter


def read(folder: Path, *, annotations: str | None = None, splits: str | None = None) -> Index:
    """A row a caption of a split's image.

    `annotations`: "token", "csv" or "karpathy", by default the first whose file is there. `splits`: "lists" or
    "karpathy", by default likewise; "drawn" draws them in Karpathy's proportions, 29,000 to 1,014 to 1,000.
    """
    captions, remarks = read_captions(LAYOUT, folder, annotations)
    members = read_members(LAYOUT, folder, splits, captions)
    prefix = LAYOUT.image_prefix(folder)
    rows = tuple(rows_of(KIND, captions, members, lambda image: f"{prefix}/{image}"))
    return Index(kind=KIND, folder=folder, rows=rows, remarks=(*remarks, *remarks_on(captions, members)))


def _read_csv(kind: str, folder: Path, path: Path) -> tuple[Captions, list[Remark]]:
    """Lines of <image>| <0-4>| <caption> under a header. It is no CSV: quotes are text, and so is a further "|"."""
    captions: Captions = {}
    remarks: list[Remark] = []
    lines = read_lines(kind, folder, path)
    place, header = next(lines, (Place(relative(folder, path), 1), ""))
    if _fields(header) != HEADER:
        raise fault(kind, place, f"is {header!r:.80}; expected the header {'| '.join(HEADER)}")
    for place, line in lines:
        fields = _fields(line)
        if fields[0] == BROKEN_IMAGE and len(fields) == 2 and fields[1].startswith(f"{BROKEN_NUMBER} "):
            fields = (fields[0], *(part.strip() for part in fields[1].split(maxsplit=1)))
            remarks.append(Remark(place, f"{BROKEN_IMAGE} {BROKEN_NUMBER} lacks a |, a known fault; repaired"))
        if len(fields) != len(HEADER):
            raise fault(kind, place, f"has {len(fields)} fields; expected <image>| <0-4>| <caption>")
        add_numbered(kind, captions, place, *fields)
    return captions, remarks


def _fields(line: str) -> tuple[str, ...]:
    return tuple(field.strip() for field in line.split("|", maxsplit=len(HEADER) - 1))


LAYOUT = Layout(
    kind=KIND,
    annotations={
        "token": ("results_20130124.token", read_token),
        "csv": ("results.csv", _read_csv),
        "karpathy": ("dataset_flickr30k.json", read_karpathy_captions),
    },
    lists={"training": "train.txt", "validation": "val.txt", "test": "test.txt"},
    text_folders=("",),
    image_folders=("flickr30k-images", "flickr30k_images", "Images", "images"),
    test=1000,
    validation=1014,
    of=31014,
)
