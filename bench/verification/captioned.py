"""A set of the catalog, verified: its lists, then the files that these name, then its captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from bench.datasets import common_voice, flickr8k
from bench.datasets.catalog import KINDS
from bench.datasets.index import Index, Place, Row, fault, read_table, rows_digest
from bench.datasets.samples import MODALITIES, DataError, Modality
from bench.datasets.selection import MEDIA, SPLITS, MediaName, file_of, limited, require_whole
from bench.errors import UsageError
from bench.verification.captions import LAYOUTS, TextSettings, listed_captions, verify_captions
from bench.verification.files import Facts, clip_facts, image_facts, verify_files
from bench.verification.findings import Annotations, Files, SplitCounts, Verification
from bench.verification.request import Request
from bench.workloads import WORKLOADS

MOST_ANNOTATIONS = 12  # files that are listed one by one; a set of a file an image has more
MEDIA_FACTS: Mapping[MediaName, tuple[str, Callable[[Path], Facts]]] = {
    "image": ("image", image_facts),
    "audio": ("clip", clip_facts),
}


def verify_captioned(request: Request) -> Verification:
    """Everything there is to say; a fault of the set's own lists ends it."""
    kind = KINDS[request.kind]
    folder = set_folder(request)
    normal = WORKLOADS[request.kind].dataset_options["absent"] == "excluded"
    found = Verification(
        kind=kind.name, title=kind.title, folder=str(folder), limit=request.limit, absent_is_normal=normal
    )
    try:
        wanted, note = _wanted(request, folder)
        index = _index(request, wanted)
        if not request.modalities:
            wanted = tuple(name for name in wanted if kind.name != "manifest" or _has(index.rows[0], name))
        found = replace(found, folder=str(index.folder), modalities=wanted, notes=note)
        return _verify_rows(request, index, found)
    except DataError as error:
        return replace(found, faults=(_line(str(error)),))


def set_folder(request: Request) -> Path:
    """The folder that `Kind.index` reads."""
    named = request.folder / request.kind
    return named if named.is_dir() else request.folder


def _has(row: Row, name: Modality) -> bool:
    return getattr(row, name) is not None


def _line(text: str) -> str:
    return " ".join(text.split())


def _wanted(request: Request, folder: Path) -> tuple[tuple[Modality, ...], tuple[str, ...]]:
    """The modalities to look at, and what is to be said of those left out."""
    offered = KINDS[request.kind].modalities
    asked = request.modalities or offered
    if unknown := [name for name in asked if name not in offered]:
        raise UsageError(f"--modalities {','.join(unknown)}: {request.kind} has {', '.join(offered)}")
    corpus = Path(flickr8k.WAVS).parent
    if request.kind == flickr8k.KIND and not request.modalities and not (folder / corpus).is_dir():
        note = f"no folder {corpus}/: spoken captions are not looked at; --modalities text,image,audio asks for them"
        return ("text", "image"), (note,)
    return tuple(name for name in MODALITIES if name in asked), ()


def _index(request: Request, wanted: Sequence[Modality]) -> Index:
    """The set's index. Raises `UsageError` for an option that its reader does not take."""
    try:
        return KINDS[request.kind].index(request.folder, set(wanted), request.reader)
    except DataError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, OSError) as error:
        if not request.reader:
            raise
        given = ", ".join(f"{key} = {value!r}" for key, value in request.reader.items())
        raise UsageError(f"--reader: {_line(str(error)).removeprefix('read() ')}; given {given}") from error


def _text_settings(request: Request) -> TextSettings:
    """The tokenizer that was asked for, or else that of the set's own protocol; the length is always the protocol's."""
    own: dict[str, Any] = dict(WORKLOADS[request.kind].dataset_options)
    whose = "--tokenizer, and the text_length" if request.tokenizer else "tokenizer and text_length"
    return TextSettings(
        tokenizer=request.tokenizer or own["tokenizer"],
        text_length=own["text_length"],
        source=f"{whose} of protocol {request.kind}",
    )


def _verify_rows(request: Request, index: Index, found: Verification) -> Verification:
    """`found` with what the index lists, and with what its files and captions are."""
    rows = limited(index.rows, request.limit)
    files: dict[MediaName, Files] = {}
    for name in MEDIA:
        if name in found.modalities:
            noun, facts_of = MEDIA_FACTS[name]
            console = request.console if request.decode else None
            files[name] = verify_files(noun, index.folder, _places(index, rows, name), facts_of, console)
    listed = listed_captions(index, request.reader.get("annotations"))
    found = replace(
        found,
        annotations=annotations_of(index, found.modalities),
        listed=None if listed is None else sum(map(len, listed.values())),
        ids=None if listed is None else len(listed),
        splits=tuple(_counts(split, [row for row in rows if row.split == split]) for split in SPLITS),
        remarks=tuple(str(remark) for remark in index.remarks),
        images=files.get("image"),
        clips=files.get("audio"),
        digests={"index": rows_digest(rows)} | {f"{f.noun}s": f.digest for f in files.values() if f.digest},
    )
    if "text" in found.modalities:
        texts = None if listed is None else [text for captions in listed.values() for text in captions]
        captions = verify_captions(rows, texts, _text_settings(request), request.folder)
        found = replace(found, captions=captions)
    return _verify_whole(index, rows, found)


def _verify_whole(index: Index, rows: Sequence[Row], found: Verification) -> Verification:
    """`found` with the speakers, and with what keeps the rows from being pools of retrieval."""
    faults = list(found.faults)
    if found.absent_is_normal:
        absent = {each.what for files in found.media for each in (*files.missing, *files.unreadable)}
        rows = [row for row in rows if row.image not in absent and row.audio not in absent]
    try:
        require_whole(index.kind, index.folder, rows)
    except DataError as error:
        faults.append(_line(str(error)))
    try:
        found = replace(found, speakers=_speakers(index, rows) if "audio" in found.modalities else None)
    except DataError as error:
        faults.append(_line(str(error)))
    return replace(found, faults=tuple(faults))


def _places(index: Index, rows: Sequence[Row], name: MediaName) -> dict[str, str]:
    """The distinct files of a modality, and where each is listed first."""
    places: dict[str, Place] = {}
    for row in rows:
        places.setdefault(file_of(row, name), row.place)
    if name == "audio" and index.kind == flickr8k.KIND:  # the clips have a list of their own
        for spoken in flickr8k.read_clips(index.folder).values():
            own = {f"{flickr8k.WAVS}/{clip.wav}": clip.place for clip in spoken.values()}
            places |= {file: place for file, place in own.items() if file in places}
    return {file: str(place) for file, place in places.items()}


def _counts(split: str, rows: Sequence[Row]) -> SplitCounts:
    images, clips = {row.image for row in rows} - {None}, {row.audio for row in rows} - {None}
    return SplitCounts(split=split, pairs=len(rows), images=len(images), clips=len(clips))


def annotations_of(index: Index, modalities: Sequence[str]) -> tuple[Annotations, ...]:
    """The set's own files that the index was made of."""
    names = dict.fromkeys(row.place.file for row in index.rows)
    names |= dict.fromkeys(remark.place.file for remark in index.remarks)
    if layout := LAYOUTS.get(index.kind):
        names |= dict.fromkeys(name for file in layout.lists.values() for name in layout.paths(file))
    if index.kind == flickr8k.KIND and "audio" in modalities:
        names |= dict.fromkeys((flickr8k.CAPTION_LIST, flickr8k.SPEAKER_LIST))
    there = [name for name in names if (index.folder / name).is_file()]
    if len(there) > MOST_ANNOTATIONS:
        return (Annotations(file=f"{there[0]} and {len(there) - 1:,} more", lines=None),)
    return tuple(Annotations(file=name, lines=_lines(index.folder / name)) for name in there)


def _lines(path: Path) -> int | None:
    """How many lines are not blank; None of JSON."""
    if path.suffix == ".json":
        return None
    with path.open("rb") as file:
        return sum(bool(line.strip()) for line in file)


def _speakers(index: Index, rows: Sequence[Row]) -> int | None:
    """How many people speak the rows' clips; None where the set does not say."""
    if index.kind == flickr8k.KIND:
        if not (index.folder / flickr8k.SPEAKER_LIST).is_file():
            raise DataError(f"{index.kind}: {flickr8k.SPEAKER_LIST} is missing; expected lines <wav> <speaker>")
        known = flickr8k.speakers(index.folder)
        clips = {Path(file_of(row, "audio")).name: row for row in rows}
        if nameless := next((wav for wav in clips if wav not in known), None):
            raise fault(index.kind, flickr8k.SPEAKER_LIST, f"does not name the speaker of {nameless}")
        return len({known[wav] for wav in clips})
    if index.kind == common_voice.KIND:
        return len(_common_voice_speakers(index, {row.audio for row in rows}))
    return None


def _common_voice_speakers(index: Index, clips: set[str | None]) -> set[str]:
    found = set()
    for name in dict.fromkeys(row.place.file for row in index.rows):
        lines = read_table(
            index.kind, index.folder, index.folder / name, common_voice.COLUMNS, delimiter="\t", quoting=False
        )
        for _, values in lines:
            path = (PurePosixPath("clips") / values["path"].strip()).as_posix()
            if path in clips or f"{path}.mp3" in clips:
                found.add(values["client_id"])
    return found
