"""Gate 5, time: steps until an optimizer's own target, and seconds a step beside a reference optimizer's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from bench.check.gates import LEAST_SEEDS, Shift, shifts
from bench.check.result import Case, Gate, Status, worst
from bench.check.sides import RunPair
from bench.check.snapshot import KeptRun, Metric
from bench.record import Outcome
from bench.statistics.intervals import FloatArray
from bench.statistics.targets import time_to_target

TARGET_SHARE = 0.9  # of the way from chance to the worst final score of the optimizer's baseline runs
SLOWER_BY = 0.1  # seconds a step may rise by this share: clocks drift, and other work on the machine shows

DEFAULT_REFERENCE = "adamw"

Pairs = Mapping[str, Sequence[RunPair]]
Columns = dict[str, tuple[FloatArray, FloatArray]]


def targets(pairs: Pairs, metric: Metric) -> dict[str, float]:
    """Each optimizer's own target, which all of its baseline runs have reached; none where they did not pass chance."""
    sign = -1.0 if metric.lower_is_better else 1.0
    found = {}
    for name, of in pairs.items():
        finals = [sign * pair.baseline.metrics[metric.name] for pair in _ended(of)]
        if finals and metric.chance is not None and (least := min(finals)) > sign * metric.chance:
            found[name] = sign * (sign * metric.chance + TARGET_SHARE * (least - sign * metric.chance))
    return found


def steps(pairs: Pairs, metric: Metric, alpha: float) -> dict[str, Shift]:
    """Change of −log(steps to the target), so that a fall is a loss; a target that is missed counts as the last step.

    That understates a miss, and the level gate sees it. Optimizers without a target or curves are left out.
    """
    columns: Columns = {}
    for name, target in targets(pairs, metric).items():
        both = [(p.baseline, p.candidate) for p in _ended(pairs[name])
                if p.baseline.evaluations and p.candidate.evaluations]  # fmt: skip
        if both:
            before, after = zip(*both, strict=True)
            columns[name] = _log_steps(before, target, metric), _log_steps(after, target, metric)
    return _tested(columns, 0.0, alpha)


def _log_steps(runs: Sequence[KeptRun], target: float, metric: Metric) -> FloatArray:
    def reached(run: KeptRun) -> float:
        times, scores = [step for step, _, _ in run.evaluations], [score for _, _, score in run.evaluations]
        return min(time_to_target(times, scores, target, lower_is_better=metric.lower_is_better), float(times[-1]))

    return -np.log([reached(run) for run in runs])


def seconds(pairs: Pairs, reference: str, alpha: float) -> dict[str, Shift]:
    """Change of −log(seconds a step / the reference's, of the same seed), a fall being a loss of `SLOWER_BY` or more.

    The ratio does not depend on how fast the machine was that day.
    """
    by_seed = {pair.baseline.seed: pair for pair in _timed(pairs[reference])}
    columns: Columns = {}
    for name, of in pairs.items():
        both = [(pair, by_seed[pair.baseline.seed]) for pair in _timed(of) if pair.baseline.seed in by_seed]
        if name != reference and both:
            before = [_rate(beside.baseline) - _rate(pair.baseline) for pair, beside in both]
            after = [_rate(beside.candidate) - _rate(pair.candidate) for pair, beside in both]
            columns[name] = np.array(before), np.array(after)
    return _tested(columns, math.log1p(SLOWER_BY), alpha)


def _rate(run: KeptRun) -> float:
    """log(seconds of training a step)."""
    return math.log(run.training_seconds / run.steps)


def _ended(pairs: Sequence[RunPair]) -> list[RunPair]:
    return [p for p in pairs if p.baseline.outcome is Outcome.OK and p.candidate.outcome is Outcome.OK]


def _timed(pairs: Sequence[RunPair]) -> list[RunPair]:
    runs = [(p, (p.baseline, p.candidate)) for p in _ended(pairs)]
    return [pair for pair, both in runs if all(run.steps and run.training_seconds for run in both)]


def _tested(columns: Columns, margin: float, alpha: float) -> dict[str, Shift]:
    found = shifts(list(columns.values()), margin=margin, grain=0.0, alpha=alpha)
    return dict(zip(columns, found, strict=True))


def time_gate(pairs: Sequence[RunPair], metric: Metric, *, alpha: float, fails: bool, reference: str | None) -> Gate:
    """Warns; with `fails` more steps to the target fail the check. Seconds only ever warn: they are the machine's too.

    Without a reference it is adamw where both sides have it, else the first by name.
    """
    by_name: dict[str, list[RunPair]] = {}
    for pair in pairs:
        by_name.setdefault(pair.baseline.optimizer, []).append(pair)
    chosen = reference or (DEFAULT_REFERENCE if DEFAULT_REFERENCE in by_name else min(by_name))
    alarm = Status.FAIL if fails else Status.WARN
    aims = targets(by_name, metric)
    cases = [_case(name, "steps", f"to {metric.name} {aims[name]:.4g}", shift, alarm, alpha)
             for name, shift in steps(by_name, metric, alpha).items()]  # fmt: skip
    if chosen in by_name and len(by_name) > 1 and _same_machine(pairs):
        cases += [_case(name, "seconds", f"a step, in {chosen}'s", shift, Status.WARN, alpha)
                  for name, shift in seconds(by_name, chosen, alpha).items()]  # fmt: skip
    status = worst((case.status for case in cases), default=Status.SKIPPED)
    said = [f"{case.name}: {case.text}" for case in cases if case.status is status]
    text = "; ".join(said) if status in (Status.WARN, Status.FAIL) else "no optimizer needs more steps or seconds"
    if not cases:
        text = "no curves to compare"
    return Gate(name="time", status=status, text=text, alpha=alpha, cases=tuple(cases))


def _same_machine(pairs: Sequence[RunPair]) -> bool:
    """Whether seconds of both sides are of one kind: everything ran on one kind of hardware."""
    return all(pair.same_hardware for pair in pairs)


def _case(name: str, kind: str, what: str, shift: Shift, alarm: Status, alpha: float) -> Case:
    """A test of −log(time): shown as times, which are geometric means, and as their ratio with its 95 % interval."""
    slower = shift.n >= LEAST_SEEDS and shift.p_holm <= alpha
    before, after, ratio = math.exp(-shift.baseline), math.exp(-shift.candidate), math.exp(-shift.change)
    return Case(
        name=f"{name} {kind}",
        status=alarm if slower else Status.PASS,
        text=f"{kind} {what}: {before:.3g} before, {after:.3g} now, × {ratio:.3g}, p = {shift.p_holm:.2g}",
        figures={
            "n": shift.n, "baseline": before, "candidate": after, "ratio": ratio, "low": math.exp(-shift.high),
            "high": math.exp(min(-shift.low, 700.0)), "p": shift.p, "p_holm": shift.p_holm,
        },
    )  # fmt: skip
