"""A plan of seeds in words and as tables for the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench.seed_planning import SeedPlan
from bench.statistics.pairs import smallest_sign_flip_p

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

ROUGH = 1.5  # an upper factor of the sd beyond which numbers of seeds are more than doubled
MOST_SHOWN = 15  # open pairs; --json has more
LEGEND = (
    "seeds: * the observed; differences that so many seeds find with this power: at the median / the largest spread of "
    "the pairs; least p: of a sign-flip or Wilcoxon test."
)
HOURS_LEGEND = "hours: of all runs for the seeds beyond the observed, one after the other."
PAIRS_LEGEND = (
    "seeds: that tell the pair apart, if the true difference is the observed one, or the one asked about; at the "
    "correction's first step, hence rather too many."
)


def sentences(plan: SeedPlan) -> list[str]:
    """What the seeds there are can find, what more would, and how sure that is."""
    return [*_spread(plan), _now(plan), *_asked(plan), *_sign_flip(plan), *_left_out(plan)]


def _spread(plan: SeedPlan) -> list[str]:
    low, high = plan.sd_factor
    worst = " and ".join(plan.worst_pair)
    spread = (
        f"a paired difference has a standard deviation of {_points(plan, plan.median_sd)}"
        if plan.median_sd == plan.worst_sd
        else f"paired differences have a standard deviation of {_points(plan, plan.median_sd)} at the median of the "
        f"pairs, at most {plan.worst_sd:.3g} ({worst})"
    )
    rough = ": take what follows as orders of magnitude" if high > ROUGH else ""
    known = f"Each is known within a factor of {low:.2g} to {high:.2g} (95 %) from {plan.n_seeds} seeds{rough}."
    return [f"{plan.n_seeds} seeds of {plan.entries} entries: {spread}.", known]


def _now(plan: SeedPlan) -> str:
    row = next(row for row in plan.table if row.n == plan.n_seeds)
    found = ", ".join(f"{difference:.3g} in {plan.families[m]}" for m, difference in row.median.items())
    unit = f" {plan.unit}" * bool(plan.unit)
    return f"With power {plan.question.power:g} these seeds find a difference{unit and f' in{unit}'} of {found}."


def _asked(plan: SeedPlan) -> list[str]:
    asked, seeds = plan.question.difference, plan.seeds_for_difference
    if asked is None or seeds is None:
        return []
    at = " and ".join(
        f"{_seeds(n)} at the {which} spread{_cost(plan, n)}"
        for n, which in zip(seeds, ("median", "largest"), strict=True)
    )
    return [f"A difference of {_points(plan, asked)} in {plan.families[plan.comparisons]} takes {at}."]


def _cost(plan: SeedPlan, seeds: int | None) -> str:
    """How many more seeds, and their hours where times are known."""
    if seeds is None:
        return ""
    more = seeds - plan.n_seeds
    if more <= 0:
        return " (there already)"
    hours = "" if plan.seconds_per_seed is None else f", {_hours(more * plan.seconds_per_seed / 3600)} h of runs"
    return f" ({more} more{hours})"


def _sign_flip(plan: SeedPlan) -> list[str]:
    level = plan.question.alpha / plan.comparisons
    least = smallest_sign_flip_p(plan.n_seeds)
    if least <= level:
        return []
    needed = math.ceil(1 - math.log2(level))
    corrected = f"Corrected for {plan.comparisons} comparisons, no" if plan.comparisons > 1 else "No"
    return [f"{corrected} sign-flip or Wilcoxon test can be significant: its least p is {least:.2g}; the fewest seeds "
            f"that could are {needed}."]  # fmt: skip


def _left_out(plan: SeedPlan) -> list[str]:
    said = []
    if plan.left_out:
        said.append(f"Left out of the spread, because runs diverged: {', '.join(plan.left_out)}.")
    if not plan.open_pairs:
        said.append("Every other pair is told apart already." if plan.left_out else "Every pair is told apart already.")
    return said


def _points(plan: SeedPlan, difference: float) -> str:
    return f"{difference:.3g} {plan.unit.rstrip('s') if difference == 1 else plan.unit}".rstrip()


def _seeds(n: int | None) -> str:
    return "more than 100,000 seeds" if n is None else f"{n} seeds"


def _hours(hours: float) -> str:
    return f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"


def view(plan: SeedPlan) -> Group:
    """Sentences, the table by number of seeds, and the pairs that are open, for 80 columns."""
    from rich.console import Group
    from rich.text import Text

    legend = LEGEND if plan.seconds_per_seed is None else f"{LEGEND} {HOURS_LEGEND}"
    parts = [*map(Text, sentences(plan)), Text(), _by_seeds(plan), Text(legend, style="dim")]
    if plan.open_pairs:
        more = len(plan.open_pairs) + plan.more_open_pairs - MOST_SHOWN
        note = f"{PAIRS_LEGEND} {more} more pairs are open." if more > 0 else PAIRS_LEGEND
        parts += [Text(), _pairs(plan), Text(note, style="dim")]
    return Group(*parts)


def _by_seeds(plan: SeedPlan) -> Table:
    shown = _table()
    timed = plan.seconds_per_seed is not None
    for heading in ("seeds", *plan.families.values(), "least p", *["hours"] * timed):
        shown.add_column(heading, justify="right", overflow="fold")
    for row in plan.table:
        observed = row.n == plan.n_seeds
        found = (f"{row.median[m]:.3g} / {row.worst[m]:.3g}" for m in plan.families)
        hours = [_hours(row.hours) if row.hours else "–"] if timed else []
        shown.add_row(f"{row.n}{'*' * observed}", *found, f"{row.smallest_sign_flip_p:.2g}", *hours,
                      style="bold" if observed else "")  # fmt: skip
    return shown


def _pairs(plan: SeedPlan) -> Table:
    from rich.text import Text

    asked = plan.question.difference
    shown = _table()
    shown.add_column("open pair", overflow="fold")
    for heading in ("difference", "sd", "seeds", *([] if asked is None else [f"for {asked:g}"])):
        shown.add_column(heading, justify="right", no_wrap=True)
    for pair in plan.open_pairs[:MOST_SHOWN]:
        shown.add_row(
            Text(f"{pair.a}, {pair.b}"), f"{pair.difference:+.3g}", f"{pair.sd:.3g}",
            _count(pair.for_observed) if pair.difference else "–", *([] if asked is None else [_count(pair.for_asked)]),
        )  # fmt: skip
    return shown


def _count(n: int | None) -> str:
    return ">100,000" if n is None else f"{n:,}"


def _table() -> Table:
    from rich.table import Table

    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
