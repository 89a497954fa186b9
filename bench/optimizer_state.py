"""An optimizer's state as plain data and tensors, from which a fresh one goes on with the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def plain_attributes(optimizer: Optimizer) -> dict[str, Any]:
    """Numbers, texts and tensors that an optimizer keeps on itself, such as a count of its steps."""
    return {
        name: value
        for name, value in vars(optimizer).items()
        if value is None or type(value) in (bool, int, float, str, Tensor)
    }


def restore_optimizer(
    optimizer: Optimizer, state: Mapping[str, Any], attributes: Mapping[str, Any], device: torch.device
) -> None:
    """Put its `state_dict` back, with the types that it had, and its plain attributes."""
    optimizer.load_state_dict(dict(state))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    # torch turns all tensors but those named step into the parameter's type: counts and averages of another one.
    for i, p in enumerate(parameters):
        own = optimizer.state.get(p, {})
        for name, value in state.get("state", {}).get(i, {}).items():
            if isinstance(value, Tensor) and isinstance(own.get(name), Tensor) and own[name].dtype != value.dtype:
                own[name] = value.to(own[name].device)
    for name, value in attributes.items():
        setattr(optimizer, name, value.to(device) if isinstance(value, Tensor) else value)
