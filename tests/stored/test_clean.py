"""`bench clean`: lists first, removes only what is asked for, and never a result."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.record import Outcome
from bench.store import STALE_SECONDS, Store
from bench.study import load_study
from bench.upkeep.cleaning import KINDS, removable, remove


def age(path: Path) -> None:
    long_ago = time.time() - STALE_SECONDS - 60
    os.utime(path, (long_ago, long_ago))


def write_study(study) -> dict[str, Path]:
    """A study with something of every kind, and what of it may never go; returns files by what they are."""
    done, timed_out, broken, stopped = (study.run("sgd", seed) for seed in range(4))
    study.end(done, Outcome.ERROR)
    study.store.set_aside(done.run_id)
    study.end(done)
    folder = study.store.run_dir(done.run_id)
    files = {"aside": folder / "run.set-aside-1.json", "record": folder / "run.json", "curve": folder / "curve.jsonl"}
    study.end(timed_out, Outcome.TIMEOUT)
    study.end(broken)
    study.record_path(broken).write_text("{")
    study.begin(stopped, 3)
    for name, run in (("done", done), ("timed_out", timed_out), ("broken", broken), ("stopped", stopped)):
        files[f"checkpoint of {name}"] = study.store.run_dir(run.run_id) / "checkpoint-000000010.pt"
        files[f"checkpoint of {name}"].write_bytes(b"x" * 1000)
    files["curve of stopped"] = study.store.run_dir(stopped.run_id) / "curve.jsonl"
    for name, path in (("old", folder / ".run.json.0123.tmp"), ("old protocol", study.path / "protocols" / ".a.1.tmp")):
        files[f"{name} temporary"] = path
        path.write_text("rest")
        age(path)
    files["young temporary"] = study.path / ".last_used.12.tmp"
    files["young temporary"].write_text("being written")
    (study.path / "logs").mkdir()
    files["log"] = study.path / "logs" / "worker-0.log"
    files["log"].write_text("said")
    files["note"] = study.path / "logs" / "note.txt"
    files["note"].write_text("of the user")
    return files


NOT_NEEDED = {"aside", "checkpoint of done", "old temporary", "old protocol temporary", "log"}
STOPPED = {"checkpoint of timed_out", "checkpoint of broken", "checkpoint of stopped", "curve of stopped"}


def test_it_lists_and_removes_nothing(maker: Callable, bench: Callable, tree: Callable):
    study = maker()
    files = write_study(study)
    before = tree(study.path)
    called = bench("clean", "--json")
    content = json.loads(called.out)
    assert called.code == 0 and content["removed"] is False
    found = {study.path / item["path"] for item in content["files"]}
    assert found == {files[name].relative_to(Path.cwd()).resolve() for name in NOT_NEEDED}
    assert content["bytes"] == sum(files[name].stat().st_size for name in NOT_NEEDED)
    assert set(content["kinds"]) == {"temporary", "checkpoints", "set-aside", "logs"}
    text = bench("clean").out
    assert "nothing was removed, --yes does it" in text and max(map(len, text.splitlines())) <= 80
    assert tree(study.path) == before


@pytest.mark.parametrize("stopped", [False, True])
def test_with_yes_it_removes_what_it_listed(maker: Callable, bench: Callable, stopped: bool):
    study = maker()
    files = write_study(study)
    option = ["--stopped"] if stopped else []
    listed = json.loads(bench("clean", *option, "--json").out)
    removed = json.loads(bench("clean", *option, "--yes", "--json").out)
    assert removed == {**listed, "removed": True}
    gone = NOT_NEEDED | (STOPPED if stopped else set())
    assert {name for name, path in files.items() if not path.exists()} == gone
    loaded, _ = load_study(study.path)
    assert loaded.records[0].curve_sha256 and len(loaded.curves[loaded.records[0].run_id]) == 2
    assert "nothing to remove" in bench("clean", *option).out


def test_what_a_process_is_at_work_on_is_left_alone(maker: Callable, bench: Callable):
    study = maker()
    files = write_study(study)
    stopped, done = study.run("sgd", 3).run_id, study.run("sgd", 0).run_id
    with study.store.claim(stopped) as mine, study.store.claim(done) as too:
        assert mine and too
        files["old temporary"].write_text("x")  # taking the lock removes it
        age(files["old temporary"])
        assert sorted(json.loads(bench("clean", "--stopped", "--json").out)["held"]) == sorted([stopped, done])
        content = json.loads(bench("clean", "--stopped", "--yes", "--json").out)
    assert sorted(content["held"]) == sorted([stopped, done])
    kept = {"checkpoint of stopped", "curve of stopped", "checkpoint of done", "aside", "old temporary", "log"}
    assert all(files[name].exists() for name in kept)
    assert "logs" not in content["kinds"]


def test_it_follows_no_links(maker: Callable, bench: Callable, tmp_path: Path, tree: Callable):
    study, outside = maker(), tmp_path / "outside"
    study.end(study.run())
    other = maker("../outside")
    write_study(other)
    before = tree(outside)
    (study.path / "runs" / "linked-s0-0123456789ab").symlink_to(outside / "runs" / other.run("sgd", 3).run_id)
    (study.store.run_dir(study.run().run_id) / "checkpoint-000000001.pt").symlink_to(outside / "logs" / "worker-0.log")
    (study.path / "logs").symlink_to(outside / "logs")
    (study.path / "searches").symlink_to(outside)
    assert "nothing to remove" in bench("clean", "one", "--stopped", "--yes").out
    assert tree(outside) == before
    (tmp_path / "results" / "link").symlink_to(outside)
    called = bench("clean", "link", "--yes")
    assert called.code == 2 and "is a link that leads to" in called.err and called.err.count("\n") == 1
    assert tree(outside) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["clean"], "no study in results"), (["clean", "none"], "no study in results/none"),
     (["clean", "../x", "--yes"], "no study in ../x"), (["clean", "/", "--yes"], "no study in /"),
     (["clean", "."], "study '.': allowed are letters")],
)  # fmt: skip
def test_bad_input_is_one_line(arguments: list[str], message: str, bench: Callable):
    called = bench(*arguments)
    assert called.code == 2 and message in called.err and called.err.count("\n") == 1 and called.out == ""


NAMES = st.sampled_from([
    "checkpoint-000000001.pt", "checkpoint-000000001.pt.sha256", "checkpoint-x.pt", ".run.json.1.tmp", ".lock",
    "run.set-aside-1.json", "run.set-aside-x.json", "notes.txt", "curve.jsonl", "run.json.bak", "a.tmp",
])  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.sets(NAMES), record=st.sampled_from(["none", "ok", "timeout", "broken"]))
def test_no_record_and_nothing_unknown_ever_goes(
    names: set[str], record: str, maker: Callable, tmp_path_factory: pytest.TempPathFactory
):
    study = maker(tmp_path_factory.mktemp("x").name)
    run = study.run()
    folder = study.store.run_dir(run.run_id)
    folder.mkdir(parents=True)
    if record != "none":
        study.end(run, Outcome.TIMEOUT if record == "timeout" else Outcome.OK)
    if record == "broken":
        (folder / "run.json").write_text("{")
    for name in names - {"curve.jsonl"} if record != "none" else names:
        (folder / name).write_text("x")
        age(folder / name)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    listed = removable(study.path, KINDS)
    gone = remove(study.path, KINDS)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert gone.items == listed.items
    assert {name: before[name] for name in after if name != ".lock"} == {k: v for k, v in after.items() if k != ".lock"}
    removed = set(before) - set(after)
    allowed = r"checkpoint-\d+\.pt(\.sha256)?|\..*\.tmp" + (
        r"|curve\.jsonl" if record == "none" else r"|run\.set-aside-\d+\.json" if record != "broken" else ""
    )
    assert all(re.fullmatch(allowed, name) for name in removed)
    assert {item.path.name for item in listed.items} == removed


def test_a_run_stays_complete_to_its_readers(maker: Callable):
    """After everything is removed the study holds the same records, and status and resume see the same runs missing."""
    study = maker()
    write_study(study)
    before = Store(study.path).records()
    remove(study.path, KINDS)
    after = Store(study.path).records()
    assert before[0] == after[0] and [str(e) for e in before[1]] == [str(e) for e in after[1]]
