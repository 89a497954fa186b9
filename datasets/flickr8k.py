"""Flickr8k: 8,000 photographs with five captions each, and the captions' spoken forms.

    Flickr8k.token.txt, captions.txt or dataset_flickr8k.json             the captions
    Flickr_8k.{trainImages,devImages,testImages}.txt                      the splits; or Karpathy's, in that JSON
    Flicker8k_Dataset/ (sic), Flickr8k_Dataset/, Images/ or images/       the photographs
    flickr_audio/wavs/, wav2capt.txt, wav2spk.txt                         40,000 clips: a caption of a split each

Texts lie at the root or in Flickr8k_text/. Hodosh et al., "Framing Image Description as a Ranking Task",
https://doi.org/10.1613/jair.3994; Harwath and Glass, "Deep Multimodal Semantic Embeddings for Speech and Images",
https://arxiv.org/abs/1511.03690
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.datasets.captions import (
    CAPTIONS_AN_IMAGE,
    Caption,
    Captions,
    Members,
    add,
    name_of,
    remarks_on,
    rows_of,
    text_of,
)
from bench.datasets.flickr_files import (
    Layout,
    number_of,
    read_captions,
    read_karpathy_captions,
    read_members,
    read_token,
)
from bench.datasets.index import Index, Place, Remark, fault, first_of, read_lines, read_table

KIND = "flickr8k"
MISNAMED = "2258277193_586949ec62.jpg.1"  # in no split; its image is not among the photographs distributed
WAVS, CAPTION_LIST, SPEAKER_LIST = "flickr_audio/wavs", "flickr_audio/wav2capt.txt", "flickr_audio/wav2spk.txt"


@dataclass(frozen=True, slots=True)
class Clip:
    """A file of flickr_audio/wavs, and where its caption is named."""

    place: Place
    wav: str


Clips = dict[str, dict[int, Clip]]  # by image and the caption's number


def read(folder: Path, *, audio: bool = False, annotations: str | None = None, splits: str | None = None) -> Index:
    """A row a caption of a split's image, with its spoken form where `audio`.

    `annotations`: "token", "captions" or "karpathy", by default the first whose file is there. `splits`: "lists" or
    "karpathy", by default likewise; "drawn" draws an eighth of the images for test, an eighth for validation.
    """
    captions, remarks = read_captions(LAYOUT, folder, annotations)
    members = read_members(LAYOUT, folder, splits, captions)
    paths = None
    if audio:
        clips = read_clips(folder)
        if splits == "drawn":  # the corpus has no clips of the images that are in no list
            members = {image: member for image, member in members.items() if image in clips}
        _check_clips(captions, members, clips)
        paths = {image: {n: f"{WAVS}/{clip.wav}" for n, clip in numbered.items()} for image, numbered in clips.items()}
        remarks += _remarks_on_clips(clips, members)
    prefix = LAYOUT.image_prefix(folder)
    rows = tuple(rows_of(KIND, captions, members, lambda image: f"{prefix}/{image}", paths))
    return Index(kind=KIND, folder=folder, rows=rows, remarks=(*remarks, *remarks_on(captions, members)))


def speakers(folder: Path) -> Mapping[str, str]:
    """Who speaks each clip: lines of <wav> <speaker>."""
    path = first_of(KIND, folder, [SPEAKER_LIST])
    found: dict[str, str] = {}
    for place, line in read_lines(KIND, folder, path):
        fields = line.split()
        if len(fields) != 2:
            raise fault(KIND, place, f"has {len(fields)} fields; expected <wav> <speaker>")
        if fields[0] in found:
            raise fault(KIND, place, f"names {fields[0]} again; expected each clip once")
        found[fields[0]] = fields[1]
    return found


def read_clips(folder: Path) -> Clips:
    """Which caption each clip speaks: lines of <wav> <image> #<0-4>."""
    path = first_of(KIND, folder, [CAPTION_LIST])
    clips: Clips = {}
    places: dict[str, Place] = {}
    for place, line in read_lines(KIND, folder, path):
        fields = line.split()
        if len(fields) != 3 or not fields[2].startswith("#"):
            raise fault(KIND, place, f"is {line!r:.80}; expected <wav> <image> #<0-4>")
        wav, image = (name_of(KIND, place, field, "a file") for field in fields[:2])
        number = number_of(KIND, place, fields[2][1:])
        if wav in places:
            raise fault(KIND, place, f"names {wav}, as {places[wav]} does; expected each clip once")
        places[wav] = place
        spoken = clips.setdefault(image, {})
        if number in spoken:
            text = f"is caption {number} of {image}, as {spoken[number].place} is; expected one clip a caption"
            raise fault(KIND, place, text)
        spoken[number] = Clip(place, wav)
    return clips


def _check_clips(captions: Captions, members: Members, clips: Clips) -> None:
    """The corpus speaks every caption of a split's image once; a gap on either side is a damaged file."""
    for image in members:
        written, spoken = captions.get(image, {}), clips.get(image, {})
        for number in sorted(written.keys() - spoken.keys()):
            text = f"caption {number} of {image} has no clip in {CAPTION_LIST}; expected one a caption of a split"
            raise fault(KIND, written[number].place, text)
        for number in sorted(spoken.keys() - written.keys()):
            text = f"{spoken[number].wav} speaks caption {number} of {image}, which is not among the captions"
            raise fault(KIND, spoken[number].place, f"{text}; expected a caption a clip")


def _remarks_on_clips(clips: Clips, members: Members) -> list[Remark]:
    unlisted = [clip for image, spoken in clips.items() if image not in members for clip in spoken.values()]
    text = f"{len(unlisted)} clips are of images in no split; left out"
    return [Remark(unlisted[0].place, text)] if unlisted else []


def _read_token(kind: str, folder: Path, path: Path) -> tuple[Captions, list[Remark]]:
    captions, remarks = read_token(kind, folder, path)
    if MISNAMED in captions:
        image = MISNAMED.removesuffix(".1")
        left_out = [*captions.pop(MISNAMED).values(), *captions.pop(image, {}).values()]
        text = f"{MISNAMED} is a known fault; left out with {image}, {len(left_out)} captions"
        remarks.append(Remark(left_out[0].place, text))
    return captions, remarks


def _read_captions(kind: str, folder: Path, path: Path) -> tuple[Captions, list[Remark]]:
    """A table of image and caption; an image's captions are numbered as they come."""
    captions: Captions = {}
    for place, row in read_table(kind, folder, path, ("image", "caption")):
        image = name_of(kind, place, row["image"], "the image")
        number = len(captions.get(image, ()))
        if number == CAPTIONS_AN_IMAGE:
            raise fault(kind, place, f"is caption {number + 1} of {image}; allowed are {CAPTIONS_AN_IMAGE} an image")
        add(kind, captions, image, number, Caption(place, text_of(kind, place, row["caption"], "the caption")))
    return captions, []


LAYOUT = Layout(
    kind=KIND,
    annotations={
        "token": ("Flickr8k.token.txt", _read_token),
        "captions": ("captions.txt", _read_captions),
        "karpathy": ("dataset_flickr8k.json", read_karpathy_captions),
    },
    lists={
        "training": "Flickr_8k.trainImages.txt",
        "validation": "Flickr_8k.devImages.txt",
        "test": "Flickr_8k.testImages.txt",
    },
    text_folders=("", "Flickr8k_text/"),
    image_folders=("Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images"),
    test=1,
    validation=1,
    of=8,
)
