"""Time as text and tables: to the target, over training, and against quality and memory."""

from __future__ import annotations

import math

from bench.reporting.analysis import AXES, Analysis, RankCourse, Target
from bench.reporting.document import Cell, Table, number, table
from bench.reporting.pareto import candidates
from bench.reporting.result_table import bytes_cell
from bench.statistics.targets import MOST_TIMES_THE_BEST, TargetTimes, profile_scores
from bench.summary import metric_title, unit

_TARGET_NOTE = (
    "Median over runs, a run that missed the target counts as infinite, one whose curve is lost not at all; times are "
    "interpolated between evaluations; PAR2: mean steps, a miss at twice the budget; profile: mean over seeds of "
    f"({MOST_TIMES_THE_BEST:g} − r)/{MOST_TIMES_THE_BEST - 1:g} with r = steps over the fewest of the seed, at least "
    "0; it depends on who else runs."
)


def target_line(analysis: Analysis, target: Target) -> str:
    """Which score is the target."""
    score = f"{target.score:.2f} {unit(analysis.metric)}".rstrip()
    return (
        f"The target is {metric_title(analysis.metric)} of {score} on the test split, chosen by these runs: "
        f"{target.how}."
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
    return table("targets", "Time to the target", headings, lines, text=("optimizer",), note=_TARGET_NOTE,
                 parts={"reached": ("reached", "runs")})  # fmt: skip


def _reached(times: TargetTimes) -> Cell:
    return Cell(f"{times.reached}/{times.n}", order=times.reached / times.n, parts=(times.reached, times.n))


def _time(value: float, form: str) -> Cell:
    return Cell("missed", math.inf) if math.isinf(value) else number(value, form)


def course_lines(course: RankCourse) -> list[str]:
    """Whether the order of two optimizers flips during training."""
    if not course.flips:
        return ["No two optimizers whose runs are all ok are told apart one way early and the other way later in "
                "training."]  # fmt: skip
    tests = "Leads: by paired tests with Holm's correction within an epoch, not over epochs."
    return [*(f"{flip}." for flip in course.flips), tests]


def pareto_table(analysis: Analysis) -> Table | None:
    """Training time, quality and memory of the optimizers with runs that are ok, and who is on the front."""
    lines = [
        [c.row.optimizer, number(c.seconds, ".1f"), number(c.quality, ".2f"), bytes_cell(c.row.state_bytes, c.row),
         bytes_cell(c.row.peak_bytes, c.row), "front" if c.front else "outdone"]
        for c in candidates(analysis.rows, analysis.metric)
    ]  # fmt: skip
    if not lines:
        return None
    headings = ["optimizer", "training s", metric_title(analysis.metric), "state", "peak memory", "on means"]
    note = (
        "Front: no other is at least as good in training time, quality and state (to two digits) and better in one; by "
        "means, so that neighbours may change places with other seeds."
    )
    return table(
        "pareto", "On means over the runs that are ok", headings, lines, text=("optimizer", "on means"), note=note
    )
