"""Runs that share passes: each gets what it would get alone, whoever is beside it, and faults stay where they are."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import bank
from bench.bank import joins, runs_at_once
from bench.checkpoint import Checkpoints, Keeper, StoppedError
from bench.datasets.samples import Samples
from bench.driver import Listed, Watcher, _Drive, drive
from bench.errors import StorageError
from bench.execution import execute
from bench.executor import Done, Shard
from bench.models.dropout import BankDropout, DropoutStream
from bench.models.multimodal_memory import NO_DROPOUT, MultiModalMemoryNetwork
from bench.models.multimodal_memory_bank import NetworkBank
from bench.objective import bank_pair_losses, pair_losses
from bench.placement import BATCH_RUNS, placed
from bench.plan import Run
from bench.protocol import Protocol
from bench.protocols import changed
from bench.record import Outcome, RunRecord
from bench.registry import entry
from bench.step import OptimizerStep
from bench.store import Store
from bench.together import Member, Together
from bench.trainer import Trainer

CPU = torch.device("cpu")
NOT_TIMES = {"seconds", "memory", "environment", "finished"}


def run_of(protocol: Protocol, optimizer: str = "adamw", seed: int = 0, **hyperparameters: Any) -> Run:
    spec = entry(optimizer)
    return Run(protocol=protocol, optimizer=spec.name, reference=optimizer, seed=seed,
               hyperparameters={**spec.defaults, **hyperparameters}, source_digest=spec.source_digest)  # fmt: skip


def beside(runs: Sequence[Run], keepers: Sequence[Keeper] | None = None) -> list[RunRecord]:
    """The records of runs that are carried out at once."""
    records: dict[int, RunRecord] = {}

    def job(i: int, member: Member) -> None:
        records[i] = execute(runs[i], device=CPU, member=member, keeper=keepers[i] if keepers else None)

    Together().run([lambda member, i=i: job(i, member) for i in range(len(runs))])
    return [records[i] for i in range(len(runs))]


def content(record: RunRecord) -> dict[str, Any]:
    return record.model_dump(exclude=NOT_TIMES)


# ---- the network


def double(samples: Samples) -> dict[str, Tensor]:
    return {name: x.double() if x.is_floating_point() else x for name, x in samples.inputs().items()}


@pytest.mark.parametrize("multi_positive", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_embeddings_losses_and_gradients_are_those_of_each_network_alone(
    tiny: Protocol, training: bool, multi_positive: bool
):
    """Float64, with masks; in training with dropout, and running statistics, which must move alike."""
    networks, alone = ([_network(tiny, seed) for seed in range(3)] for _ in range(2))
    streams, own = ([DropoutStream(0.1, seed) for seed in range(3)] for _ in range(2))
    data = tiny.workload.build_dataset(None, CPU)
    batches = [data.training(1, seed).take(slice(seed, seed + 6)) for seed in range(3)]
    frames = torch.arange(16) < torch.tensor([16, 9, 16, 1, 16, 16])[:, None]
    words = torch.arange(batches[0].inputs()["text"].shape[1]) < torch.tensor([3, 9, 1, 5, 12, 12])[:, None]
    masks = {"text": words, "audio": frames}
    match_KB = torch.stack([torch.tensor([0, 0, 1, 2, 2, 3]) + k for k in range(3)])
    shared, dropout = NetworkBank(networks), BankDropout(streams)
    dropout.start_step(4)
    inputs = {name: torch.stack([double(batch)[name] for batch in batches]) for name in batches[0].inputs()}
    found = shared.forward(inputs, {name: mask.expand(3, *mask.shape) for name, mask in masks.items()},
                           dropout if training else NO_DROPOUT, training=training)  # fmt: skip
    losses = bank_pair_losses(found, match_KB, temperature=0.07, multi_positive=multi_positive)
    torch.stack(list(losses.values())).sum().backward()
    for k, (network, stream) in enumerate(zip(alone, own, strict=True)):
        stream.start_step(4)
        network.train(training)
        expected = network(double(batches[k]), masks, stream if training else NO_DROPOUT)
        single = pair_losses(expected, match_KB[k], temperature=0.07, multi_positive=multi_positive)
        torch.stack(list(single.values())).sum().backward()
        for name, x in expected.items():
            torch.testing.assert_close(found[name][k], x, rtol=0, atol=1e-12)
        for name, loss in single.items():
            torch.testing.assert_close(losses[name][k], loss, rtol=0, atol=1e-12)
        for name, parameter in network.named_parameters():
            gradient = shared.weights[name].grad
            if parameter.grad is None:
                assert gradient is None, name
            else:
                assert gradient is not None
                torch.testing.assert_close(gradient[k], parameter.grad, rtol=0, atol=1e-11, msg=name)
        for (name, expected_buffer), buffer in zip(network.named_buffers(), networks[k].buffers(), strict=True):
            torch.testing.assert_close(buffer, expected_buffer, rtol=0, atol=1e-12, msg=name)


def _network(protocol: Protocol, seed: int) -> MultiModalMemoryNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = protocol.workload.build_model()
    assert isinstance(network, MultiModalMemoryNetwork)
    return network.double()


def test_parameters_that_an_optimizer_replaces_are_taken_over(tiny: Protocol):
    networks = [_network(tiny, seed) for seed in range(2)]
    shared = NetworkBank(networks)
    networks[1].feedback.weight.data = torch.ones_like(networks[1].feedback.weight)
    shared.gather()
    assert bool((shared.weights["feedback.weight"][1] == 1).all())
    networks[1].feedback.weight.data.add_(1)
    assert bool((shared.weights["feedback.weight"][1] == 2).all())


# ---- runs


def test_a_run_gets_the_same_bits_alone_and_beside_any_others(tiny: Protocol):
    runs = [run_of(tiny, "adamw", 0), run_of(tiny, "sgd", 1), run_of(tiny, "gda2", 0), run_of(tiny, "adamw", 1, lr=0.1)]
    alone = [content(beside([run])[0]) for run in runs]
    assert [content(record) for record in beside(runs)] == alone
    assert [content(record) for record in beside(runs[::-1][:3])] == alone[::-1][:3]
    assert len({record["metrics"]["avg_r5"] for record in alone}) > 1


def test_passes_that_are_shared_are_those_of_the_plain_path(tiny: Protocol):
    """To 1e-5, after three epochs of AdamW."""
    protocol = changed(tiny, {"epochs": 3}, "test")
    trainer = Trainer(run_of(protocol), CPU)
    plain = [point.loss for point in trainer.epochs(Keeper())]
    curve: list[float] = []

    def job(member: Member) -> None:
        execute(run_of(protocol), device=CPU, member=member, on_epoch=lambda point: curve.append(point.loss))

    Together().run([job])
    assert curve == pytest.approx(plain, abs=1e-5)


def test_a_run_that_diverges_leaves_and_the_others_never_notice(tiny: Protocol, write_plugin: Callable[[str], str]):
    protocol = changed(tiny, {"epochs": 4}, "test")
    explodes = write_plugin("p.mul_(float('nan'))")
    runs = [run_of(protocol, "adamw", 0), run_of(protocol, explodes), run_of(protocol, "sgd", 0)]
    records = beside(runs)
    assert [record.outcome for record in records] == [Outcome.OK, Outcome.DIVERGED, Outcome.OK]
    assert content(records[0]) == content(beside([runs[0]])[0])
    assert content(records[2]) == content(beside([runs[2]])[0])


def test_a_run_that_raises_is_the_only_one_that_fails(tiny: Protocol, write_plugin: Callable[[str], str]):
    raises = write_plugin("raise RuntimeError('of its own')")
    records = beside([run_of(tiny, "adamw"), run_of(tiny, raises), run_of(tiny, "adamw", 1)])
    assert [record.outcome for record in records] == [Outcome.OK, Outcome.ERROR, Outcome.OK]
    assert records[1].failure is not None and "of its own" in records[1].failure.reason


def test_random_numbers_of_one_run_do_not_reach_another(tiny: Protocol, write_plugin: Callable[[str], str]):
    draws = write_plugin("p.add_(torch.randn_like(p), alpha=1e-3)")
    runs = [run_of(tiny, draws, 0), run_of(tiny, draws, 1), run_of(tiny, "sgd", 0)]
    alone = [content(beside([run])[0]) for run in runs]
    before = torch.get_rng_state()
    assert [content(record) for record in beside(runs)] == alone
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["lbfgs", "schedule_free_adamw"])
def test_optimizers_that_evaluate_themselves_work_alone_among_the_others(tiny: Protocol, name: str):
    runs = [run_of(tiny, "adamw"), run_of(tiny, name), run_of(tiny, "sgd")]
    member = Member(Together())
    assert [joins(Trainer(run, CPU, None, member)) for run in runs] == [True, False, True]
    assert [content(record) for record in beside(runs)] == [content(beside([run])[0]) for run in runs]


def stopped_after(epochs: int, folder: Path) -> Keeper:
    """Asks the run to stop at its epoch of that number."""
    asked: list[int] = []

    def stopping() -> bool:
        asked.append(1)
        return len(asked) >= epochs

    folder.mkdir()
    return Keeper(Checkpoints(folder), stopping=stopping)


def test_runs_that_are_stopped_and_go_on_in_other_company_end_the_same(tiny: Protocol, tmp_path: Path):
    protocol = changed(tiny, {"epochs": 4}, "test")
    runs = [run_of(protocol, "adamw", 0), run_of(protocol, "gda2", 1), run_of(protocol, "sgd", 0)]
    whole = [content(beside([run])[0]) for run in runs]

    def until_stopped(member: Member, i: int) -> None:
        with pytest.raises(StoppedError):
            execute(runs[i], device=CPU, member=member, keeper=stopped_after(i + 1, tmp_path / str(i)))

    Together().run([partial(until_stopped, i=i) for i in range(3)])
    records = beside(runs[::-1], [Keeper(Checkpoints(tmp_path / str(i))) for i in (2, 1, 0)])
    assert [content(record) for record in records[::-1]] == whole


def test_the_state_of_a_run_is_its_own_and_not_the_banks(tiny: Protocol, tmp_path: Path):
    def kept(member: Member, folder: Path) -> None:
        with pytest.raises(StoppedError):
            execute(run_of(tiny, "sgd"), device=CPU, member=member, keeper=stopped_after(1, folder))

    Together().run([partial(kept, folder=tmp_path / "alone")])
    Together().run([partial(kept, folder=tmp_path / name) for name in "abcd"])
    sizes = [path.stat().st_size for folder in ("alone", *"abcd") for path in (tmp_path / folder).glob("*.pt")]
    assert len(sizes) == 5 and max(sizes) < 1.01 * min(sizes)


def test_what_cannot_be_stored_ends_all_and_is_raised(tiny: Protocol):
    told: list[str] = []

    def full(member: Member) -> None:
        execute(run_of(tiny), device=CPU, member=member, on_epoch=lambda point: _full())

    def other(member: Member) -> None:
        try:
            execute(run_of(tiny, seed=1), device=CPU, member=member)
        except StoppedError:
            told.append("stopped")
            raise

    with pytest.raises(StorageError, match="no room"):
        Together().run([full, other])
    assert told == ["stopped"]


def _full() -> None:
    raise StorageError("no room")


def test_a_fault_of_the_shared_pass_is_every_runs(tiny: Protocol, monkeypatch: pytest.MonkeyPatch):
    def fails(self: bank.Bank, batches: Sequence[Samples]) -> None:
        raise RuntimeError("can't allocate memory: 1 TB")

    monkeypatch.setattr(bank.Bank, "evaluations", fails)
    assert [record.outcome for record in beside([run_of(tiny), run_of(tiny, seed=1)])] == [Outcome.OUT_OF_MEMORY] * 2


def test_seconds_are_shared_out(tiny: Protocol):
    """Together, the runs count about the time that passed, not so many times it."""
    import time

    runs = [run_of(changed(tiny, {"epochs": 6}, "test"), seed=seed) for seed in range(4)]
    before = time.perf_counter()
    records = beside(runs)
    passed = time.perf_counter() - before
    assert 0.2 * passed < sum(record.seconds.total for record in records) < 1.2 * passed
    assert all(record.seconds.training > record.seconds.optimizer_step > 0 for record in records)


# ---- which, and how many


def test_how_many_at_once(tiny: Protocol):
    here = placed(device="cpu", workers=1, batch_runs=3)
    assert runs_at_once(run_of(tiny), here) == 3
    assert runs_at_once(run_of(tiny), placed(device="cpu", workers=1)) == BATCH_RUNS
    assert runs_at_once(run_of(tiny), placed(device="cpu", workers=1, time_limit=9.0)) == 1
    assert runs_at_once(run_of(tiny), placed(device="cpu", workers=1, batch_runs=1)) == 1
    assert runs_at_once(run_of(tiny, "lbfgs"), here) == 1
    assert runs_at_once(run_of(changed(tiny, {"precision": "fp16"}, "test")), here) == 1
    large = {"latent_dim": 256, "text_embed_dim": 256, "memory_size": 64}
    assert runs_at_once(run_of(changed(tiny, {"workload": {"model_options": large}}, "test")), here) == 1


class Recorder:
    """An engine that says what it was given; a shard with the run that `kills` workers comes back crashed."""

    def __init__(self, store: Store, slots: int, kills: str = "") -> None:
        self.slots, self._store, self._kills = slots, store, kills
        self.shards: list[list[str]] = []
        self._open: list[Shard] = []

    def submit(self, shard: Shard) -> None:
        self.shards.append([f"{run.optimizer}{run.seed}" for run in shard.runs])
        self._open.append(shard)

    def wait(self, timeout: float) -> Sequence[Done]:
        shards, self._open = self._open, []
        return [self._done(shard) for shard in shards]

    def _done(self, shard: Shard) -> Done:
        names = [f"{run.optimizer}{run.seed}" for run in shard.runs]
        if self._kills in names:
            return Done(shard=shard, crashed="signal 9", run_id=shard.runs[0].run_id)
        for run in shard.runs:
            self._store.write_record(execute(run, device=CPU))
        return Done(shard=shard)

    def stop(self) -> None: ...
    def close(self) -> None: ...


def drive_all(protocol: Protocol, folder: Path, slots: int, kills: str = "", **placement: Any) -> Recorder:
    store = Store(folder)
    engine = Recorder(store, slots, kills)
    runs = [run_of(protocol, name, seed) for seed in range(3) for name in ("sgd", "adamw")]
    runs.insert(3, run_of(protocol, "lbfgs"))
    drive(Listed(runs), store, placed(device="cpu", workers=slots, **placement), Watcher(), engine)
    return engine


def test_runs_are_shared_out_evenly_and_those_that_work_alone_go_alone(tiny: Protocol, tmp_path: Path):
    short = changed(tiny, {"epochs": 1}, "test")
    engine = drive_all(short, tmp_path, slots=2, batch_runs=8)
    assert sorted(name for shard in engine.shards for name in shard) == sorted(
        ["lbfgs0", *(f"{name}{seed}" for name in ("sgd", "adamw") for seed in range(3))]
    )
    assert ["lbfgs0"] in engine.shards
    assert max(map(len, engine.shards)) > 1
    assert engine.shards[:2] == [["sgd0", "adamw0"], ["sgd1"]]  # of three that may go together, for two workers
    one_by_one = drive_all(short, tmp_path / "other", slots=2, batch_runs=1)
    assert {len(shard) for shard in one_by_one.shards} == {1}


@pytest.mark.parametrize(
    ("count", "workers", "busy", "taken"),
    [(16, 2, 0, 8), (8, 2, 0, 4), (4, 2, 1, 4), (8, 2, 1, 4), (4, 2, 0, 2), (3, 64, 0, 1), (40, 1, 0, 8), (2, 2, 2, 2)],
)
def test_a_worker_takes_what_leaves_none_idle(
    tiny: Protocol, tmp_path: Path, count: int, workers: int, busy: int, taken: int
):
    """As many as the others get; with nobody else waiting, no less than half of what may go together."""
    runs = [run_of(tiny, seed=seed) for seed in range(count)]
    driver = _Drive(Listed(runs), Store(tmp_path), placed(device="cpu", workers=workers, batch_runs=8), Watcher())
    assert [run.seed for run in driver._take(workers, busy)] == list(range(taken))


def test_a_run_that_kills_its_worker_is_found_among_those_beside_it(tiny: Protocol, tmp_path: Path):
    engine = drive_all(changed(tiny, {"epochs": 1}, "test"), tmp_path, slots=1, kills="adamw1", batch_runs=8)
    records = {f"{r.optimizer}{r.seed}": r for path in tmp_path.glob("runs/*") if (r := _record(tmp_path, path))}
    assert len(records) == 7
    assert {name for name, record in records.items() if record.outcome is not Outcome.OK} == {"adamw1"}
    assert records["adamw1"].outcome is Outcome.ERROR
    assert engine.shards.count(["adamw1"]) == 2  # once more, and no third time


def _record(study: Path, folder: Path) -> RunRecord | None:
    return Store(study).read_record(folder.name)


def test_a_step_whose_gradients_are_there_evaluates_nothing(tiny: Protocol, monkeypatch: pytest.MonkeyPatch):
    """The plain path is not taken beside the shared one."""
    monkeypatch.setattr(OptimizerStep, "_evaluate", lambda *given: pytest.fail("evaluated alone"))
    assert [record.outcome for record in beside([run_of(tiny), run_of(tiny, seed=1)])] == [Outcome.OK] * 2
