"""What `bench run` shows while a study runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.continual.figures import is_entry
from bench.driver import Watcher
from bench.executor import Progress as EpochProgress
from bench.plan import Run
from bench.protocol import Protocol as StudyProtocol
from bench.record import Outcome, RunRecord
from bench.summary import HEADLINES
from bench.wording import counted


class Announced(Protocol):
    """What is shown while it runs: a study's plan, or a search, whose list of runs grows."""

    @property
    def protocol(self) -> StudyProtocol: ...
    @property
    def missing(self) -> Sequence[Run]: ...


def _result(record: RunRecord, primary_metric: str) -> str:
    """A finished run in one line."""
    if record.outcome is Outcome.OK:
        shown = {name: value for name, value in record.figures.items() if not is_entry(name)}
        figures = "".join(f", {name.replace('_', ' ')} {value:g}" for name, value in shown.items())
        return f"{primary_metric} {record.metrics[primary_metric]:.2f} %, loss {record.loss:.3f}{figures}"
    reason = record.failure.reason if record.failure else ""
    return f"{record.outcome}: {reason}"


class _Telling(Watcher):
    """What both forms say in a line of its own."""

    _console: Console
    _soft_wrap = False

    def retried(self, run: Run, how: str) -> None:
        self._say(f"worker died ({how}) on {run.optimizer} seed {run.seed}; trying once more")

    def set_aside(self, run_id: str, reason: str) -> None:
        self._say(f"done again: {reason}")

    def waiting(self, runs: int) -> None:
        self._say(f"waiting for {counted(runs, 'run')} that another process is at work on")

    def stopping(self, runs: int) -> None:
        under_way = counted(runs, "run")
        self._say(f"stopping: {under_way} under way end at their next epoch, their state kept; Ctrl-C again stops now")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=self._soft_wrap)


class PlainLines(_Telling, AbstractContextManager["PlainLines"]):
    """One line a finished run; only those that are not ok where `each_run` is false."""

    _soft_wrap = True

    def __init__(self, plan: Announced, console: Console, *, each_run: bool = True) -> None:
        self._plan, self._console, self._each_run, self._done = plan, console, each_run, 0

    def __exit__(self, *exception: object) -> None:
        return None

    def run_done(self, record: RunRecord) -> None:
        self._done += 1
        if not self._each_run and record.outcome is Outcome.OK:
            return
        self._say(
            f"[{self._done}/{len(self._plan.missing)}] {record.optimizer} seed {record.seed}: "
            f"{_result(record, self._plan.protocol.primary_metric)} ({record.seconds.total:.1f} s)"
        )


class LiveView(_Telling, AbstractContextManager["LiveView"]):
    """An overall bar with the time left, and a row a worker with its run, epoch, loss and first score.

    Of several runs at once in a worker, it is the one that was heard of last, with the number of the others.
    """

    def __init__(self, plan: Announced, console: Console) -> None:
        self._plan, self._console, self._done = plan, console, 0
        self._names: dict[str, str] = {}
        self._epochs: dict[str, int] = {}  # epochs that count as done: a run that stops early counts whole
        self._overall = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), console=console, expand=True,
        )  # fmt: skip
        self._rows = Progress(TextColumn("  {task.description}"), console=console)
        self._live = Live(Group(self._overall, self._rows), console=console, refresh_per_second=4, transient=True)
        self._total = self._overall.add_task("", total=max(1, len(plan.missing) * plan.protocol.epochs))
        self._workers: dict[int, TaskID] = {}
        self._together: dict[int, set[str]] = {}  # the runs under way in each
        self._show()

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def epoch_done(self, progress: EpochProgress) -> None:
        if progress.worker not in self._workers:
            self._workers[progress.worker] = self._rows.add_task("")
        point = progress.point
        loss = f"{point.loss:.3f}" if math.isfinite(point.loss) else "not finite"
        name, title = next(iter(HEADLINES[self._plan.protocol.workload.kind].items()))
        recall = point.metrics.get(name)
        quality = "" if recall is None else f"   {title} {recall:5.1f} %"
        if progress.run_id not in self._names:
            self._names = {run.run_id: f"{run.optimizer} s{run.seed}" for run in self._plan.missing}
        name = escape(self._names.get(progress.run_id, progress.run_id))
        together = self._together.setdefault(progress.worker, set())
        together.add(progress.run_id)
        others = f" +{len(together) - 1} more" if len(together) > 1 else ""
        text = f"{name:<28} epoch {point.epoch:>3}/{self._plan.protocol.epochs}   loss {loss}{quality}{others}"
        self._rows.update(self._workers[progress.worker], description=text)
        self._epochs[progress.run_id] = point.epoch
        self._show()

    def run_done(self, record: RunRecord) -> None:
        self._done += 1
        for together in self._together.values():
            together.discard(record.run_id)
        self._epochs[record.run_id] = self._plan.protocol.epochs
        self._show()
        if record.outcome is not Outcome.OK:
            self._say(f"{record.optimizer} seed {record.seed}: {_result(record, '')}")

    def retried(self, run: Run, how: str) -> None:
        self._epochs.pop(run.run_id, None)
        super().retried(run, how)

    def _show(self) -> None:
        count = len(self._plan.missing)
        done, total = sum(self._epochs.values()), max(1, count * self._plan.protocol.epochs)
        self._overall.update(self._total, completed=done, total=total, description=f"{self._done}/{count} runs")


def display(plan: Announced, console: Console, *, each_run: bool = True) -> LiveView | PlainLines:
    """The live view on a terminal, plain lines where the output is a file or a pipe."""
    return LiveView(plan, console) if console.is_terminal else PlainLines(plan, console, each_run=each_run)
