"""Fast forms against their plain references: 50 steps of training, in float64 and in float32."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from bench.optimizers import flat
from bench.optimizers.catalog import CATALOG
from bench.optimizers.reference.catalog import REFERENCES

STEPS = 50
# Also settings under which the corrections are as long as the steps; the others are the entries' defaults.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "custom_adam": ("custom_adam", {}),
    "custom_adam, decay": ("custom_adam", {"weight_decay": 0.1}),
    "gda2": ("gda2", {}),
    "gda2, strong": ("gda2", {"lr": 0.01, "reg": 1e-6, "weight_decay": 0.1}),
    "gda2, every third step": ("gda2", {"lr": 0.01, "reg": 1e-6, "interval": 3, "history_size": 2}),
    "universal_anderson_gda": ("universal_anderson_gda", {}),
    "universal_anderson_gda, strong": ("universal_anderson_gda", {"lr": 0.01, "anderson_reg": 1e-6}),
    "universal_anderson_gda, unweighted": ("universal_anderson_gda", {"use_weighting": False, "weight_decay": 0.1}),
    "universal_muon_auto": ("universal_muon_auto", {"ortho_threshold": 16}),
    "universal_muon_preserve": ("universal_muon_preserve", {"ortho_threshold": 16, "weight_decay": 0.1}),
    "universal_muon_stable": ("universal_muon_stable", {"ortho_threshold": 16}),
}
every_case = pytest.mark.parametrize(("name", "settings"), CASES.values(), ids=CASES)


def complete(name, settings):
    """The entry's settings with its constructor's defaults, which the plain forms do not have."""
    signature = inspect.signature(CATALOG[name].load()).parameters
    defaults = {key: p.default for key, p in signature.items() if p.default is not inspect.Parameter.empty}
    return {**defaults, **CATALOG[name].defaults, **settings}


def network(dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [torch.nn.Linear(64, 24), torch.nn.Tanh(), torch.nn.Linear(24, 24), torch.nn.LayerNorm(24)]
        return torch.nn.Sequential(*layers, torch.nn.Tanh(), torch.nn.Linear(24, 24), torch.nn.Linear(24, 5)).to(dtype)


def learn(model, step, name):
    """Gradients of a batch. UniversalMuon's iteration has a limit for matrices without a dominant direction only, such
    as 24 × 64 of independent elements; where it has none, rounding decides, and no two computations agree."""
    generator = torch.Generator().manual_seed(step)
    parameters = list(model.parameters())
    if name.startswith("universal_muon_") and name != "universal_muon_stable":
        for w in parameters:
            square = w.ndim == 2 and w.shape[0] == w.shape[1]
            noise = torch.randn(w.shape, generator=generator, dtype=torch.float64)
            w.grad = ((torch.linalg.qr(noise).Q + 0.1 * noise) if square else noise).to(w.dtype)
        return
    inputs = torch.randn(32, 64, generator=generator, dtype=torch.float64).to(parameters[0].dtype)
    targets = torch.randint(0, 5, (32,), generator=generator)
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(inputs), targets).backward()


def distance(some, others):
    pairs = zip(some.parameters(), others.parameters(), strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


@every_case
def test_the_fast_form_is_the_plain_one_in_float64(name, settings):
    """Closed loop: each trains on the gradients at its own weights. Only the order of operations differs."""
    fast, plain = network(torch.float64), network(torch.float64)
    optimizers = (
        CATALOG[name].load()(fast.parameters(), **{**CATALOG[name].defaults, **settings}),
        REFERENCES[name](plain.parameters(), **complete(name, settings)),
    )
    for step in range(STEPS):
        for model, optimizer in zip((fast, plain), optimizers, strict=True):
            learn(model, step, name)
            optimizer.step()
    assert distance(fast, plain) < 1e-9
    assert distance(plain, network(torch.float64)) > 0.01


@every_case
def test_the_fast_form_in_float32_stays_within_1e_5_of_the_plain_one_in_float64(name, settings):
    """Both are given the gradients at the plain form's weights, so that only the optimizer's own rounding counts."""
    fast, plain = network(torch.float32), network(torch.float64)
    optimizers = (
        CATALOG[name].load()(fast.parameters(), **{**CATALOG[name].defaults, **settings}),
        REFERENCES[name](plain.parameters(), **complete(name, settings)),
    )
    for step in range(STEPS):
        learn(plain, step, name)
        for a, b in zip(fast.parameters(), plain.parameters(), strict=True):
            a.grad = b.grad.float()
        for optimizer in optimizers:
            optimizer.step()
    # Where d is not divided by its own size (see UniversalMuon), steps are hundreds of times the rate.
    scale = max(1.0, distance(plain, network(torch.float64)))
    assert distance(fast, plain) < 1e-5 * scale


@every_case
def test_ranges_and_long_rows_change_no_more_than_rounding(name, settings, monkeypatch):
    """Every tensor in many small pieces against all of them in one."""

    def trained():
        model = network(torch.float64)
        optimizer = CATALOG[name].load()(model.parameters(), **{**CATALOG[name].defaults, **settings})
        for step in range(12):
            learn(model, step, name)
            optimizer.step()
        return model

    whole = trained()
    monkeypatch.setattr(flat, "RANGE_ELEMENTS", 100)
    monkeypatch.setattr(flat, "LONG_ROW", 50)
    assert distance(trained(), whole) < 1e-10


def test_every_optimizer_with_flat_state_has_a_plain_form():
    from bench.optimizers.groupwise import FlatOptimizer

    constructors = {name: spec.constructor for name, spec in CATALOG.items() if isinstance(spec.constructor, type)}
    assert {name for name, x in constructors.items() if issubclass(x, FlatOptimizer)} <= set(REFERENCES)
