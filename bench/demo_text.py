"""The answer to a query in a terminal of 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.demo import Answer, Match

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

BELONGS = {True: "yes", False: "no", None: "–"}


def view(answer: Answer) -> Group:
    """The query, and a table of each modality's nearest items."""
    from rich.console import Group
    from rich.text import Text

    head, query = answer.weights.head, answer.query
    what = f"item {query.item} of the test split" if query.item is not None else repr(query.source)
    seen = f", as the network sees it: {answer.asked.text!r}" if answer.asked.text not in (None, query.source) else ""
    parts: list[RenderableType] = [
        Text(f"{head.protocol.name} ({head.protocol.hash}): {answer.name} weights, epoch {head.epoch}", style="bold"),
        Text(f"query: {query.modality}, {what}{seen}"),
    ]
    for modality, found in answer.matches.items():
        place = f"; the first that belongs is at place {answer.places[modality]}" if modality in answer.places else ""
        parts += [Text(f"\n{modality}, nearest of {answer.pools[modality]}{place}", style="bold"), _table(found)]
    return Group(*parts)


def _table(found: list[Match]) -> Table:
    from rich.table import Table
    from rich.text import Text

    view = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="underline")
    for heading in ("", "item", "similarity", "match"):
        view.add_column(heading, justify="right", no_wrap=True)
    view.add_column("text", overflow="fold")
    for place, match in enumerate(found, 1):
        text = match.thing.text if match.thing.text is not None else match.caption or ""
        copies = f" ({match.copies} alike)" if match.copies > 1 else ""
        view.add_row(str(place), str(match.item), f"{match.similarity:.3f}", BELONGS[match.belongs],
                     Text(f"{text}{copies}"))  # fmt: skip
    return view
