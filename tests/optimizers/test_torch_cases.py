"""PyTorch's own test inputs for Adam and SGD, on the entries that are to equal them, and on every own entry."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch

from bench.contracts import Subject
from bench.contracts.subject import parameters_of, random_gradients
from bench.optimizers.catalog import CATALOG

PAIRS = {"custom_adam": torch.optim.Adam, "custom_sgd": torch.optim.SGD}
OWN = [name for name, spec in CATALOG.items() if not isinstance(spec.constructor, str)
       and spec.constructor.__module__.startswith("bench.")]  # fmt: skip


@pytest.fixture(scope="module")
def cases():
    """torch's module of optimizer inputs; its import warns of what this machine lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal import common_optimizers
    return common_optimizers


def inputs_of(cases, cls):
    """The inputs torch tests the class with, on the CPU."""
    (info,) = [info for info in cases.optim_db if info.optim_cls is cls]
    return info.optim_inputs_func(device="cpu")


@pytest.mark.parametrize("name", PAIRS)
def test_own_entry_equals_torch_on_torchs_inputs(cases, name):
    constructor = CATALOG[name].load()
    accepted, run = inspect.signature(constructor).parameters, 0
    for case in inputs_of(cases, PAIRS[name]):
        if set(case.kwargs) - set(accepted) or isinstance(case.kwargs.get("lr"), torch.Tensor):
            continue  # maximize, amsgrad, nesterov, a rate as a tensor
        ours, theirs = parameters_of(dtype=torch.float64), parameters_of(dtype=torch.float64)
        # What the case leaves open is torch's default for both.
        defaults = {k: p.default for k, p in inspect.signature(PAIRS[name]).parameters.items() if k in accepted}
        settings = {**{k: v for k, v in defaults.items() if k != "params"}, **case.kwargs}
        optimizer, other = constructor(ours, **settings), PAIRS[name](theirs, **settings)
        for step in range(10):
            for w, twin, g in zip(ours, theirs, random_gradients(ours, step), strict=True):
                w.grad, twin.grad = g, g.clone()
            optimizer.step()
            other.step()
        for w, twin in zip(ours, theirs, strict=True):
            # Float64, whose rounding over ten steps stays under 1e-12.
            torch.testing.assert_close(w, twin, rtol=1e-12, atol=1e-12, msg=lambda text, case=case: f"{case}: {text}")
        run += 1
    assert run >= 3


@pytest.mark.parametrize("name", OWN)
def test_what_torch_refuses_of_parameters_is_refused(cases, name):
    """The construction errors that all of torch's optimizers share."""
    errors = cases.get_error_inputs_for_all_optims("cpu", torch.float32)
    assert len(errors) >= 4
    for error in errors:
        given = error.optimizer_error_input
        if given.kwargs or error.error_on is not cases.OptimizerErrorEnum.CONSTRUCTION_ERROR:
            continue  # a rate as a tensor: an own entry refuses every one
        expected = pytest.warns if issubclass(error.error_type, Warning) else pytest.raises
        with expected(error.error_type, match=error.error_regex):
            CATALOG[name].load()(given.params, **Subject.of(CATALOG[name]).hyperparameters)
