"""What searches found, as tables: tuned against default, the budget, the sensitivity to the rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

import numpy as np

from bench.ranking import StudyScores, rank_scores, study_scores
from bench.reporting.analysis import Analysis
from bench.reporting.document import Cell, Table, number, table
from bench.reporting.provenance import duration
from bench.search.plan import different
from bench.search.results import PLATEAU, SearchResult
from bench.search.search import INDEPENDENT
from bench.search.space import RATE
from bench.statistics.pairs import paired_t
from bench.statistics.sensitivity import Sensitivity
from bench.statistics.verdict import Verdict
from bench.summary import Row, lower_is_better, metric_title, unit
from bench.verdict_text import rank_text
from bench.wording import counted

EDGE = "edge, unresolved"
EDGE_NOTE = "the best rate lies at an end of the range searched, after every widening; a better one may lie beyond."
_COST_NOTE = (
    "Trials: of the full schedule, extra ones where the best rate lay at an edge; diverged runs: of these trials, "
    "those out of memory too, with the score of chance; device time: of all runs of the search."
)
_SAMPLING_NOTE = (
    "No best of k: it needs trials that do not depend on each other's results, which neither an adaptive sampler nor a "
    "first rung makes."
)
_SENSITIVITY_NOTE = (
    f"from the tuning seeds alone, which rank nothing; the search itself chose by the validation split. Peak: vertex "
    f"of the parabola through the best rate and its neighbours; plateau: decades of the rates tried within {PLATEAU:g} "
    "of the best; sensitivity: mean over the range, on a logarithmic axis, of the best minus the score, chance at the "
    "least (after Wortsman et al. 2023); stable to: largest rate without a diverged run, whatever its score, and its "
    "decades above the best; regret: best minus the score at the default, read off the line between rates; best, "
    "sensitivity and regret are too high by what chance adds to the best of several; ≥: the range ends first."
)
_RUNG_NOTE = "After a first rung only the rates that it sent on are here, not the whole range."


def search_line(results: Sequence[SearchResult]) -> str:
    """What was searched, how, and at what cost."""
    plan = results[0].plan
    seconds = sum(result.seconds for result in results)
    extra = sum(result.search.extra_trials for result in results)
    widened = f"; {counted(extra, 'more trial')} where the best rate lay at an edge of its range" if extra else ""
    names = counted(len(results), "optimizer")
    points = "the same points for every optimizer" if plan.sampler in INDEPENDENT else "half of the trials shared"
    how = (
        f"{', '.join(plan.ranges)} searched for {names}: {counted(plan.trials, 'trial')} each ({plan.sampler}, "
        f"{points}) on {counted(len(plan.seeds), 'tuning seed')}"
    )
    if said := different([result.plan for result in results]):
        how = f"{names} searched in different ways, of which a larger one has an advantage ({said})"
    return f"{how}, chosen by the validation split{widened}; {duration(seconds)} of device time in all." + _rung_text(
        [result for result in results if result.plan.rung_epochs]
    )


def _rung_text(results: Sequence[SearchResult]) -> str:
    """What a first rung saved, and how far its order was the full schedule's; nothing without one."""
    if not results:
        return ""
    plan, epochs = results[0].plan, results[0].full_epochs
    short = sum(len(result.search.rung_trials) for result in results)
    full = sum(trial.stage == "shared" for result in results for trial in result.search.trials)
    share = 1 - (short * (plan.rung_epochs or 0) + full * epochs) / (short * epochs) if short else 0.0
    saved = f"saved {100 * share:.0f} % of the epochs" if share >= 0 else f"took {-100 * share:.0f} % more epochs"
    agreement = [tau for result in results if (tau := result.rung_agreement) is not None]
    said = f"; Kendall's tau of both orders, mean over optimizers: {fmean(agreement):.2f}" if agreement else ""
    return (
        f" A first rung of {counted(plan.rung_epochs or 0, 'epoch')} of {epochs} sent the better half of the trials "
        f"on, which {saved}; a rate that is late to be good may have been lost{said}."
    )


def _edge_note(results: Iterable[SearchResult]) -> list[str]:
    """Whose optimum is at an edge, for the text under a table."""
    names = [result.name for result in results if is_unresolved(result)]
    return [f"{EDGE[:1].upper()}{EDGE[1:]}, of {', '.join(names)}: {EDGE_NOTE}"] if names else []


def is_unresolved(result: SearchResult) -> bool:
    """Whether the optimum is still at an edge after all widenings: as the search ended, else as its records say."""
    return result.plan.tuned.unresolved if result.plan.tuned else result.search.unresolved


def _note(result: SearchResult, *more: str) -> str:
    """What to know of a search, beside its numbers."""
    lost = sum(score.validation is None for score in result.search.scores)
    said = [
        *([EDGE] if is_unresolved(result) else []),
        *([] if result.search.finished else ["not finished"]),
        *([f"{counted(lost, 'trial')} failed"] if lost else []),
        *([] if result.search.best else ["no trial ended well"]),
        *filter(None, more),
    ]
    return "; ".join(said) or "–"


def tuned_table(analysis: Analysis) -> Table | None:
    """The default and the tuned ranking side by side, and the paired gain of tuning; None without both."""
    if analysis.rates is None or analysis.rates.default is None:
        return None
    before, after = study_scores(analysis.rates.default), study_scores(analysis.rates.ranked)
    both = [name for name in analysis.scores.names if name in before.ended]
    ranks = [_ranks(rank_scores(before.only(both))), _ranks(analysis.verdict)]
    lines = []
    for row in analysis.rows:
        name, result = row.optimizer, analysis.searches.get(row.optimizer)
        old, new = _columns(before, after, name)
        lines.append([
            name, *(of.get(name, Cell("–")) for of in ranks), _mean(old), _mean(new), _gain(old, new, after.grain),
            *_rates(row, result), number(len(new), "d"), "–" if result is None else _note(result),
        ])  # fmt: skip
    headings = ["optimizer", "rank by default", "rank tuned", "default", "tuned", "gain", "default lr", "tuned lr",
                "seeds", "note"]  # fmt: skip
    note = _tuned_note(after.metric, len(both), len(analysis.scores.names))
    found = [analysis.searches[row.optimizer] for row in analysis.rows if row.optimizer in analysis.searches]
    return table("tuned", "Before and after tuning", headings, lines, text=("optimizer", "note"),
                 note=" ".join([note, *_edge_note(found)]), parts=_TUNED_PARTS)  # fmt: skip


_TUNED_PARTS = {
    "gain": ("gain", "gain 95 % from", "gain 95 % to"),
    "rank by default": ("rank by default from", "rank by default to"),
    "rank tuned": ("rank tuned from", "rank tuned to"),
}


def _tuned_note(metric: str, both: int, ranked: int) -> str:
    fewer = f"; by default {both} of the {ranked} ranked optimizers have such runs" if both < ranked else ""
    return (
        f"{_scores_text(metric)} on the test split: means over the ranking seeds that have both runs, diverged ones at "
        "chance; gain: tuned minus default on these seeds"
        f"{', below 0 where tuning helped' if lower_is_better(metric) else ''}, with a 95 % interval of each "
        f"on its own; ranks: intervals that hold jointly within each ranking, on all its seeds{fewer}."
    )


def _scores_text(metric: str) -> str:
    """`Average R@1 in %`."""
    title = metric_title(metric)
    return f"{title[:1].upper()}{title[1:]}{_in(metric)}"


def _in(metric: str) -> str:
    return f" in {unit(metric)}" if unit(metric) else ""


Column = list[tuple[float, bool]]  # a run's score, at chance where it diverged, and whether it did


def _columns(before: StudyScores, after: StudyScores, name: str) -> tuple[Column, Column]:
    """An optimizer's scores in both studies on the seeds that both have; all of one where the other has none."""
    old, new = (_column(scores, name) for scores in (before, after))
    if not old or not new:
        return [*old.values()], [*new.values()]
    shared = [seed for seed in new if seed in old]
    return [old[seed] for seed in shared], [new[seed] for seed in shared]


def _column(scores: StudyScores, name: str) -> dict[int, tuple[float, bool]]:
    """By seed, of the runs that have a score."""
    if name not in scores.names:
        return {}
    i, chance = scores.names.index(name), scores.chance or 0.0
    values = np.where(scores.diverged[:, i], chance, scores.scores[:, i])
    found = zip(scores.seeds, values.tolist(), scores.diverged[:, i].tolist(), strict=True)
    return {seed: (score, lost) for seed, score, lost in found if np.isfinite(score)}


def _mean(column: Column) -> Cell:
    if not column:
        return Cell("–")
    mean, lost = fmean(score for score, _ in column), sum(diverged for _, diverged in column)
    return Cell(f"{mean:.2f}" + (f" ({lost} diverged)" if lost else ""), mean)


def _gain(old: Column, new: Column, grain: float) -> Cell:
    """Tuned minus default with its interval, from two seeds on."""
    if len(old) != len(new) or len(new) < 2:
        return Cell("–")
    test = paired_t([score for score, _ in new], [score for score, _ in old], grain=grain)
    ends = f"{test.low:+.2f} to {test.high:+.2f}"
    return Cell(f"{test.difference:+.2f} ({ends})", parts=(float(test.difference), float(test.low), float(test.high)))


def _ranks(found: Verdict | None) -> dict[str, Cell]:
    if found is None:
        return {}
    return {e.name: Cell(rank_text(*e.rank_interval), parts=e.rank_interval) for e in found.entries}


def _rates(row: Row, result: SearchResult | None) -> tuple[Cell, Cell]:
    """The default rate and the one that was run as tuned; none of the latter where no trial ended well."""
    default = None if result is None else _float(result.plan.defaults[RATE])
    unfound = result is not None and result.search.best is None
    return number(default, ".3g"), number(None if unfound else _float(row.records[0].hyperparameters[RATE]), ".3g")


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def budget_table(results: Sequence[SearchResult], metric: str) -> Table:
    """What a budget of k trials is expected to bring, and what each search cost."""
    budgets = sorted({k for result in results for k in result.best_of})
    weighted = ["CPE", "CPU", "CPL"] if budgets else []
    lines = []
    for result in results:
        found, extra = result.tunability, result.search.extra_trials
        of = (found and float(found.cpe), found and float(found.cpu), found and float(found.cpl)) if budgets else ()
        lines.append([
            result.name, *(number(result.best_of.get(k), ".2f") for k in budgets), *(number(x, ".2f") for x in of),
            Cell(f"{len(result.trials)}" + (f" ({extra} extra)" if extra else ""), parts=(len(result.trials), extra)),
            number(int(result.diverged.sum()), "d"), Cell(duration(result.seconds), result.seconds), _note(result),
        ])  # fmt: skip
    headings = ["optimizer", *(f"best of {k}" for k in budgets), *weighted, "trials", "diverged runs", "device time",
                "note"]  # fmt: skip
    return table("budget", "The budget of the search", headings, lines, text=("optimizer", "note"),
                 note=_budget_note(results, metric), parts={"trials": ("trials", "of them extra")})  # fmt: skip


def _budget_note(results: Sequence[SearchResult], metric: str) -> str:
    curves = (
        f"Best of k: {metric_title(metric)} on the test split{_in(metric)}, expected of the best validated of k random "
        "ones of the trials that all optimizers share, chosen as the search chooses, by the validation score; both "
        "are means over tuning seeds, and too high by what chance adds to the best of several. CPE, CPU, CPL: mean of "
        "that curve weighted to small budgets, evenly, to large ones (Sivaprasad et al. 2020). Tuning seeds rank "
        "nothing."
    )
    said = [curves] if any(result.best_of for result in results) else []
    said += [] if all(result.best_of for result in results) else [_SAMPLING_NOTE]
    return " ".join([*said, _COST_NOTE, *_edge_note(results)])


def sensitivity_table(results: Sequence[SearchResult], metric: str) -> Table | None:
    """How much each optimizer depends on its rate; None where more than the rate was searched.

    Nothing is said of the shape of a curve that never rises above chance: that it is flat is no virtue.
    """
    lines = [_sensitivity_line(result, found) for result in results if (found := result.sensitivity)]
    headings = ["optimizer", "best lr", "best", "peak lr", "plateau, decades", "sensitivity", "stable to",
                "margin, decades", "regret", "note"]  # fmt: skip
    if not lines:
        return None
    said = [f"{_scores_text(metric)} on the test split, {_SENSITIVITY_NOTE}"]
    said += [_RUNG_NOTE] if any(result.plan.rung_epochs for result in results) else []
    note = " ".join([*said, *_edge_note(results)])
    return table("sensitivity", "Sensitivity to the rate", headings, lines, text=("optimizer", "note"), note=note)


def _sensitivity_line(result: SearchResult, found: Sensitivity) -> list[Cell | str]:
    stable = found.edge_rate == result.rates.max()
    edge = _at_least(found.edge_rate, ".3g", stable)
    lost = result.diverged.sum() == result.test.size
    if lost or (found.best - result.chance) * (-1 if result.lower else 1) <= 0:
        note = _note(result, "every run diverged" if lost else "no rate above chance")
        none = Cell("–")
        return [result.name, none, number(found.best, ".2f"), none, none, none, edge, none, none, note]
    cut = _cuts_plateau(result, found.best)
    return [
        result.name, number(found.best_rate, ".3g"), number(found.best, ".2f"), number(found.peak_rate, ".3g"),
        _at_least(found.plateau_decades, ".2f", cut), number(found.sensitivity, ".2f"), edge,
        _at_least(found.margin_decades, ".2f", stable), number(found.regret_at_default, ".2f"),
        _note(result, "best at an end of the rates tried" if found.at_edge else "",
              "" if result.diverged.any() else "no run diverged"),
    ]  # fmt: skip


def _cuts_plateau(result: SearchResult, best: float) -> bool:
    """Whether the plateau reaches an end of the rates tried, and so may be wider."""
    ends = result.test.mean(axis=1)[[int(result.rates.argmin()), int(result.rates.argmax())]]
    return bool((abs(ends - best) <= PLATEAU).any())


def _at_least(value: float | None, form: str, bounded: bool) -> Cell:
    """A number, with a sign where it is only known not to be less."""
    return number(value, form) if value is None or not bounded else Cell(f"≥ {value:{form}}", value)
