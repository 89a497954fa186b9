"""Learning-rate schedules: pure functions of (step, total)."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate_factor(schedule: Literal["constant", "cosine"], step: int, total_steps: int) -> float:
    """The factor on the rate at `step` (from 0) of `total_steps`; cosine falls from 1 to 0 after the last step."""
    if schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * step / total_steps)) / 2
