"""What a verification found: plain records, which are also its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.verification.histogram import Histogram, Spread
from bench.wording import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """A file of the set's own lists; `lines` that are not blank, None where it is no text of lines."""

    file: str
    lines: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCounts:
    """A split: its samples (a caption with its image, its clip or both), and its distinct images and clips."""

    split: str
    pairs: int
    images: int
    clips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A file or a caption at fault: what it is, why, and where the set's lists first name it."""

    what: str
    reason: str
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The images or the clips: how many distinct files are listed, and what became of them.

    `read` files were decoded without a fault; `decoded` says whether any were to be. `digest` is SHA-256 over name,
    NUL and SHA-256 of the content of every file whose bytes were read, in the order of the lists.
    """

    noun: str
    files: int
    missing: tuple[Named, ...]
    missing_folders: tuple[str, ...]
    decoded: bool
    read: int = 0
    unreadable: tuple[Named, ...] = ()
    width: Spread | None = None
    height: Spread | None = None
    seconds: Histogram | None = None
    formats: Mapping[str, int] = field(default_factory=dict)
    digest: str | None = None

    @property
    def there(self) -> int:
        return self.files - len(self.missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Captions under the character tokenizer: what is outside its alphabet, and what is longer than it will take."""

    captions: int
    characters: int
    outside: int
    longer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """The captions' texts. `listed` are all of the set's file, where `used`, those of the splits, are fewer.

    `outside` counts the characters used that the character tokenizer drops; `longest` is the length in characters
    from which a caption counts as longer. `empty` are those of which `tokenizer` leaves nothing, `cut` those of more
    than `text_length` tokens; `settings` says whose settings these two are.
    """

    longest: int
    text_length: int
    settings: str
    listed: Coverage | None
    used: Coverage
    outside: Mapping[str, int]
    characters: Histogram | None
    words: Histogram | None
    tokenizer: str
    vocab_size: int
    cut: int
    empty: tuple[Named, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """A whole verification. `faults` are of the set's own lists, `notes` say what was not looked at.

    `listed` counts the captions that Flickr's files list and `ids` their images: more than those of the splits.
    `digests`: "index" is SHA-256 over the JSON [split, match, text, image, audio] of every sample, in order; "images"
    and "clips" are those of `Files`; "contents", of sets that have no index, is the one that a study records.
    """

    kind: str
    title: str
    folder: str
    modalities: tuple[str, ...] = ()
    limit: int | None = None
    absent_is_normal: bool = False
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    annotations: tuple[Annotations, ...] = ()
    listed: int | None = None
    ids: int | None = None
    speakers: int | None = None
    splits: tuple[SplitCounts, ...] = ()
    remarks: tuple[str, ...] = ()
    images: Files | None = None
    clips: Files | None = None
    captions: Captions | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def media(self) -> tuple[Files, ...]:
        return tuple(files for files in (self.images, self.clips) if files is not None)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why a study would not begin, a few words each; none where everything is there."""
        found = list(self.faults)
        if not self.absent_is_normal:
            for files in self.media:
                if files.missing:
                    found.append(f"{counted(len(files.missing), files.noun)} missing")
                if files.unreadable:
                    found.append(f"{counted(len(files.unreadable), files.noun)} broken")
        if self.captions is not None and self.captions.empty:
            found.append(f"{counted(len(self.captions.empty), 'caption')} without a token")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Everything, with `ok` and `problems`; nothing is shortened."""
        return {"ok": not self.problems, "problems": self.problems, **asdict(self)}
