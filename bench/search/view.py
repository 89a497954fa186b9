"""A search in the terminal: the best so far while it runs, and what it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.search.plan import SearchPlan
from bench.search.search import Score, Search, Trial
from bench.search.space import RATE
from bench.search.tuning import Progress
from bench.summary import metric_title

if TYPE_CHECKING:
    from rich.console import Console, Group


def values_text(values: dict[str, float]) -> str:
    """`lr 0.00123, weight_decay 0.01`."""
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


class BestSoFar(Progress):
    """A line a trial, with the best setting so far of its optimizer."""

    def __init__(self, console: Console, metric: str) -> None:
        self._console, self._metric = console, metric_title(metric)
        self._count = 0

    def trial_done(self, optimizer: str, trial: Trial, score: Score, search: Search) -> None:
        short = "first rung, " if trial.stage == "rung" else ""
        found = "failed" if score.validation is None else f"{score.validation:.2f}"
        lost = f", {score.diverged} diverged" if score.diverged else ""
        self._count += 1
        text = f"[{self._count}] {optimizer} {short}trial {trial.number + 1}: {values_text(trial.values)}: "
        text += f"{self._metric} on validation {found}{lost}"
        if (best := search.best) is not None:
            text += f"; best so far {values_text(best.values)}: {search.scores[best.number].validation:.2f}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def table(plans: Sequence[SearchPlan]) -> Group:
    """A row an optimizer: what its search found and what it cost; below it what there is to note."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    view = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    view.add_column("optimizer", overflow="fold", min_width=23)
    for heading in ("default lr", "best lr", "validation", "trials"):
        view.add_column(heading, justify="right", no_wrap=True)
    for plan in plans:
        view.add_row(*(Text(cell) for cell in _cells(plan)))
    notes = [Text(f"{plan.optimizer}: {note}") for plan in plans for note in _notes(plan)]
    legend = (
        "validation: mean over tuning seeds on the validation split, of the best of all trials and so too high by what "
        "chance adds; `bench run --lr tuned` ranks on fresh seeds and the test split."
    )
    return Group(view, *notes, Text(legend, style="dim"))


def _cells(plan: SearchPlan) -> list[str]:
    default, tuned = f"{plan.defaults[RATE]:.3g}", plan.tuned
    if tuned is None:
        return [plan.optimizer, default, "–", "–", "–"]
    trials = f"{plan.trials} + {tuned.extra_trials}" if tuned.extra_trials else f"{plan.trials}"
    if tuned.values is None or tuned.validation is None:
        return [plan.optimizer, default, "–", "–", trials]
    return [plan.optimizer, default, f"{tuned.values[RATE]:.3g}", f"{tuned.validation:.2f}", trials]


def _notes(plan: SearchPlan) -> list[str]:
    """What a user should know of a search; nothing of most."""
    tuned = plan.tuned
    if tuned is None:
        return ["not finished"]
    if tuned.values is None:
        return ["no trial ended well: the default is run"]
    others = {name: value for name, value in tuned.values.items() if name != RATE}
    notes = ["optimum at the edge of the range, unresolved"] if tuned.unresolved else []
    return [*notes, values_text(others)] if others else notes
