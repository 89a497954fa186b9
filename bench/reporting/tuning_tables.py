"""What searches found, as tables: tuned against default, the budget, the sensitivity to the rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from bench.ranking import StudyScores, rank_study, study_scores
from bench.reporting.document import Cell, Table, number, table
from bench.reporting.provenance import duration
from bench.search.rates import ByRates
from bench.search.results import PLATEAU, SearchResult
from bench.search.search import INDEPENDENT
from bench.search.space import RATE
from bench.statistics.pairs import paired_t
from bench.study import Study
from bench.summary import metric_title
from bench.verdict_text import rank_text

_BUDGET_NOTE = (
    "best of k: expected test score of the best validated of k random trials, mean over tuning seeds; CPE, CPU, CPL: "
    "mean of that curve weighted to small budgets, evenly, to large ones (Sivaprasad et al. 2020). Tuning seeds rank "
    "nothing."
)
_SENSITIVITY_NOTE = (
    f"Of the mean test score over tuning seeds; plateau: decades of the range within {PLATEAU:g} points of the best; "
    "loss: mean over the range of the best minus the score, chance at the least (after Wortsman et al. 2023); stable: "
    "largest rate without a diverged run, and its decades above the best; regret: best minus score at the default."
)


def search_line(results: Sequence[SearchResult]) -> str:
    """What was searched, how, and at what cost."""
    plan = results[0].plan
    seconds = sum(result.seconds for result in results)
    extra = sum(max(0, len(result.search.trials) - result.plan.trials) for result in results)
    widened = f"; {extra} more trials where the best rate lay at an edge of its range" if extra else ""
    points = "the same points for every optimizer" if plan.sampler in INDEPENDENT else "half of the trials shared"
    rung = _rung_text(results) if plan.rung_epochs else ""
    return (
        f"{', '.join(plan.ranges)} searched for {len(results)} optimizers: {plan.trials} trials each ({plan.sampler}, "
        f"{points}) on {len(plan.seeds)} tuning seeds, chosen by the validation split{widened}; {duration(seconds)} of "
        f"device time in all.{rung}"
    )


def _rung_text(results: Sequence[SearchResult]) -> str:
    """What a first rung saved, and how far its order was the full schedule's."""
    plan, epochs = results[0].plan, results[0].full_epochs
    short = sum(len(result.search.rung_trials) for result in results)
    full = sum(trial.stage == "shared" for result in results for trial in result.search.trials)
    share = 1 - (short * (plan.rung_epochs or 0) + full * epochs) / (short * epochs) if short else 0.0
    agreement = [tau for result in results if (tau := result.rung_agreement) is not None]
    said = f"; Kendall's tau of both orders, mean over optimizers: {fmean(agreement):.2f}" if agreement else ""
    return (
        f" A first rung of {plan.rung_epochs} of {epochs} epochs sent the better half of the trials on, which saved "
        f"{100 * share:.0f} % of the epochs; a rate that is late to be good may have been lost{said}."
    )


def tuned_table(rates: ByRates, results: Mapping[str, SearchResult]) -> Table | None:
    """The default and the tuned ranking side by side, and the paired gain of tuning; None without tuned runs."""
    if rates.default is None:
        return None
    before, after = study_scores(rates.default), study_scores(rates.ranked)
    ranks = [_ranks(study) for study in (rates.default, rates.ranked)]
    lines = []
    for name in _by_mean(after):
        result = results[name]
        lines.append([
            name, number(_float(result.plan.defaults[RATE]), ".3g"), number(_tuned_rate(result), ".3g"),
            _mean(before, name), _mean(after, name), _gain(before, after, name),
            *(Cell(of.get(name, "–")) for of in ranks),
        ])  # fmt: skip
    headings = ["optimizer", "default lr", "tuned lr", "default", "tuned", "gain", "rank by default", "rank tuned"]
    note = (
        f"{metric_title(after.metric)} on the test split and the ranking seeds, mean; gain: tuned minus default with "
        "its 95 % interval, on the same seeds; ranks: intervals that hold jointly within each ranking."
    )
    return table("tuned", "Before and after tuning", headings, lines, text=("optimizer",), note=note)


def _by_mean(scores: StudyScores) -> list[str]:
    sign = 1.0 if scores.lower_is_better else -1.0
    means = {name: _column(scores, name).mean() for name in scores.names}
    return sorted(means, key=lambda name: (sign * means[name], name))


def _column(scores: StudyScores, name: str) -> np.ndarray:
    """The scores of an optimizer, diverged runs at chance."""
    i = scores.names.index(name)
    return np.where(scores.diverged[:, i], scores.chance or 0.0, scores.scores[:, i])


def _mean(scores: StudyScores, name: str) -> Cell:
    if name not in scores.names:
        return Cell("–")
    return number(float(np.nanmean(_column(scores, name))), ".2f")


def _gain(before: StudyScores, after: StudyScores, name: str) -> Cell:
    """Tuned minus default on the seeds that both have."""
    shared = [seed for seed in after.seeds if seed in before.seeds] if name in before.names else []
    new, old = (
        np.array([_column(scores, name)[scores.seeds.index(seed)] for seed in shared]) for scores in (after, before)
    )  # fmt: skip
    whole = np.isfinite(new) & np.isfinite(old) if shared else np.zeros(0, bool)
    if whole.sum() < 2:
        return Cell("–")
    test = paired_t(new[whole], old[whole], grain=after.grain)
    return Cell(f"{test.difference:+.2f} ({test.low:+.2f} to {test.high:+.2f})", order=float(test.difference))


def _ranks(study: Study) -> dict[str, str]:
    found = rank_study(study)
    return {} if found is None else {entry.name: rank_text(*entry.rank_interval) for entry in found.entries}


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _tuned_rate(result: SearchResult) -> float | None:
    """The rate that `--lr tuned` runs; None where no trial ended well."""
    tuned = result.plan.tuned
    return tuned.values[RATE] if tuned and tuned.values else None


def budget_table(results: Sequence[SearchResult]) -> Table | None:
    """What a budget of k trials is expected to bring, and what each search cost."""
    budgets = sorted({k for result in results for k in result.best_of})
    lines = []
    for result in results:
        found = result.tunability
        of = (None, None, None) if found is None else (float(found.cpe), float(found.cpu), float(found.cpl))
        extra = len(result.search.trials) - result.plan.trials
        note = "edge, unresolved" if result.search.unresolved else "" if result.search.finished else "not finished"
        lines.append([
            result.name, *(number(result.best_of.get(k), ".2f") for k in budgets), *(number(x, ".2f") for x in of),
            Cell(f"{len(result.trials)}" + (f" ({extra} extra)" if extra > 0 else ""), order=len(result.trials)),
            number(int(result.diverged.sum()), "d"), Cell(duration(result.seconds), result.seconds), note or "–",
        ])  # fmt: skip
    headings = ["optimizer", *(f"best of {k}" for k in budgets), "CPE", "CPU", "CPL", "trials", "diverged runs",
                "device time", "note"]  # fmt: skip
    return table("budget", "The budget of the search", headings, lines, text=("optimizer", "note"), note=_BUDGET_NOTE)


def sensitivity_table(results: Sequence[SearchResult]) -> Table | None:
    """How much each optimizer depends on its rate; None where more than the rate was searched."""
    lines = []
    for result in results:
        found = result.sensitivity
        if found is None:
            continue
        lines.append([
            result.name, number(found.best_rate, ".3g"), number(found.best, ".2f"), number(found.peak_rate, ".3g"),
            number(found.plateau_decades, ".2f"), number(found.sensitivity, ".2f"), number(found.edge_rate, ".3g"),
            number(found.margin_decades, ".2f"), number(found.regret_at_default, ".2f"),
        ])  # fmt: skip
    headings = ["optimizer", "best lr", "score", "peak lr", "plateau", "loss", "stable to", "margin", "regret"]
    if not lines:
        return None
    return table("sensitivity", "Sensitivity to the rate", headings, lines, text=("optimizer",), note=_SENSITIVITY_NOTE)
