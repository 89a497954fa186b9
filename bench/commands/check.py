"""`bench check`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.numbers import FiniteRange
from bench.commands.options import (
    DATA_DIR,
    EXIT_FAILED,
    EXIT_INCONCLUSIVE,
    EXIT_NO_BASELINE,
    RESULTS,
    latest_study,
    print_json,
    progress_console,
)

if TYPE_CHECKING:
    from bench.check.result import CheckResult
    from bench.check.snapshot import Snapshot
    from bench.study import Study

EXPORTS = ("github-action-benchmark", "bencher")  # bench.check.exports has them; a test compares
FILE = click.Path(path_type=Path, dir_okay=False)


class _NoBaseline(click.ClickException):
    """The baseline is missing or cannot be compared with."""

    exit_code = EXIT_NO_BASELINE


class _Export(click.ParamType):
    """`FORMAT=FILE`."""

    name = "FORMAT=FILE"

    def convert(
        self, value: str | tuple[str, Path], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        kind, _, file = value.partition("=")
        if kind not in EXPORTS or not file:
            self.fail(f"{value!r}: allowed are {' and '.join(f'{name}=FILE' for name in EXPORTS)}", param, ctx)
        return kind, Path(file)


@click.command("check")
@click.argument("study", required=False)
@click.option("--baseline", "-b", required=True, metavar="FILE|STUDY", help="What to compare with.")
@click.option(
    "--run",
    "runs",
    is_flag=True,
    help="First run the baseline's protocol, optimizers, settings and seeds with today's code.",
)
@click.option(
    "--optimizers",
    "-o",
    multiple=True,
    help="Names or globs of the baseline's; with --run also file.py:Mine, and NAME=file.py:Mine, which runs "
    "that class in the place of NAME.  [default: all of the baseline]",
)
@click.option("--fresh", is_flag=True, help="With --run: run again what an earlier check of this same code has run.")
@click.option(
    "--tolerance",
    type=FiniteRange(min=0),
    default=0.0,
    show_default=True,
    help="Scores that differ by at most this count as the same.",
)
@click.option(
    "--margin",
    type=FiniteRange(min=0),
    default=0.0,
    show_default=True,
    help="A loss of this much, in the metric's unit, is allowed.",
)
@click.option(
    "--alpha",
    type=FiniteRange(0, 0.5, min_open=True),
    default=0.01,
    show_default=True,
    help="False alarms a check, over all gates.",
)
@click.option("--allow-removed", multiple=True, metavar="NAME", help="An optimizer that may be gone; repeated; globs.")
@click.option(
    "--inconclusive",
    type=click.Choice(["pass", "fail"]),
    default="pass",
    show_default=True,
    help="Whether an inconclusive check passes, with a warning, or ends with exit code 3.",
)
@click.option(
    "--time",
    "time_policy",
    type=click.Choice(["warn", "fail"]),
    default="warn",
    show_default=True,
    help="What more steps to the target do; slower steps only ever warn.",
)
@click.option("--reference", metavar="NAME", help="Whose seconds a step others are beside.  [default: adamw]")
@RESULTS
@DATA_DIR
@click.option("--device", help="With --run: cpu, cuda or cuda:N.  [default: cuda where present]")
@click.option("--workers", type=int, help="With --run: processes.  [default: one a core, or one on a GPU]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON (structure: docs/ci.md).")
@click.option("--junit", type=FILE, help="Write JUnit XML.")
@click.option(
    "--github/--no-github",
    default=None,
    help="Annotations, and a summary of the step.  [default: where GITHUB_ACTIONS is true]",
)
@click.option(
    "--export", "exports", type=_Export(), multiple=True, help=f"Write means for another tool: {', '.join(EXPORTS)}."
)
@click.option("--history", type=FILE, help="Add a line of JSON about this check.")
def check_command(
    study: str | None,
    baseline: str,
    runs: bool,
    optimizers: Sequence[str],
    results: Path,
    inconclusive: str,
    **options: Any,
) -> None:
    """Say whether a study is worse than a baseline, at a known rate of false alarms.

    STUDY is a name under --results or a folder (by default the one changed last); --run makes it. Exit codes: 0 ok,
    1 worse, or a run failed, 3 inconclusive (with --inconclusive fail), 4 no baseline, or one of another protocol.
    """
    from bench.check.baseline import NoBaselineError
    from bench.check.check import Options, check

    if runs and study:
        raise click.UsageError("--run makes a study of its own; give STUDY or --run")
    try:
        before = _baseline(baseline, results)
    except NoBaselineError as error:
        raise _NoBaseline(str(error)) from None
    names = [part.strip() for text in optimizers for part in text.split(",") if part.strip()]
    make = _run if runs else _load
    before, after, source, said = make(before, study, names, baseline=baseline, results=results, **options)
    found = check(before, after, Options(
        tolerance=options["tolerance"], margin=options["margin"], alpha=options["alpha"],
        allow_removed=tuple(options["allow_removed"]), time_fails=options["time_policy"] == "fail",
        reference=options["reference"],
    ), sources=(baseline, source), said=said)  # fmt: skip
    _write(found, after, **options)
    sys.exit(_exit_code(found, inconclusive))


def _baseline(source: str, results: Path) -> Snapshot:
    """The snapshot behind `--baseline`: of a file, or of what `named_study` takes.

    Raises `NoBaselineError` where there is neither, or what `read_baseline` and `snapshot` raise.
    """
    from bench.check.baseline import NoBaselineError, read_baseline
    from bench.check.snapshot import snapshot
    from bench.commands.studies import named_study
    from bench.errors import UsageError

    if Path(source).is_file():
        return read_baseline(Path(source))
    try:
        study = named_study(source, results)
    except UsageError as error:
        raise NoBaselineError(f"baseline {source!r}: there is no such file, and {error}; `bench baseline update STUDY "
                              "--output FILE` makes one") from None  # fmt: skip
    return snapshot(study)


def _load(
    before: Snapshot, study: str | None, names: Sequence[str], *, baseline: str, results: Path, **options: Any
) -> tuple[Snapshot, Snapshot, str, list[str]]:
    """Both sides cut to the chosen optimizers, the candidate's source, and what is to be said."""
    from bench.check.snapshot import idle, snapshot
    from bench.commands.studies import named_study
    from bench.errors import UsageError
    from bench.suggestions import unknown

    loaded = named_study(study or str(latest_study(results)), results)
    if loaded.path.resolve() in (Path(baseline).resolve(), (results / baseline).resolve()):
        raise click.UsageError(f"{loaded.path} would be compared with itself; name another STUDY, or --run")
    gone = idle(names, {*loaded.labels.values(), *(r.optimizer for r in loaded.records)})
    if wrong := idle(gone, before.names):
        raise UsageError(f"--optimizers: {unknown('optimizer', wrong[0], {*before.names, *loaded.labels.values()})}")
    part = before.only([name.partition("#")[0] for name in names])
    after = snapshot(loaded, [name for name in names if name not in gone] or names)
    return part, after, str(loaded.path), [*_age(loaded), *_unread(loaded)]


def _unread(study: Study) -> list[str]:
    """A note on curves that cannot be read: their runs count, and the time gate leaves them out."""
    from bench.wording import counted

    curves = study.faults[len(study.bad) :]
    return [f"{counted(len(curves), 'unreadable curve')}, first: {curves[0]}"] if curves else []


def _age(study: Study) -> list[str]:
    """A note where the records are of another commit than the code at hand: the check is of the records."""
    import torch

    from bench.environment import environment

    here = environment(torch.device("cpu")).git_commit
    other = {r.environment.git_commit for r in study.records if r.environment and r.environment.git_commit} - {here}
    if here is None or not other:
        return []
    return [f"the study was run at another commit than the code here is at, {here[:12]}; --run runs this code"]


def _run(
    before: Snapshot, study: str | None, names: Sequence[str], *, results: Path, fresh: bool, data_dir: Path | None,
    device: str | None, workers: int | None, allow_removed: Sequence[str], **options: Any,
) -> tuple[Snapshot, Snapshot, str, list[str]]:  # fmt: skip
    """The same after the candidate's runs."""
    from bench.check.candidate import plan_candidate
    from bench.check.snapshot import snapshot
    from bench.display import display
    from bench.paths import without_folders
    from bench.runner import carry_out
    from bench.terminal import say

    candidate = plan_candidate(
        before, names, results=results, allow_removed=allow_removed, data_dir=data_dir, device=device,
        workers=workers, fresh=fresh, command=without_folders(shlex.join(["bench", *sys.argv[1:]])),
    )  # fmt: skip
    plan = candidate.plan
    there = len(plan.runs) - len(plan.missing)
    say(f"protocol {plan.protocol.name} ({plan.protocol.hash}), as the baseline's: {len(plan.runs)} runs, "
        f"{there} done by this same code; records in {plan.store.path}", err=True)  # fmt: skip
    for line in plan.warnings:
        say(f"warning: {line}", err=True)
    with display(plan, progress_console()) as watcher:
        loaded = carry_out(plan, watcher)
    return candidate.baseline, snapshot(candidate.of(loaded)), str(plan.store.path), list(candidate.notes)


def _write(
    found: CheckResult, after: Snapshot, *, as_json: bool, junit: Path | None, github: bool | None,
    exports: Sequence[tuple[str, Path]], history: Path | None, **options: Any,
) -> None:  # fmt: skip
    """The result in every form that was asked for."""
    from datetime import UTC, datetime

    from bench.check import exports as tools
    from bench.check.drift import drifts
    from bench.check.junit import junit as as_junit
    from bench.store import write_atomic
    from bench.terminal import say

    on_github = os.environ.get("GITHUB_ACTIONS") == "true" if github is None else github
    if as_json:
        print_json(found.to_json())
    else:
        _print(found, guarded=on_github)
    if on_github:
        _write_github(found, to_stderr=as_json)
    if junit:
        write_atomic(junit, as_junit(found))
    for kind, path in exports:
        tools.write_export(kind, path, after, found)
    if history:
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        tools.append_history(history, tools.history_line(after, found, finished))
        for line in drifts(history):
            say(f"drift: {line}", err=True)


def _print(found: CheckResult, *, guarded: bool) -> None:
    """The text; `guarded`, so that GitHub takes no name at the start of a line for a command."""
    from bench.check.github import fence
    from bench.check.text import view
    from bench.terminal import screen

    start, end = fence() if guarded else ("", "")
    click.echo(start, nl=guarded)
    screen().print(view(found))
    click.echo(end, nl=guarded)


def _write_github(found: CheckResult, *, to_stderr: bool) -> None:
    """Annotations, on standard error beside JSON: GitHub reads both; and the summary of the step."""
    from bench.check.github import annotation_lines, append_summary, markdown

    for line in annotation_lines(found):
        click.echo(line, err=to_stderr)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        append_summary(markdown(found), Path(summary))


def _exit_code(found: CheckResult, inconclusive: str) -> int:
    codes = {"fail": EXIT_FAILED, "incompatible": EXIT_NO_BASELINE}
    if inconclusive == "fail":
        codes["inconclusive"] = EXIT_INCONCLUSIVE
    return codes.get(str(found.verdict), 0)
