"""`bench list`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.options import AS_JSON, RESULTS, print_json

KINDS = ["optimizers", "workloads", "protocols", "techniques", "studies"]


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS), required=False)
@RESULTS
@AS_JSON
def list_command(kind: str | None, results: Path, as_json: bool) -> None:
    """List optimizers, workloads, protocols, techniques and studies."""
    from bench import listing

    kinds = [kind] if kind else KINDS
    content = {name: listing.LISTS[name](results) for name in kinds}
    if as_json:
        print_json(content[kind] if kind else content)
        return
    from bench.terminal import screen

    console = screen()
    for name, rows in content.items():
        console.print(listing.table(name, rows), "")
