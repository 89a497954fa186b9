"""Numbers that a command is given."""

from __future__ import annotations

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A range of numbers; NaN, which every comparison lets pass, and infinity are in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


SHARE = FiniteRange(0, 1, min_open=True, max_open=True)
ALPHA = click.option("--alpha", type=SHARE, default=0.05, show_default=True, help="Family-wise error of the tests.")
