"""A study in numbers: one row an optimizer, and the lines that say what the table means."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.continual.figures import TITLES, WITHIN_TASK
from bench.record import Outcome, RunRecord
from bench.wording import counted
from bench.workload import WorkloadKind

if TYPE_CHECKING:
    from bench.protocol import Protocol
    from bench.study import Study

DESCRIPTIVE_SEEDS = 3  # up to here intervals are so wide that no ranking is claimed
AVERAGES = {"avg_r1": "R@1", "avg_r5": "R@5", "avg_r10": "R@10"}
# What tables lead with, by the kind of workload: metrics and their headings.
HEADLINES: Mapping[WorkloadKind, Mapping[str, str]] = {"retrieval": AVERAGES, "continual": TITLES}
PAIRS = {"I↔T": ("i2t", "t2i"), "I↔A": ("i2a", "a2i"), "T↔A": ("t2a", "a2t")}
_ITEMS = {"text": "text", "image": "image", "audio": "clip"}
_KINDS = {"mrr": "MRR", "mean_rank": "mean rank", "median_rank": "median rank"}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean over seeds, and the standard deviation (ddof 1) from two seeds on."""

    mean: float
    sd: float | None


def estimate(values: Iterable[float]) -> Estimate | None:
    """The estimate of the finite ones of some values; None without any."""
    given = [value for value in values if math.isfinite(value)]
    if not given:
        return None
    return Estimate(statistics.fmean(given), statistics.stdev(given) if len(given) > 1 else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An optimizer's runs. Metrics are over its ok runs, in percent; other runs are counted, never averaged.

    `optimizer` is the study's label: the entry's name, with its configuration where there are several; `records` are
    by seed.
    """

    optimizer: str
    records: tuple[RunRecord, ...]
    outcomes: dict[Outcome, int]
    metrics: dict[str, Estimate]
    class_r1: Estimate | None
    loss: Estimate | None
    seconds_an_epoch: float | None
    step_share: float | None
    peak_bytes: int
    state_bytes: int

    @property
    def runs(self) -> int:
        """All runs."""
        return len(self.records)

    @property
    def seeds(self) -> frozenset[int]:
        """The seeds of all runs."""
        return frozenset(r.seed for r in self.records)

    @property
    def ok(self) -> tuple[RunRecord, ...]:
        """The runs that count."""
        return tuple(r for r in self.records if r.outcome is Outcome.OK)

    @property
    def failed(self) -> tuple[RunRecord, ...]:
        """The other runs."""
        return tuple(r for r in self.records if r.outcome is not Outcome.OK)

    @property
    def training_seconds(self) -> float | None:
        """Mean seconds of training of a run that is ok; None without one."""
        return statistics.fmean(r.seconds.training for r in self.ok) if self.ok else None

    @property
    def success(self) -> float:
        """Share of runs that are ok."""
        return len(self.ok) / self.runs


def rows(study: Study) -> list[Row]:
    """One row a label of the study: the larger share of ok runs first, then the better mean of the primary metric."""
    by_optimizer: dict[str, list[RunRecord]] = defaultdict(list)
    for record in sorted(study.records, key=lambda r: (r.seed, r.run_id)):
        by_optimizer[study.labels[record.run_id]].append(record)
    table = [_row(name, records) for name, records in by_optimizer.items()]
    primary = study.protocol.primary_metric
    sign = 1 if lower_is_better(primary) else -1

    def place(row: Row) -> tuple[float, float, str]:
        score = row.metrics.get(primary)
        return -row.success, sign * score.mean if score else float("inf"), row.optimizer

    return sorted(table, key=place)


def _row(name: str, records: Sequence[RunRecord]) -> Row:
    counts = Counter(r.outcome for r in records)
    ok = [r for r in records if r.outcome is Outcome.OK]
    names = sorted({key for r in ok for key in r.metrics})
    timed = [r for r in ok if r.epochs and r.seconds.training]
    instance_level = any(r.class_metrics.get("avg_r1") != r.metrics.get("avg_r1") for r in ok)
    class_r1 = [r.class_metrics["avg_r1"] for r in ok if "avg_r1" in r.class_metrics]
    return Row(
        optimizer=name,
        records=tuple(records),
        outcomes={outcome: counts[outcome] for outcome in Outcome if counts[outcome]},
        metrics={key: found for key in names if (found := estimate(r.metrics[key] for r in ok if key in r.metrics))},
        class_r1=estimate(class_r1) if instance_level else None,
        loss=estimate(r.loss for r in ok if r.loss is not None),
        seconds_an_epoch=statistics.fmean(r.seconds.training / r.epochs for r in timed) if timed else None,
        step_share=statistics.fmean(r.seconds.optimizer_step / r.seconds.training for r in timed) if timed else None,
        peak_bytes=max(r.memory.peak_bytes for r in records),
        state_bytes=max(r.memory.state_bytes for r in records),
    )


def is_rank(metric: str) -> bool:
    """Ranks count from 1; other metrics are in percent."""
    return metric.endswith("_rank")


def lower_is_better(metric: str) -> bool:
    """Of ranks, and of what was forgotten."""
    return is_rank(metric) or metric == "forgetting"


def unit(metric: str) -> str:
    """`%`, or nothing for a rank."""
    return "" if is_rank(metric) else "%"


def metric_title(metric: str) -> str:
    """A metric's name in words: avg_r1 is `average R@1`, i2t_median_rank `I→T median rank`."""
    if metric in (*TITLES, WITHIN_TASK):
        return metric.replace("_", " ").replace("task incremental", "task-incremental")
    if metric.startswith("accuracy_"):
        return f"accuracy of task {metric.removeprefix('accuracy_')}"
    place, _, kind = metric.partition("_")
    shown = f"R@{kind[1:]}" if kind[:1] == "r" and kind[1:].isdigit() else _KINDS.get(kind, kind)
    return f"average {shown}" if place == "avg" else f"{place.upper().replace('2', '→')} {shown}"


def outcomes_text(outcomes: Mapping[Outcome, int]) -> str:
    """`4 ok, 1 diverged`."""
    return ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in outcomes.items())


def settings_text(row: Row) -> str:
    """`lr=0.1, momentum=0.9`, of the run that names most settings: one that could not be set up names few."""
    fullest = max((r.hyperparameters for r in row.records), key=len)
    return ", ".join(f"{key}={value}" for key, value in sorted(fullest.items()) if value is not None)


def bounds(study: Study, metric: str) -> tuple[float | None, float | None]:
    """Chance and ceiling of a metric, None where not known."""
    records = [r for r in study.records if r.chance]
    if not records:
        return None, None
    record = min(records, key=lambda r: r.run_id)
    return record.chance.get(metric), record.ceiling.get(metric)


def bounds_lines(study: Study) -> list[str]:
    """The pools, chance and ceiling of the averages and of the primary metric, and the lowest loss the data allow."""
    pools = next((r.pools for r in study.records if r.pools), {})
    lines = [line] if (line := pools_line(pools, "test")) else []
    lines += limit_lines(study.protocol, lambda metric: bounds(study, metric))
    if (level := _class_chance(study)) is not None:
        lines.append(f"chance of R@1 where any item of the class counts: {level:.2f} %")
    best = min((r.best_loss for r in study.records if r.best_loss is not None), default=None)
    return lines if best is None else [*lines, f"lowest expected loss these data allow: {best:.3f}"]


def limit_lines(protocol: Protocol, bounds_of: Callable[[str], tuple[float | None, float | None]]) -> list[str]:
    """Chance and ceiling of the leading metrics and of the primary one, as far as `bounds_of` a metric are known."""
    primary, leading = protocol.primary_metric, HEADLINES[protocol.workload.kind]
    labels = leading if primary in leading else {primary: metric_title(primary), **leading}
    limits = {label: (*bounds_of(metric), unit(metric)) for metric, label in labels.items()}
    chance = [f"{label} {low:.2f} {sign}".rstrip() for label, (low, _, sign) in limits.items() if low is not None]
    ceiling = [f"{label} {high:.2f} {sign}".rstrip() for label, (_, high, sign) in limits.items() if high is not None]
    lines = [f"chance: {', '.join(chance)}"] if chance else []
    known = f"ceiling (best possible matcher): {', '.join(ceiling)}"
    return [*lines, known if ceiling else "ceiling: not known; 100 % is not excluded"]


def pools_line(pools: Mapping[str, int], split: str) -> str:
    """What retrieval searched among, and the directions that averages are over; "" where that is not known."""
    if not pools:
        return ""
    items = ", ".join(counted(count, _ITEMS[name]) for name, count in pools.items())
    letters = {name[0] for name in pools}
    shown = [d.upper().replace("2", "→") for pair in PAIRS.values() for d in pair if {d[0], d[2]} <= letters]
    return f"retrieval among the {split} split's {items}; averages over {', '.join(shown)}"


def _class_chance(study: Study) -> float | None:
    """Chance of the class level, None where it is the instance level."""
    found = [r.class_chance["avg_r1"] for r in study.records if {"avg_r1"} <= r.class_chance.keys() & r.chance.keys()
             and r.class_chance["avg_r1"] != r.chance["avg_r1"]]  # fmt: skip
    return min(found, default=None)


def claim_lines(study: Study, table: Sequence[Row]) -> list[str]:
    """What the order of the table means."""
    title = metric_title(study.protocol.primary_metric)
    incomplete = ["an optimizer with a run that is not ok stands below those without, and its mean is over the ok runs"]
    after = incomplete if any(row.failed for row in table) else []
    counted = [len({r.seed for r in row.ok or row.records}) for row in table]
    fewest, most = min(counted), max(counted)
    if fewest <= DESCRIPTIVE_SEEDS:
        return [f"{DESCRIPTIVE_SEEDS} seeds or fewer: a description, no ranking claim", *after]
    seeds = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return [
        f"ordered by the mean of {title}; ± is the standard deviation over {seeds} seeds; differences within the "
        "seeds' spread are not a ranking, and this table claims none",
        *after,
    ]
