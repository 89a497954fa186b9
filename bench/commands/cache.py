"""`bench cache`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from bench.commands.options import AS_JSON, print_json


@click.command("cache")
@click.argument("names", nargs=-1)
@click.option("--remove", is_flag=True, help="Remove what is listed.")
@AS_JSON
def cache_command(names: Sequence[str], remove: bool, as_json: bool) -> None:
    """List decoded data kept on disk, and with --remove delete it; NAMES are entries or globs (default: all).

    It lies under BENCH_CACHE, else optimizer-bench in XDG_CACHE_HOME or ~/.cache, and is made again when a run needs
    it. Nothing else in that folder is listed or removed, nor is what a run is writing just now. --json prints folder,
    entries (name, bytes), bytes, removed, and busy: the names of what --remove left to the runs writing it.
    """
    from fnmatch import fnmatchcase

    from bench.datasets import cache
    from bench.errors import UsageError

    entries = cache.kept()
    for name in names:
        if not any(fnmatchcase(entry.name, name) for entry in entries):
            raise UsageError(
                f"{name!r}: no entry of the cache; there are {', '.join(e.name for e in entries) or 'none'}"
            )
    found = [entry for entry in entries if not names or any(fnmatchcase(entry.name, name) for name in names)]
    busy = [entry for entry in found if not cache.remove(entry.name)] if remove else []
    found = [entry for entry in found if entry not in busy]
    for entry in busy:
        click.echo(f"{entry.name} is being written by a run; it is not removed", err=True)
    total = sum(entry.bytes for entry in found)
    if as_json:
        rows = [{"name": entry.name, "bytes": entry.bytes} for entry in found]
        content = {"folder": str(cache.cache_folder()), "entries": rows, "bytes": total, "removed": remove}
        print_json({**content, "busy": [entry.name for entry in busy]})
        return
    for entry in found:
        click.echo(f"{cache.megabytes(entry.bytes):>8}  {entry.name}")
    done = "removed" if remove else "kept"
    click.echo(f"{cache.megabytes(total)} in {len(found)} entries {done}; folder {cache.cache_folder()}", err=True)
