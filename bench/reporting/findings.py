"""What a reader of a study should know besides its table: faults first, then failures, odd courses and updates,
equal results.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from bench.paths import without_folders
from bench.record import Fingerprints
from bench.reporting.courses import courses
from bench.summary import Row, settings_text
from bench.wording import counted, seeds_text

if TYPE_CHECKING:
    from bench.search.plan import SearchPlan
    from bench.study import Study

NAMES_SHOWN = 3
# Once is left out: a schedule's last step, at a rate near 0, rounds many updates to 0.
_STUCK = "an update of exactly 0 in more than one of the watched steps"
_LARGE = "an update larger than the parameter's own norm"
SAME_LOSS = 1e-3  # relative; step-0 losses of one block differ by rounding between devices
_START: dict[str, Callable[[Fingerprints], str | None]] = {
    "initial weights": lambda f: f.initial_weights,
    "batch order": lambda f: f.batch_order,
    "data": lambda f: f.data,
}


def findings(study: Study, table: Sequence[Row]) -> list[str]:
    """The lines of `worth knowing`; independent of the order of the records."""
    checks = (
        _broken_blocks, _repeated, _no_numbers, partial(_edges, study), _configurations, _uneven, _failures,
        partial(courses, study), _updates, _skipped, _idle, _identical,
    )  # fmt: skip
    unreadable = sorted(f"left out, because unreadable: {printable_line(str(e), study)}" for e in study.faults)
    return [*unreadable, *(printable_line(line, study) for check in checks for line in check(table))]


def printable_line(text: str, study: Study) -> str:
    """`text` in one line, without the folders that lead to the study, or to any other absolute path."""
    relative = text.replace(f"{study.path}/", f"{study.name}/")
    printable = "".join(sign if sign.isprintable() else " " for sign in relative)
    return " ".join(without_folders(printable).split())


def _names(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:NAMES_SHOWN]) + (", …" if len(found) > NAMES_SHOWN else "")


def _broken_blocks(table: Sequence[Row]) -> list[str]:
    """Blocks whose optimizers did not start alike: their differences are not the optimizers' alone."""
    blocks: dict[int, list[tuple[str, Fingerprints]]] = defaultdict(list)
    for row in table:
        for record in row.records:
            if record.fingerprints is not None and record.fingerprints.batch_order:
                blocks[record.seed].append((row.optimizer, record.fingerprints))
    broken: dict[tuple[str, tuple[str, ...]], list[int]] = defaultdict(list)
    for seed, block in blocks.items():
        for what, value in _START.items():
            if odd := _odd_ones([(name, value(f)) for name, f in block]):
                broken[what, odd].append(seed)
        if odd := _odd_losses([(name, f.initial_loss) for name, f in block if f.initial_loss is not None]):
            broken["loss at the first step", odd].append(seed)
    return [
        f"FAULT: {_names(odd)} did not start as the others in {seeds_text(seeds)} ({what}): do not compare"
        for (what, odd), seeds in sorted(broken.items())
    ]


def _odd_ones(values: Sequence[tuple[str, str | None]]) -> tuple[str, ...]:
    """Names that do not have the most frequent value; of equally frequent ones the alphabet's first name has it."""
    groups: dict[str, set[str]] = defaultdict(set)
    for name, value in values:
        if value is not None:
            groups[value].add(name)
    usual = min(groups, key=lambda value: (-len(groups[value]), min(groups[value])), default=None)
    return tuple(sorted({name for value, names in groups.items() if value != usual for name in names}))


def _odd_losses(losses: Sequence[tuple[str, float]]) -> tuple[str, ...]:
    """Names whose loss is far from the median of the finite ones, or not finite where others are."""
    finite = [x for _, x in losses if math.isfinite(x)]
    if not finite:
        return ()
    middle = statistics.median_low(finite)
    return tuple(sorted({name for name, x in losses if not math.isclose(x, middle, rel_tol=SAME_LOSS)}))


def _repeated(table: Sequence[Row]) -> list[str]:
    """A seed that counts twice in one row."""
    return [
        f"FAULT: {row.optimizer} has several runs of {seeds_text(twice)} in one configuration; all of them are counted"
        for row in table
        if (twice := [r.seed for i, r in enumerate(row.records) if i and row.records[i - 1].seed == r.seed])
    ]


def _no_numbers(table: Sequence[Row]) -> list[str]:
    """Metrics of ok runs that are NaN or infinite, which no mean holds."""
    lines = []
    for row in table:
        odd = [(name, r.seed) for r in row.ok for name, value in r.metrics.items() if not math.isfinite(value)]
        if odd:
            names, seeds = _names(sorted({name for name, _ in odd})), seeds_text(seed for _, seed in odd)
            lines.append(f"FAULT: {row.optimizer}: {names} without a finite number in {seeds}; the means leave it out")
    return lines


def tuned_plans(study: Study, table: Sequence[Row]) -> dict[str, SearchPlan]:
    """The finished searches whose best settings rows have, by the rows' labels; unreadable ones are left out."""
    if not (study.path / "searches").is_dir():
        return {}
    # These bring torch and optuna, which a study without a search need not wait for.
    from bench.plan import settings_key
    from bench.search.plan import readable_plans

    plans, _ = readable_plans(study.path, study.protocol.hash)
    found = {row.optimizer: (row.records[0], plans.get(row.records[0].optimizer)) for row in table}
    return {
        label: plan
        for label, (record, plan) in found.items()
        if plan and plan.tuned and plan.tuned.hyperparameters is not None
        and settings_key(plan.tuned.hyperparameters) == settings_key(record.hyperparameters)
    }  # fmt: skip


def at_edge(study: Study, table: Sequence[Row]) -> list[str]:
    """Labels of the rows with tuned settings whose search ended at an edge of its range."""
    return [label for label, plan in tuned_plans(study, table).items() if plan.tuned and plan.tuned.unresolved]


def _edges(study: Study, table: Sequence[Row]) -> list[str]:
    """Tuned rates that may not be the best ones."""
    return [
        f"{name}: its tuned rate lies at an edge of the range searched, unresolved; a better one may lie beyond"
        for name in at_edge(study, table)
    ]


def _configurations(table: Sequence[Row]) -> list[str]:
    """What tells the configurations of one optimizer apart."""
    lines = []
    for row in table:
        record = row.records[0]
        if row.optimizer != record.optimizer:
            source = f", source {record.source_digest[:8]}" if record.source_digest else ""
            lines.append(f"{row.optimizer}: {settings_text(row)}{source}")
    return sorted(lines)


def _uneven(table: Sequence[Row]) -> list[str]:
    """Optimizers without a record of seeds that others have."""
    every = frozenset[int]().union(*(row.seeds for row in table))
    return [
        f"{row.optimizer}: no record of {seeds_text(missing)}, which others have"
        for row in table
        if (missing := every - row.seeds)
    ]


def _failures(table: Sequence[Row]) -> list[str]:
    """Each kind of failure once; reasons that differ only in their numbers are one kind."""
    lines = []
    for row in table:
        kinds: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
        for record in row.failed:
            reason = record.failure.reason if record.failure else "no reason stored"
            kinds[record.outcome, re.sub(r"\d[\d.e+-]*", "#", reason)].append((record.seed, reason))
        for (outcome, _), found in sorted(kinds.items()):
            (first, reason), distinct = found[0], {reason for _, reason in found}
            which = f" (seed {first}, others alike)" if len(distinct) > 1 else ""
            seeds = seeds_text(seed for seed, _ in found)
            lines.append(f"{row.optimizer}: {outcome.replace('_', ' ')} in {seeds}: {reason}{which}")
    return lines


def _updates(table: Sequence[Row]) -> list[str]:
    """Parameters that stand still or jump; optimizers with the same ones share a line."""
    texts: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for row in table:
        stuck, large = set[str](), set[str]()
        for d in (r.diagnostics for r in row.records):
            stuck |= {name for name, count in d.zero_update.items() if count > 1}
            large |= set(d.large_update)
        for text, names in ((_STUCK, stuck), (_LARGE, large)):
            texts[text, tuple(sorted(names))].append(row.optimizer)
    return [
        f"{', '.join(optimizers)}: {counted(len(names), 'parameter')} got {text} ({_names(names)})"
        for (text, names), optimizers in texts.items()
        if names
    ]


def _skipped(table: Sequence[Row]) -> list[str]:
    counts = {row.optimizer: sum(r.diagnostics.skipped_steps for r in row.records) for row in table}
    return [f"{name}: {counted(n, 'step')} skipped because gradients overflowed" for name, n in counts.items() if n]


def _idle(table: Sequence[Row]) -> list[str]:
    """Weights without a gradient: one line where all optimizers agree."""
    texts: dict[str, list[str]] = defaultdict(list)
    watched = [row for row in table if any(r.diagnostics.observed_steps for r in row.records)]
    for row in watched:
        for count, total in sorted({(r.diagnostics.parameters_without_gradient, r.diagnostics.parameters)
                                    for r in row.records if r.diagnostics.observed_steps}):  # fmt: skip
            if count:
                texts[f"{count:,} of {total:,} weights never got a gradient ({100 * count / total:.1f} %)"].append(
                    row.optimizer
                )
    return [
        text + (", the same for all optimizers" if len(names) == len(watched) > 1 else f": {', '.join(names)}")
        for text, names in texts.items()
    ]


def _identical(table: Sequence[Row]) -> list[str]:
    """Optimizers whose metrics agree to the last bit on every seed that both have."""
    results = {row.optimizer: {r.seed: r.metrics for r in row.ok if r.metrics} for row in table}
    lines, names = [], sorted(results)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            common = results[a].keys() & results[b].keys()
            if common and all(results[a][seed] == results[b][seed] for seed in common):
                lines.append(f"{a} and {b} gave identical metrics on every seed ({len(common)})")
    return lines
