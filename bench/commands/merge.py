"""`bench merge`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from bench.commands.options import AS_JSON, EXIT_FAILED, RESULTS, print_json, progress_console


@click.command("merge")
@click.argument("studies", nargs=-1, required=True, metavar="A B…")
@click.option("--into", required=True, metavar="STUDY", help="The study that is written to; made where there is none.")
@RESULTS
@AS_JSON
def merge_command(studies: Sequence[str], into: str, results: Path, as_json: bool) -> None:
    """Bring the studies of several machines together in one.

    Studies are names under --results or folders. The same run in two of them must agree in its settings and results,
    not in times, memory and machine, or it is named with what differs and not written; so is what cannot be read. A run
    that failed in one and came to its end in another counts as ended. No record that is there is overwritten;
    interrupted, the same command goes on. Exit code 1 where anything was left out. --json prints into, copied, same,
    replaced (failed runs that another study has a result of), files, unfinished (runs without a record, not copied),
    conflicts (name, one, other, differences) and left_out.
    """
    from bench.folders import place_of, study_folder
    from bench.upkeep.merging import merge

    sources, target = [study_folder(study, results) for study in studies], place_of(into, results)
    with progress_console().status("merging") as status:
        merged = merge(sources, target, lambda done, of: status.update(f"{done:,} of {of:,} runs"))
    if as_json:
        print_json(merged.to_json())
    else:
        from bench.upkeep.merging_text import lines

        for line in lines(merged):
            click.echo(line)
    if not merged.complete:
        sys.exit(EXIT_FAILED)
