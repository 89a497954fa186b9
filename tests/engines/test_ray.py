"""Studies on a Ray cluster of three nodes, all on this machine: nodes and workers die, folders are not shared."""

import gc
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import bench
from bench.driver import Watcher
from bench.engines import engine_for
from bench.engines.ray import RayEngine
from bench.engines.ray_actor import SCRATCH, read_files, write_files
from bench.errors import EngineError, UsageError
from bench.executor import Done, Engine, Listener, Progress, Shard, Started
from bench.placement import Placement
from bench.plan import Run
from bench.protocol import Protocol
from bench.protocols import changed
from bench.record import Outcome
from bench.runner import Plan, carry_out, prepare
from bench.store import Store
from bench.study import Study

OPTIMIZERS = "sgd,adamw,muon"
# Free: when and where a run was made, and how long it took (its curve holds seconds, and the digest is the curve's).
FREE = {"seconds", "memory", "environment", "finished", "command", "curve_sha256"}
slow = pytest.mark.slow
# Ray leaves the files of processes that it starts to the garbage collector.
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings(r"ignore:unclosed file <.* name='(/dev/null|/tmp/ray/.*)':ResourceWarning"),
]


class Log(Watcher):
    """Notes what an engine or a study tells, and calls `on_epoch` at every epoch."""

    def __init__(self, on_epoch: Callable[[Progress], None] = lambda progress: None) -> None:
        self.started: list[Started] = []
        self.epochs: list[Progress] = []
        self.retries: list[str] = []
        self._on_epoch = on_epoch

    def run_started(self, started: Started) -> None:
        self.started.append(started)

    def epoch_done(self, progress: Progress) -> None:
        self.epochs.append(progress)
        self._on_epoch(progress)

    def retried(self, run: Run, how: str) -> None:
        self.retries.append(how)


def ray_module(name: str = "ray") -> Any:
    return pytest.importorskip(name, reason="needs the extra `ray`")


class Machines:
    """A head node and others, with one core each; `address` is the cluster's."""

    def __init__(self) -> None:
        # A dead node is noticed after 1 s here; by default that takes about 20 s.
        noticing = {"initial_delay_ms": 0, "period_ms": 300, "failure_threshold": 3}
        system = {f"health_check_{name}": value for name, value in noticing.items()}
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": system}
        self._cluster = ray_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=head)
        self._others: list[Any] = []
        self.address = self._cluster.address

    def have(self, count: int) -> None:
        """Add nodes until there are `count`."""
        while len(self) < count:
            self._others.append(self._cluster.add_node(num_cpus=1))

    def __len__(self) -> int:
        return 1 + len(self._others)

    def last_node(self) -> str:
        """The id of the node that `lose_one` ends."""
        return self._others[-1].node_id

    def lose_one(self) -> None:
        """End a node with all of its processes, as a power cut does."""
        self._cluster.remove_node(self._others.pop(), allow_graceful=False)

    def plan(self, optimizers: str | list[str], **options: Any) -> Plan:
        return prepare(optimizers, engine="ray", address=self.address, **options)

    def end(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    machines = Machines()
    yield machines
    machines.end()
    del machines
    gc.collect()  # here, and not in a test of others


@pytest.fixture(scope="module")
def longer(tiny: Protocol) -> Protocol:
    """Runs that something can happen to in the middle."""
    return changed(tiny, {"epochs": 12}, "longer")


@pytest.fixture(scope="module")
def expected(longer: Protocol, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The local engine's records."""
    study = bench.run(OPTIMIZERS, protocol=longer, results=tmp_path_factory.mktemp("local"), workers=2)
    return contents(study)


def contents(study: Study) -> dict[str, str]:
    """The bytes of each record, but what is free."""
    assert {record.outcome for record in study.records} == {Outcome.OK}
    return {record.run_id: record.model_dump_json(exclude=FREE) for record in study.records}


def without_shared_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes look for the driver's token in vain."""
    monkeypatch.setattr("bench.engines.ray.write_atomic", lambda path, content: None)


def outcomes(engine: Engine, count: int, seconds: float = 60) -> list[Done]:
    """The next `count` shards that end."""
    done: list[Done] = []
    deadline = time.monotonic() + seconds
    while len(done) < count and time.monotonic() < deadline:
        done += engine.wait(0.2)
    assert len(done) == count
    return done


def shards(plan: Plan) -> Sequence[Shard]:
    return [Shard(runs=(run,), study=plan.store.path, placement=plan.placement) for run in plan.runs]


@slow
def test_a_node_that_is_lost_in_mid_study_loses_no_run(
    machines: Machines, longer: Protocol, tmp_path: Path, expected: dict[str, str], capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    machines.have(3)
    engines: list[Any] = []

    def start(*arguments: Any, **options: Any) -> Engine:
        engines.append(RayEngine(*arguments, **options))
        return engines[0]

    monkeypatch.setattr("bench.engines.ray.RayEngine", start)

    def lose_its_node(progress: Progress) -> None:
        node = engines[0]._workers[progress.worker].node
        if progress.point.epoch == 2 and node == machines.last_node() and len(machines) == 3:
            machines.lose_one()

    log = Log(lose_its_node)
    plan = machines.plan(OPTIMIZERS, protocol=longer, results=tmp_path, workers=3, checkpoint_seconds=0.0, batch_runs=1)
    study = carry_out(plan, log)
    assert contents(study) == expected
    assert len(machines) == 2, "no node was removed"
    begun = [started.run_id for started in log.started]
    assert len(begun) > len(expected), "the node had no run"
    assert any(started.epoch >= 1 for started in log.started), "a run on the shared folder goes on from its state"
    assert log.retries == [], "a node's death is not a run's fault"
    assert capfd.readouterr().out == "", "standard output is for data"


@slow
def test_without_a_shared_folder_records_and_curves_come_back(
    machines: Machines, longer: Protocol, tmp_path: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    machines.have(2)
    without_shared_folder(monkeypatch)
    log = Log()
    plan = machines.plan(OPTIMIZERS, protocol=longer, results=tmp_path, workers=2)
    study = carry_out(plan, log)
    assert contents(study) == expected
    for record in study.records:
        told = [progress.point for progress in log.epochs if progress.run_id == record.run_id]
        assert plan.store.read_curve(record.run_id, record.curve_sha256) == told
    assert not list(plan.store.path.glob("logs/*")), "the actors have seen the folder"
    deadline = time.monotonic() + 20  # a worker removes its own when it ends, which nobody waits for
    while (left := list(Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


@slow
@pytest.mark.parametrize("shared", [True, False])
def test_stopped_runs_keep_their_state(
    shared: bool, machines: Machines, longer: Protocol, tmp_path: Path, expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    machines.have(2)
    if not shared:
        without_shared_folder(monkeypatch)
    log = Log(lambda progress: engine.stop())
    plan = machines.plan("adamw", protocol=longer, results=tmp_path, workers=1)
    engine = engine_for("ray", machines.address)(plan.placement, plan.store.path, log)
    try:
        for shard in shards(plan):
            engine.submit(shard)
        done = outcomes(engine, len(plan.runs))
    finally:
        engine.close()
    assert frozenset().union(*(d.stopped for d in done)) == {run.run_id for run in plan.runs}
    assert [d.crashed for d in done] == [None, None]
    (begun,) = log.started
    assert len(list(plan.store.run_dir(begun.run_id).glob("checkpoint-*.pt"))) == 1
    again = Log()
    plan = machines.plan("adamw", protocol=longer, results=tmp_path, workers=1)
    records = contents(carry_out(plan, again))
    assert {run_id: expected[run_id] for run_id in records} == records and len(records) == 2
    assert {started.run_id for started in again.started if started.epoch} == {begun.run_id}
    assert not list(plan.store.path.glob("runs/*/checkpoint-*"))


@slow
def test_a_worker_that_dies_costs_one_retry_and_then_an_outcome(
    machines: Machines, tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    machines.have(2)
    monkeypatch.setattr("bench.engines.ray.NODE_SECONDS", 0.3)
    flag, kill = tmp_path / "died", "os.kill(os.getpid(), 9)"
    once = f"os.path.exists({str(flag)!r}) or (open({str(flag)!r}, 'w').close(), {kill}); p.add_(p.grad, alpha=-.1)"
    plugins = []
    for name, body in (("once", once), ("always", kill)):
        Path(write_plugin(body).partition(":")[0]).rename(tmp_path / f"{name}.py")
        plugins.append(f"{name}.py:Mine")
    monkeypatch.chdir(tmp_path)
    log = Log()
    plan = machines.plan(plugins, protocol=tiny, seeds=1, results=tmp_path, workers=2, batch_runs=1)
    records = {r.optimizer: r for r in carry_out(plan, log).records}
    assert log.retries == ["Ray's SYSTEM_ERROR"] * 2
    assert records["once.py:Mine"].outcome is Outcome.OK
    failed = records["always.py:Mine"]
    assert failed.outcome is Outcome.ERROR
    assert "died 2 times on this run, last by Ray's SYSTEM_ERROR" in failed.failure.reason


@slow
def test_a_run_that_hangs_is_killed(
    machines: Machines, tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]
):
    machines.have(2)
    plugin = write_plugin("__import__('time').sleep(1000)")
    plan = machines.plan(plugin, protocol=tiny, seeds=1, results=tmp_path, workers=1, time_limit=3.0)
    study = carry_out(plan, Log())
    assert [record.outcome for record in study.records] == [Outcome.TIMEOUT]
    log = (plan.store.path / "logs" / "worker-0.log").read_text()
    assert "Timeout" in log and "mine.py" in log, "the log says where it hung"


@slow
def test_runs_of_others_are_left_alone_and_shards_of_lost_nodes_come_back_a_few_times(
    machines: Machines, tiny: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where the folder is not shared, the driver holds the runs' locks; and a run cannot lose nodes for ever."""
    ray = ray_module()
    machines.have(2)
    without_shared_folder(monkeypatch)
    plan = machines.plan("sgd,adamw", protocol=tiny, seeds=1, results=tmp_path, workers=1)
    engine: Any = engine_for("ray", machines.address)(plan.placement, plan.store.path, Listener())
    sgd, adamw = shards(plan)
    name = adamw.runs[0].run_id
    try:
        with plan.store.claim(sgd.runs[0].run_id):
            engine.submit(sgd)
            assert outcomes(engine, 1) == [Done(shard=sgd, busy=frozenset({sgd.runs[0].run_id}))]
        monkeypatch.setattr("bench.engines.ray.NODE_DEATHS", 1)
        monkeypatch.setattr(type(engine), "_fault_of_its_node", lambda *_: True)
        for crashed in (None, "the death of its node (number 2)"):
            engine.submit(adamw)
            while not plan.store.is_claimed(name):
                engine.wait(0.01)
            ray.kill(next(iter(engine._workers.values())).actor)
            (done,) = outcomes(engine, 1)
            assert (done.crashed, done.run_id) == (crashed, crashed and name)
            assert not plan.store.is_claimed(name)
    finally:
        engine.close()
    assert not ray.is_initialized()


@slow
def test_what_cannot_work_is_said_in_one_line(
    machines: Machines, tiny: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    start = engine_for("ray", machines.address)
    with pytest.raises(EngineError, match=r"no node of the cluster has what a worker needs, \{'CPU': 99\}"):
        start(Placement(device="cpu", threads=99), tmp_path, Listener())
    with pytest.raises(EngineError, match=r"what a worker needs, \{'CPU': 1, 'GPU': 1\}"):
        start(Placement(device="cuda"), tmp_path, Listener())
    monkeypatch.setattr("bench.engines.ray.code_digest", lambda: "other")
    plan = machines.plan("sgd", protocol=tiny, seeds=1, results=tmp_path, workers=1)
    with pytest.raises(EngineError, match=r"node \w{8} has another version of bench"):
        carry_out(plan, Log())
    assert not list(plan.store.path.glob(".*.tmp"))


@slow
def test_no_cluster_at_an_address():
    ray_module()
    with pytest.raises(EngineError, match=r"--engine ray, --address 127\.0\.0\.1:1: .*refused"):
        engine_for("ray", "127.0.0.1:1")(Placement(device="cpu"), Path("none"), Listener())


def test_values_that_are_not_allowed():
    with pytest.raises(UsageError, match="--engine 'dask': allowed are local, ray"):
        engine_for("dask")
    with pytest.raises(UsageError, match="--address 'auto': allowed with --engine ray alone"):
        engine_for("local", "auto")


@pytest.mark.parametrize("address", ["ray://a:1", "nonsense", "a:b", "a:123456", ""])
def test_what_is_no_address(address: str):
    ray_module()
    with pytest.raises(UsageError, match=rf"--address '{address}': allowed are auto and HOST:PORT"):
        engine_for("ray", address)


def test_what_is_no_device(tmp_path: Path):
    ray_module()
    with pytest.raises(UsageError, match="--device 'cuda:1': allowed with --engine ray are cpu, cuda"):
        engine_for("ray")(Placement(device="cuda:1"), tmp_path, Listener())


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError) as error:
        engine_for("ray")
    assert str(error.value) == "--engine ray: needs the extra: pip install 'optimizer-bench[ray]'"


def test_files_of_a_run_travel_whole_and_nothing_else_does(tmp_path: Path):
    here, there = Store(tmp_path / "here").run_dir("r"), Store(tmp_path / "there").run_dir("r")
    write_files(here, {"checkpoint-000000001.pt": b"old"})
    found = {"run.json": b"{}", "curve.jsonl": b"\n", "checkpoint-000000002.pt": b"new"}
    names = itertools.product(("../", "", "/tmp/"), ("x", "checkpoint-1.pt", ".lock", "run.json.tmp"))
    write_files(here, found | {"".join(name): b"?" for name in names})
    assert read_files(here) == found
    write_files(there, read_files(here))
    assert sorted(path.name for path in there.iterdir()) == sorted(found)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted([*found, *found])
