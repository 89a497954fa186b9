"""Whatever is killed, filled up or torn, the same command ends the study with the records of an undisturbed one."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import bench
from bench.protocol import Protocol
from bench.protocols import changed
from bench.record import Outcome
from bench.store import Store

pytestmark = pytest.mark.kills
KILLS = int(os.environ.get("BENCH_KILLS", "5"))  # of `make crash-test`
STUDY = ("run", "-o", "gda2,adamw", "--seeds", "3", "--epochs", "6", "--workers", "2", "--checkpoint-seconds", "0",
         "--retry-failed")  # fmt: skip
TIMES = {"seconds", "memory", "environment", "finished", "command", "curve_sha256", "device_use"}


def start(folder: Path, toml: Path, *arguments: str, before: str = "") -> subprocess.Popen[str]:
    """`bench` in a process group of its own; `before` is what its shell does first."""
    command = [sys.executable, "-m", "bench", *arguments, "-p", str(toml)]
    return subprocess.Popen(["bash", "-c", f'{before} exec "$@"', "-", *command], cwd=folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0)  # fmt: skip


def call(folder: Path, toml: Path, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    process = start(folder, toml, *arguments, before=before)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def store_of(folder: Path) -> Store:
    return Store(folder / "results" / "tiny")


def contents(folder: Path) -> dict[str, dict]:
    """Every record and curve without what depends on when and where they were made; none may be unreadable."""
    store = store_of(folder)
    good, bad = store.records()
    assert not bad, bad
    return {
        record.run_id: record.model_dump(exclude=TIMES)
        | {"curve": [point.model_dump(exclude={"seconds", "peak_bytes"})
                     for point in store.read_curve(record.run_id, record.curve_sha256)]}
        for record in good
    }  # fmt: skip


def children(process: subprocess.Popen[str]) -> list[int]:
    try:
        return [int(i) for i in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except OSError:
        return []


def is_worker(process: int) -> bool:
    try:
        return b"bench.worker" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture(scope="module")
def undisturbed(tiny_toml: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = call(folder, tiny_toml, *STUDY)
    assert done.returncode == 0, done.stderr
    found = contents(folder)
    assert len(found) == 6 and {record["outcome"] for record in found.values()} == {Outcome.OK}
    return found


@pytest.mark.timeout(3600)
def test_killed_at_random_moments_it_ends_with_the_same_records(undisturbed: dict, tiny_toml: Path, tmp_path: Path):
    """kill -9 of the driver, of a worker, or of both, at random moments of as many studies as it takes."""
    chance, kills = random.Random(7), 0
    for number in itertools.count():
        folder = tmp_path / str(number)
        folder.mkdir()
        kills += _disturbed_study(folder, tiny_toml, chance, KILLS - kills)
        assert contents(folder) == undisturbed
        assert not list(folder.rglob("*.pt")) and not list(folder.rglob("run.set-aside*"))
        if kills >= KILLS:
            return


def _disturbed_study(folder: Path, toml: Path, chance: random.Random, most: int) -> int:
    """Run the study to its end, with at most so many kills on the way; returns how many there were."""
    kills = 0
    while True:
        process = start(folder, toml, *STUDY)
        while kills < most:
            with_whom = chance.choice(["driver", "worker", "both"])
            try:
                process.wait(timeout=chance.uniform(2.0, 6.0))
                break
            except subprocess.TimeoutExpired:
                kills += _kill(process, with_whom, chance)
        _, err = process.communicate(timeout=240)
        if process.returncode in (0, 5):
            return kills
        assert process.returncode in (1, -signal.SIGKILL), err  # 1: a run lost two workers


def _kill(process: subprocess.Popen[str], whom: str, chance: random.Random) -> int:
    """How many were killed: a driver, one of its workers, or both."""
    workers = children(process)
    victims = [process.pid] if whom != "worker" else []
    victims += [chance.choice(workers)] if whom != "driver" and workers else []
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    return bool(victims)


def test_two_drivers_share_a_study(tiny_toml: Path, tmp_path: Path, write_plugin: Callable[[str], str]):
    """No run is done twice: every step of every run leaves one line."""
    lines = tmp_path / "steps"
    note = f"os.write(os.open({str(lines)!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY), b'step\\n')"
    plugin = write_plugin(f"p.add_(p.grad, alpha=-.1); p is group['params'][0] and {note}")
    arguments = ("run", "-o", plugin, "--seeds", "8", "--workers", "1")
    drivers = [start(tmp_path, tiny_toml, *arguments) for _ in range(2)]
    ends = [process.communicate(timeout=240)[1] for process in drivers]
    assert [process.returncode for process in drivers] == [0, 0], ends
    assert len(contents(tmp_path)) == 8
    assert len(lines.read_text().splitlines()) == 8 * 2 * 4  # runs × epochs × steps
    assert all("[8/8]" in end for end in ends)


def interrupted(folder: Path, toml: Path, presses: int, *arguments: str) -> tuple[int, str, float]:
    """Exit code, what was said, and seconds from the first Ctrl-C to the end of a study under way."""
    process = start(folder, toml, *arguments)
    assert process.stderr is not None
    curves = store_of(folder).path.glob
    while not any(path.stat().st_size for path in curves("runs/*/curve.jsonl")):
        assert process.poll() is None
        time.sleep(0.02)
    began = time.monotonic()
    for _ in range(presses):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.5)
    _, err = process.communicate(timeout=60)
    return process.returncode, err, time.monotonic() - began


SLOW = "__import__('time').sleep(0.001); p.add_(p.grad, alpha=-.1)"  # 0.1 s a step


def test_ctrl_c_keeps_the_state_of_runs_under_way(tiny_toml: Path, tmp_path: Path, write_plugin: Callable[[str], str]):
    arguments = ("run", "-o", write_plugin(SLOW), "--seeds", "1", "--epochs", "6")
    code, err, _ = interrupted(tmp_path, tiny_toml, 1, *arguments)
    assert code == 130 and "stopping: 1 run under way" in err and "the same command goes on" in err
    (state,) = store_of(tmp_path).path.glob("runs/*/checkpoint-*.pt")
    behind = int(state.stem.removeprefix("checkpoint-")) // 4
    assert 1 <= behind < 6
    done = call(tmp_path, tiny_toml, *arguments)
    assert done.returncode == 0, done.stderr
    whole = call(tmp_path, tiny_toml, *arguments, "--results", str(tmp_path / "whole" / "results"))
    assert whole.returncode == 0
    assert contents(tmp_path) == contents(tmp_path / "whole")


def test_ctrl_c_before_workers_are_ready(tiny_toml: Path, tmp_path: Path):
    process = start(tmp_path, tiny_toml, "run", "-o", "sgd", "--seeds", "2", "--workers", "1")
    while not any(is_worker(child) for child in children(process)):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)  # it has begun to import torch
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopping: 2 runs under way" in err and "error" not in err
    assert contents(tmp_path) == {} and not list(store_of(tmp_path).path.glob("runs/*/curve.jsonl"))


def test_ctrl_c_twice_stops_at_once(tiny_toml: Path, tmp_path: Path, write_plugin: Callable[[str], str]):
    slower = SLOW.replace("0.001", "0.2")  # 80 s an epoch
    process = start(tmp_path, tiny_toml, "run", "-o", write_plugin(slower), "--seeds", "1")
    while not list(store_of(tmp_path).path.glob("runs/*/curve.jsonl")):
        assert process.poll() is None
        time.sleep(0.05)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.4)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_full_disk_is_named_and_the_study_goes_on_when_there_is_room(tiny_toml: Path, tmp_path: Path):
    """No file may grow over 3 kB: the protocol and the curve fit, a record does not."""
    arguments = ("run", "-o", "sgd", "--seeds", "2", "--workers", "1")
    assert call(tmp_path, tiny_toml, "run", "-o", "sgd", "--seeds", "1", "--workers", "1").returncode == 0
    before = {path: path.read_bytes() for path in store_of(tmp_path).path.rglob("run.json")}
    full = call(tmp_path, tiny_toml, *arguments, before="ulimit -f 3;")
    assert full.returncode == 1
    (line,) = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert "run.json: File too large; everything stored before is whole" in line
    assert {path: path.read_bytes() for path in store_of(tmp_path).path.rglob("run.json")} == before
    assert not list(tmp_path.rglob("*.tmp"))
    assert call(tmp_path, tiny_toml, *arguments).returncode == 0
    assert len(contents(tmp_path)) == 2


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_disk_that_is_full_to_the_last_byte(tiny_toml: Path, tmp_path: Path):
    arguments = ("run", "-o", "sgd", "--seeds", "2", "--workers", "1")
    with small_disk(tmp_path / "disk", 256):
        filler = tmp_path / "disk" / "filler"
        assert call(tmp_path / "disk", tiny_toml, "run", "-o", "sgd", "--seeds", "1").returncode == 0
        _fill(filler)
        full = call(tmp_path / "disk", tiny_toml, *arguments)
        assert full.returncode == 1 and "No space left on device; everything stored before is whole" in full.stderr
        assert len(contents(tmp_path / "disk")) == 1
        filler.unlink()
        assert call(tmp_path / "disk", tiny_toml, *arguments).returncode == 0
        assert len(contents(tmp_path / "disk")) == 2


def _fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def test_run_over_its_time_limit_is_given_up_and_goes_on_with_a_longer_one(
    tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]
):
    longer = changed(tiny, {"epochs": 20}, "test")
    arguments = {"protocol": longer, "seeds": 1, "results": tmp_path, "checkpoint_seconds": 0.0}
    plugin = write_plugin(SLOW)
    (record,) = bench.run(plugin, **arguments, time_limit=4.0).records
    assert record.outcome is Outcome.TIMEOUT and record.failure.reason == "over the time limit of 4 s"
    assert (record.failure.step or 0) < 80 and record.metrics == {}
    (same,) = bench.run(plugin, **arguments).records
    assert same == record
    (done,) = bench.run(plugin, **arguments, retry_failed=True).records
    assert done.outcome is Outcome.OK
    (whole,) = bench.run(plugin, **arguments | {"results": tmp_path / "whole"}).records
    assert done.model_dump(exclude=TIMES) == whole.model_dump(exclude=TIMES)


def test_run_that_hangs_is_killed_after_its_time_limit(
    tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]
):
    plugin = write_plugin("__import__('time').sleep(600)")
    study = bench.run([plugin, "sgd"], protocol=tiny, seeds=1, results=tmp_path, time_limit=6.0, workers=1)
    outcomes = {record.optimizer: record for record in study.records}
    assert outcomes["mine.py:Mine"].outcome is Outcome.TIMEOUT and outcomes["sgd"].outcome is Outcome.OK
    assert "over the time limit of 6 s" in outcomes["mine.py:Mine"].failure.reason
    assert "mine.py" in (study.path / "logs" / "worker-0.log").read_text()  # where it hung


SPOILT = {
    "truncated": lambda content: content[:100],
    "empty": lambda content: b"",
    "foreign": lambda content: b"GIF89a",
    "flipped": lambda content: content.replace(b'"seed": 0', b'"seed": 2'),
    "newer": lambda content: json.dumps(json.loads(content) | {"schema_version": 99}).encode(),
}


@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_record_is_set_aside_and_only_its_run_done_again(tiny: Protocol, tmp_path: Path, how: str):
    arguments = {"protocol": tiny, "seeds": 2, "results": tmp_path, "workers": 1}
    study = bench.run("sgd", **arguments)
    spoilt, other = (Store(study.path).run_dir(record.run_id) / "run.json" for record in study.records)
    if study.records[0].seed != 0:
        spoilt, other = other, spoilt
    before, kept = spoilt.read_bytes(), other.read_bytes()
    spoilt.write_bytes(SPOILT[how](before))
    again = bench.run("sgd", **arguments)
    assert {r.run_id: r.metrics for r in again.records} == {r.run_id: r.metrics for r in study.records}
    assert other.read_bytes() == kept and again.bad == ()
    assert (spoilt.parent / "run.set-aside-1.json").read_bytes() == SPOILT[how](before)
