"""Where a report's numbers come from: protocol, failures, settings, cost, environments, commands."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence

from bench.protocols import PROTOCOLS
from bench.record import Environment, Failure
from bench.reporting.document import Bullets, Cell, Code, Paragraph, Section, Table, number, table
from bench.reporting.findings import printable_line
from bench.study import Study
from bench.summary import Row, metric_title, settings_text
from bench.wording import counted, seeds_text


def facts(study: Study, others: Mapping[str, int], left_out: int = 0) -> Section:
    """What was run; `others` are the further protocols in the study's folder with their numbers of runs, `left_out` the
    runs of this one whose settings are neither tuned nor default."""
    p = study.protocol
    title = f" ({p.title})" if p.title else ""
    clipping = "no clipping" if p.clip_norm is None else f"gradients clipped to norm {p.clip_norm:g}"
    lines = [
        f"protocol {p.name}{title}, hash {p.hash}",
        f"workload {p.workload.name}: {p.workload.title}; modalities {', '.join(p.workload.modalities)}",
        f"{p.epochs} epochs, batch {p.batch_size}, {p.precision}, {clipping}, {p.schedule} rate, warm-up "
        f"{100 * p.warmup:g} % of the steps",
        f"{counted(len(study.records), 'run')}: {_compared(study)}, {seeds_text(r.seed for r in study.records)}",
        f"primary metric: {metric_title(p.primary_metric)} on the test split at the last epoch",
        "seeds vary initial weights, order of the data, dropout and noise together, and are shared by all optimizers; "
        "data, split and test items are fixed, so that claims hold for this task and this split",
    ]
    if left_out:
        lines.append(f"not in this report: {counted(left_out, 'run')} with settings neither tuned nor default")
    if others:
        listed = ", ".join(f"{key} ({counted(count, 'run')})" for key, count in sorted(others.items()))
        lines.append(f"not in this report: runs of other protocols in the same folder, by hash: {listed}")
    return Section("Study", (Bullets(tuple(lines)),))


def _compared(study: Study) -> str:
    """`8 optimizers`, and how many configurations where they are more."""
    optimizers, labels = ({r.optimizer for r in study.records}, set(study.labels.values()))
    several = f" in {len(labels)} configurations" if len(labels) > len(optimizers) else ""
    return counted(len(optimizers), "optimizer") + several


def failures(study: Study, rows: Sequence[Row]) -> Table | None:
    """Every run that is not ok, with where and why it ended."""
    lines = []
    for row in rows:
        for record in row.failed:
            failure = record.failure or Failure(reason="no reason stored")
            outcome = record.outcome.replace("_", " ")
            lines.append([row.optimizer, number(record.seed, "d"), outcome, number(failure.epoch, "d"),
                          number(failure.step, "d"), printable_line(failure.reason, study)])  # fmt: skip
    headings = ["optimizer", "seed", "outcome", "epoch", "step", "reason"]
    text = ("optimizer", "outcome", "reason")
    return table("failures", "Where and why they ended", headings, lines, text=text) if lines else None


def settings(rows: Sequence[Row]) -> Table:
    """Every optimizer's hyper-parameters."""
    cells = [[row.optimizer, settings_text(row)] for row in rows]
    return table("settings", "Hyper-parameters", ["optimizer", "settings"], cells, text=("optimizer", "settings"))


_PARTS = ("total", "training", "optimizer_step", "evaluation", "setup")


def cost(study: Study, rows: Sequence[Row]) -> Section:
    """Device time of all runs together and by optimizer."""
    seconds = {part: sum(sorted(getattr(r.seconds, part) for r in study.records)) for part in _PARTS}
    text = {part: duration(value) for part, value in seconds.items()}
    lines = [
        [row.optimizer, number(row.runs, "d"), *(_hours(row, part) for part in _PARTS)] for row in rows
    ]  # fmt: skip
    headings = ["optimizer", "runs", *(part.replace("_", " ") for part in _PARTS)]
    return Section("Cost", (
        Paragraph(
            f"Device time in all {text['total']}, summed over runs: training {text['training']} (of it optimizer "
            f"steps {text['optimizer_step']}), evaluation {text['evaluation']}, setup {text['setup']}. "
            f"{_tuning_cost(study)}"
        ),
        table("cost", "Device time by optimizer, all runs", headings, lines, text=("optimizer",)),
    ))  # fmt: skip


def _tuning_cost(study: Study) -> str:
    if not study.trials:
        return "No rate was searched: the settings were given."
    seconds = sum(sorted(record.seconds.total for record in study.trials))
    return f"The search of the settings took {duration(seconds)} more, in {len(study.trials)} runs."


def _hours(row: Row, part: str) -> Cell:
    seconds = sum(sorted(getattr(r.seconds, part) for r in row.records))
    return Cell(duration(seconds), seconds)


def duration(seconds: float) -> str:
    """Seconds up to two minutes, minutes up to two hours, then hours."""
    for limit, size, name in ((120, 1, "s"), (7200, 60, "min"), (float("inf"), 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds} s"


def source(study: Study) -> Section:
    """Every distinct environment, the most frequent first."""
    counts = Counter(_environment(r.environment) for r in study.records if r.environment)
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{counted(count, 'run')} on {text}" for text, count in found]
    if unknown := len(study.records) - sum(counts.values()):
        lines.append(f"{counted(unknown, 'run')} without a recorded environment")
    return Section("Where it comes from", (Bullets(tuple(lines)),))


def _environment(e: Environment) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(e.versions.items()))
    changes = "" if e.git_dirty is None else " with local changes" if e.git_dirty else " without local changes"
    commit = "commit not known" if e.git_commit is None else f"commit {e.git_commit[:12]}{changes}"
    driver = f", driver {e.driver}" if e.driver else ""
    deterministic = "deterministic algorithms only" if e.deterministic else "no determinism asked of torch"
    threads = f"{counted(e.threads, 'thread')} a run"
    return f"{e.device}{driver}; {e.processor}, {e.cores} cores, {threads}; {deterministic}; {commit}; {versions}"


def reproduction(study: Study, rows: Sequence[Row]) -> Section:
    """The commands as recorded, or the one that asks for the same runs where none was recorded."""
    counts = Counter(printable_line(r.command, study) for r in study.records if r.command)
    searched = dict.fromkeys(
        printable_line(r.command, study) for r in study.trials if r.command and r.protocol.hash == study.protocol.hash
    )
    p, name = study.protocol, shlex.quote(study.name)
    if counts:
        used = [command for command, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
        first = "Recorded with the runs; the same command again runs only what is missing:"
    else:
        names = shlex.quote(printable_line(",".join(sorted({row.records[0].optimizer for row in rows})), study))
        seeds = ",".join(map(str, sorted({seed for row in rows for seed in row.seeds})))
        known = p.name in PROTOCOLS and PROTOCOLS[p.name].hash == p.hash
        protocol = p.name if known else "PROTOCOL.toml"
        used = [f"bench run --protocol {protocol} --optimizers {names} --seeds {seeds} --study {name}"]
        first = "No command was recorded; this one asks for the same runs, with the settings listed above by -O:"
    last = f"The full protocol is protocols/{p.hash}.json in the study's folder."
    return Section(
        "How to reproduce",
        (Paragraph(first), Code((*_only(searched, counts), *used, f"bench report {name}")), Paragraph(last)),
    )


def _only(searched: Iterable[str], ranked: Container[str]) -> list[str]:
    """The commands of searches that are not also those of the runs that rank: they come first."""
    return [command for command in searched if command not in ranked]
