"""What this folder's own optimizers share: checked settings, the closure, and the choice of parameters to update.

State has the parameter's dtype, as in torch.optim: `load_state_dict` casts floating-point state to it, so wider state
would not survive a round trip bit for bit. Small systems are solved in float32 at least (see `flat.wide`). With
bfloat16 or float16 weights a second moment that decays by 0.999 a step cannot decay at all; keep float32 weights.
"""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT, StateDict

from bench.optimizers.flat import FlatState, Range
from bench.optimizers.validation import require_floating_point


def by_dtype_and_device(pairs: list[tuple[Tensor, Tensor]]) -> Iterable[list[tuple[Tensor, Tensor]]]:
    """Pairs (w, g) in lists of one dtype and one device each."""
    alike: dict[tuple[torch.dtype, torch.device], list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for w, g in pairs:
        alike[w.dtype, w.device].append((w, g))
    return alike.values()


class GroupwiseOptimizer(Optimizer, ABC):
    """An optimizer given by its check of a group's settings and its update of a group.

    A parameter whose gradient is None is left alone: no decay, no state. Gradients are read only.
    """

    @abstractmethod
    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for a group, complete with its defaults, that has a setting outside its range."""

    @abstractmethod
    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        """Update the parameters of `group` that have a gradient: pairs (w, g), at least one."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch.optim, with the group's settings checked; raises ValueError and then does not keep the group."""
        super().add_param_group(param_group)
        try:
            require_floating_point(type(self).__name__, param_group["params"])
            self._check_group(param_group)
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every group; returns the closure's loss, or None without one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if any(g.is_sparse for _, g in pairs):
                raise RuntimeError(f"{type(self).__name__}: found a sparse gradient; only dense gradients are allowed")
            if pairs:
                self._step_group(group, pairs)
        return loss


class FlatOptimizer(GroupwiseOptimizer):
    """An optimizer that keeps the state of a group's parameters in flat vectors and updates them together.

    `PRODUCTS` names those entries of a parameter's state that are inner products: they keep their own dtype.
    """

    PRODUCTS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self._flats: dict[tuple[int, torch.dtype, torch.device], FlatState] = {}
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._flats = {}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """As in torch.optim, which casts every state to its parameter's dtype; inner products are then put back."""
        super().load_state_dict(state_dict)
        saved = itertools.chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        own = itertools.chain.from_iterable(group["params"] for group in self.param_groups)
        for index, w in zip(saved, own, strict=True):
            for name in set(self.PRODUCTS) & set(state_dict["state"].get(index, {})):
                self.state[w][name] = _on_device(state_dict["state"][index][name], w.device)

    @abstractmethod
    def _vectors(self, group: dict[str, Any]) -> Mapping[str, tuple[int, ...]]:
        """The vectors kept of every parameter by name, each with the dimensions that precede the parameter's own."""

    def _products(self, group: dict[str, Any]) -> Mapping[str, tuple[int, ...]]:
        """The shapes of the inner products kept of every parameter, by name."""
        return {}

    @abstractmethod
    def _step_flat(self, group: dict[str, Any], flat: FlatState) -> None:
        """Update the parameters of `flat`, all of one dtype and device, whose steps are counted already."""

    def _step_group(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        place = next(i for i, known in enumerate(self.param_groups) if known is group)
        for alike in by_dtype_and_device(pairs):
            parameters = [w for w, _ in alike]
            key = (place, parameters[0].dtype, parameters[0].device)
            flat = self._flats.get(key)
            if flat is None or not flat.is_of(parameters, self.state):
                if flat is not None:
                    flat.release(parameters)
                vectors, products = self._vectors(group), self._products(group)
                flat = self._flats[key] = FlatState(parameters, self.state, vectors=vectors, products=products)
            flat.advance()
            if flat.ranges:  # not all of them are empty
                self._step_flat(group, flat)


def _on_device(value: Any, device: torch.device) -> Any:
    """A copy of a tensor, or of a dictionary of tensors and plain values."""
    if isinstance(value, dict):
        return {key: _on_device(each, device) for key, each in value.items()}
    return value.to(device, copy=True) if isinstance(value, Tensor) else copy.copy(value)


def apply_(flat: FlatState, r: Range, step: Tensor, group: dict[str, Any]) -> None:
    """Decay the weights of a range, w <- w (1 - lr wd), and add the step [n]."""
    weights = flat.weights(r)
    if group["weight_decay"] != 0:
        torch._foreach_mul_(  # pyright: ignore[reportPrivateImportUsage]
            weights, 1 - group["lr"] * group["weight_decay"]
        )
    torch._foreach_add_(weights, flat.cut(r, step))  # pyright: ignore[reportPrivateImportUsage]
