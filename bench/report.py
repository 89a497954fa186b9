"""A study's report: markdown with the table, what it means, the figures, the cost and where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bench.figures import write_figures
from bench.store import write_atomic
from bench.study import Study
from bench.summary import bounds_lines, claim_line, findings
from bench.tables import LEGEND, markdown_cell, markdown_table

FIGURE_TITLES = {
    "final": "Final result",
    "loss": "Training loss",
    "retrieval": "Retrieval over training",
    "pairs": "By pair of modalities",
    "time": "Time against quality",
}
FORMULA_SIGNS = ("=", "+", "-", "@")


def write_report(study: Study, folder: Path, others: Mapping[str, int] | None = None) -> Path:
    """Write report.md, runs.csv and figures/ into `folder`; returns the path of report.md.

    `others` are the further protocols in the study's folder with their numbers of runs. The same study gives the same
    bytes.
    """
    texts = write_figures(study, folder / "figures")
    write_atomic(folder / "runs.csv", _csv(study))
    parts = [
        f"# {markdown_cell(study.name)}",
        _protocol(study, others or {}),
        "## Result",
        markdown_table(study),
        _list([*bounds_lines(study), claim_line(study)]),
        LEGEND + ".",
        *_worth_knowing(study),
        "## Figures",
        *(f"### {FIGURE_TITLES[stem]}\n\n![{texts[stem]}](figures/{stem}.svg)" for stem in FIGURE_TITLES),
        "## Cost",
        _cost(study),
        "## Where it comes from",
        _provenance(study),
    ]
    path = folder / "report.md"
    write_atomic(path, "\n\n".join(parts) + "\n")
    return path


def _list(lines: list[str]) -> str:
    return "\n".join(f"* {markdown_cell(line)}" for line in lines)


def _protocol(study: Study, others: Mapping[str, int]) -> str:
    p, seeds = study.protocol, sorted({r.seed for r in study.records})
    title = f" ({p.title})" if p.title else ""
    lines = [
        f"protocol {p.name}{title}, hash {p.hash}; workload {p.workload.name}",
        f"{p.epochs} epochs, batch {p.batch_size}, {p.precision}, gradients clipped to {p.clip_norm}, "
        f"{p.schedule} rate, warm-up {100 * p.warmup:g} % of the steps",
        f"{len(study.records)} runs: {len({r.optimizer for r in study.records})} optimizers, seeds "
        + ", ".join(map(str, seeds)),
        f"primary metric {p.primary_metric} on the test split at the last epoch",
    ]
    if others:
        listed = ", ".join(f"{key} ({count} runs)" for key, count in sorted(others.items()))
        lines.append(f"not shown, other protocols in this folder: {listed}")
    return _list(lines)


def _worth_knowing(study: Study) -> list[str]:
    notes = findings(study)
    return ["## Worth knowing", _list(notes)] if notes else []


def _cost(study: Study) -> str:
    totals = {part: sum(getattr(r.seconds, part) for r in study.records)
              for part in ("total", "training", "optimizer_step", "evaluation")}  # fmt: skip
    return (
        f"{totals['total'] / 3600:.2f} device hours in all: training {totals['training'] / 3600:.2f} (of it optimizer "
        f"steps {totals['optimizer_step'] / 3600:.2f}), evaluation {totals['evaluation'] / 3600:.2f}."
    )


def _provenance(study: Study) -> str:
    """Every distinct environment and command, the most frequent first."""
    environments = Counter(r.environment.model_dump_json() for r in study.records if r.environment)
    lines = []
    for record in {r.environment.model_dump_json(): r for r in study.records if r.environment}.values():
        e = record.environment
        assert e is not None
        versions = ", ".join(f"{name} {number}" for name, number in sorted(e.versions.items()))
        commit = "unknown" if e.git_commit is None else e.git_commit[:12] + (" with changes" if e.git_dirty else "")
        lines.append(
            f"{environments[e.model_dump_json()]} runs on {e.device}, {e.processor}, {e.cores} cores, "
            f"{e.threads} threads a process; commit {commit}; {versions}"
        )
    commands = Counter(r.command for r in study.records if r.command)
    shown = "\n".join(f"    {' '.join(command.split())}" for command, _ in commands.most_common())
    hyperparameters = sorted({f"{study.labels[r.run_id]}: {_settings(r.hyperparameters)}" for r in study.records})
    return "\n\n".join(
        [_list(sorted(lines)), "Settings:", _list(hyperparameters), *(["Made by:", shown] if shown else [])]
    )


def _settings(hyperparameters: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(hyperparameters.items()) if value is not None)


def _csv(study: Study) -> str:
    """A row a run; text that a spreadsheet would take for a formula begins with an apostrophe."""
    frame = study.frame()
    for column in frame.columns:
        if frame[column].dtype.kind not in "if":
            frame[column] = [_quoted(value) for value in frame[column]]
    return frame.to_csv(index=False, lineterminator="\n")


def _quoted(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_SIGNS) else value
