"""`bench clean`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.options import AS_JSON, RESULTS, print_json


@click.command("clean")
@click.argument("study", required=False)
@click.option("--stopped", is_flag=True, help="Also the state of runs that were stopped: they begin anew then.")
@click.option("--yes", is_flag=True, help="Remove what is listed.")
@RESULTS
@AS_JSON
def clean_command(study: str | None, stopped: bool, yes: bool, results: Path, as_json: bool) -> None:
    """List what a study does not need any more, and with --yes remove it.

    STUDY is a name under --results or a folder (by default the one asked for last). That is: temporary files of crashed
    writers, checkpoints of runs that have ended, records that were set aside and made again, logs. No record is ever
    removed, nor its curve, nor weights (best.pt, last.pt), nor anything of a run that a process is at work on. --json
    prints study, removed, bytes, kinds, files (kind, path, bytes) and held (runs that processes are at work on).
    """
    from bench.folders import own_folder
    from bench.upkeep.cleaning import COSTLY, KINDS, Kind, removable, remove
    from bench.upkeep.cleaning_text import lines

    folder = own_folder(study, results)
    kinds: list[Kind] = [kind for kind in KINDS if stopped or kind != COSTLY]
    found = remove(folder, kinds) if yes else removable(folder, kinds)
    if as_json:
        print_json(found.to_json())
        return
    for line in lines(found):
        click.echo(line)
