"""`bench schema`."""

from __future__ import annotations

import click

from bench.commands.options import AS_JSON, print_json


@click.command("schema")
@click.argument("name", required=False)
@AS_JSON
def schema_command(name: str | None, as_json: bool) -> None:
    """Print the JSON Schema of what a study stores: record, curve, protocol, search, race or request.

    Without a NAME, the list of them with their places in a study's folder. Numbers that are not finite are stored as
    the strings "NaN", "Infinity" and "-Infinity".
    """
    from bench.schemas import SCHEMAS, schema

    if name is not None:
        print_json(schema(name))
    elif as_json:
        print_json([{"name": key, "path": one.path, "title": one.title} for key, one in SCHEMAS.items()])
    else:
        for key, one in SCHEMAS.items():
            click.echo(f"{key:<10} {one.path:<34} {one.title}")
