"""How measurements are shown in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def measured_table(title: str, first: str, *headings: str) -> Table:
    """An empty table: names in its first column, figures in the others."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    table.min_width = len(title) + 1  # which would wrap otherwise
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
