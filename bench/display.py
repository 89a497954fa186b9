"""What `bench run` shows while a study runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.executor import Progress as EpochProgress
from bench.plan import Run
from bench.record import Outcome, RunRecord
from bench.runner import Plan, Watcher


def _percent(value: float | None) -> str:
    return "" if value is None else f"R@1 {value:5.1f} %"


def _result(record: RunRecord, primary_metric: str) -> str:
    """A finished run in one line."""
    if record.outcome is Outcome.OK:
        return f"{primary_metric} {record.metrics[primary_metric]:.2f} %, loss {record.loss:.3f}"
    reason = record.failure.reason if record.failure else ""
    return f"{record.outcome}: {reason}"


class PlainLines(Watcher, AbstractContextManager["PlainLines"]):
    """One line a finished run."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan, self._console, self._done = plan, console, 0

    def __exit__(self, *exception: object) -> None:
        return None

    def run_done(self, record: RunRecord) -> None:
        self._done += 1
        self._say(
            f"[{self._done}/{len(self._plan.missing)}] {record.optimizer} seed {record.seed}: "
            f"{_result(record, self._plan.protocol.primary_metric)} ({record.seconds.total:.1f} s)"
        )

    def retried(self, run: Run, how: str) -> None:
        self._say(f"worker died ({how}) on {run.optimizer} seed {run.seed}; trying once more")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveView(Watcher, AbstractContextManager["LiveView"]):
    """An overall bar with the time left, and a row a worker with its run, loss and R@1."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan = plan
        self._names = {run.run_id: f"{run.optimizer} s{run.seed}" for run in plan.missing}
        self._overall = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("runs"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}"), console=console, expand=True,
        )  # fmt: skip
        self._total: TaskID | None = None
        self._workers: dict[int, TaskID] = {}
        self._current: dict[int, str] = {}
        self._done = 0

    def __enter__(self) -> LiveView:
        self._overall.start()
        # Epochs are counted, so that the bar and the time left move within a run.
        self._total = self._overall.add_task("study", total=len(self._plan.missing), note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._workers.values():
            self._overall.remove_task(task)
        self._overall.stop()

    def epoch_done(self, progress: EpochProgress) -> None:
        epochs = self._plan.protocol.epochs
        if progress.worker not in self._workers:
            self._workers[progress.worker] = self._overall.add_task("", total=epochs, note="")
        task = self._workers[progress.worker]
        if self._current.get(progress.worker) != progress.run_id:
            self._current[progress.worker] = progress.run_id
            self._overall.reset(task, total=epochs)
        loss = "loss not finite" if progress.loss is None else f"loss {progress.loss:.3f}"
        self._overall.update(
            task,
            completed=progress.epoch,
            description=escape(self._names.get(progress.run_id, progress.run_id)),
            note=f"{loss} {_percent(progress.avg_r1)}",
        )

    def run_done(self, record: RunRecord) -> None:
        self._done += 1
        assert self._total is not None
        self._overall.update(self._total, completed=self._done)
        if record.outcome is not Outcome.OK:
            self._overall.console.print(
                f"{record.optimizer} seed {record.seed}: {_result(record, '')}", markup=False, highlight=False
            )

    def retried(self, run: Run, how: str) -> None:
        self._overall.console.print(
            f"worker died ({how}) on {run.optimizer} seed {run.seed}; trying once more", markup=False, highlight=False
        )


def display(plan: Plan, console: Console) -> LiveView | PlainLines:
    """The live view on a terminal, plain lines where the output is a file or a pipe."""
    return LiveView(plan, console) if console.is_terminal else PlainLines(plan, console)
