"""What follows a study while it runs: the display, its log, and trackers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.options import progress_console

if TYPE_CHECKING:
    from bench.display import Announced
    from bench.driver import Watcher
    from bench.trackers.tracker import Tracker


@contextmanager
def watching(plan: Announced, study: Path, trackers: Sequence[Tracker], *, each_run: bool = True) -> Iterator[Watcher]:
    """The display, the study's log and the trackers, as one watcher."""
    from bench.display import display
    from bench.study_log import StudyLog, Watchers
    from bench.trackers.tracking import Tracking

    console = progress_console()
    log = StudyLog(study, plan.protocol.primary_metric)

    def warn(text: str) -> None:
        log.note(f"warning: {text}")
        console.print(f"warning: {text}", markup=False, highlight=False, soft_wrap=True)

    with display(plan, console, each_run=each_run) as view, Tracking(trackers, plan, warn) as tracking:
        yield Watchers([view, log, tracking])
