"""The `bench` command. Options are parsed here; each command imports what it needs, so that `--help` is instant.

Data goes to standard output, progress to standard error. Exit codes: 0 ok, 1 some run failed, 2 usage, 5 nothing to
do, 130 interrupted.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bench.runner import Plan
    from bench.study import Study

EXIT_FAILED_RUNS, EXIT_USAGE, EXIT_NOTHING_TO_DO, EXIT_INTERRUPTED = 1, 2, 5, 130
EXIT_BROKEN_CONTRACT = 1
RESULTS = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of all studies.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="optimizer-bench", prog_name="bench")
def cli() -> None:
    """Show, with evidence, which optimizer trains a multimodal network best."""


@cli.command("run")
@click.option(
    "--optimizers",
    "-o",
    multiple=True,
    default=("all",),
    show_default=True,
    help="Names, groups (all, builtin, modern, zoo), globs, module:Class or file.py:Class; commas or repeated.",
)
@click.option(
    "--override",
    "-O",
    "overrides",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    help="A setting of one optimizer, as adamw.lr=3e-4.",
)
@click.option("--protocol", "-p", help="Built-in name or a .toml file.  [default: standard with CUDA, else mini]")
@click.option("--epochs", type=int, help="Epochs of every run.  [default: the protocol's]")
@click.option("--seeds", help="A count (5 = seeds 0 to 4), a range (0-9) or a list (0,3,7).  [default: the protocol's]")
@click.option(
    "--lr",
    "rates",
    type=click.Choice(["default", "documents"]),
    help="Whose settings: published defaults or the documents' study.  [default: the protocol's]",
)
@RESULTS
@click.option("--study", help="Folder of this study under --results.  [default: the protocol's name]")
@click.option(
    "--data-dir", envvar="BENCH_DATA", type=click.Path(path_type=Path), show_envvar=True, help="Folder of real data."
)
@click.option("--device", help="cpu, cuda or cuda:N.  [default: cuda where present]")
@click.option("--workers", type=int, help="Processes.  [default: one a core, or one on a GPU]")
@click.option("--retry-failed", is_flag=True, help="Run again what ended in error, timeout or out_of_memory.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")  # fmt: skip
def run_command(
    optimizers: Sequence[str], overrides: Sequence[str], results: Path, as_json: bool, dry_run: bool, **options: Any
) -> None:
    """Run a study, or what is missing of it: optimizers × seeds under one protocol."""
    from bench.display import display
    from bench.paths import without_folders
    from bench.protocol import default_protocol
    from bench.runner import carry_out, prepare

    reason = "given"
    if options["protocol"] is None:
        options["protocol"], reason = default_protocol()
    options["overrides"] = _parse_overrides(overrides)
    command = without_folders(shlex.join(["bench", *sys.argv[1:]]))
    plan = prepare(list(optimizers), results=results, command=command, **options)
    _announce(plan, reason)
    if dry_run:
        rows = [{"run_id": run.run_id, "optimizer": run.optimizer, "seed": run.seed} for run in plan.missing]
        click.echo(json.dumps(rows, indent=2) if as_json else "\n".join(str(row["run_id"]) for row in rows))
        return
    with display(plan, _progress_console()) as watcher:
        study = carry_out(plan, watcher)
    _show(study, as_json)
    planned = {run.run_id for run in plan.runs}
    failed = [r for r in study.records if r.run_id in planned and r.outcome not in ("ok", "diverged")]
    if failed:
        click.echo(f"{len(failed)} runs failed; their records say why; --retry-failed runs them again", err=True)
        sys.exit(EXIT_FAILED_RUNS)
    if not plan.missing:
        click.echo("nothing to do: every run of this study has a record", err=True)
        sys.exit(EXIT_NOTHING_TO_DO)


def _announce(plan: Plan, reason: str) -> None:
    """The first lines: which protocol and why, and what will run."""
    protocol, done = plan.protocol, len(plan.runs) - len(plan.missing)
    optimizers = list(dict.fromkeys(run.optimizer for run in plan.runs))
    title = f" — {protocol.title}" if protocol.title else ""
    click.echo(f"protocol {protocol.name} ({protocol.hash}){title}; chosen because {reason}" if reason != "given"
               else f"protocol {protocol.name} ({protocol.hash}){title}", err=True)  # fmt: skip
    click.echo(
        f"{len(optimizers)} optimizers × {len(plan.runs) // len(optimizers)} seeds × {protocol.epochs} epochs = "
        f"{len(plan.runs)} runs, {done} done, {len(plan.missing)} to do; {plan.workers} workers of {plan.threads} "
        f"threads on {plan.device}; records in {plan.store.path}",
        err=True,
    )
    for line in plan.warnings:
        click.echo(f"warning: {line}", err=True)


def _parse_overrides(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
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


def _progress_console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _show(study: Study, as_json: bool) -> None:
    """The closing table, or every record as JSON."""
    if as_json:
        click.echo(json.dumps([json.loads(r.model_dump_json()) for r in study.records], indent=2))
        return
    from rich.console import Console

    from bench.tables import terminal_summary

    Console().print(terminal_summary(study))


@cli.command("report")
@click.argument("study", required=False)
@RESULTS
@click.option(
    "--reports",
    type=click.Path(path_type=Path),
    default=Path("reports"),
    show_default=True,
    help="Folder of all reports.",
)
@click.option("--protocol-hash", help="Which protocol's runs, where there are several.  [default: the latest]")
def report_command(study: str | None, results: Path, reports: Path, protocol_hash: str | None) -> None:
    """Write reports/STUDY/report.md with tables and plots.  [default: the study changed last]"""
    from bench.report import write_report
    from bench.store import study_name
    from bench.study import load_study

    folder = results / study_name(study) if study else _latest_study(results)
    loaded, counts = load_study(folder, protocol_hash)
    others = {key: count for key, count in counts.items() if key != loaded.protocol.hash}
    click.echo(write_report(loaded, reports / loaded.name, others))


def _latest_study(results: Path) -> Path:
    from bench.errors import UsageError
    from bench.study import find_studies

    studies = find_studies(results)
    if not studies:
        raise UsageError(f"no study in {results}; `bench run` makes one")
    return studies[-1]


@cli.command("list")
@click.argument("kind", type=click.Choice(["optimizers", "workloads", "protocols", "studies"]), required=False)
@RESULTS
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(kind: str | None, results: Path, as_json: bool) -> None:
    """List optimizers, workloads, protocols and studies."""
    from bench import listing

    kinds = [kind] if kind else ["optimizers", "workloads", "protocols", "studies"]
    content = {name: listing.LISTS[name](results) for name in kinds}
    if as_json:
        click.echo(json.dumps(content[kind] if kind else content, indent=2))
        return
    from rich.console import Console

    console = Console()
    for name, rows in content.items():
        console.print(listing.table(name, rows), "")


@cli.command("rank")
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--lower-is-better", is_flag=True, help="The scores are losses or times.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Family-wise error of the tests.",
)
@click.option("--reference", metavar="NAME", help="Compare with this entry alone: fewer tests, more power.")
@click.option(
    "--grain",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Step of the scores: 100/N for percent of N queries.",
)
@click.option("--chance", type=float, help="Score of a diverged run.  [default: the worst score of the table]")
@click.option(
    "--margin",
    type=click.FloatRange(min=0, min_open=True),
    help="Test whether differences lie within this: only then is anything called equivalent.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")  # fmt: skip
def rank_command(table: Path, as_json: bool, **options: Any) -> None:
    """Say what a table of scores supports: best set, rank intervals, pairs.

    TABLE is a CSV file: header seed,<name>,<name>,… and one row a seed; cells may be empty (missing: the seed is left
    out for all) or `diverged` (an outcome: last in its seed).
    """
    from bench.ranking import rank_table

    found = rank_table(table, **options)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, allow_nan=False))
        return
    from rich.console import Console

    from bench import verdict_text

    Console().print(verdict_text.table(found, verdict_text.sentences(found)))


@cli.command("score")
@click.argument("times", type=click.Path(path_type=Path))
@click.option("--r-max", type=float, default=4.0, show_default=True, help="Times over this × the best count as missed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def score_command(times: Path, r_max: float, as_json: bool) -> None:
    """Score times to a target over several workloads by performance profiles.

    TIMES is a JSON file: {submission: {workload: [[time of each trial] per study]}}, "inf" where a target was missed.
    """
    from bench.time_score import read_studies, score_studies, table

    found = score_studies(read_studies(times), r_max)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, allow_nan=False))
        return
    from rich.console import Console

    Console().print(table(found))


@cli.command("doctor")
@click.argument("reference")
@click.option("--override", "-O", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting, as lr=3e-4.")
@click.option("--protocol", "-p", help="Network and data.  [default: standard for single steps, mini for rates]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, batches and dropout.")
@click.option(
    "--data-dir", envvar="BENCH_DATA", type=click.Path(path_type=Path), show_envvar=True, help="Folder of real data."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON (structure: bench/doctor/report.py).")
def doctor_command(reference: str, overrides: Sequence[str], as_json: bool, **options: Any) -> None:
    """Check every contract of an optimizer, and look at it on a real network.

    REFERENCE is a name of the catalog, module:Class or file.py:Class. Exit code 1 if a contract is broken.
    """
    from rich.console import Console

    from bench.doctor.report import examine
    from bench.doctor.view import view

    settings = dict(_parse_setting(text) for text in overrides)
    report = examine(reference, overrides=settings, progress=lambda text: click.echo(text, err=True), **options)
    if as_json:
        click.echo(report.as_json())
    else:
        Console().print(view(report))
    if report.broken:
        sys.exit(EXIT_BROKEN_CONTRACT)


def _parse_setting(text: str) -> tuple[str, Any]:
    """`lr=3e-4` to ("lr", 0.0003)."""
    from bench.errors import UsageError

    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise UsageError(f"-O {text!r}: allowed is KEY=VALUE, as lr=3e-4")
    return key, _parse_value(value)


@cli.group("speed")
def speed_group() -> None:
    """Measure speed: ratios side by side in one process, on a machine that should be quiet."""


@speed_group.command("optimizers")
@click.option(
    "--optimizers",
    "-o",
    multiple=True,
    default=("builtin",),
    show_default=True,
    help="Names, groups, globs, module:Class or file.py:Class; commas or repeated.",
)
@click.option(
    "--override", "-O", "overrides", multiple=True, metavar="NAME.KEY=VALUE", help="A setting of one optimizer."
)
@click.option("--protocol", "-p", default="standard", show_default=True, help="Whose network's parameters.")
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Samples of every entry.")
@click.option("--threads", type=click.IntRange(min=1), help="Of the CPU.  [default: the usable cores]")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: cuda where present]")
@click.option(
    "--data-dir", envvar="BENCH_DATA", type=click.Path(path_type=Path), show_envvar=True, help="Folder of real data."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")  # fmt: skip
def speed_optimizers_command(
    optimizers: Sequence[str], overrides: Sequence[str], protocol: str, rounds: int, threads: int | None,
    device: str | None, data_dir: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Time a step of every entry on a network's real parameters, against fused AdamW and its plain form."""
    import torch
    from rich.console import Console

    from bench import speed
    from bench.environment import usable_cores
    from bench.protocol import load_protocol
    from bench.registry import select
    from bench.runner import usable_device

    torch.set_num_threads(threads or usable_cores())
    chosen, place = load_protocol(protocol), torch.device(usable_device(device))
    selected = select(list(optimizers), _parse_overrides(overrides), "default")
    click.echo(f"{len(selected)} optimizers on {place}, {torch.get_num_threads()} threads", err=True)
    with _progress_console().status("rounds: 0") as status:
        speeds = speed.measure(
            selected, chosen, data_dir=data_dir, device=place, rounds=rounds,
            on_round=lambda done: status.update(f"rounds: {done}"),
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(speeds.as_json(), indent=2))
    else:
        Console().print(speed.table(speeds))


def main() -> None:
    """Run the command; bad input ends in one line and exit code 2."""
    from bench.errors import BadRecordError, EngineError, UsageError

    try:
        cli.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted; finished runs are kept, and the same command goes on with the rest", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        sys.exit(EXIT_USAGE)
    except click.ClickException as error:
        click.echo(f"error: {' '.join(error.format_message().split())}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (UsageError, BadRecordError, OSError) as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(EXIT_USAGE)
    except EngineError as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(EXIT_FAILED_RUNS)
