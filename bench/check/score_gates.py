"""Gates 3 and 4, on means over seeds: has an optimizer's level fallen, and is the baseline's order still there."""

from __future__ import annotations

from collections.abc import Sequence

from bench.check.gates import LEAST_SEEDS, RESOLVED, SUSPICION, PairShift, Shift, Sides, level, order, resolved_pairs
from bench.check.result import Case, Gate, Status, worst
from bench.ranking import HALF_A_POINT
from bench.statistics.pairs import default_margin
from bench.statistics.power import POWER
from bench.wording import counted


def level_gate(sides: Sides, *, sign: float, unit: str, margin: float, alpha: float, identical: bool) -> Gate:
    """Per optimizer, a case with the figures of both sides. Runs that are identical are shown and not tested."""
    found = level(sides, margin=margin, alpha=alpha)
    noticeable = max(margin, default_margin(HALF_A_POINT, sides.grain))
    cases = tuple(
        Case(
            name=name,
            status=status,
            text=_level_text(shift, status, unit),
            figures=figures(shift, sign) | {
                "baseline_failed": int((sides.baseline_failed[:, j] & sides.shared[:, j]).sum()),
                "candidate_failed": int((sides.candidate_failed[:, j] & sides.shared[:, j]).sum()),
            },
        )
        for j, (name, shift) in enumerate(zip(sides.names, found, strict=True))
        for status in [Status.PASS if identical and shift.n else _level_status(shift, noticeable, alpha)]
    )  # fmt: skip
    status = worst(case.status for case in cases)
    said = [f"{case.name} {case.text}" for case in cases if case.status is status and status is not Status.PASS]
    return Gate(name="level", status=status, text="; ".join(said) or "no optimizer has lost", alpha=alpha, cases=cases)


def _level_status(shift: Shift, noticeable: float, alpha: float) -> Status:
    if shift.n < LEAST_SEEDS:
        return Status.INCONCLUSIVE
    if shift.p_holm <= alpha:
        return Status.FAIL
    # A loss that matters and was not found significant is one that these seeds could not be sure to find.
    return Status.INCONCLUSIVE if shift.p_holm < SUSPICION or -shift.change > noticeable else Status.PASS


def _level_text(shift: Shift, status: Status, unit: str) -> str:
    if shift.n < LEAST_SEEDS:
        return f"has {counted(shift.n, 'seed')} on both sides; a test needs {LEAST_SEEDS}"
    if shift.change == 0:
        return "is unchanged"
    moved = f"{'lost' if shift.change < 0 else 'gained'} {abs(shift.change):.3g}{unit}, p = {shift.p_holm:.2g}"
    if status is Status.INCONCLUSIVE:
        return f"{moved}; {shift.n} seeds find a loss of {shift.detectable:.3g}{unit} with power {POWER:g}"
    return moved


def figures(shift: Shift, sign: float) -> dict[str, float | None]:
    """A test in the metric's own direction: `difference` is candidate − baseline, `low` to `high` its 95 % interval."""
    low, high = sorted((sign * shift.low, sign * shift.high))
    return {
        "n": shift.n,
        "baseline": sign * shift.baseline,
        "candidate": sign * shift.candidate,
        "difference": sign * shift.change + 0.0,  # no −0
        "low": low,
        "high": high,
        "p": shift.p,
        "p_holm": shift.p_holm,
        "detectable": shift.detectable,
    }


def order_gate(sides: Sides, *, sign: float, unit: str, alpha: float, identical: bool) -> Gate:
    """Per pair that the baseline tells apart, whether it still stands in that order."""
    found = order(sides, resolved_pairs(sides.baseline, sides.grain), alpha=alpha)
    cases = tuple(
        Case(
            name=f"{sides.names[pair.better]} > {sides.names[pair.worse]}",
            status=Status.PASS if identical else _order_status(pair, alpha),
            text=f"lead {pair.shift.baseline:.3g}{unit} before, {pair.shift.candidate:.3g}{unit} now, "
                 f"p = {pair.shift.p_holm:.2g}",
            figures=figures(pair.shift, 1.0),
        )
        for pair in found
    )  # fmt: skip
    if not cases:
        text = f"the baseline tells no two optimizers apart (family-wise error {RESOLVED:g})"
        return Gate(name="order", status=Status.SKIPPED, text=text, alpha=alpha)
    status = worst(case.status for case in cases)
    text = f"all {len(cases)} pairs that the baseline tells apart stand as they did"
    if status is not Status.PASS:
        text = _turned(cases, status)
    return Gate(name="order", status=status, text=text, alpha=alpha, cases=cases)


def _turned(cases: Sequence[Case], status: Status) -> str:
    return "; ".join(f"{case.name} no longer: {case.text}" for case in cases if case.status is status)


def _order_status(pair: PairShift, alpha: float) -> Status:
    if pair.shift.n < LEAST_SEEDS:
        return Status.SKIPPED
    if pair.shift.candidate > 0:
        return Status.PASS
    return Status.FAIL if pair.shift.p_holm <= alpha else Status.INCONCLUSIVE
