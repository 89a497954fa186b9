"""The verdict as tables: a row an entry, and a row a pair."""

from __future__ import annotations

from bench.reporting.document import Cell, Table, number, table
from bench.statistics.verdict import PairVerdict, Verdict
from bench.verdict_text import RANK_LEGEND, cells

PAIRS_SHOWN = 60
_INTERVAL = ("95 % from", "95 % to")
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
            name, Cell(rank, parts=entry.rank_interval), letters, Cell(mean, entry.mean),
            Cell(interval, parts=entry.ci95 or ()), Cell(mean_rank, entry.mean_rank),
            Cell(ok, order=entry.success.rate, parts=(entry.success.successes, entry.success.n)),
        ])  # fmt: skip
    parts = {"rank": ("rank from", "rank to"), "95 %": _INTERVAL, "ok": ("ok", "runs")}
    score = verdict.options.chance
    failed = any(not entry.reliable for entry in verdict.entries)
    note = RANK_LEGEND if score is None or not failed else (
        f"{RANK_LEGEND} In these means a run that diverged or ran out of memory counts, with a score of {score:.4g}: "
        "chance, or the worst score of all where chance is not known.")  # fmt: skip
    return table("verdict", "What the data support", headings, lines, text=("optimizer", "letters"), note=note,
                 parts=parts)  # fmt: skip


def pairs(verdict: Verdict, most: int | None = PAIRS_SHOWN) -> Table:
    """Every comparison; of more than `most` those of smallest p."""
    kept = sorted(verdict.pairs, key=lambda pair: pair.p)[:most]
    shown = verdict.pairs if len(kept) == len(verdict.pairs) else kept
    left_out = len(verdict.pairs) - len(shown)
    note = f"{_PAIR_NOTE} {left_out} pairs of larger p are in tables/pairs.csv alone." if left_out else _PAIR_NOTE
    headings = ["first", "second", "difference", "95 %", "t", "p", "Holm", "P(better)", "verdict"]
    lines = [_pair(pair) for pair in shown]
    return table("pairs", "Every pair, on the same seeds", headings, lines, text=("first", "second", "verdict"),
                 note=note, parts={"95 %": _INTERVAL})  # fmt: skip


def _pair(pair: PairVerdict) -> list[Cell]:
    low, high = pair.ci95 or (None, None)
    interval = "–" if low is None or high is None else f"{low:+.3g} to {high:+.3g}"
    word = "different" if pair.significant else "equivalent" if pair.equivalent else "not told apart"
    return [
        Cell(pair.a), Cell(pair.b), number(pair.difference, "+.3g"), Cell(interval, parts=pair.ci95 or ()),
        number(pair.t, ".3g"), number(pair.p, ".2g"), number(pair.p_holm, ".2g"), number(pair.poi, ".2f"), Cell(word),
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
