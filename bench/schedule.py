"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "cosine"]


def learning_rate_factor(schedule: Schedule, step: int, total_steps: int, warmup_steps: int = 0) -> float:
    """The factor on the rate at `step` (from 0) of `total_steps`.

    It rises linearly to 1 over `warmup_steps`; then it stays there, or falls along a half cosine to 0 at the end.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2
