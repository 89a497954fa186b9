"""What several commands share: options, exit codes, the parsing of settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class _BatchRuns(click.ParamType):
    """A count, or `auto`: None, as it is without the option."""

    name = "auto|K"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """What the option says; a count's range is checked with the other options'."""
        return None if value == "auto" else click.INT.convert(value, param, ctx)


# Documented as part of the interface.
EXIT_FAILED, EXIT_USAGE, EXIT_INCONCLUSIVE, EXIT_NO_BASELINE, EXIT_NOTHING_TO_DO, EXIT_INTERRUPTED = 1, 2, 3, 4, 5, 130
RESULTS = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of all studies.",
)
DATA_DIR = click.option(
    "--data-dir", envvar="BENCH_DATA", type=click.Path(path_type=Path), show_envvar=True, help="Folder of real data."
)
DEVICE = click.option("--device", help="cpu, cuda or cuda:N.  [default: cuda where present]")
WEIGHTS = click.Path(path_type=Path)
CODE_PROTOCOL = click.option(
    "--protocol", "-p", help="The run's protocol file, where it names code of your own: a stored file names none."
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
OVERRIDES = click.option(
    "--override",
    "-O",
    "overrides",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    help="A setting of one optimizer, as adamw.lr=3e-4.",
)
SEEDS = click.option(
    "--seeds", help="A count (5 = seeds 0 to 4), a range (0-9) or a list (0,3,7).  [default: the protocol's]"
)
_WHERE_AND_HOW = (
    click.option("--protocol", "-p", help="Built-in name or a .toml file.  [default: standard with CUDA, else mini]"),
    click.option("--epochs", type=int, help="Epochs of every run.  [default: the protocol's]"),
    click.option(
        "--technique",
        "techniques",
        multiple=True,
        metavar="NAME[.KEY=VALUE]",
        help="Train with a technique of `bench list techniques`, as mixup.alpha=0.4; repeatable.",
    ),
    click.option("--limit", type=int, help="For a quick look: so many images or clips of a split; batches no larger."),
    RESULTS,
    click.option("--study", help="Folder of this study under --results.  [default: the protocol's name]"),
    DATA_DIR,
    click.option("--device", help="cpu, cuda (all GPUs) or cuda:N.  [default: cuda where present]"),
    click.option("--engine", help="local, or ray: a cluster of several machines.  [default: local]"),
    click.option("--address", help="Of the Ray cluster.  [default: RAY_ADDRESS, else this machine]"),
    click.option("--parallel", help="runs: a worker a run, or ddp: all processes on one run.  [default: runs]"),
    click.option("--workers", type=int, help="Processes.  [default: one a core, one a GPU, or all of the cluster]"),
    click.option("--threads", type=int, help="Of each process; a result's last bits depend on it.  [default: 1]"),
    click.option("--batch-runs", type=_BatchRuns(), help="Small runs at once in a worker.  [default: auto]"),
    click.option("--retry-failed", is_flag=True, help="Run again what ended in error, timeout or out_of_memory."),
    click.option("--time-limit", type=float, metavar="SECONDS", help="Give a run up after so long.  [default: none]"),
    click.option(
        "--checkpoint-seconds",
        type=float,
        metavar="SECONDS",
        help="Keep a run's state at the first epoch's end after so long; 0: at each.  [default: 60]",
    ),
    click.option(
        "--checkpoint-steps", type=int, metavar="STEPS", help="Keep it every so many steps too.  [default: never]"
    ),
    click.option(
        "--tracker",
        "tracker_names",
        multiple=True,
        metavar="NAME[=TARGET]",
        help="Show runs in tensorboard, wandb, trackio, mlflow, module:Class or file.py:Class too; repeatable.",
    ),
)


_WEIGHTS = (
    click.option("--save-best", is_flag=True, help="Keep each run's best weights by the validation split: best.pt."),
    click.option("--save-last", is_flag=True, help="Keep each run's last weights, to go on from: last.pt."),
)


def optimizers_option(default: str) -> Callable[[Command], Command]:
    """`--optimizers`, repeated or with commas."""
    return click.option(
        "--optimizers",
        "-o",
        multiple=True,
        default=(default,),
        show_default=True,
        help="Names, groups (all, builtin, modern, zoo), globs, module:Class or file.py:Class; commas or repeated.",
    )


def study_options(command: Command) -> Command:
    """The options of whatever carries out runs: protocol, study, and where and how they run."""
    for option in reversed(_WHERE_AND_HOW):
        command = option(command)
    return command


def weights_options(command: Command) -> Command:
    """Which weights runs keep."""
    for option in reversed(_WEIGHTS):
        command = option(command)
    return command


def parse_overrides(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`adamw.lr=3e-4` to {"adamw": {"lr": 0.0003}}; values are JSON, or plain text where they are not."""
    from bench.errors import UsageError

    overrides: dict[str, dict[str, Any]] = {}
    for text in texts:
        place, equals, value = text.partition("=")
        name, dot, key = place.rpartition(".")
        if not (equals and dot and name and key and value):
            raise UsageError(f"-O {text!r}: allowed is NAME.KEY=VALUE, as adamw.lr=3e-4")
        overrides.setdefault(name, {})[key] = _parse_value(value)
    return overrides


def _parse_value(text: str) -> Any:
    """JSON, Python's True, False and None, or plain text."""
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_setting(text: str) -> tuple[str, Any]:
    """`lr=3e-4` to ("lr", 0.0003)."""
    from bench.errors import UsageError

    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise UsageError(f"-O {text!r}: allowed is KEY=VALUE, as lr=3e-4")
    return key, _parse_value(value)


def progress_console() -> Any:
    """Where progress goes: standard error."""
    from bench.terminal import screen

    return screen(stderr=True)


def print_json(content: Any) -> None:
    """`content` on standard output, without NaN."""
    click.echo(json.dumps(content, indent=2, allow_nan=False))


def latest_study(results: Path) -> Path:
    from bench.errors import UsageError
    from bench.study import find_studies

    studies = find_studies(results)
    if not studies:
        raise UsageError(f"no study in {results}; `bench run` makes one")
    return studies[-1]
