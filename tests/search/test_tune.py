"""`bench tune` as a user runs it: real runs on a small network, workers, kills, and what `--lr tuned` makes of it."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from bench.cli import cli
from bench.errors import UsageError
from bench.search.plan import read_plans
from bench.search.results import search_results
from bench.store import Store
from bench.study import load_study

TUNE = ("tune", "-o", "sgd,adamw", "--trials", "4", "--tuning-seeds", "1")
Found = dict[str, tuple[float, str, dict[str, float]]]


def start(folder: Path, toml: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "bench", *arguments, "-p", str(toml)], cwd=folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def call(folder: Path, toml: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(folder, toml, *arguments)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def trials(folder: Path) -> Found:
    """Every stored trial run: run id to its rate, outcome and metrics."""
    good, bad = Store(folder / "results" / "tiny").records()
    assert not bad
    return {r.run_id: (float(str(r.hyperparameters["lr"])), str(r.outcome), r.validation_metrics) for r in good}


def outcome(folder: Path, protocol_hash: str) -> dict[str, object]:
    return {name: plan.tuned for name, plan in read_plans(folder / "results" / "tiny", protocol_hash).items()}


@pytest.fixture(scope="module")
def finished(tiny_toml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the search has ended undisturbed, with two workers."""
    folder = tmp_path_factory.mktemp("finished")
    done = call(folder, tiny_toml, *TUNE, "--workers", "2")
    assert done.returncode == 0, done.stderr
    return folder


def hash_of(folder: Path) -> str:
    return load_study(folder / "results" / "tiny")[0].protocol.hash


def test_every_optimizer_is_searched_with_the_same_budget(finished: Path):
    study, _ = load_study(finished / "results" / "tiny")
    assert study.records == () and all(record.seed == 1_000_000 for record in study.trials)
    results = search_results(study)
    assert results.keys() == {"adamw", "sgd"}
    for result in results.values():
        assert result.search.finished and result.shared == 4 and set(result.best_of) == {1, 2, 4}
        assert result.plan.tuned is not None and result.plan.tuned.trials == len(result.trials)
    # The same points: sgd's default rate is ten times adamw's.
    assert results["sgd"].rates[:4] == pytest.approx(10 * results["adamw"].rates[:4])


def test_the_same_command_again_runs_nothing(finished: Path, tiny_toml: Path):
    before = trials(finished)
    done = call(finished, tiny_toml, *TUNE)
    assert done.returncode == 0 and ", 0 runs to do" in done.stderr and trials(finished) == before


@pytest.mark.slow
def test_one_worker_finds_the_same(finished: Path, tiny_toml: Path, tmp_path: Path):
    assert call(tmp_path, tiny_toml, *TUNE, "--workers", "1").returncode == 0
    assert trials(tmp_path) == trials(finished)
    assert outcome(tmp_path, hash_of(finished)) == outcome(finished, hash_of(finished))


@pytest.mark.kills
@pytest.mark.timeout(600)
def test_killed_at_any_moment_it_ends_with_the_same_trials(finished: Path, tiny_toml: Path, tmp_path: Path):
    """kill -9 at twenty random moments; the workers die with their parent, and nothing is lost or done twice."""
    chance = random.Random(5)
    for _ in range(20):
        process = start(tmp_path, tiny_toml, *TUNE, "--workers", "2")
        time.sleep(chance.uniform(0.5, 5.0))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    last = call(tmp_path, tiny_toml, *TUNE, "--workers", "2")
    assert last.returncode == 0, last.stderr
    assert trials(tmp_path) == trials(finished)
    assert outcome(tmp_path, hash_of(finished)) == outcome(finished, hash_of(finished))


def test_a_first_rung_saves_epochs_and_is_charged(tiny_toml: Path, tmp_path: Path):
    done = call(tmp_path, tiny_toml, "tune", "-o", "adamw", "--trials", "4", "--tuning-seeds", "1", "--rung", "1")
    assert done.returncode == 0, done.stderr
    good, _ = Store(tmp_path / "results" / "tiny").records()
    assert sorted(record.epochs for record in good)[:6] == [1, 1, 1, 1, 2, 2]
    (result,) = search_results(load_study(tmp_path / "results" / "tiny")[0]).values()
    assert result.search.finished and result.best_of == {} and len(result.search.rung_trials) == 4
    assert result.seconds == pytest.approx(sum(record.seconds.total for record in good))


def test_tuned_rates_are_ranked_on_other_seeds(finished: Path, tiny_toml: Path):
    done = call(finished, tiny_toml, "run", "-o", "sgd,adamw", "--lr", "tuned", "--seeds", "2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    plans = read_plans(finished / "results" / "tiny", hash_of(finished))
    assert {(r["optimizer"], r["seed"]) for r in found} == {(n, s) for n in ("sgd", "adamw") for s in (0, 1)}
    for record in found:
        tuned = plans[record["optimizer"]].tuned
        assert tuned is not None and record["hyperparameters"] == tuned.hyperparameters


def test_the_first_line_is_the_protocol_also_where_trials_are_stored(finished: Path, tiny_toml: Path):
    done = call(
        finished, tiny_toml, "tune", "-o", "sgd, adamw", "--trials", "4", "--tuning-seeds", "1", "--search", "lr, lr"
    )
    first, *others = done.stderr.splitlines()
    assert first.startswith("protocol tiny (") and "2 optimizers × 4 trials of lr on 1 tuning seed (sobol)" in first
    assert others == [] and "4" in done.stdout


def test_failed_runs_are_counted_and_end_in_one(write_plugin: Callable[[str], str], tiny_toml: Path, tmp_path: Path):
    """Every trial of the first ends in an error; that of the second is unharmed, and the result says what is run."""
    mine = write_plugin('raise RuntimeError("no such step")')
    done = call(tmp_path, tiny_toml, "tune", "-o", f"{mine},sgd", "--trials", "1", "--tuning-seeds", "1", "--json")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("1 runs failed; their records say why")
    found = {plan["optimizer"]: plan["tuned"] for plan in json.loads(done.stdout)}
    assert found["mine.py:Mine"]["hyperparameters"] is None and found["sgd"]["validation"] is not None


def test_a_smaller_search_says_what_gives_way(finished: Path, tiny_toml: Path, tmp_path: Path):
    shutil.copytree(finished / "results", tmp_path / "results")
    done = call(tmp_path, tiny_toml, "tune", "-o", "adamw", "--trials", "1", "--tuning-seeds", "1")
    assert "note: these searches give way, and their options bring them back: adamw: 4 trials of lr" in done.stderr
    ranked = call(tmp_path, tiny_toml, "run", "-o", "sgd,adamw", "--lr", "tuned", "--seeds", "1")
    assert ranked.returncode == 2 and "the searches differ" in ranked.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tune", "--sampler", "grid", "--search", "lr, weight_decay", "-o", "adamw"), "never has 8 points"),
        (("tune", "--trials", "0"), "--trials 0: allowed is a count >= 1"),
        (("tune", "--tuning-seeds", "0"), "--tuning-seeds 0"),
        (("tune", "--search", "weight_decay"), "lr is always searched"),
        (("tune", "-o", "sgd", "--search", "lr,beta1"), "optimizer sgd has no such setting"),
        (("tune", "--sampler", "random"), "'random' is not one of"),
        (("tune", "--rung", "2"), "--rung 2: allowed are 1 to 1 epochs"),
        (("tune", "--rung", "1", "--sampler", "tpe"), "--rung goes with --sampler sobol or grid, not tpe"),
        (("run", "-o", "lion", "--lr", "tuned"), "no finished search of lion"),
        (("run", "--seeds", "1000000-1000003"), "those from there on belong to searches"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: tuple[str, ...], message: str, tiny_toml: Path, tmp_path: Path
):
    with pytest.raises((UsageError, click.UsageError), match=re.escape(message)) as error:
        cli.main([*arguments, "-p", str(tiny_toml), "--results", str(tmp_path / "results")], standalone_mode=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_search_and_ranking_in_one_command(tiny_toml: Path, tmp_path: Path):
    early = call(tmp_path, tiny_toml, "run", "-o", "sgd,adamw", "--lr", "search", "--race", "--seeds", "3")
    assert early.returncode == 2 and "--race over 3 seeds" in early.stderr and not (tmp_path / "results").exists()
    done = call(tmp_path, tiny_toml, "run", "-o", "sgd", "-O", "sgd.momentum=0.8", "--lr", "search", "--seeds", "1",
                "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    (plan,) = read_plans(tmp_path / "results" / "tiny", hash_of(tmp_path)).values()
    assert record["hyperparameters"] == plan.best_settings and plan.best_settings["momentum"] == 0.8
    assert (plan.trials, len(plan.seeds)) == (8, 2)
