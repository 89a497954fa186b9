"""`bench merge`: the same run once, what disagrees named and not written, nothing lost whenever it is killed."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.plan import TUNING_SEEDS, Run, ended
from bench.protocol import Protocol
from bench.races import Race, write_race
from bench.record import Environment, Fingerprints, MemoryUse, Outcome, RunRecord, Seconds, read_record, record_text
from bench.requests import write_request
from bench.search.plan import Range, SearchPlan, Tuned, write_plan
from bench.store import Store
from bench.study import load_study
from bench.upkeep.agreement import ASIDE, differences
from bench.upkeep.merging import merge

ELSEWHERE = {
    "seconds": Seconds(total=99.0), "memory": MemoryUse(peak_bytes=5), "finished": "2026-02-02T00:00:00+00:00",
    "command": "bench run --workers 7", "environment": Environment(versions={}, device="cuda", processor="x", cores=1,
                                                                   threads=1),
}  # fmt: skip


def test_two_studies_become_one_and_a_second_time_nothing_happens(maker: Callable, bench: Callable, tree: Callable):
    a, b = maker("a"), maker("b")
    for study, seeds in ((a, (0, 1, 2)), (b, (2, 3))):
        for seed in seeds:
            study.end(study.run("sgd", seed))
        write_request(study.store, [study.run("sgd", seed) for seed in seeds], "bench run")
        study.store.mark_used(study.protocol)
    b.begin(b.run("adamw"), 1)
    called = bench("merge", "a", "b", "--into", "all", "--json")
    assert called.code == 0
    content = json.loads(called.out)
    assert content == {"into": "results/all", "copied": 4, "same": 0, "replaced": 0, "files": 3, "unfinished": 1,
                       "conflicts": [], "left_out": []}  # fmt: skip
    whole = Path("results/all")
    for study, seeds in ((a, (0, 1, 2)), (b, (3,))):
        for seed in seeds:
            for name in ("run.json", "curve.jsonl"):
                place = f"runs/{study.run('sgd', seed).run_id}/{name}"
                assert (whole / place).read_bytes() == (study.path / place).read_bytes()
    loaded, _ = load_study(whole)
    assert [record.seed for record in loaded.records] == [0, 1, 2, 3] and loaded.faults == ()
    before = tree(whole)
    again = bench("merge", "a", "b", "--into", "all")
    assert again.code == 0 and "0 runs copied, 4 there already" in again.out
    assert tree(whole) == before


def test_a_study_can_take_another_in(maker: Callable, bench: Callable):
    a, b = maker("a"), maker("b")
    a.end(a.run("sgd", 0))
    b.end(b.run("sgd", 1))
    called = bench("merge", "a", "b", "--into", "a", "--json")
    assert (called.code, json.loads(called.out)["copied"]) == (0, 1)
    assert len(list((a.path / "runs").glob("*/run.json"))) == 2


def test_times_and_machines_may_differ_and_the_record_that_is_there_stays(maker: Callable, bench: Callable):
    a, b = maker("a"), maker("b")
    a.end(a.run())
    b.end(b.run(), points=3, **ELSEWHERE)
    before = a.record_path(a.run()).read_bytes()
    called = bench("merge", "b", "--into", "a", "--json")
    assert (called.code, json.loads(called.out)["same"]) == (0, 1)
    assert a.record_path(a.run()).read_bytes() == before


def test_a_conflict_is_named_with_what_differs_and_the_rest_is_merged(maker: Callable, bench: Callable, tree: Callable):
    a, b = maker("a"), maker("b")
    for seed in (0, 1):
        a.end(a.run("sgd", seed), metrics={"avg_r1": 8.5})
        b.end(b.run("sgd", seed), metrics={"avg_r1": 8.5 - seed})
    sources = tree(a.path), tree(b.path)
    called = bench("merge", "a", "b", "--into", "all")
    assert called.code == 1
    wrong = a.run("sgd", 1).run_id
    text = " ".join(called.out.split())
    assert f"conflict: {wrong}: results/a and results/b differ: metrics.avg_r1 8.5 and 7.5" in text
    assert "results/all: 1 run copied" in text
    assert not Path(f"results/all/runs/{wrong}").exists()
    assert (tree(a.path), tree(b.path)) == sources
    content = json.loads(bench("merge", "a", "b", "--into", "all", "--json").out)
    assert content["conflicts"][0]["differences"] == ["metrics.avg_r1 8.5 and 7.5"]


@pytest.mark.parametrize("there", ["a", "b"])
def test_a_run_that_failed_gives_way_to_its_result(maker: Callable, bench: Callable, there: str):
    a, b = maker("a"), maker("b")
    a.end(a.run(), Outcome.ERROR)
    b.end(b.run())
    other = "b" if there == "a" else "a"
    called = bench("merge", other, "--into", there, "--json")
    assert called.code == 0
    content = json.loads(called.out)
    assert (content["replaced"], content["same"]) == ((1, 0) if there == "a" else (0, 1))
    folder = Path("results") / there / "runs" / a.run().run_id
    kept = read_record((folder / "run.json").read_bytes(), "x")
    assert kept.outcome is Outcome.OK
    assert len(list(folder.glob("run.set-aside-1.json"))) == (there == "a")


def test_two_failures_of_one_run_are_no_conflict(maker: Callable, bench: Callable):
    a, b = maker("a"), maker("b")
    a.end(a.run(), Outcome.ERROR)
    b.end(b.run(), Outcome.TIMEOUT)
    assert bench("merge", "a", "b", "--into", "all").code == 0


def test_unreadable_records_are_named_and_another_study_has_them(maker: Callable, bench: Callable):
    a, b = maker("a"), maker("b")
    for seed in (0, 1):
        a.end(a.run("sgd", seed))
        a.record_path(a.run("sgd", seed)).write_text("{")
    b.end(b.run("sgd", 1))
    a.end(a.run("sgd", 2))
    foreign = a.store.run_dir(a.run("sgd", 7).run_id)
    foreign.mkdir()
    (foreign / "run.json").write_bytes(a.record_path(a.run("sgd", 2)).read_bytes())
    called = bench("merge", "a", "b", "--into", "all", "--json")
    content = json.loads(called.out)
    assert (called.code, content["copied"], len(content["left_out"])) == (1, 2, 3)
    assert "in the folder of another run" in content["left_out"][-1]


def test_a_spoilt_curve_is_taken_from_the_other_study_and_mended_later(maker: Callable, bench: Callable):
    a, b = maker("a"), maker("b")
    for study in (a, b):
        study.end(study.run())
    curve = a.store.run_dir(a.run().run_id) / "curve.jsonl"
    good = curve.read_bytes()
    curve.write_bytes(good[:-9])
    assert bench("merge", "a", "--into", "all").code == 1
    merged = Path("results/all/runs") / a.run().run_id / "curve.jsonl"
    assert not merged.exists()
    assert bench("merge", "b", "--into", "all").code == 0
    assert merged.read_bytes() == good
    assert bench("merge", "a", "b", "--into", "other").code == 1  # named, and the good one taken
    assert (Path("results/other/runs") / a.run().run_id / "curve.jsonl").read_bytes() == good


def test_a_run_that_a_process_is_at_work_on_is_left_to_it(maker: Callable, bench: Callable):
    a, into = maker("a"), maker("into")
    a.end(a.run())
    with into.store.claim(a.run().run_id) as mine:
        assert mine
        called = bench("merge", "a", "--into", "into")
    assert called.code == 1 and "a process is at work on this run" in called.out
    assert not into.record_path(a.run()).exists()


def test_nothing_is_written_through_a_link_out_of_the_study(maker: Callable, bench: Callable, tmp_path: Path):
    a, into = maker("a"), maker("into")
    a.end(a.run())
    (into.path / "runs").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (into.path / "runs" / a.run().run_id).symlink_to(outside)
    called = bench("merge", "a", "--into", "into")
    assert called.code == 1 and "leads out of the study" in called.out
    assert list(outside.iterdir()) == []


def search(study, tuned: bool, trials: int = 4) -> SearchPlan:
    found = Tuned(hyperparameters={"lr": 0.3}, values={"lr": 0.3}, validation=12.5, unresolved=False, trials=trials,
                  extra_trials=0)  # fmt: skip
    return SearchPlan(
        protocol_hash=study.protocol.hash, optimizer="sgd", defaults={"lr": 0.1},
        ranges={"lr": Range(low=0.01, high=1.0, log=True)}, trials=trials, seeds=(TUNING_SEEDS,), sampler="sobol",
        tuned=found if tuned else None,
    )  # fmt: skip


def test_the_finished_one_of_two_equal_searches_is_kept_and_different_ones_conflict(maker: Callable):
    a, b, c = maker("a"), maker("b"), maker("c")
    for study, plan in ((a, search(a, False)), (b, search(b, True)), (c, search(c, True, trials=9))):
        write_plan(study.path, plan)
    into = maker("into").path
    place = f"searches/{a.protocol.hash}/sgd.json"
    assert merge([a.path], into).complete
    assert merge([b.path], into).complete
    assert (into / place).read_bytes() == (b.path / place).read_bytes()
    assert merge([a.path], into).files == 0
    (conflict,) = merge([c.path], into).conflicts
    assert conflict.name == place and conflict.differences == ("two searches of one optimizer",)
    assert (into / place).read_bytes() == (b.path / place).read_bytes()


def test_two_races_of_one_protocol_conflict(maker: Callable):
    a, b = maker("a"), maker("b")
    race = Race(looks=(3,), alpha=0.05, optimizers=("x", "y"), seeds=(0, 1, 2, 3), dropped={"x": 3})
    write_race(a.path, a.protocol.hash, race)
    write_race(b.path, b.protocol.hash, race.model_copy(update={"dropped": {"y": 3}}))
    into = maker("into").path
    assert len(merge([a.path, b.path], into).conflicts) == 1
    assert not (into / "races").exists()
    assert merge([a.path, a.path], into).files == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["merge", "--into", "x"], "Missing argument 'A B…'"),
        (["merge", "a"], "Missing option '--into'"),
        (["merge", "a", "none", "--into", "x"], "no study in results/none"),
        (["merge", "a", "--into", "a"], "results/a into results/a: there is no other study to copy from"),
        (["merge", "a", "--into", "a b"], "study 'a b': allowed are letters"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    arguments: list[str], message: str, maker: Callable, bench: Callable, tree: Callable, tmp_path: Path
):
    a = maker("a")
    a.end(a.run())
    before = tree(tmp_path)
    called = bench(*arguments)
    assert called.code == 2 and message in called.err and called.err.count("\n") == 1 and called.out == ""
    assert tree(tmp_path) == before


def base_record(protocol: Protocol) -> RunRecord:
    run = Run(protocol=protocol, optimizer="sgd", reference="sgd", hyperparameters={"lr": 0.1}, seed=3)
    return ended(run, Outcome.OK, None, "bench run").model_copy(update={
        "metrics": {"avg_r1": float("nan"), "avg_r5": 2.0}, "loss": 1.0,
        "fingerprints": Fingerprints(initial_weights="a", batch_order="b"),
    })  # fmt: skip


RESULT_CHANGES = {
    "metrics": {"avg_r1": float("nan"), "avg_r5": 2.0000000000000004}, "loss": 1.0000000000000002,
    "outcome": Outcome.DIVERGED, "hyperparameters": {"lr": 0.10000000000000002}, "seed": 4, "steps": 1,
    "fingerprints": Fingerprints(initial_weights="a", batch_order="c"), "chance": {"avg_r1": 1.0}, "optimizer": "x",
    "validation_metrics": {"avg_r1": 1.0}, "source_digest": "x", "best_loss": 0.5,
}  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(results=st.sets(st.sampled_from(sorted(RESULT_CHANGES))), aside=st.sets(st.sampled_from(sorted(ELSEWHERE))))
def test_records_agree_exactly_where_nothing_but_circumstances_differs(
    results: set[str], aside: set[str], tiny: Protocol
):
    one = base_record(tiny)
    changes = {key: RESULT_CHANGES[key] for key in results} | {key: ELSEWHERE[key] for key in aside}
    other = one.model_copy(update=changes)
    for first, second in ((one, other), (other, one)):
        found = differences(first, second)
        assert bool(found) == bool(results)
        assert {text.split()[0].split(".")[0] for text in found if not text.endswith("more")} <= results
    assert differences(other, read_record(record_text(other), "x")) == []


def test_every_field_of_a_record_is_a_result_or_set_aside():
    """A new field has to be thought of: it is compared unless it is named."""
    assert set(RunRecord.model_fields) >= ASIDE
    assert {"seconds", "memory", "environment", "finished", "command", "curve_sha256"} <= ASIDE


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(["runs/{run}/run.json", "runs/{run}/curve.jsonl", "protocols/{hash}.json",
                              "searches/{hash}/sgd.json", "races/{hash}.json", "requests/x.json", "last_used"]),
       content=st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b'{"schema_version": 9}']))  # fmt: skip
def test_whatever_is_in_a_file_the_rest_is_merged(
    place: str, content: bytes, maker: Callable, tmp_path_factory: pytest.TempPathFactory
):
    name = tmp_path_factory.mktemp("x").name
    a, into = maker(f"{name}-a"), maker(f"{name}-into").path
    good, other = a.end(a.run("sgd", 0)), a.end(a.run("sgd", 1))
    path = a.path / place.format(run=other.run_id, hash=a.protocol.hash)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    merged = merge([a.path], into)
    assert Store(into).read_record(good.run_id) == good.model_copy(
        update={"curve_sha256": Store(a.path).read_record(good.run_id).curve_sha256})  # fmt: skip
    if path.name != "last_used":
        assert len(merged.left_out) == 1 and str(path) in merged.left_out[0]


MERGE = "import sys; from bench.cli import main; main()"


def start_merge(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MERGE, "merge", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_runs(process: subprocess.Popen[str], runs: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if runs.is_dir() and len(list(runs.iterdir())) >= count:
            return
        time.sleep(0.001)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_ends_as_if_it_had_not_been(
    maker: Callable, tmp_path: Path, tree: Callable
):
    """Kills while runs are being written, each merge of a folder killed several times before it may end."""
    a, b = maker("a"), maker("b")
    for seed in range(150):
        a.end(a.run("sgd", seed), Outcome.ERROR if seed % 5 == 0 else Outcome.OK)
        b.end(b.run("sgd", seed), **(ELSEWHERE if seed % 2 else {}))
    merge([a.path, b.path], tmp_path / "results" / "whole")
    whole = tree(tmp_path / "results" / "whole")
    sources = {a.path: tree(a.path), b.path: tree(b.path)}
    into = tmp_path / "results" / "into"
    killed = 0
    for attempt in range(12):
        process = start_merge(tmp_path, "a", "b", "--into", "into")
        wait_for_runs(process, into / "runs", 10 * attempt + 3)
        time.sleep(0.0007 * attempt)
        killed += process.poll() is None
        process.kill()
        process.communicate()
        written = tree(into)
        for name, content in written.items():
            if name.endswith("run.json"):
                read_record(content, name)
                assert content == whole[name]
    assert killed >= 6
    process = start_merge(tmp_path, "a", "b", "--into", "into", "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["copied"] + json.loads(out)["same"] == 150
    left = {name: content for name, content in tree(into).items() if not name.endswith(".tmp")}
    assert left == whole
    assert {path: tree(path) for path in sources} == sources


def test_stopped_before_any_of_its_writes_it_ends_the_same(
    maker: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tree: Callable
):
    """A new run, a failed run that gives way, a lost curve, a search that has ended: each write is once the last."""
    from bench.upkeep import merging

    a, b = maker("a"), maker("b")
    for study, outcome in ((a, Outcome.ERROR), (b, Outcome.OK)):
        study.end(study.run("sgd", 0), outcome)
        study.end(study.run("sgd", 1))
        write_plan(study.path, search(study, tuned=study is b))
    b.end(b.run("sgd", 2))
    (a.store.run_dir(a.run("sgd", 1).run_id) / "curve.jsonl").unlink()
    write, counts = merging.write_atomic, {"writes": 0, "last": 10**9}

    def stopping(path: Path, content: str | bytes) -> None:
        counts["writes"] += 1
        if counts["writes"] > counts["last"]:
            raise KeyboardInterrupt
        write(path, content)

    def fresh(name: str) -> Path:
        shutil.copytree(a.path, tmp_path / "results" / name)
        return tmp_path / "results" / name

    monkeypatch.setattr(merging, "write_atomic", stopping)
    assert merge([b.path], fresh("whole")).complete
    whole, writes = tree(tmp_path / "results" / "whole"), counts["writes"]
    assert writes == 1 + 2 + 1 + 2 and len([name for name in whole if "set-aside" in name]) == 1
    for last in range(writes):
        into = fresh(f"into{last}")
        counts |= {"writes": 0, "last": last}
        with pytest.raises(KeyboardInterrupt):
            merge([b.path], into)
        counts["last"] = 10**9
        assert merge([b.path], into).complete
        assert tree(into) == whole


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
from bench.cli import main
main()
"""


def test_where_there_is_no_room_it_says_so_and_goes_on_when_there_is(maker: Callable, bench: Callable, tmp_path: Path):
    """No file may grow over 600 bytes, so that no record can be written."""
    a, into = maker("a"), maker("into")
    a.end(a.run("sgd", 0))
    into.end(into.run("sgd", 1))
    before = into.record_path(into.run("sgd", 1)).read_bytes()
    command = [sys.executable, "-c", FULL, "merge", "a", "--into", "into"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "File too large" in done.stderr and len(done.stderr.splitlines()) == 1
    assert into.record_path(into.run("sgd", 1)).read_bytes() == before
    assert not into.record_path(a.run("sgd", 0)).exists()
    assert bench("merge", "a", "--into", "into").code == 0
    assert into.record_path(a.run("sgd", 0)).read_bytes() == a.record_path(a.run("sgd", 0)).read_bytes()
