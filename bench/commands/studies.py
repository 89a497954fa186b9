"""A study that a command is given by name or folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.study import Study


def named_study(text: str, results: Path) -> Study:
    """The study of `NAME` in `results`, or of a folder; with `@HASH` that protocol's runs, else the latest one's.

    Unreadable records are left out with a warning. Raises `UsageError` where there is no such study, or in it no run
    but those of searches.
    """
    from bench.errors import UsageError
    from bench.store import study_name
    from bench.study import load_study
    from bench.terminal import say

    place, protocol_hash = text, None
    if found := re.fullmatch(r"(.+)@([0-9a-f]{12})", text):
        place, protocol_hash = found.groups()
    folder = Path(place)
    if not (folder / "runs").is_dir() and "/" not in place:
        folder = results / study_name(place)
    study, _ = load_study(folder, protocol_hash)
    if study.bad:
        say(f"warning: {folder}: {len(study.bad)} unreadable, left out; first: {study.bad[0]}", err=True)
    if not study.records:
        raise UsageError(f"study {folder}: of protocol {study.protocol.hash} it holds nothing but a search, which "
                         "ranks nothing; `bench run` adds runs")  # fmt: skip
    return study
