"""A study's report on disk: one content as markdown and as a page, its tables as CSV and LaTeX, its figures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.reporting.analysis import AXES, Analysis, Target, analyse
from bench.reporting.content import document
from bench.reporting.figures import write_figures
from bench.reporting.findings import printable_line
from bench.reporting.html import html
from bench.reporting.latex import latex_table
from bench.reporting.limits import Limits
from bench.reporting.markdown import markdown
from bench.reporting.spreadsheet import csv_table, csv_text
from bench.reporting.verdict_tables import pairs
from bench.search.results import SearchResult
from bench.store import write_atomic
from bench.study import Study

NO_OTHERS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Report:
    """Where a report was written: report.md, report.html, runs.csv, tables/ and figures/ of `folder`."""

    folder: Path
    analysis: Analysis

    @property
    def markdown(self) -> Path:
        """The report as text."""
        return self.folder / "report.md"

    @property
    def html(self) -> Path:
        """The report as one page."""
        return self.folder / "report.html"

    @property
    def unreadable(self) -> tuple[str, ...]:
        """A line for every file of the study that could not be read."""
        return tuple(sorted(str(fault) for fault in self.analysis.study.faults))

    def to_json(self) -> dict[str, Any]:
        """The verdict and the study's rows as plain data, with the files written."""
        study, found = self.analysis.study, self.analysis.verdict
        target = self.analysis.target
        return {
            "study": study.name,
            "protocol": {"name": study.protocol.name, "hash": study.protocol.hash},
            "primary_metric": self.analysis.metric,
            "verdict": None if found is None else found.to_json(),
            "entries": [
                {
                    "name": row.optimizer, "runs": row.runs, "outcomes": row.outcomes,
                    "metrics": {name: {"mean": value.mean, "sd": value.sd} for name, value in row.metrics.items()},
                    "training_seconds": row.training_seconds, "peak_bytes": row.peak_bytes,
                    "state_bytes": row.state_bytes,
                }
                for row in self.analysis.rows
            ],
            "searches": {name: _search(result) for name, result in self.analysis.searches.items()},
            "target": None if target is None else _target(target),
            "unreadable": [printable_line(line, study) for line in self.unreadable],
            "files": sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()),
        }  # fmt: skip


def _search(result: SearchResult) -> dict[str, Any]:
    """What a search tried and found; scores in percent, time in seconds of the device."""
    tuned = result.plan.tuned
    return {
        "settings": None if tuned is None else tuned.values, "validation": None if tuned is None else tuned.validation,
        "unresolved": None if tuned is None else tuned.unresolved, "trials": len(result.trials),
        "diverged_runs": int(result.diverged.sum()), "seconds": result.seconds,
        "best_of": {str(k): score for k, score in result.best_of.items()},
    }  # fmt: skip


def _target(target: Target) -> dict[str, Any]:
    """The score, how many runs reached it, and the median times; None where the median run missed."""
    medians = {
        axis: {name: _finite(times.median) for name, times in target.summary[axis].items()} for axis in AXES
    }  # fmt: skip
    reached = {name: [times.reached, times.n] for name, times in target.summary["steps"].items()}
    return {"score": target.score, "reached": reached, **medians}


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def write_report(
    study: Study, folder: Path, others: Mapping[str, int] = NO_OTHERS, limits: Limits | None = None
) -> Report:
    """Write the report of a study into `folder`.

    `others` are the further protocols in the study's folder with their numbers of runs; `limits` ask for a section on
    what keeps within them. The same study gives the same bytes, in whatever order its records come.
    """
    study = replace(study, records=tuple(sorted(study.records, key=lambda r: (r.optimizer, r.seed, r.run_id))))
    analysis = analyse(study)
    content = document(analysis, write_figures(analysis, folder / "figures"), others, limits)
    report = Report(folder, analysis)
    write_atomic(folder / "runs.csv", _runs(study))
    _write_tables(analysis, {table.stem: table for table in content.tables}, folder / "tables")
    write_atomic(report.markdown, markdown(content))
    write_atomic(report.html, html(content, folder / "figures"))
    return report


def _runs(study: Study) -> str:
    """A row a run as CSV."""
    frame = study.frame()
    for column in frame.columns:
        if frame[column].dtype.kind not in "iuf":
            frame[column] = frame[column].map(csv_text)
    return frame.to_csv(index=False, lineterminator="\n")


def _write_tables(analysis: Analysis, tables: dict[str, Any], folder: Path) -> None:
    """Every table as CSV and LaTeX, the pairs in full; tables of an earlier report are removed."""
    shutil.rmtree(folder, ignore_errors=True)
    if analysis.verdict is not None:
        tables = tables | {"pairs": pairs(analysis.verdict, most=None)}
    for stem, table in tables.items():
        write_atomic(folder / f"{stem}.csv", csv_table(table))
        write_atomic(folder / f"{stem}.tex", latex_table(table))
