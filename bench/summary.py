"""A study in numbers: one row an optimizer, the lines under the table, and what is worth knowing besides."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.record import Fingerprints, Outcome, RunRecord
from bench.study import Study

SEEDS_FOR_A_CLAIM = 3
PAIRS = {"I↔T": ("i2t", "t2i"), "I↔A": ("i2a", "a2i"), "T↔A": ("t2a", "a2t")}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean over seeds, and the standard deviation (ddof 1) from two seeds on."""

    mean: float
    sd: float | None


def estimate(values: Iterable[float]) -> Estimate | None:
    """The estimate of some values; None without any."""
    given = list(values)
    if not given:
        return None
    return Estimate(statistics.fmean(given), statistics.stdev(given) if len(given) > 1 else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An optimizer's runs. Metrics are over its ok runs, in percent; other runs are counted, never averaged."""

    optimizer: str
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
        return sum(self.outcomes.values())

    @property
    def success(self) -> float:
        """Share of runs that are ok."""
        return self.outcomes.get(Outcome.OK, 0) / self.runs


def rows(study: Study) -> list[Row]:
    """One row an optimizer: those with the larger share of ok runs first, then by the mean of the primary metric."""
    by_optimizer: dict[str, list[RunRecord]] = defaultdict(list)
    for record in study.records:
        by_optimizer[study.labels[record.run_id]].append(record)
    table = [_row(name, records) for name, records in by_optimizer.items()]
    primary = study.protocol.primary_metric

    def place(row: Row) -> tuple[float, float, str]:
        score = row.metrics.get(primary)
        return -row.success, -score.mean if score else 0.0, row.optimizer

    return sorted(table, key=place)


def _row(name: str, records: Sequence[RunRecord]) -> Row:
    counts = Counter(r.outcome for r in records)
    outcomes = {outcome: counts[outcome] for outcome in Outcome if counts[outcome]}
    ok = [r for r in records if r.outcome is Outcome.OK]
    names = ok[0].metrics if ok else {}
    timed = [r for r in ok if r.epochs and r.seconds.training]
    instance_level = any(r.class_metrics.get("avg_r1") != r.metrics.get("avg_r1") for r in ok)
    return Row(
        optimizer=name,
        outcomes=outcomes,
        metrics={key: found for key in names if (found := estimate(r.metrics[key] for r in ok if key in r.metrics))},
        class_r1=estimate(r.class_metrics["avg_r1"] for r in ok if r.class_metrics) if instance_level else None,
        loss=estimate(r.loss for r in ok if r.loss is not None),
        seconds_an_epoch=statistics.fmean(r.seconds.training / r.epochs for r in timed) if timed else None,
        step_share=statistics.fmean(r.seconds.optimizer_step / r.seconds.training for r in timed) if timed else None,
        peak_bytes=max((r.memory.peak_bytes for r in records), default=0),
        state_bytes=max((r.memory.state_bytes for r in records), default=0),
    )


def bounds_lines(study: Study) -> list[str]:
    """Chance and ceiling of the averages, and the lowest loss the data allow."""
    record = next((r for r in study.records if r.chance), None)
    if record is None:
        return []
    names = {"avg_r1": "R@1", "avg_r5": "R@5", "avg_r10": "R@10"}

    def values(table: dict[str, float]) -> str:
        return ", ".join(f"{label} {table[key]:.2f} %" for key, label in names.items() if key in table)

    lines = [f"chance: {values(record.chance)}"]
    known = values(record.ceiling)
    lines.append(f"ceiling (best possible matcher): {known}" if known else "ceiling: no bound below 100 % is known")
    if record.best_loss is not None:
        lines.append(f"lowest expected loss these data allow: {record.best_loss:.3f}")
    return lines


def claim_line(study: Study) -> str:
    """What the order of the table means."""
    fewest = min(row.outcomes.get(Outcome.OK, 0) or row.runs for row in rows(study))
    if fewest < SEEDS_FOR_A_CLAIM:
        return f"fewer than {SEEDS_FOR_A_CLAIM} seeds: no ranking claim"
    return (
        f"ordered by the mean of {study.protocol.primary_metric} over at least {fewest} seeds, ± one standard "
        "deviation, optimizers with failed runs below; differences within that spread are not a ranking"
    )


def findings(study: Study) -> list[str]:
    """What a reader should know besides the table: faults first, then failures, odd updates, identical results."""
    checks = (_unreadable, _broken_blocks, _configurations, _failures, _updates, _idle, _identical)
    return [line for check in checks for line in check(study)]


def _unreadable(study: Study) -> list[str]:
    return [f"unreadable record left out: {error}" for error in study.bad]


def _broken_blocks(study: Study) -> list[str]:
    """Seeds whose optimizers did not start alike: their differences are not the optimizers' alone."""
    starts: dict[int, list[Fingerprints]] = defaultdict(list)
    for record in study.records:
        if record.fingerprints is not None and record.fingerprints.batch_order:
            starts[record.seed].append(record.fingerprints)
    broken = [
        str(seed) for seed, found in sorted(starts.items()) if not all(_alike(found[0], other) for other in found)
    ]
    if not broken:
        return []
    return [f"FAULT: initial weights, batches or data differ within seeds {', '.join(broken)}; do not compare"]


def _alike(a: Fingerprints, b: Fingerprints) -> bool:
    """Same weights, order and data; the same step-0 loss but for another machine's rounding."""
    same = (a.initial_weights, a.batch_order, a.data) == (b.initial_weights, b.batch_order, b.data)
    if a.initial_loss is None or b.initial_loss is None:
        return same
    return same and math.isclose(a.initial_loss, b.initial_loss, rel_tol=1e-3)


def _configurations(study: Study) -> list[str]:
    """What tells the configurations of one optimizer apart."""
    lines = set()
    for record in study.records:
        label = study.labels[record.run_id]
        if label != record.optimizer:
            settings = ", ".join(f"{k}={v}" for k, v in sorted(record.hyperparameters.items()) if v is not None)
            source = f", source {record.source_digest[:8]}" if record.source_digest else ""
            lines.add(f"{label}: {settings}{source}")
    return sorted(lines)


def _failures(study: Study) -> list[str]:
    seeds: dict[tuple[str, Outcome, str], list[int]] = defaultdict(list)
    for record in study.records:
        if record.outcome is not Outcome.OK:
            reason = record.failure.reason if record.failure else "no reason stored"
            seeds[study.labels[record.run_id], record.outcome, reason].append(record.seed)
    lines = []
    for (name, outcome, reason), found in sorted(seeds.items()):
        word = "seed" if len(found) == 1 else "seeds"
        lines.append(f"{name}: {outcome} in {word} {', '.join(map(str, sorted(found)))}: {reason}")
    return lines


def _updates(study: Study) -> list[str]:
    kinds = {"zero_update": "an update of exactly 0", "large_update": "an update larger than its own norm"}
    lines = []
    for row in rows(study):
        own = [r.diagnostics for r in study.records if study.labels[r.run_id] == row.optimizer]
        for kind, text in kinds.items():
            names = sorted({name for diagnostics in own for name in getattr(diagnostics, kind)})
            if names:
                shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
                count = "1 parameter" if len(names) == 1 else f"{len(names)} parameters"
                lines.append(f"{row.optimizer}: {count} had {text} in a watched step: {shown}")
    return lines


def _idle(study: Study) -> list[str]:
    watched = [r.diagnostics for r in study.records if r.diagnostics.observed_steps]
    counts = sorted({(d.parameters_without_gradient, d.parameters) for d in watched})
    return [
        f"{idle:,} of {total:,} parameters ({100 * idle / total:.1f} %) never got a gradient"
        for idle, total in counts
        if idle
    ]


def _identical(study: Study) -> list[str]:
    """Optimizers whose metrics agree to the last bit on every common seed (at least two)."""
    results: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for record in study.records:
        if record.outcome is Outcome.OK:
            results[study.labels[record.run_id]][record.seed] = record.metrics
    lines, names = [], sorted(results)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            common = results[a].keys() & results[b].keys()
            if len(common) > 1 and all(results[a][seed] == results[b][seed] for seed in common):
                lines.append(f"{a} and {b} gave identical metrics in all {len(common)} common seeds")
    return lines
