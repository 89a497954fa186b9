"""`bench report`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.commands.options import AS_JSON, EXIT_USAGE, RESULTS, latest_study, print_json


@click.command("report")
@click.argument("study", required=False)
@RESULTS
@click.option(
    "--reports",
    type=click.Path(path_type=Path),
    default=Path("reports"),
    show_default=True,
    help="Folder of all reports.",
)
@click.option("--protocol-hash", help="Which protocol's runs, where there are several.  [default: the latest]")
@click.option("--max-memory", metavar="SIZE", help="Also say what is best within this peak memory, as 8GB.")
@click.option("--max-time", metavar="TIME", help="Also say what is best within this time a run, as 90s, 30min, 2h.")
@AS_JSON
def report_command(
    study: str | None, results: Path, reports: Path, protocol_hash: str | None, max_memory: str | None,
    max_time: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Write reports/STUDY: report.html, report.md, tables and figures.  [default: the study changed last]

    Records that cannot be read are named and left out; the rest is reported, and the exit code is 2.
    """
    from bench.reporting.limits import Limits, parse_memory, parse_time
    from bench.reporting.report import write_report
    from bench.store import study_name
    from bench.study import load_study
    from bench.terminal import say

    memory, seconds = max_memory and parse_memory(max_memory), max_time and parse_time(max_time)
    limits = Limits(memory=memory or None, seconds=seconds or None) if memory or seconds else None
    loaded, counts = load_study(results / study_name(study) if study else latest_study(results), protocol_hash)
    others = {key: count for key, count in counts.items() if key != loaded.protocol.hash}
    report = write_report(loaded, reports / loaded.name, others, limits)
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(report.markdown)
        click.echo(report.html)
    for line in report.unreadable:
        say(f"error: {' '.join(line.split())}; left out", err=True)
    if report.unreadable:
        sys.exit(EXIT_USAGE)
