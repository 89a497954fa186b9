"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Schedule = Literal["constant", "cosine", "linear", "one_cycle", "warmup_stable_decay"]


class ScheduleOptions(BaseModel):
    """The figures of the schedules that have some; factors are on the rate."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    final: float = Field(default=0.0, ge=0, le=1, description="factor at the end of cosine, linear and decay")
    rise: float = Field(default=0.1, gt=0, lt=1, description="share of the steps in which one_cycle rises")
    start_divisor: float = Field(default=25.0, ge=1, description="one_cycle begins at 1 / so much")
    final_divisor: float = Field(default=1e4, ge=1, description="one_cycle ends at its beginning / so much")
    decay: float = Field(default=0.2, gt=0, le=1, description="share of the steps in which warmup_stable_decay falls")


def learning_rate_factor(
    schedule: Schedule,
    step: int,
    total_steps: int,
    warmup_steps: int = 0,
    options: ScheduleOptions = ScheduleOptions(),  # noqa: B008 (frozen)
) -> float:
    """The factor on the rate at `step` (from 0) of `total_steps`.

    It rises linearly to 1 over `warmup_steps`; then it stays there, or falls to `options.final`: along a half cosine or
    a line, which it would reach one step after the last, or along a line over the last share of the steps. One cycle
    has its own rise, and reaches its end at the last step, both along half cosines.
    """
    if schedule == "one_cycle":
        return _one_cycle(step, total_steps, options)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    if schedule == "warmup_stable_decay":
        warmup_steps = max(warmup_steps, total_steps - round(options.decay * total_steps))
    fallen, whole = max(0, step - warmup_steps), max(1, total_steps - warmup_steps)
    remaining = (1 + math.cos(math.pi * fallen / whole)) / 2 if schedule == "cosine" else 1 - fallen / whole
    return options.final + (1 - options.final) * remaining


def _one_cycle(step: int, total_steps: int, options: ScheduleOptions) -> float:
    """Along half cosines from 1 / start divisor to 1 at the end of the rise, to 1 / start / final at the last step.

    Smith and Topin, "Super-Convergence", https://arxiv.org/abs/1708.07120, in the two phases of torch's OneCycleLR.
    """
    first = 1 / options.start_divisor
    last = first / options.final_divisor
    peak = max(0.0, options.rise * total_steps - 1)
    if step < peak:
        start, end, share = first, 1.0, step / peak
    else:
        start, end, share = 1.0, last, (step - peak) / max(1, total_steps - 1 - peak)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
