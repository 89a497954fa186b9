"""An ablation in words and as a table for the terminal: the answer to "does it change which optimizer wins?" first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.ablation import Ablation
from bench.comparison import Comparison
from bench.comparison_text import listed, open_levels, table, told_difference
from bench.wording import counted, seeds_text

if TYPE_CHECKING:
    from rich.console import Group

LEGEND = (
    "A without, B with it: means over the shared seeds, a diverged run at chance; B − A with its 95 % interval, paired "
    "by seed, in parentheses where a run diverged; p: Holm over the optimizers; ok: runs in A and in B; time: B's "
    "training time over A's, median over seeds. Settings are the same in A and B: nothing was tuned for B."
)


def sentences(found: Ablation) -> list[str]:
    """The ranking first, then each optimizer's effect, then whose effects differ."""
    compared = found.comparison
    if not compared.compares_levels:
        return [f"{found.technique}: no seed was finished both with and without it; nothing can be said."]
    return [_ranking(compared), *_best(compared), *_effects(compared), *_gains(found)]


def _ranking(found: Comparison) -> str:
    """Whether the order of the optimizers changes, as far as it is resolved."""
    ranked = sum(entry.rank_a is not None for entry in found.entries)
    orders, pairs = found.orders, ranked * (ranked - 1) // 2
    if orders is None:
        return "Ranking: cannot be told; that takes two optimizers and two seeds that all of them finished."
    if orders.reversed:
        told = (f"{better} above {worse} without, below with it" for better, worse in orders.reversed)
        return f"Ranking: it changes. Significant both times: {listed(told, '; ')}."
    if not orders.agreed:
        return f"Ranking: cannot be told; of {counted(pairs, 'pair')} none is resolved both times."
    kept = f"{orders.agreed} of {counted(pairs, 'pair')} are resolved both times, in the same order"
    once = len(orders.only_a) + len(orders.only_b)
    if not once and orders.agreed == pairs:
        return "Ranking: it does not change; all pairs are resolved both times, in the same order."
    open_pairs = f"; {once} in one of the two alone" if once else ""
    return f"Ranking: no change found; {kept}{open_pairs}."


def _best(found: Comparison) -> list[str]:
    if found.orders is None:
        return []
    before, after = ("{" + ", ".join(best) + "}" for best in (found.orders.best_a, found.orders.best_b))
    same = set(found.orders.best_a) == set(found.orders.best_b)
    return [f"Best set both times: {before}." if same else f"Best set without: {before}; with: {after}."]


def _effects(found: Comparison) -> list[str]:
    levels = [(entry.name, entry.level) for entry in found.entries if entry.level]
    said = []
    for better, word in ((True, "Helps"), (False, "Harms")):
        if told := [told_difference(name, level) for name, level in levels if level.better is better]:
            said.append(f"{word}: {listed(told, '; ')}.")
    if same := [name for name, level in levels if level.identical]:
        said.append(f"Nothing changes, to the last bit: {listed(same)}.")
    if alike := [name for name, level in levels if level.equivalent and not level.identical]:
        said.append(f"Equivalent within {found.margin:.3g}, each tested on its own: {listed(alike)}.")
    return [*said, *open_levels(levels)]


def _gains(found: Ablation) -> list[str]:
    """Whose effects differ: an optimizer may gain more than another although their order stays."""
    if not found.gains_tested:
        return []
    if not found.gains_differ:
        return [f"No two optimizers gain differently from it, as far as {_seeds(found.comparison)} tell."]
    told = (f"{gain.more} than {gain.less} by {gain.difference:.3g} [{gain.ci95[0]:.3g}, {gain.ci95[1]:.3g}]"
            for gain in found.gains_differ)  # fmt: skip
    return [f"Gains more from it: {listed(told, '; ')}."]


def _seeds(found: Comparison) -> str:
    return seeds_text(found.shared_seeds)


def view(found: Sequence[Ablation]) -> Group:
    """For each technique its sentences, then a row an optimizer, for 80 columns."""
    from rich.console import Group
    from rich.text import Text

    parts: list[object] = []
    for each in found:
        a = each.comparison.a
        heading = f"{each.technique} — on {a.protocol} ({a.protocol_hash}), {_seeds(each.comparison)}, {a.metric}"
        parts += [Text(heading, style="bold"), *(Text(line) for line in sentences(each)), Text()]
        parts += [table(each.comparison), Text()]
    return Group(*parts, Text(LEGEND, style="dim"))  # pyright: ignore[reportArgumentType]
