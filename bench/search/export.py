"""A study's trials in an Optuna storage, for optuna-dashboard; the records stay the truth."""

from __future__ import annotations

import optuna
from optuna.distributions import FloatDistribution
from optuna.exceptions import OptunaError
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from bench.errors import UsageError
from bench.search.results import SearchResult, search_results
from bench.search.search import DIVERGED
from bench.study import Study


def export(study: Study, storage: str) -> list[tuple[str, int]]:
    """Write every search into `storage`, in place of an earlier export; returns names of studies and trials written.

    Raises `UsageError` where the storage cannot be used or the study holds no search.
    """
    results = search_results(study)
    if not results:
        raise UsageError(
            f"study {study.name} holds no search of protocol {study.protocol.name}; `bench tune` makes one"
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        place = optuna.storages.get_storage(storage)
        known = {found.study_name for found in optuna.get_all_study_summaries(place)}
        return [_export(study, result, place, known) for result in results.values()]
    except (OptunaError, SQLAlchemyError, ImportError, ValueError, RuntimeError, OSError) as error:
        line = " ".join(str(error).split())[:300]
        raise UsageError(f"--storage {storage!r}: {line}") from None


def _export(study: Study, result: SearchResult, place: optuna.storages.BaseStorage, known: set[str]) -> tuple[str, int]:
    name = f"{study.name}/{result.name}/{study.protocol.hash}"
    if name in known:
        optuna.delete_study(study_name=name, storage=place)
    direction = "minimize" if result.lower else "maximize"
    made = optuna.create_study(study_name=name, storage=place, direction=direction)
    made.set_user_attr("metric", f"validation {study.protocol.primary_metric}")
    ranges = result.search.space.ranges
    distributions = {key: FloatDistribution(r.low, r.high, log=r.log) for key, r in ranges.items()}
    for i, trial in enumerate(result.trials):
        diverged = int(result.diverged[i])
        made.add_trial(create_trial(
            state=TrialState.COMPLETE, params=dict(trial.values), distributions=dict(distributions),
            value=float(result.validation[i].mean()), constraints={DIVERGED: float(diverged)},
            user_attrs={"number": trial.number, "stage": trial.stage, DIVERGED: diverged,
                        "test": float(result.test[i].mean()), "validation by seed": result.validation[i].tolist()},
        ))  # fmt: skip
    return name, len(result.trials)
