"""Plan a study, carry out what is missing, and hand back the study: what `bench run` and `bench.run` do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from bench.cadence import require_cadence
from bench.ddp import require_ddp, require_shares
from bench.driver import Listed, Watcher, drive
from bench.errors import UsageError
from bench.executor import Engine
from bench.kinds import KINDS
from bench.multipliers import require_found, require_multipliers
from bench.placement import Placement, PlacementOptions, placed
from bench.plan import TUNING_SEEDS, Run
from bench.protocol import Protocol
from bench.protocols import default_protocol, limited, load_protocol, with_epochs
from bench.races import write_race
from bench.racing import RaceSource
from bench.registry import Rates, Selected, matrix_warnings, require_precision, select
from bench.requests import write_request
from bench.search.plan import tuned_settings
from bench.spec import OptimizerSpec
from bench.store import Store, study_name
from bench.study import Study, load_study
from bench.suggestions import unknown
from bench.techniques.data import changed_modalities
from bench.techniques.fit import require_fit, require_techniques
from bench.techniques.selection import with_techniques
from bench.weights import read_start

if TYPE_CHECKING:
    from bench.datasets.samples import Dataset

MAX_SEEDS = 10_000
Settings = Rates | Literal["tuned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a study will run: all of its runs, and those without a record yet."""

    store: Store
    protocol: Protocol
    runs: tuple[Run, ...]
    missing: tuple[Run, ...]
    placement: Placement
    warnings: tuple[str, ...] = ()


def parse_seeds(text: str) -> tuple[int, ...]:
    """`5` means seeds 0 … 4; `0-9`, `7`, lists `0,3,8-11` mean what they say where a comma or dash is in them.

    Raises `UsageError` where the text is none of these.
    """
    try:
        if "," not in text and "-" not in text:
            seeds: Sequence[int] = range(min(int(text), MAX_SEEDS + 1))
        else:
            parts = [part.partition("-") for part in text.split(",") if part.strip()]
            ranges = [range(int(low), int(high if dash else low) + 1) for low, dash, high in parts]
            listed = itertools.islice(itertools.chain.from_iterable(ranges), MAX_SEEDS + 1)
            seeds = tuple(dict.fromkeys(listed))
    except ValueError:
        seeds = ()
    if not seeds or len(seeds) > MAX_SEEDS or max(seeds) >= TUNING_SEEDS:
        raise UsageError(
            f"--seeds {text!r}: allowed are a count >= 1 (5 = seeds 0 to 4), a range (0-9) or a list (0,3,7), "
            f"of seeds below {TUNING_SEEDS}; those from there on belong to searches"
        )
    return tuple(seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a study's commands share: the rules, the optimizers with their settings, the folder, the machine."""

    protocol: Protocol
    selected: Sequence[Selected]
    folder: Path
    placement: Placement

    def data(self) -> Dataset:
        """The data that runs will see; decoded data is put into the cache, nothing is written anywhere else.

        Raises `UsageError` for whatever would be found wrong only after runs had begun.
        """
        ddp = self.placement.parallel == "ddp"
        for chosen in self.selected:
            require_precision(chosen.spec, self.protocol.precision)
            require_techniques(chosen.spec, self.protocol)
            stages = [*self.protocol.stage_rates, self.protocol.rate_multipliers]
            factors = [factor for patterns in stages for factor in patterns.values()]
            require_multipliers(chosen.spec, chosen.hyperparameters, factors)
            if ddp:
                require_ddp(chosen.spec, self.protocol)
        data = _checked(self.protocol, self.placement.data_dir)
        if self.protocol.cadence is not None:
            roled = self.protocol.workload.roled_parameters(data.network_options)
            require_cadence([chosen.spec for chosen in self.selected], self.protocol, roled)
        if ddp:
            require_shares(self.protocol, self.placement.workers, data.training_size)
        return data

    def warnings(self, data: Dataset) -> tuple[str, ...]:
        """What a user should know of the data, and of the optimizers on the protocol's network."""
        matrices = _matrix_warnings(self.protocol, [chosen.spec for chosen in self.selected], data)
        return (*data.remarks, *matrices)


def make_plan(basis: Basis, seeds: Sequence[int]) -> Plan:
    """The runs of protocol × optimizers × seeds, seed by seed, so that an interrupted study has whole blocks."""
    data = basis.data()
    runs = tuple(
        Run(
            protocol=basis.protocol,
            optimizer=chosen.spec.name,
            reference=chosen.reference,
            hyperparameters=dict(chosen.hyperparameters),
            seed=seed,
            revision=chosen.spec.revision,
            source_digest=chosen.spec.source_digest,
            data_digest=data.digest,
        )
        for seed in seeds
        for chosen in basis.selected
    )
    store = Store(basis.folder)
    missing = tuple(run for run in runs if store.why_missing(run.run_id, basis.placement))
    fewer = {} if basis.placement.parallel == "ddp" else {"workers": min(basis.placement.workers, max(1, len(missing)))}
    return Plan(
        store=store, protocol=basis.protocol, runs=runs, missing=missing, warnings=basis.warnings(data),
        placement=basis.placement.model_copy(update=fewer),
    )  # fmt: skip


def _matrix_warnings(protocol: Protocol, specs: Sequence[OptimizerSpec], data: Dataset) -> Iterator[str]:
    """What `matrix_warnings` says of the entries on the protocol's network."""
    if any(spec.matrix_algorithm for spec in specs):
        roled = protocol.workload.roled_parameters(data.network_options)
        for spec in specs:
            yield from matrix_warnings(spec, roled)


def _checked(protocol: Protocol, data_dir: Path | None) -> Dataset:
    """The protocol's data, after everything that can be wrong before training has been looked at."""
    kind = KINDS[protocol.workload.kind]
    dataset = protocol.workload.check(data_dir, changed_modalities(protocol.techniques))
    metrics = kind.metric_names(protocol, dataset)
    if protocol.primary_metric not in metrics:
        raise UsageError(f"protocol {protocol.name!r}: {unknown('primary_metric', protocol.primary_metric, metrics)}")
    require_fit(protocol, dataset)
    if protocol.rate_multipliers:
        network = protocol.workload.example(dataset.network_options)
        require_found(protocol.rate_multipliers, [name for name, _ in network.named_parameters()])
    if protocol.drop_last and dataset.training_size < protocol.batch_size:
        raise UsageError(f"protocol {protocol.name!r}: batch_size is {protocol.batch_size}; allowed is at most the "
                         f"{dataset.training_size} training samples, or drop_last = false")  # fmt: skip
    return dataset


def carry_out(plan: Plan, watcher: Watcher, engine: Engine | None = None, *, race: bool = False) -> Study:
    """Run what is missing and return the study with all its records of the plan's protocol.

    With `race`, optimizers that cannot be the best any more run no further seeds (see `bench.racing`). Several
    processes may carry out plans of one study at once. Raises `UsageError` where there are too few seeds for a race,
    `BadRecordError` where the weights that the protocol begins with are not in the study.
    """
    if (start := plan.protocol.start) is not None:
        read_start(plan.store.path, start.sha256)
    raced = RaceSource(plan.runs, plan.missing, plan.store, plan.protocol) if race else None
    plan.store.write_protocol(plan.protocol)
    write_request(plan.store, plan.runs, plan.placement.command, race=race)
    if plan.missing:
        drive(raced or Listed(plan.missing), plan.store, plan.placement, watcher, engine)
    if raced is not None:
        write_race(plan.store.path, plan.protocol.hash, raced.race())
    plan.store.mark_used(plan.protocol)
    study, _ = load_study(plan.store.path, plan.protocol.hash)
    return study


class StudyOptions(PlacementOptions, total=False):
    """What studies and searches share: the rules, the optimizers' settings, the folder, and the placement."""

    protocol: str | Protocol | None
    epochs: int | None
    limit: int | None
    rates: Settings | None
    overrides: Mapping[str, Mapping[str, Any]] | None
    techniques: Sequence[str] | None
    results: str | Path
    study: str | None


def run(
    optimizers: str | Sequence[str] = "all",
    *,
    seeds: int | str | None = None,
    race: bool = False,
    watcher: Watcher | None = None,
    **options: Unpack[StudyOptions],
) -> Study:
    """Run a study, or what is missing of it, and return it; the same as `bench run`.

    `optimizers` are names, groups, globs or references. Options, as on the command line: `protocol`, `epochs`, `limit`
    (images or clips a split), `techniques` (names, or `name.key=value`), `rates` (default, documents or tuned; by
    default the protocol's), `overrides` (an entry to settings, as `{"adamw": {"lr": 3e-4}}`), `results`, `study`,
    `engine`, `address`, `device`, `data_dir`, `parallel`, `workers`, `threads`, `retry_failed`, `time_limit` and
    `checkpoint_seconds` (seconds), `checkpoint_steps`, `save_best`, `save_last`. Raises `UsageError` where a value is
    not allowed; nothing is written then but decoded data in the cache.
    """
    plan = prepare(optimizers, seeds=seeds, **options)
    return carry_out(plan, watcher or Watcher(), race=race)


def prepare(
    optimizers: str | Sequence[str] = "all", *, seeds: int | str | None = None, **options: Unpack[StudyOptions]
) -> Plan:
    """The plan of `run` with the same arguments; writes nothing but decoded data in the cache."""
    found = basis(optimizers, **options)
    return make_plan(found, parse_seeds(str(found.protocol.seeds if seeds is None else seeds)))


def basis(optimizers: str | Sequence[str], **options: Unpack[StudyOptions]) -> Basis:
    """The basis of a study from the arguments of `run`; writes nothing.

    Raises `UsageError` where a value is not allowed.
    """
    given: dict[str, Any] = dict(options)
    protocol, epochs, rates = given.pop("protocol", None), given.pop("epochs", None), given.pop("rates", None)
    overrides, results = given.pop("overrides", None) or {}, given.pop("results", "results")
    if protocol is None:
        protocol, _ = default_protocol()
    chosen = load_protocol(protocol) if isinstance(protocol, str) else protocol
    if epochs is not None:
        chosen = with_epochs(chosen, epochs, f"--epochs {epochs}")
    if (limit := given.pop("limit", None)) is not None:
        chosen = limited(chosen, limit)
    patterns = [optimizers] if isinstance(optimizers, str) else optimizers
    folder = Path(results) / study_name(given.pop("study", None) or chosen.name)
    if not_one := next((place for place in (Path(results), folder) if place.exists() and not place.is_dir()), None):
        raise UsageError(f"--results, --study: {not_one} is no folder; allowed is one, or a name that is still free")
    chosen = with_techniques(chosen, given.pop("techniques", None) or ())
    selected = select(patterns, overrides, chosen.rates if rates in (None, "tuned") else rates, chosen.settings)
    if rates == "tuned":
        found = tuned_settings(folder, chosen, [item.spec for item in selected])
        selected = [
            replace(item, hyperparameters={**found[item.spec.name], **overrides.get(item.spec.name, {})})
            for item in selected
        ]
    return Basis(protocol=chosen, selected=selected, folder=folder, placement=placed(**given))
