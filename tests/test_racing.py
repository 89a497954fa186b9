"""A race over seeds: who is stopped, what is run, and that it goes on where it was."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bench.driver import Placement, Watcher, drive
from bench.errors import UsageError
from bench.executor import Done, Shard
from bench.plan import Run, ended
from bench.protocol import Protocol
from bench.races import Race, read_race, write_race
from bench.racing import RaceSource, looks_within
from bench.record import Outcome
from bench.runner import basis, carry_out, make_plan
from bench.statistics.power import ALPHA
from bench.store import Store

SEEDS = tuple(range(10))
Score = Callable[[str, int], float | None]


@dataclass
class Instant:
    """An engine that stores a score in place of training, NaN as an error; a shard after another, `slots` at a time."""

    store: Store
    score: Score
    slots: int = 2

    def __post_init__(self) -> None:
        self.waiting: list[Shard] = []
        self.carried_out: list[tuple[str, int]] = []

    def submit(self, shard: Shard) -> None:
        self.waiting.append(shard)

    def wait(self, timeout: float) -> Sequence[Done]:
        shard = self.waiting.pop()
        (run,) = shard.runs
        value = self.score(run.optimizer, run.seed)
        failed = value is not None and math.isnan(value)
        outcome = Outcome.ERROR if failed else Outcome.DIVERGED if value is None else Outcome.OK
        record = ended(run, outcome, None, None)
        found = {"metrics": {} if value is None else {"avg_r1": value}, "chance": {"avg_r1": 0.2}}
        self.store.write_record(record.model_copy(update=found))
        self.carried_out.append((run.optimizer, run.seed))
        return [Done(shard=shard)]

    def close(self) -> None:
        pass


def race(folder: Path, tiny: Protocol, names: Sequence[str], score: Score) -> tuple[RaceSource, Instant]:
    """A race of the names over ten seeds."""
    store = Store(folder)
    runs = [Run(protocol=tiny, optimizer=name, reference=name, hyperparameters={"lr": 0.1}, seed=seed)
            for seed in SEEDS for name in names]  # fmt: skip
    missing = [run for run in runs if store.read_record(run.run_id) is None]
    source, engine = RaceSource(runs, missing, store, tiny), Instant(store, score)
    drive(source, store, Placement(device="cpu", data_dir=None, workers=2, threads=1), Watcher(), engine)
    return source, engine


def apart(name: str, seed: int) -> float | None:
    """a and b alike, c 20 points below, d diverged."""
    noise = float(np.random.default_rng(seed * 7 + ord(name)).normal())
    return None if name == "d" else {"a": 60.0, "b": 60.0, "c": 40.0}[name] + seed + 0.1 * noise


def test_who_cannot_be_the_best_is_stopped_at_the_first_look(tiny: Protocol, tmp_path: Path):
    source, engine = race(tmp_path, tiny, "abcd", apart)
    assert source.dropped == {"c": 3, "d": 3} and source.looks == (3, 5, 7)
    ran = {name: sorted(seed for n, seed in engine.carried_out if n == name) for name in "abcd"}
    assert ran == {"a": list(SEEDS), "b": list(SEEDS), "c": [0, 1, 2], "d": [0, 1, 2]}


def test_a_race_goes_on_where_it_was(tiny: Protocol, tmp_path: Path):
    whole, engine = race(tmp_path / "whole", tiny, "abcd", apart)
    stopped = set()

    def interrupted(name: str, seed: int) -> float | None:
        if len(stopped) == 9:
            raise KeyboardInterrupt
        stopped.add((name, seed))
        return apart(name, seed)

    with pytest.raises(KeyboardInterrupt):
        race(tmp_path / "part", tiny, "abcd", interrupted)
    again, rest = race(tmp_path / "part", tiny, "abcd", apart)
    assert again.dropped == whole.dropped
    assert sorted([*stopped, *rest.carried_out]) == sorted(engine.carried_out)


def test_equal_optimizers_are_hardly_ever_stopped(tiny: Protocol, tmp_path: Path):
    """P(the best is ever dropped) ≤ alpha; here a is the best, and its rivals are as good."""
    lost = 0
    for repetition in range(60):
        draws = np.random.default_rng(repetition).normal(50, 1, (10, 4))
        source, _ = race(tmp_path / str(repetition), tiny, "abcd", lambda n, s, x=draws: float(x[s, ord(n) - 97]))
        lost += "a" in source.dropped
    assert lost <= 8  # 60 × 0.05 = 3; P(more than 8) < 0.4 % at the limit


def test_an_error_of_one_takes_the_others_no_look(tiny: Protocol, tmp_path: Path):
    """b has an error: it is neither stopped nor a rival; c and d fall to a all the same."""

    def score(name: str, seed: int) -> float | None:
        return math.nan if name == "b" and seed == 1 else apart(name, seed)

    source, _ = race(tmp_path, tiny, "abcd", score)
    assert source.dropped == {"c": 3, "d": 3}
    source, _ = race(tmp_path / "two", tiny, "bc", score)
    assert source.dropped == {}


def test_an_error_takes_no_look(tiny: Protocol, tmp_path: Path):
    store = Store(tmp_path)
    runs = [Run(protocol=tiny, optimizer=name, reference=name, hyperparameters={"lr": 0.1}, seed=seed)
            for seed in SEEDS for name in "ac"]  # fmt: skip
    for run in runs:
        value = apart(run.optimizer, run.seed)
        record = ended(run, Outcome.ERROR if run.seed == 1 else Outcome.OK, None, None)
        store.write_record(record.model_copy(update={"metrics": {"avg_r1": value}, "chance": {"avg_r1": 0.2}}))
    assert RaceSource(runs, [], store, tiny).dropped == {}


def test_a_race_is_stored_and_too_short_a_one_refused(tmp_path: Path, tiny: Protocol):
    source, _ = race(tmp_path, tiny, "abcd", apart)
    write_race(tmp_path, tiny.hash, source.race())
    assert read_race(tmp_path, tiny.hash) == source.race() and source.race().alpha == ALPHA
    assert read_race(tmp_path, "0" * 12) is None
    with pytest.raises(UsageError, match="--race over 3 seeds: allowed are 4 or more"):
        looks_within(3)


def test_a_race_forgets_nobody_else(tmp_path: Path, tiny: Protocol):
    """A race of c and b alone, in which c runs on, says nothing of d; a file that is none is written anew."""
    (tmp_path / "races").mkdir()
    (tmp_path / "races" / f"{tiny.hash}.json").write_text("{")
    first = Race(looks=(3,), alpha=ALPHA, optimizers=("a", "c", "d"), seeds=SEEDS, dropped={"c": 3, "d": 3})
    write_race(tmp_path, tiny.hash, first)
    write_race(tmp_path, tiny.hash, first.model_copy(update={"optimizers": ("b", "c"), "dropped": {"b": 3}}))
    stored = read_race(tmp_path, tiny.hash)
    assert stored is not None and stored.dropped == {"d": 3, "b": 3} and stored.optimizers == ("b", "c")


@pytest.mark.slow
def test_a_real_race_is_reported(tiny: Protocol, tmp_path: Path):
    """Real runs; nothing can be told apart at this size, so that all run on, and a report says so without a fault."""
    found = basis("sgd,adamw", protocol=tiny, results=tmp_path)
    study = carry_out(make_plan(found, range(4)), Watcher(), race=True)
    assert len(study.records) >= 6
    stored = read_race(study.path, study.protocol.hash)
    assert stored is not None and stored.looks == (3,) and stored.optimizers == ("sgd", "adamw")
