"""Captions by image and number, the splits of the images, and the rows the two make: what captioned sets share."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from bench.datasets.index import Place, Remark, Row, drawn, fault, inside
from bench.datasets.samples import Split

CAPTIONS_AN_IMAGE = 5
PLAIN_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True, slots=True)
class Caption:
    """What a caption says, and where."""

    place: Place
    text: str


@dataclass(frozen=True, slots=True)
class Member:
    """An image's split, and where it was assigned."""

    split: Split
    place: Place


Captions = dict[str, dict[int, Caption]]  # by image and the caption's number from 0, images in the order of the file
Members = dict[str, Member]  # by image, in the order of the rows to be


def text_of(kind: str, place: Place, value: object, what: str) -> str:
    """`value` without blanks at its ends; raises `DataError` where it is no text, empty, or no valid Unicode."""
    if not isinstance(value, str) or not (text := value.strip()):
        raise fault(kind, place, f"has {reprlib.repr(value)} for {what}; expected text")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise fault(kind, place, f"has half a surrogate pair in {what}; expected valid Unicode")
    return text


def name_of(kind: str, place: Place, value: object, what: str) -> str:
    """`value` as the name of a file under the set's folder; raises `DataError` where it is none."""
    name = text_of(kind, place, value, what)
    return name if PLAIN_NAME.fullmatch(name) else inside(kind, place, name)  # `inside` takes a second for COCO's names


def values_of(kind: str, place: Place | str, value: object, *keys: str) -> list[Any]:
    """The values of an object of a JSON file; raises `DataError` where it lacks a key or is no object."""
    if isinstance(value, dict):
        try:
            return [value[key] for key in keys]
        except KeyError:
            found = ", ".join(value) or "no key"
    else:
        found = reprlib.repr(value)
    raise fault(kind, place, f"has {found:.80}; expected the keys {', '.join(keys)}")


def add(kind: str, captions: Captions, image: str, number: int, caption: Caption) -> None:
    """Enters a caption; raises `DataError` where the image has one of this number."""
    numbered = captions.setdefault(image, {})
    if number in numbered:
        text = f"is caption {number} of {image}, as {numbered[number].place} is; expected each number once"
        raise fault(kind, caption.place, text)
    numbered[number] = caption


def assign(kind: str, members: Members, image: str, member: Member) -> None:
    """Enters an image's split; raises `DataError` where it has one."""
    if (earlier := members.get(image)) is not None:
        text = f"lists {image} for {member.split}, which {earlier.place} lists for {earlier.split}"
        raise fault(kind, member.place, f"{text}; expected each image once")
    members[image] = member


def draw(kind: str, captions: Captions, *, test: int, validation: int, of: int) -> Members:
    """Splits drawn by SHA-256 of the images' names: `test` and `validation` in every `of` images, the rest training.

    The two shares are rounded down, but not to nothing. The same names give the same splits, in whatever order.
    """
    if len(captions) < len(get_args(Split)):
        raise fault(kind, "splits", f"{len(captions)} images have captions; expected 3 or more to draw three splits")
    held_out: dict[str, Split] = dict.fromkeys(drawn(captions, max(1, len(captions) * test // of)), "test")
    rest = captions.keys() - held_out.keys()
    held_out |= dict.fromkeys(drawn(rest, max(1, len(captions) * validation // of)), "validation")
    return {
        image: Member(held_out.get(image, "training"), next(iter(numbered.values())).place)
        for image, numbered in captions.items()
    }


def rows_of(
    kind: str,
    captions: Captions,
    members: Members,
    image_path: Callable[[str], str],
    clips: Mapping[str, Mapping[int, str]] | None = None,
) -> Iterator[Row]:
    """A row a caption: images in the order of `members`, then by the caption's number.

    `clips` holds the path of every caption's spoken form. Raises `DataError` where an image of a split has no caption
    and where a split has no image.
    """
    for split in get_args(Split):
        if not any(member.split == split for member in members.values()):
            raise fault(kind, "splits", f"no image is in {split}; expected images in training, validation and test")
    for image, member in members.items():
        if not (numbered := captions.get(image)):
            raise fault(kind, member.place, f"lists {image}, which has no caption; expected one or more")
        path = image_path(image)
        for number, caption in sorted(numbered.items()):
            audio = None if clips is None else clips[image][number]
            yield Row(split=member.split, match=image, place=caption.place, text=caption.text, image=path, audio=audio)


def remarks_on(captions: Captions, members: Mapping[str, Member]) -> Iterator[Remark]:
    """Images that no split lists, and images of a split with fewer captions than there should be: counts."""
    unlisted = [image for image in captions if image not in members]
    if unlisted:
        yield Remark(_first(captions, unlisted), f"{len(unlisted)} images with captions are in no split; left out")
    few = [image for image in members if len(captions.get(image, ())) < CAPTIONS_AN_IMAGE]
    if few:
        text = f"{len(few)} images have fewer than {CAPTIONS_AN_IMAGE} captions, the first {few[0]}"
        yield Remark(_first(captions, few), text)


def _first(captions: Captions, images: Iterable[str]) -> Place:
    return next(iter(captions[next(iter(images))].values())).place
