"""What could be removed from a study, or was, line by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.reporting.printable import printable
from bench.reporting.result_table import bytes_text
from bench.upkeep.cleaning import Cleaned, Kind
from bench.wording import counted

_IN_WORDS: Mapping[Kind, str] = {
    "temporary": "of writers that crashed",
    "checkpoints": "of runs that have ended",
    "set-aside": "records of runs that were made again",
    "logs": "of worker processes",
    "stopped": "state of runs that have not ended: they begin anew then",
}


def lines(found: Cleaned) -> Iterator[str]:
    """A line a kind with its files and bytes, then what can be done about it."""
    study = " ".join(printable(str(found.study)).split())
    total = bytes_text(sum(item.bytes for item in found.items))
    for kind, (files, size) in found.counts().items():
        yield f"{kind:<12} {counted(files, 'file'):>12} {bytes_text(size):>10}   {_IN_WORDS[kind]}"
    if found.held:
        yield f"{counted(len(found.held), 'run')} left alone: a process is at work"
    if not found.items:
        yield f"{study}: nothing to remove"
    elif found.removed:
        yield f"{study}: {total} removed"
    else:
        yield f"{study}: {total} in all; nothing was removed, --yes does it"
