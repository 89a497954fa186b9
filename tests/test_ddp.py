"""One run by several processes: the numbers of one process, the same records, and no process left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from shared_step import steps_taken

import bench
from bench import placement
from bench.bank import runs_at_once
from bench.driver import Watcher
from bench.errors import UsageError
from bench.execution import execute
from bench.executor import Started
from bench.placement import placed
from bench.plan import Run
from bench.protocol import Protocol
from bench.protocols import changed
from bench.record import CurvePoint, Outcome, RunRecord
from bench.runner import prepare
from bench.store import Store

pytestmark = pytest.mark.cluster
SUPPORT = Path(__file__).parent / "support"
MARK = "BENCH_TEST_OF_DDP"  # an environment variable by which a test knows the processes that it has started


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The commands of all processes that were started by the test and still live."""
    monkeypatch.setenv(MARK, str(tmp_path))
    mark = f"{MARK}={tmp_path}".encode()

    def alive() -> list[str]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if int(folder.name) != os.getpid() and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # it has just ended, or is another user's
                continue
        return found

    return alive


def eventually_none(processes: Callable[[], list[str]]) -> bool:
    """Whether all have ended within seconds."""
    end = time.monotonic() + 10
    while processes() and time.monotonic() < end:
        time.sleep(0.05)
    return not processes()


def alone(optimizer: str, **options) -> tuple[RunRecord, list[CurvePoint]]:
    """Record and curve of the one run that `bench.run` would carry out, in this process."""
    (run,), curve = prepare(optimizer, **options).runs, []
    return execute(run, device=torch.device("cpu"), on_epoch=curve.append), curve


def close_metrics(record: RunRecord, other: RunRecord) -> bool:
    """Ranks are counts: where two items are as good as equal, rounding moves one of the 24 queries."""
    return record.metrics.keys() == other.metrics.keys() and all(
        abs(value - other.metrics[name]) <= 100 / 24 + 1e-9 for name, value in record.metrics.items()
    )


def test_two_processes_take_the_steps_of_one(tiny: Protocol, tmp_path: Path):
    """Float64, so that all that is left of a difference is the order of sums: 1e-10 is far above it."""
    protocols = {
        "plain": changed(tiny, {"workload": {"model_options": {"dropout": 0.0}}}, "test"),
        "dropout": changed(tiny, {"workload": {"model_options": {"dropout": 0.1}}}, "test"),
        "several": changed(tiny, {"workload": {"multi_positive": True}, "clip_norm": "none"}, "test"),
    }
    listed = tmp_path / "protocols.json"
    listed.write_text(json.dumps({name: p.model_dump(mode="json") for name, p in protocols.items()}))
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2",
         SUPPORT / "shared_step.py", listed, tmp_path],
        check=True, timeout=100, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    for name, protocol in protocols.items():
        alone = steps_taken(protocol)
        first, second = (torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in range(2))
        assert sum("gradient" in key for key in alone) > 100 and any("running_var" in key for key in alone)
        torch.testing.assert_close(first, alone, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_run_of_two_processes_is_the_run_of_one(tiny: Protocol, tmp_path: Path, processes: Callable):
    one, points = alone("adamw", seeds=1, protocol=tiny, results=tmp_path)
    (two,) = bench.run("adamw", seeds=1, protocol=tiny, results=tmp_path, parallel="ddp", workers=2).records
    assert (one.run_id, one.outcome, one.steps) == (two.run_id, Outcome.OK, two.steps)
    assert one.fingerprints.initial_weights == two.fingerprints.initial_weights
    assert one.fingerprints.batch_order == two.fingerprints.batch_order
    assert one.diagnostics.without_gradient == two.diagnostics.without_gradient
    assert close_metrics(one, two)
    shared = Store(tmp_path / "tiny").read_curve(one.run_id, two.curve_sha256)
    assert [p.samples for p in points] == [p.samples for p in shared] == [32, 64]
    assert [p.loss for p in points] == pytest.approx([p.loss for p in shared], rel=1e-5)  # float32
    assert [path.name for path in (tmp_path / "tiny" / "runs").iterdir()] == [one.run_id]
    assert eventually_none(processes)


class Noting(Watcher):
    def __init__(self) -> None:
        self.begun: list[int] = []

    def run_started(self, started: Started) -> None:
        self.begun.append(started.epoch)


def started(folder: Path, toml: Path, *arguments: str) -> subprocess.Popen:
    """`bench run` in a process group of its own, once its first epoch has ended."""
    command = [sys.executable, "-m", "bench", "run", "-p", str(toml), "--seeds", "1", "--parallel", "ddp",
               "--workers", "2", *arguments]  # fmt: skip
    process = subprocess.Popen(command, cwd=folder, process_group=0, stderr=subprocess.DEVNULL)
    while not any(path.stat().st_size for path in folder.glob("results/tiny/runs/*/curve.jsonl")):
        assert process.poll() is None
        time.sleep(0.02)
    return process


SLOW = "p.add_(p.grad, alpha=-.01); p is group['params'][0] and __import__('time').sleep(.03)"


def test_interrupted_it_goes_on_from_its_state(
    tiny: Protocol, tiny_toml: Path, tmp_path: Path, write_plugin: Callable[[str], str], processes: Callable
):
    plugin, longer = write_plugin(SLOW), changed(tiny, {"epochs": 8}, "test")
    process = started(tmp_path, tiny_toml, "-o", plugin, "--epochs", "8", "--checkpoint-steps", "1")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert eventually_none(processes)
    (state,) = list(tmp_path.glob("results/tiny/runs/*/checkpoint-*.pt"))[-1:]
    assert not list(tmp_path.glob("results/tiny/runs/*/run.json"))
    watcher = Noting()
    options = {"seeds": 1, "protocol": longer, "results": tmp_path / "results"}
    (record,) = bench.run(plugin, study="tiny", parallel="ddp", workers=2, watcher=watcher, **options).records
    assert watcher.begun[0] > 0 and not state.exists()
    one, points = alone(plugin, **options)
    assert record.outcome == one.outcome == Outcome.OK and close_metrics(record, one)
    shared = Store(tmp_path / "results" / "tiny").read_curve(record.run_id, record.curve_sha256)
    assert [p.loss for p in shared] == pytest.approx([p.loss for p in points], rel=1e-4) and len(shared) == 8


def test_nothing_survives_a_killed_command(
    tiny_toml: Path, tmp_path: Path, write_plugin: Callable[[str], str], processes: Callable
):
    process = started(tmp_path, tiny_toml, "-o", write_plugin(SLOW), "--epochs", "100")
    assert sum("bench.ddp_worker" in command for command in processes()) == 3  # torchrun's command names it too
    process.kill()
    process.wait()
    assert eventually_none(processes)


def test_failures_of_a_run_become_its_record(
    tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str], processes: Callable
):
    """What all processes raise is the run's error; one that dies ends the others, as with any worker."""
    written = Path(write_plugin("os.environ['RANK'] == '1' and os._exit(3)").rpartition(":")[0])
    dies = f"{written.rename(tmp_path / 'dies.py')}:Mine"
    fails = write_plugin("raise ValueError('no such step')")
    study = bench.run([fails, dies], seeds=1, protocol=tiny, results=tmp_path, parallel="ddp", workers=2)
    failures = {record.optimizer: record.failure for record in study.records if record.outcome is Outcome.ERROR}
    assert "no such step" in str(failures["mine.py:Mine"].traceback)
    assert "the worker process died 2 times on this run" in failures["dies.py:Mine"].reason
    assert eventually_none(processes)


def refused(tmp_path: Path, optimizers: str = "adamw", **options) -> str:
    with pytest.raises(UsageError) as error:
        bench.run(optimizers, results=tmp_path, **{"parallel": "ddp", "workers": 2, **options})
    assert not list(tmp_path.iterdir())
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"parallel": "model"}, "--parallel 'model': allowed are runs, ddp"),
        ({}, {"workers": 3}, "--parallel ddp: batch size 8 is not a multiple of 3 processes"),
        ({"drop_last": False, "workload": {"dataset_options": {"training": 29}}}, {},
         "--parallel ddp: the last batch, of size 5 is not a multiple of 2 processes"),
        ({"precision": "fp16"}, {}, "--parallel ddp: precision is 'fp16'; allowed are 'float32' and 'bf16', and "
         "--parallel runs"),
        ({}, {"optimizers": "lbfgs"}, "--parallel ddp: optimizer lbfgs has the need closure; allowed are those "
         "without, and --parallel runs"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_said_before_anything_runs(
    tiny: Protocol, tmp_path: Path, change: dict, options: dict, message: str
):
    assert refused(tmp_path, protocol=changed(tiny, change, "test"), **options) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda", "workers": 3}, "--parallel ddp: --workers 3 on cuda; allowed is at most one a GPU, so 2"),
        (
            {"device": "cuda:1", "workers": 2},
            "--parallel ddp: --workers 2 on cuda:1; allowed is at most one a GPU, so 1",
        ),
        ({"engine": "ray"}, "--parallel ddp: with --engine ray allowed is --parallel runs"),
    ],
)  # fmt: skip
def test_where_it_cannot_run(options: dict, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placement.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError) as error:
        placed(parallel="ddp", **options)
    assert str(error.value) == message


def test_its_processes_have_one_run_at_a_time(tiny: Protocol):
    run = Run(protocol=tiny, optimizer="adamw", reference="adamw", hyperparameters={"lr": 0.01}, seed=0)
    here: Sequence = [placed(device="cpu", parallel=name, workers=2) for name in ("runs", "ddp")]
    assert [runs_at_once(run, each) > 1 for each in here] == [True, False]
    assert [str(each) for each in here] == [
        "2 workers of 1 thread on cpu", "runs of 2 processes of 1 thread on cpu"]  # fmt: skip
