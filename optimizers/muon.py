"""Muon for the matrices of the hidden layers, AdamW for everything else, as one optimizer.

    algorithm "muon":   b <- mu b + (1 - mu) g;  w <- w (1 - lr wd);  w <- w - 0.2 sqrt(max(rows, columns)) lr NS(b̃)
    algorithm "adamw":  w <- w (1 - lr wd);  w <- w - lr m̂ / (sqrt(v̂) + eps)

b̃ = mu b + (1 - mu) g with Nesterov momentum, NS the quintic Newton-Schulz orthogonalisation. Both algorithms are
torch.optim's own. The factor 0.2 sqrt(max(rows, columns)) gives Muon's update the root mean square of a typical AdamW
update, so that one learning rate serves both ("match_rms_adamw"); "original" is Muon's sqrt(max(1, rows / columns)).

Jordan et al., "Muon", https://kellerjordan.github.io/posts/muon/; Liu et al., "Muon is Scalable for LLM Training",
https://arxiv.org/abs/2502.16982
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from bench.optimizers.validation import (
    require_betas,
    require_choice,
    require_floating_point,
    require_integer,
    require_number,
)
from bench.spec import OptimizerSpec, by_matrix_role, learning_rate_search

ADJUST_LR_FNS = ("match_rms_adamw", "original")


class Muon(Optimizer):
    """torch.optim.Muon and torch.optim.AdamW over this object's own groups and state.

    A group says which by its key `algorithm`, "adamw" if it has none; all parameters of a "muon" group are matrices.
    Raises ValueError for settings outside their range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        adamw_weight_decay: float = 1e-2,
    ) -> None:
        _check({"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        _check({"nesterov": nesterov, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn})
        require_number("Muon", "adamw_weight_decay", adamw_weight_decay)
        self._algorithms: dict[str, Optimizer] = {
            "muon": torch.optim.Muon(
                [{"params": []}],
                lr=lr,
                weight_decay=weight_decay,
                momentum=momentum,
                nesterov=nesterov,
                ns_steps=ns_steps,
                adjust_lr_fn=adjust_lr_fn,
            ),
            "adamw": torch.optim.AdamW([{"params": []}], lr=lr, betas=betas, eps=eps, weight_decay=adamw_weight_decay),
        }
        super().__init__(params, {"lr": lr, "algorithm": "adamw"})

    def _share(self) -> None:
        """Give the two algorithms this object's present groups and state: they work on the same dictionaries."""
        for name, algorithm in self._algorithms.items():
            algorithm.param_groups = [group for group in self.param_groups if group["algorithm"] == name]
            algorithm.state = self.state

    def __getstate__(self) -> dict[str, Any]:
        self._share()
        return {**super().__getstate__(), "_algorithms": self._algorithms}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch.optim, with the algorithm's defaults; raises ValueError and then does not keep the group."""
        name = param_group.setdefault("algorithm", "adamw")
        require_choice("Muon", "algorithm", name, tuple(self._algorithms))
        for setting, default in self._algorithms[name].defaults.items():
            param_group.setdefault(setting, default)
        _check(param_group)
        super().add_param_group(param_group)
        try:
            require_floating_point("Muon", param_group["params"])
            if name == "muon":
                _require_matrices(param_group["params"])
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every group by its algorithm; returns the closure's loss, or None without one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._share()
        for algorithm in self._algorithms.values():
            if algorithm.param_groups:
                algorithm.step()
        return loss


def _check(settings: dict[str, Any]) -> None:
    """Check those of the settings that are there."""
    for name in settings.keys() & {"lr", "eps", "weight_decay"}:
        require_number("Muon", name, settings[name])
    if "momentum" in settings:
        require_number("Muon", "momentum", settings["momentum"], below=1.0)
    if "nesterov" in settings:
        require_choice("Muon", "nesterov", settings["nesterov"], (True, False))
    if "ns_steps" in settings:
        require_integer("Muon", "ns_steps", settings["ns_steps"])
    if "adjust_lr_fn" in settings:
        require_choice("Muon", "adjust_lr_fn", settings["adjust_lr_fn"], ADJUST_LR_FNS)
    if "betas" in settings:
        require_betas("Muon", settings["betas"])


def _require_matrices(parameters: Sequence[torch.Tensor]) -> None:
    for parameter in parameters:
        if parameter.ndim != 2:
            shape = tuple(parameter.shape)
            raise ValueError(f"Muon: a parameter of a muon group has shape {shape}; allowed: matrices, of 2 dimensions")


# Hidden matrices of two dimensions to Muon, the rest to AdamW.
muon_groups = by_matrix_role(matrix={"algorithm": "muon"}, other={"algorithm": "adamw"})

SPEC = OptimizerSpec(
    name="muon",
    title="Muon with AdamW",
    constructor=Muon,
    defaults={"lr": 1e-3},
    search=learning_rate_search(1e-3),
    groups=muon_groups,
    matrix_algorithm=True,
    reference="Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/; torch.optim.Muon and torch.optim.AdamW",
)
