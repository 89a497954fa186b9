"""A study's report: markdown with the table, what it means, the figures, the cost and where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from bench.protocol import PROTOCOLS
from bench.ranking import rank_study
from bench.record import Environment, Failure
from bench.reporting.figures import write_figures
from bench.reporting.findings import findings, printable_line, seeds_text
from bench.reporting.result_table import LEGEND, markdown_cell, markdown_grid, markdown_table
from bench.store import write_atomic
from bench.study import Study
from bench.summary import Row, bounds_lines, claim_lines, metric_title, rows, settings_text
from bench.verdict_text import RANK_LEGEND, cells, sentences

FIGURE_TITLES = {
    "final": "Final result",
    "loss": "Training loss",
    "retrieval": "Retrieval over training",
    "pairs": "By pair of modalities",
    "time": "Time against quality",
}
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
NO_OTHERS: Mapping[str, int] = MappingProxyType({})


def write_report(study: Study, folder: Path, others: Mapping[str, int] = NO_OTHERS) -> Path:
    """Write report.md, runs.csv and figures/ into `folder`; returns the path of report.md.

    `others` are the further protocols in the study's folder with their numbers of runs. The same study gives the same
    bytes, in whatever order its records come.
    """
    study = replace(study, records=tuple(sorted(study.records, key=lambda r: (r.optimizer, r.seed, r.run_id))))
    table = rows(study)
    texts = write_figures(study, folder / "figures")
    write_atomic(folder / "runs.csv", _csv(study))
    notes = findings(study, table)
    parts = [
        f"# {markdown_cell(study.name)}",
        _list(_facts(study, others)),
        *_verdict(study),
        "## Result",
        markdown_table(study),
        _list([*bounds_lines(study), *claim_lines(study, table)]),
        LEGEND + ".",
        *(["## Worth knowing", _list(notes)] if notes else []),
        "## Figures",
        *(_figure(title, stem, texts[stem]) for stem, title in FIGURE_TITLES.items()),
        *_failures(study, table),
        "## Optimizers",
        _settings(table),
        "## Cost",
        _cost(study),
        "## Where it comes from",
        _list(_environments(study)),
        "## How to reproduce",
        _commands(study, table),
    ]
    path = folder / "report.md"
    write_atomic(path, "\n\n".join(parts) + "\n")
    return path


def _figure(title: str, stem: str, text: str) -> str:
    return f"### {title}\n\n![{markdown_cell(text)}](figures/{stem}.svg)"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"* {markdown_cell(line)}" for line in lines)


def _facts(study: Study, others: Mapping[str, int]) -> list[str]:
    p = study.protocol
    title = f" ({p.title})" if p.title else ""
    clipping = "no clipping" if p.clip_norm is None else f"gradients clipped to norm {p.clip_norm:g}"
    facts = [
        f"protocol {p.name}{title}, hash {p.hash}",
        f"workload {p.workload.name}: {p.workload.title}; modalities {', '.join(p.workload.modalities)}",
        f"{p.epochs} epochs, batch {p.batch_size}, {p.precision}, {clipping}, {p.schedule} rate, warm-up "
        f"{100 * p.warmup:g} % of the steps",
        f"{len(study.records)} runs: {len({r.optimizer for r in study.records})} optimizers, "
        f"{seeds_text(r.seed for r in study.records)}",
        f"primary metric: {metric_title(p.primary_metric)} on the test split at the last epoch",
    ]
    if others:
        listed = ", ".join(f"{key} ({count} runs)" for key, count in sorted(others.items()))
        facts.append(f"not in this report: runs of other protocols in the same folder, by hash: {listed}")
    return facts


def _verdict(study: Study) -> list[str]:
    """What the runs support, in sentences and by entry; nothing where there is nothing to compare."""
    found = rank_study(study)
    if found is None:
        return []
    headings = ["optimizer", "rank", "letters", "mean", "95 %", "mean rank", "ok"]
    grid = markdown_grid(headings, [True, False, True, *[False] * 4], [cells(entry) for entry in found.entries])
    return ["## Verdict", _list(sentences(found)), grid, RANK_LEGEND]


def _failures(study: Study, table: Sequence[Row]) -> list[str]:
    """Every run that is not ok, with where and why it ended."""
    cells = []
    for row in table:
        for record in row.failed:
            failure = record.failure or Failure(reason="no reason stored")
            place = ["–" if x is None else str(x) for x in (failure.epoch, failure.step)]
            outcome = record.outcome.replace("_", " ")
            cells.append([row.optimizer, str(record.seed), outcome, *place, printable_line(failure.reason, study)])
    headings = ["optimizer", "seed", "outcome", "epoch", "step", "reason"]
    left = [True, False, True, False, False, True]
    return ["## Runs that are not ok", markdown_grid(headings, left, cells)] if cells else []


def _settings(table: Sequence[Row]) -> str:
    return markdown_grid(["optimizer", "settings"], [True] * 2, [[row.optimizer, settings_text(row)] for row in table])


def _cost(study: Study) -> str:
    seconds = {part: sum(sorted(getattr(r.seconds, part) for r in study.records))
               for part in ("total", "training", "optimizer_step", "evaluation", "setup")}  # fmt: skip
    text = {part: _duration(value) for part, value in seconds.items()}
    return (
        f"{text['total']} of device time in all, summed over runs: training {text['training']} (of it optimizer steps "
        f"{text['optimizer_step']}), evaluation {text['evaluation']}, setup {text['setup']}."
    )


def _duration(seconds: float) -> str:
    """Seconds up to two minutes, minutes up to two hours, then hours."""
    for limit, size, name in ((120, 1, "s"), (7200, 60, "min"), (float("inf"), 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds} s"


def _environments(study: Study) -> list[str]:
    """Every distinct environment, the most frequent first."""
    counts = Counter(_environment(r.environment) for r in study.records if r.environment)
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{count} run{'s' if count != 1 else ''} on {text}" for text, count in found]
    unknown = len(study.records) - sum(counts.values())
    return [*lines, f"{unknown} without a recorded environment"] if unknown else lines


def _environment(e: Environment) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in sorted(e.versions.items()))
    changes = "" if e.git_dirty is None else " with local changes" if e.git_dirty else " without local changes"
    commit = "commit not known" if e.git_commit is None else f"commit {e.git_commit[:12]}{changes}"
    driver = f", driver {e.driver}" if e.driver else ""
    deterministic = "deterministic algorithms only" if e.deterministic else "no determinism asked of torch"
    threads = f"{e.threads} thread{'s' if e.threads != 1 else ''} a run"
    return f"{e.device}{driver}; {e.processor}, {e.cores} cores, {threads}; {deterministic}; {commit}; {versions}"


def _commands(study: Study, table: Sequence[Row]) -> str:
    """The commands as recorded, or the one that asks for the same runs where none was recorded."""
    counts = Counter(printable_line(r.command, study) for r in study.records if r.command)
    p = study.protocol
    if counts:
        used = [command for command, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
        first = "Recorded with the runs; the same command again runs only what is missing:"
    else:
        names = ",".join(sorted({row.records[0].optimizer for row in table}))
        seeds = ",".join(map(str, sorted({seed for row in table for seed in row.seeds})))
        known = p.name in PROTOCOLS and PROTOCOLS[p.name].hash == p.hash
        protocol = p.name if known else "PROTOCOL.toml"
        used = [f"bench run --protocol {protocol} --optimizers {names} --seeds {seeds} --study {study.name}"]
        first = "No command was recorded; this one asks for the same runs, with the settings listed above by `-O`:"
    block = "\n".join(f"    {line}" for line in [*used, f"bench report {study.name}"])
    return f"{first}\n\n{block}\n\nThe full protocol is `protocols/{p.hash}.json` in the study's folder."


def _csv(study: Study) -> str:
    """A row a run; text that a spreadsheet would take for a formula begins with an apostrophe."""
    frame = study.frame()
    for column in frame.columns:
        if frame[column].dtype.kind not in "iuf":
            frame[column] = frame[column].map(_quoted)
    return frame.to_csv(index=False, lineterminator="\n")


def _quoted(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_SIGNS) else value
