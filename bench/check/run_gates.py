"""Gates 1 and 2, on single runs: are they the same, and did any fail that was fine."""

from __future__ import annotations

from collections.abc import Sequence

from bench.check.compatibility import UNFINISHED
from bench.check.gates import Health, Sides, health
from bench.check.result import Case, Gate, Status, worst
from bench.check.sides import RunPair
from bench.check.snapshot import KeptRun
from bench.ranking import OWN_FAILURES
from bench.record import Outcome
from bench.wording import counted, seeds_text


def identity_gate(pairs: Sequence[RunPair], metric: str, tolerance: float) -> Gate:
    """Whether all scores are the same within the tolerance; a difference is a finding and no fault."""
    differing: dict[str, list[tuple[int, float]]] = {}
    certain = all(p.repeatable and not {p.baseline.outcome, p.candidate.outcome} & {*UNFINISHED} for p in pairs)
    for pair in pairs:
        b, c = pair.baseline, pair.candidate
        both_ok = b.outcome is c.outcome is Outcome.OK
        distance = abs(c.metrics[metric] - b.metrics[metric]) if both_ok else 0.0
        if b.outcome is not c.outcome or distance > tolerance:
            differing.setdefault(b.optimizer, []).append((b.seed, distance))
    count = sum(map(len, differing.values()))
    within = f" within {tolerance:g}" if tolerance else ""
    if not count:
        text = f"all {len(pairs)} runs score the same{within}"
        return Gate(name="identity", status=Status.PASS, text=text)
    said = f"{len(pairs) - count} of {len(pairs)} runs score the same{within}; others: {', '.join(differing)}"
    why = ("; equal code and settings would repeat every bit here, so one of them has changed"
           if certain else "; equal code need not repeat every bit here")  # fmt: skip
    cases = [
        Case(name=name, status=Status.NOTE, figures={"runs": len(runs), "largest": max(d for _, d in runs)},
             text=f"differs in {seeds_text(s for s, _ in runs)}, by {max(d for _, d in runs):.4g} at most")
        for name, runs in differing.items()
    ]  # fmt: skip
    return Gate(name="identity", status=Status.NOTE, text=said + why, cases=tuple(cases))


def unseen(pairs: Sequence[RunPair], identity: Gate) -> list[str]:
    """What equal scores hide."""
    names = dict.fromkeys(p.baseline.optimizer for p in pairs if p.baseline.loss != p.candidate.loss
                          and p.baseline.outcome is p.candidate.outcome is Outcome.OK)  # fmt: skip
    if identity.status is Status.PASS and names:
        return [f"scores are the same and losses are not, so numerics have changed: {', '.join(names)}"]
    return []


def health_gate(pairs: Sequence[RunPair], sides: Sides, alpha: float) -> Gate:
    """New failures: certain where runs repeat their bits, tested over all runs elsewhere."""
    unfinished = [p for p in pairs if p.candidate.outcome in UNFINISHED and p.baseline.outcome not in UNFINISHED]
    broken = [p for p in pairs if p.candidate.outcome in OWN_FAILURES and p.baseline.outcome is Outcome.OK]
    found = health(sides)
    chance = _chance_status(found, alpha)
    cases = [
        *(_failed_case(p, Status.FAIL) for p in unfinished),
        *(_failed_case(p, Status.FAIL if p.repeatable else chance) for p in broken),
    ]
    status = worst(case.status for case in cases)
    figures = {"new": found.new, "cured": found.cured, "p": found.p}
    said = []
    if broken or found.cured:
        runs = counted(len(broken), "run")
        said = [f"failed by their optimizer: {runs} that did not before, {found.cured} no longer"]
    if any(not p.repeatable for p in broken):
        said.append(f"p = {found.p:.3g}, and with fewer than {Health.least_alarm(alpha)} changed runs this test cannot "
                    "alarm")  # fmt: skip
    if unfinished:
        said.append(f"{counted(len(unfinished), 'run')} did not finish: {_reason(unfinished[0].candidate)}")
    text = "; ".join(said) or "no run failed that was fine before"
    cases.append(Case(name="all runs", status=status, text=text, figures=figures))
    return Gate(name="health", status=status, text=text, alpha=alpha, cases=tuple(cases))


def _chance_status(found: Health, alpha: float) -> Status:
    if found.p <= alpha:
        return Status.FAIL
    return Status.INCONCLUSIVE if found.new > found.cured else Status.NOTE


def _failed_case(pair: RunPair, status: Status) -> Case:
    run = pair.candidate
    return Case(name=f"{run.optimizer} seed {run.seed}", status=status,
                text=f"{run.outcome.replace('_', ' ')}: {_reason(run)}; was {pair.baseline.outcome}")  # fmt: skip


def _reason(run: KeptRun) -> str:
    return run.reason or "no reason was recorded"
