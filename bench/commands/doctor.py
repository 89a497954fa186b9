"""`bench doctor`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from bench.commands.options import DATA_DIR, EXIT_FAILED, parse_setting


@click.command("doctor")
@click.argument("reference")
@click.option("--override", "-O", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting, as lr=3e-4.")
@click.option("--protocol", "-p", help="Network and data.  [default: standard for single steps, mini for rates]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, batches and dropout.")
@DATA_DIR
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON (structure: bench/doctor/report.py).")
def doctor_command(reference: str, overrides: Sequence[str], as_json: bool, **options: Any) -> None:
    """Check every contract of an optimizer, and look at it on a real network.

    REFERENCE is a name of the catalog, module:Class or file.py:Class. Exit code 1 if a contract is broken.
    """
    from bench.doctor.report import examine
    from bench.doctor.view import view
    from bench.terminal import screen

    settings = dict(parse_setting(text) for text in overrides)
    report = examine(reference, overrides=settings, progress=lambda text: click.echo(text, err=True), **options)
    if as_json:
        click.echo(report.as_json())
    else:
        screen().print(view(report))
    if report.broken:
        sys.exit(EXIT_FAILED)
