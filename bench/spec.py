"""What the harness knows about an optimizer: one frozen record an entry, and the parameter groups built from it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # protocols and records must not wait for torch
    from torch import nn
    from torch.optim import Optimizer


class Role(StrEnum):
    """What a parameter does in its network; a network declares it by ordered name patterns."""

    HIDDEN_MATRIX = "hidden_matrix"
    EMBEDDING = "embedding"
    HEAD = "head"
    NORM = "norm"
    BIAS = "bias"
    CONVOLUTION = "convolution"
    MEMORY_SLOTS = "memory_slots"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRange:
    """A hyper-parameter's search range; `log` means uniform in the logarithm."""

    low: float
    high: float
    log: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RoledParameter:
    """One trainable parameter with its name in the network and its role."""

    name: str
    parameter: nn.Parameter
    role: Role


class Need(StrEnum):
    """What an optimizer asks of the training loop beyond `step()` after `backward()`."""

    # optimizer.train() before training, optimizer.eval() before weights are read: evaluation, checkpoints. Running
    # statistics of the network are gathered anew for the weights that are read.
    TRAIN_EVAL_SWITCH = "train_eval_switch"
    # step(closure) with a closure that computes loss and gradients anew, as often as the optimizer calls it. Gradients
    # are not clipped then.
    CLOSURE = "closure"
    # step(closure) with a closure that returns the loss already computed.
    LOSS_VALUE = "loss_value"
    # backward(create_graph=True): the gradients can be differentiated inside step().
    SECOND_ORDER = "second_order"


ParameterGroups = Callable[[Sequence[RoledParameter]], list[dict[str, Any]]]


def one_group(parameters: Sequence[RoledParameter]) -> list[dict[str, Any]]:
    """The ordinary policy: every parameter in a single group, in the network's order."""
    return [{"params": [p.parameter for p in parameters]}]


def by_matrix_role(*, matrix: Mapping[str, Any], other: Mapping[str, Any]) -> ParameterGroups:
    """The policy of matrix optimizers: hidden matrices with the settings `matrix`, all else with the settings `other`.

    A hidden matrix has that role and two dimensions. Both groups are in the network's order; an empty one is left out.
    """

    def groups(parameters: Sequence[RoledParameter]) -> list[dict[str, Any]]:
        hidden, rest = [], []
        for p in parameters:
            is_matrix = p.role is Role.HIDDEN_MATRIX and p.parameter.ndim == 2
            (hidden if is_matrix else rest).append(p.parameter)
        return [{"params": ps, **settings} for ps, settings in ((hidden, matrix), (rest, other)) if ps]

    return groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What an entry says of its own algorithm on given gradients: a sentence, its figures, whether it is a warning."""

    text: str
    figures: Mapping[str, float]
    warning: bool = False


Examine = Callable[["Optimizer"], list[Observation]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSpec:
    """An entry of the registry.

    `constructor` may be a reference, `module:Class`, that is imported on first use (see `load`); `extra` is the
    optional dependency of this project that brings its package, `packages` what else must be installed.
    `defaults` are the settings of `--lr default`, `documents` those of the documents' study where it had the entry.
    Both name every hyper-parameter that differs from the constructor's own default, and `lr` always.
    `matrix_algorithm` says that matrices get another update than their elements in a vector would: it is meant for the
    hidden ones, and a policy `groups` that also hands it embeddings or heads earns a warning.
    `examine` looks at an optimizer after a step, with the gradients in place, and says what `bench doctor` prints.
    `revision` is raised by one when the entry's numerics change, so that old records are not taken for new ones.
    """

    name: str
    title: str
    constructor: Callable[..., Optimizer] | str
    defaults: Mapping[str, Any]
    documents: Mapping[str, Any] | None = None
    search: Mapping[str, SearchRange] = field(default_factory=dict)
    groups: ParameterGroups = one_group
    needs: frozenset[Need] = frozenset()
    matrix_algorithm: bool = False
    extra: str | None = None
    packages: tuple[str, ...] = ()
    examine: Examine | None = None
    reference: str
    source_digest: str | None = None
    revision: int = 1

    def __post_init__(self) -> None:
        if "lr" not in self.defaults:
            raise ValueError(f"OptimizerSpec {self.name!r}: defaults must name lr; they are {sorted(self.defaults)}")
        unknown = set(self.search) - set(self.defaults)
        if unknown:
            raise ValueError(
                f"OptimizerSpec {self.name!r}: search keys {sorted(unknown)} have no default; "
                f"defaults are {sorted(self.defaults)}"
            )

    def load(self) -> Callable[..., Optimizer]:
        """The constructor; raises `ImportError` where a package is missing."""
        for package in self.packages:
            importlib.import_module(package)
        return resolve(self.constructor) if isinstance(self.constructor, str) else self.constructor

    def build(self, parameters: Sequence[RoledParameter], hyperparameters: Mapping[str, Any]) -> Optimizer:
        """The optimizer over `parameters`, grouped by the entry's policy."""
        return self.load()(self.groups(parameters), **hyperparameters)


def learning_rate_search(lr: float) -> dict[str, SearchRange]:
    """The same width for everyone: two decades either side of the published default."""
    return {"lr": SearchRange(low=lr / 100, high=lr * 100)}


def resolve(reference: str) -> Any:
    """The object behind `module:attribute`.

    Raises `ImportError` or `AttributeError` as Python does.
    """
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)
