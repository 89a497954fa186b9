"""The `bench` command: its group of commands, and how errors end.

Data goes to standard output, progress to standard error. Exit codes: 0 ok, 1 some run failed or a check found a
regression, 2 bad input, 3 inconclusive (on request), 4 baseline missing or incompatible, 5 nothing to do,
130 interrupted.
"""

from __future__ import annotations

import sys

import click

from bench.commands.ablate import ablate_command
from bench.commands.baseline import baseline_group
from bench.commands.cache import cache_command
from bench.commands.check import check_command
from bench.commands.clean import clean_command
from bench.commands.compare import compare_command
from bench.commands.continue_ import continue_command
from bench.commands.demo import demo_command
from bench.commands.doctor import doctor_command
from bench.commands.evaluate import evaluate_command
from bench.commands.export import export_command
from bench.commands.list import list_command
from bench.commands.merge import merge_command
from bench.commands.options import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from bench.commands.power import power_command
from bench.commands.rank import rank_command, score_command
from bench.commands.report import report_command
from bench.commands.run import run_command
from bench.commands.schema import schema_command
from bench.commands.speed import speed_group
from bench.commands.status import status_command
from bench.commands.tune import tune_command
from bench.commands.verify_data import verify_data_command
from bench.terminal import say


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="optimizer-bench", prog_name="bench")
def cli() -> None:
    """Show, with evidence, which optimizer trains a multimodal network best."""


COMMANDS = (
    run_command, tune_command, ablate_command, report_command, list_command, compare_command, power_command,
    rank_command, score_command, check_command, baseline_group, doctor_command, speed_group, export_command,
    status_command, merge_command, clean_command, schema_command, cache_command, verify_data_command,
    evaluate_command, demo_command, continue_command,
)  # fmt: skip
for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command; bad input ends in one line and exit code 2."""
    from bench.errors import BadRecordError, EngineError, StorageError, UsageError

    try:
        cli.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted; finished runs are kept, and the same command goes on with the rest", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        sys.exit(EXIT_USAGE)
    except click.ClickException as error:
        say(f"error: {' '.join(error.format_message().split())}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (UsageError, BadRecordError, OSError) as error:
        say(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(EXIT_USAGE)
    except (EngineError, StorageError) as error:
        say(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(EXIT_FAILED)
