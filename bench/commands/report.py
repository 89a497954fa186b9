"""`bench report`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.options import RESULTS, latest_study


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
def report_command(study: str | None, results: Path, reports: Path, protocol_hash: str | None) -> None:
    """Write reports/STUDY/report.md with tables and plots.  [default: the study changed last]"""
    from bench.reporting.report import write_report
    from bench.store import study_name
    from bench.study import load_study

    folder = results / study_name(study) if study else latest_study(results)
    loaded, counts = load_study(folder, protocol_hash)
    others = {key: count for key, count in counts.items() if key != loaded.protocol.hash}
    click.echo(write_report(loaded, reports / loaded.name, others))
