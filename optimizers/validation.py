"""Checks of hyper-parameters: each raises ValueError that names the optimizer, the value found and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _refuse(owner: str, name: str, value: Any, allowed: str) -> ValueError:
    return ValueError(f"{owner}: {name} is {value!r}; allowed: {allowed}")


def require_number(
    owner: str, name: str, value: Any, *, at_least: float = 0.0, at_most: float = math.inf, below: float = math.inf
) -> None:
    """A finite number with at_least <= value <= at_most and value < below."""
    if not _is_number(value) or not at_least <= value <= at_most or not value < below:
        upper = f" and < {below:g}" if below < math.inf else f" and <= {at_most:g}" if at_most < math.inf else ""
        raise _refuse(owner, name, value, f"a finite number >= {at_least:g}{upper}")


def require_integer(owner: str, name: str, value: Any, *, at_least: int = 0) -> None:
    """A whole number with value >= at_least."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < at_least:
        raise _refuse(owner, name, value, f"an integer >= {at_least}")


def require_choice(owner: str, name: str, value: Any, choices: Sequence[str | bool | None]) -> None:
    """One of `choices`, and of the same type: 1 does not pass for True."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise _refuse(owner, name, value, f"one of {list(choices)}")


def require_betas(owner: str, value: Any) -> None:
    """A pair of averaging factors, each with 0 <= beta < 1."""
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    if not pair or not all(_is_number(beta) and 0.0 <= beta < 1.0 for beta in value):
        raise _refuse(owner, "betas", value, "two finite numbers, each >= 0 and < 1")


def require_factors(owner: str, name: str, value: Any, *, count: int) -> None:
    """`count` finite numbers >= 0."""
    fits = isinstance(value, (tuple, list)) and len(value) == count
    if not fits or not all(_is_number(factor) and factor >= 0 for factor in value):
        raise _refuse(owner, name, value, f"{count} finite numbers >= 0")


def require_range(owner: str, name: str, value: Any) -> None:
    """A pair (low, high) with 0 <= low <= high."""
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    if not pair or not all(_is_number(bound) for bound in value) or not 0.0 <= value[0] <= value[1]:
        raise _refuse(owner, name, value, "two finite numbers (low, high) with 0 <= low <= high")


def require_adam_settings(owner: str, group: dict[str, Any]) -> None:
    """The four settings that every optimizer built on Adam's moments has."""
    require_number(owner, "lr", group["lr"])
    require_betas(owner, group["betas"])
    require_number(owner, "eps", group["eps"])
    require_number(owner, "weight_decay", group["weight_decay"])


def require_floating_point(owner: str, parameters: Sequence[torch.Tensor]) -> None:
    """Parameters of a real floating-point dtype."""
    for parameter in parameters:
        if not parameter.is_floating_point():
            raise _refuse(owner, "a parameter's dtype", parameter.dtype, "real floating-point dtypes")
