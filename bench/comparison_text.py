"""A comparison of two studies in words and as a table for the terminal: no more than the data support."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bench.comparison import Comparison, EntryComparison, Level, Orders
from bench.record import Outcome
from bench.wording import counted, seeds_text

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

LEAST_P = 0.001
MOST_ITEMS = 8  # of one kind in a sentence; --json has them all
LEVEL_LEGEND = (
    "A, B: means over the shared seeds, a diverged run at chance; B − A with its 95 % interval, paired by seed, in "
    "parentheses where a run diverged; p: Holm over the optimizers; ok: runs in A and in B; time: B's training time "
    "over A's, median over seeds, a description."
)
ORDER_LEGEND = "rank: an interval that holds the rank among the shared optimizers; ok: runs that are ok of all."


def sentences(found: Comparison) -> list[str]:
    """The answer first: what is compared, levels, health, orders, then what changed."""
    return [
        *_scope(found), *_levels(found), *_health(found.entries), *_orders(found), *_blocks(found),
        *_configurations(found), *_unmatched(found),
    ]  # fmt: skip


def _scope(found: Comparison) -> list[str]:
    a, b, one = found.a, found.b, found.a.protocol_hash == found.b.protocol_hash
    if found.differences:
        what = "Data" if one else f"Protocols ({a.protocol_hash}, {b.protocol_hash})"
        told = listed(map(str, found.differences), "; ")
        return [f"{what} differ, so levels are not compared, only orders: {told}."]
    shared = seeds_text(found.shared_seeds) if found.shared_seeds else "no seed"
    optimizers = counted(len(found.entries), "optimizer")
    said = f"A and B follow one protocol ({a.protocol} {a.protocol_hash}) and share {optimizers} and {shared}."
    if found.compares_levels:
        return [said]
    return [said, "Without a seed that both finished levels cannot be paired and are not compared, only orders."]


def _levels(found: Comparison) -> list[str]:
    levels = [(entry.name, entry.level) for entry in found.entries if entry.level]
    said = []
    for better, word in ((True, "Better in B"), (False, "Worse in B")):
        if told := [told_difference(name, level) for name, level in levels if level.better is better]:
            said.append(f"{word}: {listed(told, '; ')}.")
    if same := [name for name, level in levels if level.identical]:
        who = f"all {len(same)}" if len(same) == len(found.entries) > 1 else listed(same)
        said.append(f"Identical, outcome, metrics and loss of every shared run to the last bit: {who}.")
    if alike := [name for name, level in levels if level.equivalent and not level.identical]:
        said.append(f"Equivalent within {found.margin:.3g}, each tested on its own: {listed(alike)}.")
    return [*said, *open_levels(levels)]


def open_levels(levels: Sequence[tuple[str, Level]]) -> list[str]:
    """Where nothing was found, and what it leaves possible."""
    undecided = [(n, x) for n, x in levels if x.better is None and not (x.identical or x.equivalent)]
    said = []
    if tested := [(name, level.ci95) for name, level in undecided if level.ci95 and level.reliable]:
        most = max(max(map(abs, interval)) for _, interval in tested)
        said.append(f"No difference found: {listed(name for name, _ in tested)}; up to {most:.3g} remains possible.")
    if failing := [name for name, level in undecided if level.ci95 and not level.reliable]:
        said.append(f"Open, with an interval that diverged runs make unreliable: {listed(failing)}.")
    if single := [name for name, level in undecided if level.n == 1]:
        said.append(f"One shared seed is a description, nothing is tested: {listed(single)}.")
    return said


def told_difference(name: str, level: Level) -> str:
    assert level.ci95 is not None and level.p_holm is not None
    interval = ", ".join(f"{_number(end):.3g}" for end in level.ci95)
    sign = "" if level.p_holm < LEAST_P else "= "
    return f"{name} {_number(level.difference):+.3g} [{interval}] (Holm p {sign}{_p(level.p_holm)})"


def _health(entries: Sequence[EntryComparison]) -> list[str]:
    """Worsened runs first."""
    told: dict[bool, list[str]] = {True: [], False: []}
    for entry in entries:
        for a, b in dict.fromkeys((change.a, change.b) for change in entry.outcomes):
            seeds = [change.seed for change in entry.outcomes if (change.a, change.b) == (a, b)]
            told[a is Outcome.OK].append(f"{entry.name} {_words(a)} → {_words(b)} on {seeds_text(seeds)}")
    said = [f"Failing in B: {listed(told[True], '; ')}."] if told[True] else []
    return [*said, f"Other outcomes: {listed(told[False], '; ')}."] if told[False] else said


def _words(outcome: Outcome) -> str:
    return outcome.replace("_", " ")


def _orders(found: Comparison) -> list[str]:
    orders = found.orders
    if orders is None:
        return ["Orders are not compared: that takes two shared optimizers, and in both studies two seeds that all of "
                "them finished."]  # fmt: skip
    tau, weighted = ("undefined" if x is None else f"{x:.2f}" for x in (orders.tau, orders.weighted_tau))
    ranked = sum(entry.rank_a is not None for entry in found.entries)
    return [f"Orders of the {ranked} by mean: Kendall's τ {tau}, weighted to the top {weighted}.",
            *_best(orders), *_pairs(orders)]  # fmt: skip


def _best(orders: Orders) -> list[str]:
    a, b = ("{" + ", ".join(best) + "}" for best in (orders.best_a, orders.best_b))
    if set(orders.best_a) == set(orders.best_b):
        return [f"The best set is {a} in both."]
    return [f"Best set in A ({orders.seeds_a} seeds): {a}; in B ({orders.seeds_b} seeds): {b}."]


def _pairs(orders: Orders) -> list[str]:
    if orders.reversed:
        told = (f"{better} above {worse} in A, below in B" for better, worse in orders.reversed)
        said = [f"Reversed, significant in both: {listed(told, '; ')}."]
    elif orders.agreed:
        said = [f"{orders.agreed} pairs are resolved in both, none of them reversed."]
    else:
        said = ["No pair is resolved in both."]
    for study, pairs in (("A", orders.only_a), ("B", orders.only_b)):
        if pairs:
            said.append(f"Resolved in {study} alone: {listed((f'{x} > {y}' for x, y in pairs), '; ')}.")
    return said


def _blocks(found: Comparison) -> list[str]:
    if not found.other_blocks:
        return []
    where = seeds_text(found.other_blocks)
    return [f"Initial weights or batches are not the same on {where}: pairing gains little there."]


def _configurations(found: Comparison) -> list[str]:
    settings = [f"{entry.name} {listed(map(str, entry.changes))}" for entry in found.entries if entry.changes]
    told = {"settings": settings, "environment": list(map(str, found.environment))}
    return [f"Changed {what}: {listed(changes, '; ')}." for what, changes in told.items() if changes]


def _unmatched(found: Comparison) -> list[str]:
    names = {"A": found.only_a, "B": found.only_b}
    return [f"Only in {study}: {listed(only)}." for study, only in names.items() if only]


def listed(items: Iterable[str], separator: str = ", ") -> str:
    items = list(items)
    more = f"{separator}{len(items) - MOST_ITEMS} more" if len(items) > MOST_ITEMS else ""
    return separator.join(items[:MOST_ITEMS]) + more


def _p(p: float) -> str:
    return f"<{LEAST_P:g}" if p < LEAST_P else f"{p:.2g}"


def _number(points: float) -> float:
    """To two decimals: a step of the metrics is larger."""
    return round(points, 2) + 0.0


def view(found: Comparison) -> Group:
    """Sentences, then a row an optimizer, for 80 columns."""
    from rich.console import Group
    from rich.text import Text

    heads = (f"{side}: {of.study}, protocol {of.protocol} {of.protocol_hash}, {counted(of.optimizers, 'optimizer')}, "
             f"{seeds_text(of.seeds)}" for side, of in (("A", found.a), ("B", found.b)))  # fmt: skip
    legend = LEVEL_LEGEND if found.compares_levels else ORDER_LEGEND
    return Group(*(Text(line, style="dim") for line in heads), *(Text(line) for line in sentences(found)), Text(),
                 table(found), Text(legend, style="dim"))  # fmt: skip


def table(found: Comparison) -> Table:
    from rich.table import Table
    from rich.text import Text

    headings, cells = (
        (("A", "B", "B − A", "95 %", "p", "ok", "time"), _level_cells)
        if found.compares_levels
        else (("rank in A", "rank in B", "ok in A", "ok in B"), _order_cells)
    )
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("optimizer", overflow="fold")
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    for entry in found.entries:
        shown.add_row(Text(entry.name), *cells(entry))
    return shown


def _level_cells(entry: EntryComparison) -> list[str]:
    level, time = entry.level, "–" if entry.time_ratio is None else f"×{entry.time_ratio:.2f}"
    ok = f"{entry.ok_a[0]}/{entry.ok_a[1]} {entry.ok_b[0]}/{entry.ok_b[1]}"
    if level is None:
        return ["–", "–", "–", "–", "–", ok, time]
    means = [f"{level.mean_a:.4g}", f"{level.mean_b:.4g}"]
    if level.identical:
        return [*means, "0", "identical", "–", ok, time]
    interval = "–" if level.ci95 is None else " to ".join(f"{_number(end):.3g}" for end in level.ci95)
    p = "–" if level.p_holm is None else _p(level.p_holm)
    return [*means, f"{_number(level.difference):+.3g}", interval if level.reliable else f"({interval})", p, ok, time]


def _order_cells(entry: EntryComparison) -> list[str]:
    def rank(interval: tuple[int, int] | None) -> str:
        return "–" if interval is None else "–".join(dict.fromkeys(map(str, interval)))

    return [rank(entry.rank_a), rank(entry.rank_b), *(f"{ok}/{n}" for ok, n in (entry.ok_a, entry.ok_b))]
