"""`bench status`: every state is counted once, nothing is written, nothing on disk can break it, and it is quick."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from unicodedata import category

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench.errors import BadRecordError
from bench.plan import TUNING_SEEDS
from bench.protocol import Protocol
from bench.protocols import changed
from bench.races import Race, write_race
from bench.record import Outcome, Seconds, read_record, record_text
from bench.requests import read_requests, standing, write_request
from bench.search.plan import Range, SearchPlan, Tuned, write_plan
from bench.status.run_state import State, read_head
from bench.status.study_status import study_status
from bench.status.text import lasting, view

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def write_mixed_study(study) -> dict[str, str]:
    """A study with a run of every state; returns run ids by state."""
    runs = {state: study.run("adamw", seed) for seed, state in enumerate(State) if state is not State.NOT_NEEDED}
    for state in (State.OK, State.DIVERGED, State.ERROR, State.TIMEOUT, State.OUT_OF_MEMORY, State.UNREADABLE):
        study.end(runs[state], Outcome(state) if state in list(Outcome) else Outcome.OK)
    study.record_path(runs[State.UNREADABLE]).write_text("{")
    study.begin(runs[State.STOPPED], 7, [45, 60])
    study.begin(runs[State.RUNNING], 3)
    write_request(study.store, list(runs.values()), "bench run -o adamw")
    return {state: run.run_id for state, run in runs.items()}


def test_every_state_is_counted_once(maker: Callable, bench: Callable):
    study = maker()
    ids = write_mixed_study(study)
    study.store.set_aside(ids["timeout"])
    study.end(study.run("adamw", list(State).index(State.TIMEOUT)), Outcome.TIMEOUT)
    with study.store.claim(ids["running"]) as mine:
        assert mine
        called = bench("status", "--json")
        text = bench("status").out
    assert called.code == 0
    content = json.loads(called.out)
    assert content["totals"] == {str(state): int(state is not State.NOT_NEEDED) for state in State}
    (protocol,) = content["protocols"]
    assert protocol["optimizers"] == [{"optimizer": "adamw", **content["totals"]}]
    assert [(run["run_id"], run["epoch"]) for run in content["running"]] == [(ids["running"], 3)]
    stopped = content["stopped"][0]
    assert (stopped["run_id"], stopped["epoch"], stopped["resumes_from"]) == (ids["stopped"], 7, 6)
    assert len(content["unreadable"]) == 1 and ids["unreadable"] in content["unreadable"][0]
    assert content["set_aside"] == 1
    assert content["commands"] == ["bench run -o adamw"]
    assert "adamw seed 6: epoch 7 of 2, goes on after 6" in text
    assert "3 runs failed" in text and "bench run -o adamw" in text
    assert max(map(len, text.splitlines())) <= 80


def test_nothing_is_written_and_a_study_is_found_by_name_folder_or_time(
    maker: Callable, bench: Callable, tree: Callable
):
    old, new = maker("old"), maker("new")
    for study, used in ((old, 1), (new, 2)):
        study.end(study.run())
        study.store.mark_used(study.protocol)
        for place in (study.path / "last_used", *study.path.iterdir()):
            os.utime(place, (used, used))
    before = tree(old.path.parent)
    assert json.loads(bench("status", "--json").out)["study"] == "new"
    assert json.loads(bench("status", "old", "--json").out)["study"] == "old"
    assert json.loads(bench("status", str(old.path), "--json").out)["study"] == "old"
    assert tree(old.path.parent) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status"], "no study in results; `bench run` makes one"),
        (["status", "none"], "no study in results/none; allowed are a name under --results results and"),
        (["status", "../x"], "no study in ../x"),
        (["status", "a b"], "study 'a b': allowed are letters"),
        (["status", "a", "b"], "unexpected extra argument"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, bench: Callable):
    called = bench(*arguments)
    assert called.code == 2 and message in called.err and called.err.count("\n") == 1 and called.out == ""


def test_a_study_that_was_only_asked_for_is_all_missing(maker: Callable):
    study = maker()
    write_request(study.store, study.runs(["sgd", "adamw"], 3), "bench run")
    status = study_status(study.path)
    assert status.totals == {State.MISSING: 6}
    assert status.pace.seconds_left is None  # no run to go by


def test_the_same_command_again_takes_the_place_of_the_earlier(maker: Callable):
    study = maker()
    write_request(study.store, [study.run("mine", 0, source_digest="old")], "bench run -o mine.py:Mine")
    write_request(study.store, [study.run("sgd")], None)
    write_request(study.store, [study.run("mine", 0, source_digest="new")], "bench run -o mine.py:Mine")
    requests, bad = read_requests(study.path)
    assert (len(requests), bad) == (3, [])
    wanted = {run.run_id for request in standing(requests) for run in request.runs}
    assert wanted == {study.run("mine", 0, source_digest="new").run_id, study.run("sgd").run_id}


def test_the_same_runs_in_another_order_are_one_request(maker: Callable):
    study = maker()
    runs = study.runs(["sgd", "adamw"], 2)
    write_request(study.store, runs, "one")
    write_request(study.store, runs[::-1], "two")
    (request,), _ = read_requests(study.path)
    assert request.command == "two"
    write_request(study.store, [], "none")
    (path,) = (study.path / "requests").iterdir()
    before = path.read_bytes()
    write_request(study.store, runs, "two")
    assert path.read_bytes() == before  # asked for already


def test_code_that_was_put_back_makes_the_first_request_stand_again(maker: Callable):
    study = maker()
    old, new = (study.run("mine", 0, source_digest=digest) for digest in ("old", "new"))
    for run in (old, new, old):
        write_request(study.store, [run], "bench run -o mine.py:Mine")
        requests, _ = read_requests(study.path)
        assert [wanted.run_id for request in standing(requests) for wanted in request.runs] == [run.run_id]


def test_what_a_race_left_out_is_not_missing(maker: Callable):
    """`slow` fell after 3 of 5 seeds: its seeds 3 and 4 are not needed, unless a request without a race wants one."""
    study = maker()
    runs = study.runs(["fast", "slow"], 5)
    write_request(study.store, runs, "bench run --race", race=True)
    write_race(study.path, study.protocol.hash, Race(
        looks=(3,), alpha=0.05, optimizers=("fast", "slow"), seeds=(0, 1, 2, 3, 4), dropped={"slow": 3}))  # fmt: skip
    totals = study_status(study.path).totals
    assert (totals[State.MISSING], totals[State.NOT_NEEDED]) == (8, 2)
    write_request(study.store, [study.run("slow", 4)], "bench run")
    totals = study_status(study.path).totals
    assert (totals[State.MISSING], totals[State.NOT_NEEDED]) == (9, 1)


def plan_of(study, optimizer: str, **changes) -> SearchPlan:
    values = {
        "protocol_hash": study.protocol.hash, "optimizer": optimizer, "defaults": {"lr": 0.1},
        "ranges": {"lr": Range(low=1e-3, high=1.0, log=True)}, "trials": 4,
        "seeds": (TUNING_SEEDS, TUNING_SEEDS + 1), "sampler": "sobol", **changes,
    }  # fmt: skip
    return SearchPlan(**values)


def end_trial(study, optimizer: str, rate: float, score: float, seeds: int = 2) -> None:
    for seed in range(TUNING_SEEDS, TUNING_SEEDS + seeds):
        study.end(study.run(optimizer, seed, hyperparameters={"lr": rate}), validation_metrics={"avg_r1": score + seed})


def test_searches_by_their_plans_and_runs(maker: Callable, bench: Callable):
    study = maker()
    tuned = Tuned(hyperparameters={"lr": 0.3}, values={"lr": 0.3}, validation=12.5, unresolved=False, trials=4,
                  extra_trials=0)  # fmt: skip
    write_plan(study.path, plan_of(study, "done", tuned=tuned))
    write_plan(study.path, plan_of(study, "going"))
    end_trial(study, "going", 0.01, 3.0)
    end_trial(study, "going", 0.02, 5.0)
    end_trial(study, "going", 0.04, 9.0, seeds=1)  # not on all seeds yet
    study.begin(study.run("going", TUNING_SEEDS + 1, hyperparameters={"lr": 0.04}), 1)
    end_trial(study, "lost", 0.01, 1.0)
    status = study_status(study.path)
    done, going, lost = status.protocols[0].searches
    assert (done.finished, done.missing, done.best, done.validation) == (True, 0, {"lr": 0.3}, 12.5)
    assert (going.finished, going.trials, going.trials_done) == (False, 4, 2)
    assert going.missing == 4 * 2 - 6  # five ended, one stopped
    assert going.best == {"lr": 0.02} and going.validation == 5.0 + TUNING_SEEDS + 0.5
    assert (lost.trials, lost.missing) == (None, 0)
    assert status.totals[State.MISSING] == 2 and status.totals[State.STOPPED] == 1
    assert status.commands == ("bench run",)  # as the trials recorded it
    text = bench("status").out
    assert "2 of 4" in text and "lr 0.3: 12.50" in text and "no plan of this search" in text


def test_a_first_rung_counts_with_its_search(maker: Callable):
    """4 trials × 2 seeds in the rung, of which 3 runs are there, then the better 2 × 2 in full."""
    study = maker()
    rung = changed(study.protocol, {"epochs": 1, "name": "tiny-rung"}, "rung")
    write_plan(study.path, plan_of(study, "sgd", rung_epochs=1, rung_hash=rung.hash))
    for rate in (0.1, 0.2, 0.4):
        study.end(study.run("sgd", TUNING_SEEDS, hyperparameters={"lr": rate}, protocol=rung))
    study.store.write_protocol(study.protocol)
    (protocol,) = study_status(study.path).protocols
    (search,) = protocol.searches
    assert (search.missing, search.missing_short) == (4, 5)


def test_the_time_left_follows_from_the_pace(maker: Callable):
    """Two at once, 10 s a run of sgd and 30 s of adamw: 3 of sgd and half a run of adamw are (30 + 15) / 2 s."""
    study = maker()
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for i in range(4):
        for name, seconds in (("sgd", 10.0), ("adamw", 30.0)):
            finished = (start + timedelta(seconds=30 * i + 20 + seconds / 3)).isoformat()
            study.end(study.run(name, i), seconds=Seconds(total=seconds), finished=finished)
    stopped = study.run("adamw", 9)
    study.begin(stopped, 1, [10])
    write_request(study.store, [stopped, *(study.run("sgd", seed) for seed in (5, 6, 7))], "bench run")
    pace = study_status(study.path).pace
    assert (pace.side_by_side, pace.seconds_left) == (2, pytest.approx(22.5))
    assert (pace.median_seconds, pace.shortest_seconds, pace.longest_seconds) == (20.0, 10.0, 30.0)
    assert pace.last_finished == "2026-01-01T00:02:00+00:00"


NAMES = st.text(min_size=1, max_size=60)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES)
@example(name="[bold]x[/bold] \x1b[31m\u202e\r\n\ud7ff")
def test_names_are_shown_as_they_are_and_steer_no_terminal(name: str, maker: Callable, tmp_path_factory):
    study = maker(tmp_path_factory.mktemp("x").name)
    study.end(study.run(name), command=name)
    study.begin(study.run(name, 1), 1)
    write_request(study.store, study.runs([name], 2), name)
    shown = StringIO()
    Console(file=shown, width=80, force_terminal=False).print(view(study_status(study.path), NOW))
    text = shown.getvalue()
    assert all(sign == "\n" or category(sign) != "Cc" for sign in text) and "\u202e" not in text
    if name.isascii() and name.isalnum():
        assert f"{name} seed 1: epoch 1 of 2, begins anew" in " ".join(text.split())


PLACES = ["runs/{run}/run.json", "runs/{run}/curve.jsonl", "requests/{run}.json", "searches/h/x.json",
          "races/{hash}.json", "protocols/{hash}.json", "last_used"]  # fmt: skip
JUNK = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"{}", b"[]", b'{"schema_version": 9}', b'{"schema_version": 2}', b"null\n", b"\xff\xfe"]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), content=JUNK, ended=st.booleans())
def test_whatever_is_in_a_file_is_named_and_the_rest_counted(
    place: str, content: bytes, ended: bool, maker: Callable, tmp_path_factory
):
    study = maker(tmp_path_factory.mktemp("x").name)
    good, other = study.run("adamw", 1), study.run("sgd", 2)
    study.end(good)
    if ended:
        study.end(other)
    write_request(study.store, [good, other], "bench run", race=True)
    path = study.path / place.format(run=other.run_id, hash=study.protocol.hash)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    status = study_status(study.path)
    json.dumps(status.to_json(), allow_nan=False)
    Console(file=StringIO(), width=80).print(view(status, NOW))
    assert status.totals[State.OK] >= 1
    if path.name != "last_used" and path.name != "curve.jsonl":
        assert len(status.faults) == 1 and str(path) in status.faults[0]


@pytest.fixture(scope="module")
def record(tiny: Protocol) -> bytes:
    from bench.plan import Run, ended

    run = Run(protocol=tiny, optimizer="sgd", reference="sgd", hyperparameters={"lr": 0.1}, seed=3)
    values = {"metrics": {"avg_r1": 2.5}, "validation_metrics": {"avg_r1": float("nan")}}
    return record_text(ended(run, Outcome.OK, None, "bench run").model_copy(update=values)).encode()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_the_quick_reader_agrees_with_the_whole_one(data: st.DataObject, record: bytes):
    """On a record with a byte changed, a piece cut out, or an end cut off."""
    content = bytearray(record)
    kind = data.draw(st.sampled_from(["whole", "byte", "piece", "end"]))
    place = data.draw(st.integers(0, len(content) - 1))
    if kind == "byte":
        content[place] = data.draw(st.integers(0, 255))
    elif kind == "piece":
        del content[place : place + data.draw(st.integers(1, 40))]
    elif kind == "end":
        del content[place:]
    try:
        whole = read_record(bytes(content), "x")
    except BadRecordError as error:
        with pytest.raises(BadRecordError) as found:
            read_head(bytes(content), "x")
        assert str(found.value) == str(error)
    else:
        head = read_head(bytes(content), "x")
        assert head.run_id == whole.run_id and head.outcome == whole.outcome and head.seconds == whole.seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (8.06, "8.1 s"), (59.97, "1 min"), (60, "1 min"), (200, "3 min 20 s"), (3599.9, "1 h"),
     (7500, "2 h 5 min"), (86399, "1 d"), (356400, "4 d 3 h"), (1e8, "1,157 d 10 h")],
)  # fmt: skip
def test_durations(seconds: float, text: str):
    assert lasting(seconds) == text


CODE = """
import sys
from pathlib import Path
sys.argv = ["bench", "status", sys.argv[1], "--json"]
from bench.cli import main
main()
heavy = {"torch", "numpy", "scipy", "pandas", "optuna", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
(peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
assert int(peak.split()[1]) * 1024 <= 500e6, peak
"""


@pytest.mark.slow
def test_a_study_of_ten_thousand_runs_needs_no_heavy_library_and_500_mb(maker: Callable):
    study, runs = maker(), 10_000
    template = record_of_usual_size(study)
    asked = []
    for i in range(runs):
        run = study.run(f"optimizer{i % 25:02d}", i // 25)
        folder = study.store.run_dir(run.run_id)
        folder.mkdir(parents=True)
        changes = {"run_id": run.run_id, "optimizer": run.optimizer, "seed": run.seed}
        (folder / "run.json").write_text(record_text(template.model_copy(update=changes)))
        (folder / ".lock").touch()
        asked.append(run)
    write_request(study.store, [*asked, study.run("missing")], "bench run")
    write_plan(study.path, plan_of(study, "optimizer00"))
    done = subprocess.run([sys.executable, "-c", CODE, str(study.path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    totals = json.loads(done.stdout)["totals"]
    assert (totals["ok"], totals["missing"]) == (runs, 1 + 8)


def record_of_usual_size(study):
    """About 13 kB: six tables of 33 metrics, and the names of parameters."""
    table = {f"metric_{i}": 100 / 7 + i for i in range(33)}
    names = ("metrics", "validation_metrics", "class_metrics", "chance", "ceiling", "class_chance")
    record = study.end(study.run("template"), **dict.fromkeys(names, table))
    lost = tuple(f"memories.image.value_mlp.{i}.weight" for i in range(80))
    diagnostics = record.diagnostics.model_copy(update={"without_gradient": lost})
    study.record_path(study.run("template")).unlink()
    (study.path / "runs" / record.run_id / "curve.jsonl").unlink()
    record = record.model_copy(update={"diagnostics": diagnostics})
    assert 8_000 < len(record_text(record)) < 16_000
    return record
