"""Time as text and tables: to the target, over training, and against quality and memory."""

from __future__ import annotations

import math

from bench.reporting.analysis import AXES, Analysis, RankCourse, Target
from bench.reporting.document import Cell, Table, number, table
from bench.reporting.pareto import pareto_front
from bench.reporting.result_table import bytes_text
from bench.statistics.targets import MOST_TIMES_THE_BEST, TargetTimes, profile_scores
from bench.summary import metric_title, unit

_TARGET_NOTE = (
    "Median over runs, a run that missed the target counts as infinite; times are interpolated between evaluations; "
    f"PAR2: mean steps, a miss at twice the budget; profile: mean over seeds of ({MOST_TIMES_THE_BEST:g} − r)/"
    f"{MOST_TIMES_THE_BEST - 1:g} with r = steps over the fewest of the seed, at least 0; it depends on who else runs."
)


def target_line(analysis: Analysis, target: Target) -> str:
    """Which score is the target."""
    score = f"{target.score:.2f} {unit(analysis.metric)}".rstrip()
    return (
        f"The target is {metric_title(analysis.metric)} of {score} on the test split: {target.how}, the highest such "
        "eighth that half of the optimizers reach in half of their runs."
    )


def target_table(analysis: Analysis, target: Target) -> Table:
    """How many runs reached the target, and when, on each axis."""
    names, blocks = target.blocks()
    profile = dict(zip(names, profile_scores(blocks).mean(axis=0).tolist(), strict=True)) if len(blocks) else {}
    lines = []
    for row in analysis.rows:
        name = row.optimizer
        if name not in target.seeds:
            continue
        steps = target.summary["steps"][name]
        medians = [_time(target.summary[axis][name].median, ".1f" if axis == "seconds" else ",.0f") for axis in AXES]
        lines.append([name, _reached(steps), *medians, number(steps.par2, ",.0f"), number(profile.get(name), ".2f")])
    headings = ["optimizer", "reached", *AXES, "PAR2", "profile"]
    return table("targets", "Time to the target", headings, lines, text=("optimizer",), note=_TARGET_NOTE)


def _reached(times: TargetTimes) -> Cell:
    return Cell(f"{times.reached}/{times.n}", order=times.reached / times.n)


def _time(value: float, form: str) -> Cell:
    return Cell("missed", math.inf) if math.isinf(value) else number(value, form)


def course_lines(course: RankCourse) -> list[str]:
    """Whether the order of two optimizers flips during training."""
    if not course.flips:
        return ["No pair of optimizers is told apart one way early and the other way later in training."]
    lines = [
        f"{flip.early} leads {flip.late} up to epoch {flip.until}, {flip.late} leads from epoch {flip.since} on."
        for flip in course.flips
    ]
    return [*lines, "Each by paired tests with Holm's correction within an epoch, not over epochs."]


def pareto_table(analysis: Analysis) -> Table | None:
    """Training time, quality and memory of the optimizers with runs that are ok, and who is on the front."""
    metric = analysis.metric
    shown = [row for row in analysis.rows if metric in row.metrics and row.training_seconds is not None]
    if not shown:
        return None
    sign = -1.0 if analysis.points == "" else 1.0
    points = [(row.training_seconds or 0.0, sign * row.metrics[metric].mean, float(row.state_bytes)) for row in shown]
    lines = [
        [row.optimizer, number(row.training_seconds, ".1f"), number(row.metrics[metric].mean, ".2f"),
         Cell(bytes_text(row.state_bytes), row.state_bytes), Cell(bytes_text(row.peak_bytes), row.peak_bytes),
         "front" if front else "dominated"]
        for row, front in zip(shown, pareto_front(points), strict=True)
    ]  # fmt: skip
    headings = ["optimizer", "training s", metric_title(metric), "state", "peak memory", "on means"]
    note = (
        "Front: no other is at least as good in training time, quality and state and better in one; by means, so that "
        "neighbours may change places with other seeds."
    )
    return table(
        "pareto", "On means over the runs that are ok", headings, lines, text=("optimizer", "on means"), note=note
    )
