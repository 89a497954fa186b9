"""What a merge has done, line by line."""

from __future__ import annotations

from collections.abc import Iterator

from bench.reporting.printable import printable
from bench.upkeep.merging import Merged
from bench.wording import counted


def lines(merged: Merged) -> Iterator[str]:
    """The counts first, then every conflict with what differs, and what was left out."""
    parts = [f"{counted(merged.copied, 'run')} copied", f"{merged.same:,} there already"]
    if merged.replaced:
        parts.append(f"{merged.replaced:,} that had failed replaced by results, their records set aside")
    if merged.unfinished:
        parts.append(f"{merged.unfinished:,} without a record not copied")
    if merged.files:
        parts.append(f"{counted(merged.files, 'other file')} copied")
    yield _line(f"{merged.into}: {', '.join(parts)}")
    for conflict in merged.conflicts:
        yield _line(f"conflict: {conflict.name}: {conflict.one} and {conflict.other} differ: "
                    f"{'; '.join(conflict.differences)}")  # fmt: skip
    for text in merged.left_out:
        yield _line(f"left out: {text}")
    if merged.conflicts:
        yield "of a conflict nothing was written; remove the run from the study that is wrong and merge again"


def _line(text: str) -> str:
    """The text in one line of signs that a terminal only shows."""
    return " ".join(printable(text).split())
