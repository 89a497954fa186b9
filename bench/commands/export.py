"""`bench export-optuna`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.options import RESULTS, latest_study


@click.command("export-optuna")
@click.argument("study", required=False)
@RESULTS
@click.option("--protocol-hash", help="Which protocol's runs, where there are several.  [default: the latest]")
@click.option("--storage", required=True, metavar="URL", help="As sqlite:///trials.db; any storage that Optuna knows.")
def export_command(study: str | None, results: Path, protocol_hash: str | None, storage: str) -> None:
    """Write the trials of a study's searches into an Optuna storage, for optuna-dashboard.

    An earlier export of the same study is replaced.  [default: the study changed last]
    """
    from bench.search.export import export
    from bench.store import study_name
    from bench.study import load_study
    from bench.terminal import say

    loaded, _ = load_study(results / study_name(study) if study else latest_study(results), protocol_hash)
    if loaded.bad:
        say(f"warning: {len(loaded.bad)} unreadable, left out; first: {loaded.bad[0]}", err=True)
    for name, count in export(loaded, storage):
        say(f"{name}: {count} trials")
