"""A candidate's runs against a baseline's: every gate in turn, and the result over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.check.compatibility import commit, compatibility, notes
from bench.check.gates import ALPHA, LEVEL_SHARE, ORDER_SHARE, REST_SHARE
from bench.check.result import CheckResult, Gate, Side, Status, cleaned
from bench.check.run_gates import health_gate, identity_gate, unseen
from bench.check.score_gates import level_gate, order_gate
from bench.check.sides import RunPair, run_pairs, score_sides
from bench.check.snapshot import Snapshot
from bench.check.times import time_gate
from bench.errors import UsageError
from bench.paths import without_folders
from bench.suggestions import unknown
from bench.summary import is_rank, unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a check tolerates.

    tolerance: scores that differ by at most this count as the same. margin: a loss of this much is allowed. alpha:
    false alarms of a whole check. time_fails: more steps to the target fail the check instead of warning. reference:
    the optimizer beside whose time the others' is taken.
    """

    tolerance: float = 0.0
    margin: float = 0.0
    alpha: float = ALPHA
    allow_removed: tuple[str, ...] = ()
    time_fails: bool = False
    reference: str | None = None

    @property
    def rest(self) -> float:
        """The threshold of health, and of time: what level and order leave, halved where both can fail a check."""
        return REST_SHARE * self.alpha / (2 if self.time_fails else 1)


def check(
    baseline: Snapshot,
    candidate: Snapshot,
    options: Options | None = None,
    *,
    sources: tuple[str, str] = ("baseline", "candidate"),
    said: Sequence[str] = (),
) -> CheckResult:
    """The result; `sources` say where the two sides come from, `said` are notes on how the candidate was made.

    Raises `UsageError` where an option names an optimizer that there is not.
    """
    options = options or Options()
    _check_names(baseline, options)
    pairs = run_pairs(baseline, candidate)
    gates = [compatibility(baseline, candidate, pairs, options.allow_removed)]
    found = list(said)
    if gates[0].status is not Status.INCOMPATIBLE:
        gates += _gates(baseline, candidate, pairs, options)
        found += [*notes(baseline, candidate, pairs), *unseen(pairs, gates[1])]
    metric = baseline.metric
    result = CheckResult(
        protocol=baseline.protocol.name,
        protocol_hash=baseline.protocol_hash,
        metric=metric.name,
        lower_is_better=metric.lower_is_better,
        unit=unit(metric.name),
        alpha=options.alpha,
        margin=options.margin,
        tolerance=options.tolerance,
        baseline=_side(baseline, sources[0]),
        candidate=_side(candidate, sources[1]),
        gates=tuple(gates),
        notes=tuple(found),
    )
    return cleaned(result)


def _check_names(baseline: Snapshot, options: Options) -> None:
    for name in options.allow_removed:
        if name not in baseline.names and not any(sign in name for sign in "*?["):
            raise UsageError(f"--allow-removed: {unknown('optimizer', name, baseline.names)}")
    if options.reference is not None and options.reference not in baseline.names:
        raise UsageError(f"--reference: {unknown('optimizer', options.reference, baseline.names)}")


def _side(snap: Snapshot, source: str) -> Side:
    return Side(source=without_folders(source), commit=commit(snap.environments), optimizers=len(snap.entries),
                runs=len(snap.runs))  # fmt: skip


def _gates(baseline: Snapshot, candidate: Snapshot, pairs: Sequence[RunPair], options: Options) -> list[Gate]:
    """Gates 1 to 5. Identical runs are not tested: there is nothing in them to find."""
    sides, metric, alpha = score_sides(baseline, candidate), baseline.metric, options.alpha
    first = identity_gate(pairs, metric.name, options.tolerance)
    shown = {
        "sign": -1.0 if metric.lower_is_better else 1.0,
        "unit": "" if is_rank(metric.name) else " points",
        "identical": first.status is Status.PASS,
    }
    return [
        first,
        health_gate(pairs, sides, options.rest),
        level_gate(sides, margin=options.margin, alpha=LEVEL_SHARE * alpha, **shown),
        order_gate(sides, alpha=ORDER_SHARE * alpha, **shown),
        time_gate(pairs, metric, alpha=options.rest, fails=options.time_fails, reference=options.reference),
    ]
