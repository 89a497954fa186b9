"""`bench baseline`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from bench.commands.options import EXIT_NOTHING_TO_DO, RESULTS, latest_study


@click.group("baseline")
def baseline_group() -> None:
    """Keep the file that `bench check` compares with."""


@baseline_group.command("update")
@click.argument("study", required=False)
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The baseline file, to be committed.",
)
@click.option("--optimizers", "-o", multiple=True, help="Names or globs.  [default: all of the study]")
@RESULTS
def update_command(study: str | None, output: Path, optimizers: Sequence[str], results: Path) -> None:
    """Make STUDY the baseline and say what that changes.  [default: the study changed last]

    Exit code 5 where the file holds these very runs already. A file that is no baseline is not overwritten.
    """
    from bench.check.baseline import NoBaselineError, read_baseline, write_baseline
    from bench.check.snapshot import snapshot
    from bench.check.update import size, update_lines
    from bench.commands.studies import named_study
    from bench.errors import BadRecordError, UsageError
    from bench.terminal import say

    names = [part.strip() for text in optimizers for part in text.split(",") if part.strip()]
    new = snapshot(named_study(study or str(latest_study(results)), results), names)
    old = None
    try:
        old = read_baseline(output) if output.exists() else None
    except NoBaselineError as error:
        say(f"warning: the old file is replaced unread: {error}", err=True)
    except BadRecordError as error:
        raise UsageError(f"--output: this file is no baseline, so it is left as it is: {error}") from None
    if not write_baseline(new, output):
        click.echo(f"nothing to do: {output} holds these runs already", err=True)
        sys.exit(EXIT_NOTHING_TO_DO)
    say("\n".join(update_lines(old, new)))
    say(f"{output}: {size(new)}, protocol {new.protocol.name} ({new.protocol_hash})")
