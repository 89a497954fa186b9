"""How the searches of a study stand, from their plans and what is known of their runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from bench.plan import slug
from bench.protocol import Protocol
from bench.search.plan import SearchPlan
from bench.status.run_state import ENDED, RunState, State
from bench.summary import lower_is_better


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStatus:
    """One optimizer's search; trials without a plan make one too, with `trials` None.

    trials_done: settings whose runs under the full protocol have all ended. missing: how many more of its runs are
    known to come, missing_short: of them in the first rung. best: the searched settings that are best, so far or in the
    end, and `validation` their score.
    """

    protocol_hash: str
    optimizer: str
    rung_hash: str | None
    trials: int | None
    trials_done: int
    finished: bool
    counts: Mapping[State, int]
    missing: int
    missing_short: int
    best: Mapping[str, Any] | None
    validation: float | None

    def to_json(self) -> dict[str, Any]:
        """The search as plain data."""
        return {
            "optimizer": self.optimizer, "finished": self.finished, "trials": self.trials,
            "trials_done": self.trials_done, "missing_runs": self.missing + self.missing_short,
            "best": None if self.best is None else dict(self.best), "validation": self.validation,
            "runs": {str(state): self.counts.get(state, 0) for state in State},
        }  # fmt: skip


Key = tuple[str, str]


def search_status(
    plans: Sequence[SearchPlan], runs: Iterable[RunState], protocols: Mapping[str, Protocol]
) -> list[SearchStatus]:
    """The searches by protocol and optimizer; `runs` are those of searches, `protocols` those that could be read."""
    owners: dict[Key, SearchPlan] = {}
    for plan in plans:
        owners[plan.protocol_hash, plan.optimizer] = plan
        if plan.rung_hash is not None:
            owners.setdefault((plan.rung_hash, plan.optimizer), plan)
    own: dict[Key, list[RunState]] = {(plan.protocol_hash, plan.optimizer): [] for plan in plans}
    for run in runs:
        key = _place(run, plans)
        if key is not None:
            plan = owners.get(key)
            own.setdefault((plan.protocol_hash, plan.optimizer) if plan else key, []).append(run)
    return [_status(key, owners.get(key), own[key], protocols.get(key[0])) for key in sorted(own)]


def _place(run: RunState, plans: Sequence[SearchPlan]) -> Key | None:
    """Protocol and optimizer of a trial's run; where it has but a name, those of the one search that it can be of."""
    known = run.identity
    assert known is not None
    if known.protocol is not None:
        return known.protocol.hash, known.optimizer
    fitting = [p for p in plans if slug(p.optimizer) == known.optimizer and p.tuned is None and known.seed in p.seeds]
    return (fitting[0].protocol_hash, fitting[0].optimizer) if len(fitting) == 1 else None


def _status(key: Key, plan: SearchPlan | None, runs: Sequence[RunState], protocol: Protocol | None) -> SearchStatus:
    trials = _complete_trials(key[0], plan, runs)
    short = [run for run in runs if plan and _hash_of(run) == plan.rung_hash is not None]
    missing, missing_short = _missing(plan, len(runs) - len(short), len(short))
    best, validation = _best(plan, trials, protocol)
    finished = plan is not None and plan.tuned is not None
    return SearchStatus(
        protocol_hash=key[0], optimizer=key[1], rung_hash=plan.rung_hash if plan else None,
        trials=plan.trials if plan else None, trials_done=len(trials), finished=finished,
        counts=Counter(run.state for run in runs), missing=missing, missing_short=missing_short, best=best,
        validation=validation,
    )  # fmt: skip


def _hash_of(run: RunState) -> str | None:
    return run.identity.protocol.hash if run.identity and run.identity.protocol else None


def _complete_trials(protocol_hash: str, plan: SearchPlan | None, runs: Sequence[RunState]) -> list[list[RunState]]:
    """The runs of each setting that has ended under the full protocol on all tuning seeds."""
    by_setting: dict[str, list[RunState]] = {}
    for run in runs:
        if run.head is not None and run.head.protocol.hash == protocol_hash:
            by_setting.setdefault(run.head.configuration, []).append(run)
    seeds = set(plan.seeds) if plan else set()
    return [own for own in by_setting.values() if seeds <= {run.head.seed for run in own if run.head}]


def _missing(plan: SearchPlan | None, full: int, short: int) -> tuple[int, int]:
    """How many runs of the full protocol and of the first rung are still to begin, as far as can be known now.

    `full` and `short` are there already. The better half of a rung's trials goes on; widenings are not foreseen.
    """
    if plan is None or plan.tuned is not None:
        return 0, 0
    seeds = len(plan.seeds)
    if plan.rung_epochs is None:
        return max(0, plan.trials * seeds - full), 0
    return max(0, math.ceil(plan.trials / 2) * seeds - full), max(0, plan.trials * seeds - short)


def _best(
    plan: SearchPlan | None, trials: Sequence[Sequence[RunState]], protocol: Protocol | None
) -> tuple[Mapping[str, Any] | None, float | None]:
    """The searched settings that are best by validation, and their score; what an ended search says comes first."""
    if plan is not None and plan.tuned is not None:
        return plan.tuned.values, plan.tuned.validation
    if protocol is None:
        return None, None
    metric = protocol.primary_metric
    scored = []
    for runs in trials:
        heads = [run.head for run in runs if run.head and run.state in ENDED]
        scores = [float(head.validation_metrics[metric]) for head in heads if metric in head.validation_metrics]
        if scores and len(scores) == len(heads) and all(map(math.isfinite, scores)):
            names = plan.ranges if plan else {"lr": None}
            settings = heads[0].hyperparameters
            scored.append((fmean(scores), {name: settings[name] for name in names if name in settings}))
    if not scored:
        return None, None
    pick = min if lower_is_better(metric) else max
    score, values = pick(scored, key=lambda item: item[0])
    return values, score
