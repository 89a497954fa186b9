"""A verdict in words and as a table for the terminal: no more than the data support.

"Best" needs a best set of one, "equivalent" an equivalence test; everything else is "not told apart".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.statistics.power import seeds_needed
from bench.statistics.verdict import EntryVerdict, Verdict
from bench.summary import DESCRIPTIVE_SEEDS
from bench.wording import percent

if TYPE_CHECKING:
    from rich.console import Group

RANK_LEGEND = (
    "rank: an interval that holds the rank, jointly for all entries; entries that share a letter are not told apart; "
    "95 %: of the mean, in parentheses where runs diverged."
)
RANKS_SAID = 12  # entries up to which the sentences name every rank


def sentences(verdict: Verdict, unit: str = "") -> list[str]:
    """The answer first, then what remains open and what the runs say besides; `unit` is that of the scores."""
    if len(verdict.entries) == 1:
        return [f"{verdict.entries[0].name} alone: there is nothing to compare it with."]
    after = f" {unit}" if unit else ""
    said = [*_answer(verdict), *_ranks(verdict), *_open(verdict, after), *_equivalence(verdict, after)]
    said += _failures(verdict)
    if verdict.n_seeds <= DESCRIPTIVE_SEEDS:
        said.append(f"{verdict.n_seeds} seeds are a description, no ranking; 5 are the standard, 10 for publication.")
    if verdict.dropped_seeds:
        left_out = "seed was" if verdict.dropped_seeds == 1 else "seeds were"
        said.append(f"{verdict.dropped_seeds} {left_out} left out for all, because a score is missing.")
    return said


def _answer(verdict: Verdict) -> list[str]:
    best = verdict.best_set
    certainty = f"family-wise error {verdict.options.alpha:g}, {verdict.n_seeds} seeds"
    if len(best) == len(verdict.entries):
        return [f"Not resolved: any of the {len(best)} may be the best ({certainty})."]
    if len(best) == 1 and verdict.n_seeds <= DESCRIPTIVE_SEEDS:
        return [f"{best[0]} is ahead of all others in these runs ({certainty})."]
    if len(best) == 1:
        return [f"{best[0]} is the best ({certainty})."]
    return [f"Best set: {{{', '.join(best)}}} ({certainty}); any of them may be the best."]


def _ranks(verdict: Verdict) -> list[str]:
    """Entries with the same rank interval together, in the order of display."""
    silent = len(verdict.entries) > RANKS_SAID or verdict.n_seeds <= DESCRIPTIVE_SEEDS
    if silent or len(verdict.best_set) == len(verdict.entries):
        return []
    groups: dict[tuple[int, int], list[str]] = {}
    for entry in verdict.entries:
        groups.setdefault(entry.rank_interval, []).append(entry.name)
    said = [f"{', '.join(names)} {rank_text(*interval)}" for interval, names in groups.items()]
    return [f"Ranks, {percent(1 - verdict.options.alpha)} jointly: {'; '.join(said)}."]


def rank_text(low: int, high: int) -> str:
    """`1` or `1–3`."""
    return f"{low}" if low == high else f"{low}–{high}"


def _open(verdict: Verdict, unit: str) -> list[str]:
    """What remains possible between entries not told apart, and the fewest seeds that would tell the first from one."""
    said = []
    alike = [pair for pair in verdict.pairs if not pair.significant and pair.ci95 is not None]
    if alike:
        most = max(abs(end) for pair in alike for end in pair.ci95 or ())
        said.append(f"Differences up to {most:.3g}{unit} remain possible between entries that share a letter.")
    if verdict.mde is not None:
        said.append(f"These seeds find a difference of {verdict.mde:.3g}{unit} between two entries with probability "
                    f"{verdict.options.power:g}, at the median spread of the pairs.")  # fmt: skip
    first = verdict.entries[0].name
    open_pairs = [p for p in verdict.pairs if first in (p.a, p.b) and not p.significant and not p.equivalent]
    settings = {"alpha": verdict.options.alpha, "power": verdict.options.power}
    needed = [(seeds_needed(p.effect_size, len(verdict.pairs), **settings), p) for p in open_pairs if p.effect_size]
    found = min(((n, p) for n, p in needed if n is not None), key=lambda item: item[0], default=None)
    if found is not None and (more := found[0] - verdict.n_seeds) > 0:
        other = found[1].b if found[1].a == first else found[1].a
        said.append(f"If the difference of {abs(found[1].difference):.3g}{unit} seen here is real, {more} more "
                    f"seed{'s' if more > 1 else ''} would tell {first} from {other}.")  # fmt: skip
    return said


def _equivalence(verdict: Verdict, unit: str) -> list[str]:
    alike = [f"{pair.a} and {pair.b}" for pair in verdict.pairs if pair.equivalent]
    margin = verdict.options.margin
    return [f"Equivalent within {margin:.3g}{unit}, each pair tested on its own: {'; '.join(alike)}."] if alike else []


def _failures(verdict: Verdict) -> list[str]:
    said = []
    for entry in verdict.entries:
        success = entry.success
        if success.successes < success.n:
            low, high = success.ci95
            said.append(f"{entry.name} finished {success.successes} of {success.n} runs (rate {percent(low)} "
                        f"to {percent(high)}); its interval of the mean is unreliable.")  # fmt: skip
    if not said:
        least = verdict.entries[0].success
        said.append(
            f"No run diverged; with {least.n} seeds a rate up to {percent(least.failure_rate_below or 0)} is possible."
        )
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
    interval = "–" if entry.ci95 is None else f"{entry.ci95[0]:.4g} to {entry.ci95[1]:.4g}"
    return [
        entry.name,
        rank_text(*entry.rank_interval),
        entry.letters,
        f"{entry.mean:.4g}",
        interval if entry.reliable else f"({interval})",
        f"{entry.mean_rank:.1f}",
        f"{entry.success.successes}/{entry.success.n}",
    ]
