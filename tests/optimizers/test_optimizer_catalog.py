"""The catalog holds exactly the entries of the folder, under their own names."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from bench.optimizers.catalog import CATALOG, GROUPS
from bench.spec import OptimizerSpec, Role, RoledParameter

FOLDER = Path(__file__).parents[2] / "optimizers"


def test_catalog_equals_the_specs_of_the_folder():
    modules = [importlib.import_module(f"bench.optimizers.{path.stem}") for path in FOLDER.glob("*.py")]
    values = [value for module in modules for value in vars(module).values()]
    tables = [each for value in values if isinstance(value, tuple) for each in value]
    specs = [value for value in values + tables if isinstance(value, OptimizerSpec)]
    assert sorted(spec.name for spec in specs) == sorted(CATALOG)
    assert all(CATALOG[spec.name] is spec for spec in specs)


def test_groups_name_entries():
    assert GROUPS["documents"] == GROUPS["all"]
    assert all(name in CATALOG for names in GROUPS.values() for name in names)
    assert set(GROUPS) == {"documents", "all", "builtin", "modern", "zoo"}
    assert sorted(GROUPS["builtin"] + GROUPS["zoo"]) == sorted(CATALOG)
    assert len(GROUPS["all"]) == 8 and "lbfgs" in GROUPS["builtin"]
    assert set(GROUPS["documents"]) == {name for name, spec in CATALOG.items() if spec.documents is not None}


def test_the_documents_eight_have_their_order_and_settings():
    settings = [(name, dict(CATALOG[name].documents or {})) for name in GROUPS["documents"]]
    assert settings == [
        ("sgd", {"lr": 1e-2, "momentum": 0.9}),
        ("adam", {"lr": 1e-3, "fused": True}),
        ("adamw", {"lr": 1e-3, "weight_decay": 1e-4, "fused": True}),
        ("custom_adam", {"lr": 1e-3}),
        ("gda2", {"lr": 1e-3}),
        (
            "universal_muon_auto",
            {"lr": 1e-3, "ortho_mode": "auto", "ortho_threshold": 128, "scale_mode": "adaptive"},
        ),
        (
            "universal_muon_preserve",
            {"lr": 1e-3, "ortho_mode": "preserve_magnitude", "ortho_threshold": 128, "scale_mode": "adaptive"},
        ),
        (
            "universal_anderson_gda",
            {"lr": 1e-3, "anderson_m": 3, "use_weighting": True, "trust_region": 1.5},
        ),
    ]


@pytest.mark.parametrize("spec", CATALOG.values(), ids=CATALOG)
def test_an_entry_builds_and_is_described(spec, need_packages):
    need_packages(spec)
    parameters = [torch.nn.Parameter(torch.zeros(3, 4)), torch.nn.Parameter(torch.zeros(4))]
    roles = [Role.HIDDEN_MATRIX, Role.BIAS]
    roled = [
        RoledParameter(name=str(i), parameter=w, role=role)
        for i, (w, role) in enumerate(zip(parameters, roles, strict=True))
    ]
    for hyperparameters in (spec.defaults, spec.documents or {}):
        optimizer = spec.build(roled, hyperparameters)
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
        for name, value in hyperparameters.items():
            # Some libraries keep a setting of all groups on the optimizer.
            assert all({**vars(optimizer), **group}[name] == value for group in optimizer.param_groups)
    assert spec.title
    assert spec.reference
    assert "\n" not in spec.reference
    assert spec.search["lr"].low == spec.defaults["lr"] / 100
    assert spec.search["lr"].high == spec.defaults["lr"] * 100
