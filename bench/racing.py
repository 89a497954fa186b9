"""`bench run --race`: optimizers that cannot be the best any more run no further seeds.

Group-sequential paired t-tests at looks fixed in advance (`statistics.racing`): the probability that the true best
optimizer is ever dropped is at most alpha, for normal differences. A race over more seeds than before starts anew from
the records, with the stricter limits of its own looks; the probability is that of one race. What was dropped is stored
beside the runs (`bench.races`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from bench.continual.figures import WORST
from bench.driver import Source
from bench.errors import UsageError
from bench.plan import Run
from bench.protocol import Protocol
from bench.races import Race
from bench.ranking import OWN_FAILURES, recall_grain
from bench.record import Outcome, RunRecord
from bench.statistics.power import ALPHA
from bench.statistics.racing import LOOKS, dropped_at_look
from bench.store import Store
from bench.summary import lower_is_better


def looks_within(seeds: int) -> tuple[int, ...]:
    """The looks of a race over so many seeds; at the last there is nothing left to save.

    Raises `UsageError` where there is no look before the last seed.
    """
    looks = tuple(look for look in LOOKS if look < seeds)
    if not looks:
        raise UsageError(f"--race over {seeds} seeds: allowed are {LOOKS[0] + 1} or more; the first look is after "
                         f"{LOOKS[0]}")  # fmt: skip
    return looks


class RaceSource(Source):
    """The runs of a study seed by seed; at each look the optimizers that fall are left out of the later seeds."""

    def __init__(self, runs: Sequence[Run], missing: Sequence[Run], store: Store, protocol: Protocol) -> None:
        self._store, self._protocol = store, protocol
        self.seeds = tuple(dict.fromkeys(run.seed for run in runs))
        self.names = tuple(dict.fromkeys(run.optimizer for run in runs))
        self.looks = looks_within(len(self.seeds))
        self._runs = {(run.optimizer, run.seed): run for run in runs}
        self._missing = {run.run_id for run in missing}
        self.dropped: dict[str, int] = {}
        self._due: deque[Run] = deque()
        self._out: set[str] = set()
        self._stage = -1
        self._advance()

    def race(self) -> Race:
        """What has happened so far."""
        return Race(looks=self.looks, alpha=ALPHA, optimizers=self.names, seeds=self.seeds, dropped=dict(self.dropped))

    def take(self) -> Run | None:
        if not self._due:
            return None
        run = self._due.popleft()
        self._out.add(run.run_id)
        return run

    def ended(self, record: RunRecord) -> None:
        self._out.discard(record.run_id)
        self._advance()

    def _advance(self) -> None:
        """Look, and queue the seeds up to the next look, until runs are due or all seeds are through."""
        stages = (0, *self.looks, len(self.seeds))
        while not self._due and not self._out and self._stage < len(stages) - 2:
            self._stage += 1
            seen, until = stages[self._stage], stages[self._stage + 1]
            if seen:
                self._look(seen)
            wanted = [self._runs[name, seed] for seed in self.seeds[seen:until] for name in self._alive()]
            self._due.extend(run for run in wanted if run.run_id in self._missing)

    def _alive(self) -> list[str]:
        return [name for name in self.names if name not in self.dropped]

    def _look(self, seen: int) -> None:
        """Drop who is significantly worse than a living one; who misses a score neither falls nor makes others fall."""
        records = {
            (name, seed): self._store.read_record(self._runs[name, seed].run_id)
            for name in self._alive() for seed in self.seeds[:seen]
        }  # fmt: skip
        scores = scores_at(records, self.names, self.seeds[:seen], self._protocol)
        living = np.array([name not in self.dropped for name in self.names]) & ~np.isnan(scores).any(axis=0)
        grain = recall_grain(self._protocol)
        fallen = dropped_at_look(scores, living, looks=self.looks, alpha=ALPHA, grain=grain)
        self.dropped |= {name: seen for name, gone in zip(self.names, fallen, strict=True) if gone}


def scores_at(
    records: Mapping[tuple[str, int], RunRecord | None], names: Sequence[str], seeds: Sequence[int], protocol: Protocol
) -> np.ndarray:
    """The primary metric [seeds, names], higher better, diverged runs at chance, NaN where there is no result."""
    metric = protocol.primary_metric
    sign = -1.0 if lower_is_better(metric) else 1.0
    scores = np.full((len(seeds), len(names)), np.nan)
    for (name, seed), record in records.items():
        if record is None:
            continue
        place = seeds.index(seed), names.index(name)
        if record.outcome is Outcome.OK:
            scores[place] = sign * record.metrics[metric]
        elif record.outcome in OWN_FAILURES:
            scores[place] = sign * record.chance.get(metric, WORST.get(metric, 0.0))
    return scores
