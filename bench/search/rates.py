"""A study's runs by whose settings they have: the default ones, or those that a search found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench.plan import settings_key
from bench.search.plan import SearchPlan, read_plans
from bench.study import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class ByRates:
    """`ranked`: what a report ranks, which are the tuned runs where there are any; `default`: the same optimizers'
    runs with default settings beside them, None without tuned runs. `left_out`: how many runs are in neither."""

    ranked: Study
    default: Study | None
    left_out: int


def by_rates(study: Study) -> ByRates:
    """The study's ranking runs, split; a study without tuned runs is ranked as it is."""
    plans = read_plans(study.path, study.protocol.hash)
    # Default settings stand for a search without a good trial, and only beside runs with settings that one found.
    found = _matching(study, plans, lambda plan: plan.tuned.hyperparameters if plan.tuned else None)
    tuned = found and _matching(study, plans, lambda plan: plan.best_settings if plan.tuned else None)
    if tuned is None:
        return ByRates(ranked=study, default=None, left_out=0)
    names = {record.optimizer for record in tuned.records}
    default = _matching(study, {n: p for n, p in plans.items() if n in names}, lambda plan: plan.defaults)
    ids = {r.run_id for part in (tuned, default) if part for r in part.records}
    return ByRates(ranked=tuned, default=default, left_out=sum(r.run_id not in ids for r in study.records))


def _matching(study: Study, plans: Mapping[str, SearchPlan], settings: Any) -> Study | None:
    """The records with the settings that `settings(plan)` names; None without any."""
    keys = {name: settings_key(found) for name, plan in plans.items() if (found := settings(plan)) is not None}
    kept = tuple(r for r in study.records if keys.get(r.optimizer) == settings_key(r.hyperparameters))
    return replace(study, records=kept) if kept else None
