"""Text on a terminal: what stands in somebody else's files is shown, and steers nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from bench.reporting.printable import printable

if TYPE_CHECKING:
    from rich.console import Console


def say(text: str, *, err: bool = False) -> None:
    """A line on standard output, or on standard error, in which no control sign is left."""
    click.echo(printable(text), err=err)


def screen(*, stderr: bool = False) -> Console:
    """A console whose texts, those of tables and live views included, hold no control signs."""
    from rich.console import Console
    from rich.segment import Segment

    class Screen(Console):
        def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
            for segment in super().render(*arguments, **options):
                clean = segment.control or segment.text.isprintable()
                yield segment if clean else Segment(printable(segment.text), segment.style)

    return Screen(stderr=stderr)
