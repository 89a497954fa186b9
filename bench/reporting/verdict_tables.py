"""The verdict as tables: a row an entry, and a row a pair."""

from __future__ import annotations

from bench.reporting.document import Cell, Table, number, table
from bench.statistics.verdict import PairVerdict, Verdict
from bench.verdict_text import RANK_LEGEND, cells

PAIRS_SHOWN = 60
_PAIR_NOTE = (
    "Difference: first minus second, in the metric's own unit, with its 95 % interval; Holm: p corrected for all "
    "pairs; P(better): share of seeds on which the first is better, ties half; different: Holm's p is at most the "
    "family-wise error; equivalent: by two one-sided tests, within the margin named above."
)


def entries(verdict: Verdict) -> Table:
    """Rank interval, letters, mean and interval of every entry."""
    headings = ["optimizer", "rank", "letters", "mean", "95 %", "mean rank", "ok"]
    lines = []
    for entry in verdict.entries:
        name, rank, letters, mean, interval, mean_rank, ok = cells(entry)
        lines.append([
            name, Cell(rank, order=entry.tier), letters, Cell(mean, entry.mean), Cell(interval, order=entry.mean),
            Cell(mean_rank, entry.mean_rank), Cell(ok, order=entry.success.rate),
        ])  # fmt: skip
    return table("verdict", "What the data support", headings, lines, text=("optimizer", "letters"), note=RANK_LEGEND)


def pairs(verdict: Verdict, most: int | None = PAIRS_SHOWN) -> Table:
    """Every comparison; of more than `most` those of smallest p."""
    kept = sorted(verdict.pairs, key=lambda pair: pair.p)[:most]
    shown = verdict.pairs if len(kept) == len(verdict.pairs) else kept
    left_out = len(verdict.pairs) - len(shown)
    note = f"{_PAIR_NOTE} {left_out} pairs of larger p are in tables/pairs.csv alone." if left_out else _PAIR_NOTE
    headings = ["first", "second", "difference", "95 %", "t", "p", "Holm", "P(better)", "verdict"]
    lines = [_pair(pair) for pair in shown]
    return table("pairs", "Every pair, on the same seeds", headings, lines, text=("first", "second", "verdict"),
                 note=note)  # fmt: skip


def _pair(pair: PairVerdict) -> list[Cell]:
    low, high = pair.ci95 or (None, None)
    interval = "–" if low is None or high is None else f"{low:+.3g} to {high:+.3g}"
    word = "different" if pair.significant else "equivalent" if pair.equivalent else "not told apart"
    return [
        Cell(pair.a), Cell(pair.b), number(pair.difference, "+.3g"), Cell(interval, order=low), number(pair.t, ".3g"),
        number(pair.p, ".2g"), number(pair.p_holm, ".2g"), number(pair.poi, ".2f"), Cell(word),
    ]  # fmt: skip


def informative(verdict: Verdict) -> list[str]:
    """Figures that decide nothing: Friedman's test and what the pairing of seeds gained."""
    said = []
    if verdict.friedman is not None:
        found = verdict.friedman
        said.append(f"Friedman's test over all entries: p = {found.p_exact:.3g} within seeds, Kendall's W = "
                    f"{found.kendall_w:.2f}; informative, the pairs do not need it.")  # fmt: skip
    if verdict.pairing is not None:
        said.append(f"Pairing: scores of one seed correlate with ρ = {verdict.pairing.rho:.2f} over optimizers, worth "
                    f"{verdict.pairing.gain:.1f} times the seeds.")  # fmt: skip
    return said
