"""`bench status`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.options import AS_JSON, RESULTS, print_json


@click.command("status")
@click.argument("study", required=False)
@RESULTS
@AS_JSON
def status_command(study: str | None, results: Path, as_json: bool) -> None:
    """Say what of a study is done, failed, running, stopped, missing or unreadable, and what goes on with the rest.

    STUDY is a name under --results or a folder (by default the one asked for last). Nothing is written. Exit code 0
    whatever is found, 2 where there is no such study. --json prints study, path, totals (runs by state), protocols
    (optimizers with a count of every state, searches), running, stopped, unplaced (runs of no known request),
    unreadable (a line a file), set_aside, last_finished, run_seconds, side_by_side, seconds_left, commands.
    """
    from bench.folders import study_folder
    from bench.status.study_status import study_status

    status = study_status(study_folder(study, results))
    if as_json:
        print_json(status.to_json())
        return
    from datetime import UTC, datetime

    from bench.status.text import view
    from bench.terminal import screen

    screen().print(view(status, datetime.now(UTC)))
