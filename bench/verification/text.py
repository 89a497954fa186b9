"""A verification, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench.reporting.printable import printable
from bench.verification.findings import Captions, Coverage, Files, Named, Verification
from bench.verification.histogram import Histogram, Spread
from bench.wording import counted

NAMED = 5  # files, captions and remarks that are named one by one
CHARACTERS_NAMED = 12
BAR = 34  # signs of the longest bar
DIGEST = 16  # signs of a digest that are shown


def view(found: Verification) -> Group:
    """Everything, the verdict last."""
    parts: list[RenderableType] = [_heading(found)]
    parts += [_note(note) for note in found.notes]
    parts += _annotations(found)
    if found.splits:
        parts += [Text(""), _splits(found)]
    if found.remarks:
        parts += [_title("Remarks"), *_some(found.remarks)]
    for files in found.media:
        parts += _files(files)
    if found.captions is not None:
        parts += _captions(found.captions)
    if found.digests:
        parts += [_title("Digests"), _digests(found.digests)]
    return Group(*parts, Text(""), *_verdict(found))


def one_line(text: str) -> str:
    """The text in one line of signs that a terminal only shows."""
    return " ".join(printable(text).split())


def _heading(found: Verification) -> Text:
    limited = "" if found.limit is None else f", the first {found.limit:,} of each split"
    modalities = f": {', '.join(found.modalities)}" if found.modalities else ""
    return Text(one_line(f"{found.kind} in {found.folder}{modalities}{limited}"), style="bold")


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _note(text: str) -> Table:
    """A line behind a dot, its later lines under its first."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row("•", Text(one_line(text), overflow="fold"))
    return grid


def _some(lines: Sequence[str]) -> Iterator[Table]:
    """The first few lines, and how many more there are."""
    for line in lines[:NAMED]:
        yield _note(line)
    if len(lines) > NAMED:
        yield _note(f"and {len(lines) - NAMED:,} more; --json names all")


def _annotations(found: Verification) -> Iterator[RenderableType]:
    """The set's own files, and what they list beside the splits."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(overflow="fold")
    grid.add_column(justify="right")
    for each in found.annotations:
        grid.add_row(Text(one_line(each.file)), "" if each.lines is None else f"{each.lines:,} lines")
    said = [f"listed: {found.listed:,} captions of {found.ids:,} image ids"] if found.listed and found.ids else []
    if found.speakers is not None:
        clips = sum(each.clips for each in found.splits)
        said.append(f"spoken: {counted(clips, 'clip')} of {counted(found.speakers, 'speaker')}")
    if found.annotations or said:
        yield Text("")
    if found.annotations:
        yield grid
    yield from map(Text, said)


def _table(*headings: str) -> Table:
    """A table whose first column is text and the others numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="underline")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=True)
    return table


def _splits(found: Verification) -> Table:
    """A row a split; a modality that is not looked at has no column."""
    counts = {"pairs": [each.pairs for each in found.splits], "images": [each.images for each in found.splits],
              "clips": [each.clips for each in found.splits]}  # fmt: skip
    shown = {name: numbers for name, numbers in counts.items() if any(numbers)}
    table = _table("split", *shown)
    for i, each in enumerate(found.splits):
        table.add_row(each.split, *(f"{numbers[i]:,}" for numbers in shown.values()))
    table.add_row("all", *(f"{sum(numbers):,}" for numbers in shown.values()))
    return table


def _files(files: Files) -> Iterator[RenderableType]:
    """What became of the images or the clips."""
    yield _title(f"{files.noun.capitalize()}s")
    there = f"{files.there:,} of {files.files:,} are there"
    if not files.decoded:
        yield Text(f"{there}; none was opened (--no-decode)")
    elif files.there:
        yield Text(f"{there}; {files.read:,} were read without a fault")
    else:
        yield Text(there)
    if files.width is not None and files.height is not None:
        yield Text(f"width {_spread(files.width)} pixels, height {_spread(files.height)} (min, median, max)")
    if files.formats:
        forms = [f"{count:,} × {form}" for form, count in files.formats.items()]
        yield Text(one_line("; ".join([*forms[:NAMED], *(["…"] if len(forms) > NAMED else [])])))
    if files.seconds is not None:
        yield from _histogram("seconds", files.seconds)
    if files.missing:
        folders = ", ".join(f"{folder}/" for folder in files.missing_folders[:NAMED])
        yield Text(f"{len(files.missing):,} missing" + (f"; no folder {one_line(folders)}" if folders else ""), "red")
        yield from _some([f"{each.what} ({each.place})" for each in files.missing])
    if files.unreadable:
        yield Text(f"{len(files.unreadable):,} broken", "red")
        yield from _some([_named(each) for each in files.unreadable])


def _named(each: Named) -> str:
    return f"{each.what} {each.reason} ({each.place})"


def _spread(spread: Spread) -> str:
    return f"{spread.minimum:,g}, {spread.median:,g}, {spread.maximum:,g}"


def _captions(captions: Captions) -> Iterator[RenderableType]:
    """Lengths, characters that are dropped, captions of which nothing is left."""
    yield _title("Captions")
    if captions.characters is not None and captions.words is not None:
        yield from _histogram("characters", captions.characters)
        yield from _histogram("words", captions.words)
    yield Text("")
    yield _coverage(captions)
    if captions.outside:
        named = [f"{_sign(sign)} {count:,}" for sign, count in list(captions.outside.items())[:CHARACTERS_NAMED]]
        more = ", …" if len(captions.outside) > CHARACTERS_NAMED else ""
        yield Text(f"outside the character tokenizer's alphabet: {', '.join(named)}{more}")
    yield Text(f"tokenizer {one_line(captions.tokenizer)}: {captions.vocab_size:,} ids, "
               f"{counted(captions.cut, 'caption')} longer than {captions.text_length} tokens")  # fmt: skip
    yield Text(f"({one_line(captions.settings)})")
    if captions.empty:
        yield Text(f"{counted(len(captions.empty), 'caption')} of which no token is left", "red")
        yield from _some([f"{each.place}: {each.what!r:.80}" for each in captions.empty])


def _sign(sign: str) -> str:
    """A character as a terminal shows it; its number where it shows none."""
    return sign if sign.isprintable() and not sign.isspace() else f"U+{ord(sign):04X}"


def _coverage(captions: Captions) -> Table:
    """How much the character tokenizer takes, of all captions listed and of those that take part."""
    table = _table("", "captions", "characters", "outside", f"longer than {captions.longest}")
    if captions.listed is not None:
        table.add_row("listed", *_shares(captions.listed))
    table.add_row("in the splits", *_shares(captions.used))
    return table


def _shares(each: Coverage) -> Iterable[str]:
    yield f"{each.captions:,}"
    yield f"{each.characters:,}"
    yield f"{each.outside:,} ({_percent(each.outside, each.characters)})"
    yield f"{each.longer:,} ({_percent(each.longer, each.captions)})"


def _percent(part: int, whole: int) -> str:
    """`11.9 %`, and of small shares two digits that count."""
    share = 100 * part / whole if whole else 0.0
    return f"{share:.1f} %" if share >= 1 or not part else f"{share:.2g} %"


def _histogram(what: str, found: Histogram) -> Iterator[RenderableType]:
    """A bar a bin; the last is open where there is more above it."""
    spread = found.spread
    yield Text(f"{what}: {spread.minimum:,.4g} to {spread.maximum:,.4g}, median {spread.median:,.4g}, "
               f"mean {found.mean:,.4g}")  # fmt: skip
    grid = Table.grid(padding=(0, 2))
    for justify in ("right", "right", "left"):
        grid.add_column(justify=justify, no_wrap=True)
    most = max(found.counts)
    for i, count in enumerate(found.counts):
        bar = "█" * round(BAR * count / most) or ("▏" if count else "")
        grid.add_row(_bin(found, i), f"{count:,}", Text(bar, "cyan"))
    yield Padding(grid, (0, 0, 0, 2))


def _bin(found: Histogram, place: int) -> str:
    """`20–39` of whole numbers, `1.5–2.0` of others, `120 or more`."""
    whole = found.width >= 1
    low, high = found.start + place * found.width, found.start + (place + 1) * found.width
    if place == len(found.counts) - 1 and found.spread.maximum >= high:
        return f"{low:,.0f} or more" if whole else f"{low:.1f} or more"
    if not whole:
        return f"{low:.1f}–{high:.1f}"
    return f"{low:,.0f}" if found.width == 1 else f"{low:,.0f}–{high - 1:,.0f}"


def _digests(digests: Mapping[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, digest in digests.items():
        grid.add_row(name, digest[:DIGEST])
    return grid


def _verdict(found: Verification) -> Iterator[Text]:
    """The answer in a line."""
    absent = sum(len(files.missing) + len(files.unreadable) for files in found.media)
    if found.problems:
        yield Text(f"not complete: {one_line('; '.join(found.problems))}", style="bold red")
        return
    if found.absent_is_normal and absent:
        yield Text(f"{counted(absent, 'file')} missing or broken; the protocol {found.kind} leaves such samples out")
    opened = all(files.decoded for files in found.media)
    yield Text("everything is there" + ("" if opened else ", unopened"), style="bold green")
