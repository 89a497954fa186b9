"""A verdict in words and as a table for the terminal: no more than the data support.

"Best" needs a best set of one, "equivalent" an equivalence test; everything else is "not told apart".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.statistics.verdict import EntryVerdict, Verdict

if TYPE_CHECKING:
    from rich.console import Group

RANK_LEGEND = (
    "rank: an interval that holds the rank, jointly for all entries; entries that share a letter are not told apart; "
    "95 %: of the mean, in parentheses where runs diverged."
)
DESCRIPTIVE_SEEDS = 3  # up to here intervals are so wide that no ranking is claimed


def sentences(verdict: Verdict) -> list[str]:
    """The answer first, then what remains open and what the runs say besides."""
    if len(verdict.entries) == 1:
        return [f"{verdict.entries[0].name} alone: there is nothing to compare it with."]
    said = [*_answer(verdict), *_open(verdict), *_equivalence(verdict), *_failures(verdict)]
    if verdict.n_seeds <= DESCRIPTIVE_SEEDS:
        said.append(f"{verdict.n_seeds} seeds are a description, no ranking; 5 are the standard, 10 for publication.")
    if verdict.dropped_seeds:
        said.append(f"{verdict.dropped_seeds} seeds were left out for all, because a score is missing.")
    return said


def _answer(verdict: Verdict) -> list[str]:
    best = verdict.best_set
    certainty = f"family-wise error {verdict.options.alpha:g}, {verdict.n_seeds} seeds"
    if len(best) == len(verdict.entries):
        return [f"No entry is told apart from the best ({certainty})."]
    if len(best) == 1:
        return [f"{best[0]} is the best ({certainty})."]
    return [f"Best set: {{{', '.join(best)}}} ({certainty}); any of them may be the best."]


def _open(verdict: Verdict) -> list[str]:
    said = []
    if verdict.mde is not None:
        said.append(f"Differences up to {verdict.mde:.3g} remain possible between entries that share a letter "
                    f"(power {verdict.options.power:g}).")  # fmt: skip
    unresolved = [pair for pair in verdict.pairs if not pair.significant]
    if unresolved and verdict.seeds_needed is not None and unresolved[0] is verdict.pairs[0]:
        pair, more = unresolved[0], verdict.seeds_needed - verdict.n_seeds
        if more > 0:
            said.append(f"If their difference is the {abs(pair.difference):.3g} seen here, {more} more seeds would "
                        f"tell {pair.a} from {pair.b}.")  # fmt: skip
    return said


def _equivalence(verdict: Verdict) -> list[str]:
    alike = [f"{pair.a} and {pair.b}" for pair in verdict.pairs if pair.equivalent]
    margin = verdict.options.margin
    return [f"Equivalent within {margin:.3g}, each pair tested on its own: {'; '.join(alike)}."] if alike else []


def _failures(verdict: Verdict) -> list[str]:
    said = []
    for entry in verdict.entries:
        success = entry.success
        if success.successes < success.n:
            low, high = success.ci95
            said.append(f"{entry.name} finished {success.successes} of {success.n} runs (rate {low:.0%} to "
                        f"{high:.0%}); its interval of the mean is unreliable.")  # fmt: skip
    if not said:
        least = verdict.entries[0].success
        said.append(f"No run diverged; with {least.n} seeds a rate up to {least.failure_rate_below:.0%} is possible.")
    return said


def table(verdict: Verdict, said: Sequence[str]) -> Group:
    """Sentences, then a row an entry, for 80 columns."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    shown.add_column("entry", overflow="fold")
    for heading in ("rank", "letters", "mean", "95 %", "mean rank", "ok"):
        shown.add_column(heading, justify="left" if heading == "letters" else "right", no_wrap=True)
    for entry in verdict.entries:
        shown.add_row(*(escape(cell) for cell in cells(entry)), style="bold" if entry.in_best_set else "")
    notes = [f"{RANK_LEGEND} Bold: the best set."]
    if verdict.friedman is not None:
        found = verdict.friedman
        notes.append(
            f"Friedman (informative): p = {found.p_exact:.3g} within seeds, Kendall's W = {found.kendall_w:.2f}"
        )
    return Group(*(Text(line) for line in said), Text(), shown, Text("\n".join(notes), style="dim"))


def cells(entry: EntryVerdict) -> list[str]:
    """Name, rank interval, letters, mean, interval, mean rank, successes."""
    low, high = entry.rank_interval
    interval = "–" if entry.ci95 is None else f"{entry.ci95[0]:.4g} to {entry.ci95[1]:.4g}"
    return [
        entry.name,
        f"{low}" if low == high else f"{low}–{high}",
        entry.letters,
        f"{entry.mean:.4g}",
        interval if entry.reliable else f"({interval})",
        f"{entry.mean_rank:.1f}",
        f"{entry.success.successes}/{entry.success.n}",
    ]
