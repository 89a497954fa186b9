"""Rate multipliers: which parameters they reach, what they do to rates, and that 1 changes nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import multipliers
from bench.errors import UsageError
from bench.models.multimodal_memory import ROLES
from bench.multipliers import factors_of, multipliers_of, require_found, require_multipliers
from bench.optimizers.catalog import CATALOG
from bench.plan import Run
from bench.protocol import Protocol
from bench.protocols import PROTOCOLS, changed
from bench.registry import entry, select
from bench.runner import prepare
from bench.spec import OptimizerSpec, Role, RoledParameter
from bench.trainer import Trainer
from bench.workload import roled_parameters

CPU = torch.device("cpu")
ENTRIES = ["sgd", "adamw", "custom_adam", "gda2", "universal_muon_auto", "universal_anderson_gda", "m3", "muon",
           "adafactor", "soap", "psgd_kron", "lion"]  # fmt: skip


def roled() -> list[RoledParameter]:
    """Two matrices and a bias of each of two modules, the same numbers each time."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": ((3, 4), Role.HIDDEN_MATRIX), "other": ((4, 3), Role.HIDDEN_MATRIX), "bias": ((3,), Role.BIAS)}
    return [RoledParameter(name=f"{module}.{name}", parameter=nn.Parameter(torch.randn(*shape, generator=generator)),
                           role=role)
            for module in ("tower", "head") for name, (shape, role) in shapes.items()]  # fmt: skip


def built(name: str, patterns: dict[str, float]) -> tuple[torch.optim.Optimizer, list[RoledParameter]]:
    (chosen,), parameters = select([name], {}, "default"), roled()
    return with_rates(chosen.spec, parameters, chosen.hyperparameters, patterns), parameters


def with_rates(spec: OptimizerSpec, parameters: list[RoledParameter], settings, patterns) -> torch.optim.Optimizer:
    """The optimizer of one stage, its rates multiplied as the loop does."""
    optimizer, by_group = multipliers.build(spec, parameters, settings, factors_of(parameters, [patterns]))
    for group, (factor,) in zip(optimizer.param_groups, by_group, strict=True):
        group["lr"] *= factor
    return optimizer


def rates_by_name(optimizer: torch.optim.Optimizer, parameters: list[RoledParameter]) -> dict[str, float]:
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {p.name: rates[id(p.parameter)] for p in parameters}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_rate_is_that_of_the_policy_times_the_multiplier(name: str):
    plain = rates_by_name(*built(name, {}))
    optimizer, parameters = built(name, {"^tower": 0.1, "^head.*bias": 3.0})
    assert rates_by_name(optimizer, parameters) == {
        key: rate * (0.1 if key.startswith("tower") else 3.0 if key == "head.bias" else 1.0)
        for key, rate in plain.items()
    }
    held = Counter(id(p) for group in optimizer.param_groups for p in group["params"])
    assert held == Counter(id(p.parameter) for p in parameters)  # each in one group


@pytest.mark.parametrize("name", ENTRIES)
def test_the_policys_settings_stay_with_their_parameters(name: str):
    """Divided groups differ from the policy's in their parameters and their rate alone."""

    def settings(patterns: dict[str, float]) -> dict[str, dict]:
        optimizer, parameters = built(name, patterns)
        names = {id(p.parameter): p.name for p in parameters}
        return {names[id(p)]: {key: value for key, value in group.items() if key not in ("params", "lr")}
                for group in optimizer.param_groups for p in group["params"]}  # fmt: skip

    assert settings({"tower": 0.1}) == settings({})


@pytest.mark.parametrize("name", ENTRIES)
def test_a_multiplier_of_one_changes_no_bit(name: str):
    ends = []
    for patterns in ({}, {"tower": 1.0, "bias": 1.0}):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            optimizer, parameters = built(name, patterns)
            groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
            generator = torch.Generator().manual_seed(1)
            for _ in range(3):
                for p in parameters:
                    p.parameter.grad = torch.randn(p.parameter.shape, generator=generator)
                optimizer.step()
        order = [id(p.parameter) for p in parameters]
        ends.append(([[order.index(i) for i in group] for group in groups], [p.parameter.detach() for p in parameters]))
    (groups_a, weights_a), (groups_b, weights_b) = ends
    assert groups_a == groups_b
    assert all(torch.equal(a, b) for a, b in zip(weights_a, weights_b, strict=True))


def test_sgd_moves_by_the_multiplied_rate():
    """w ← w − 0.5·0.1·g = w − 0.05 for g = 1, and w − 0.5 without a multiplier."""
    parameters = roled()
    before = [p.parameter.detach().clone() for p in parameters]
    optimizer = with_rates(entry("sgd"), parameters, {"lr": 0.5}, {"tower": 0.1})
    for p in parameters:
        p.parameter.grad = torch.ones_like(p.parameter)
    optimizer.step()
    moved = {p.name: (old - p.parameter).mean().item() for p, old in zip(parameters, before, strict=True)}
    assert moved == pytest.approx({name: 0.05 if "tower" in name else 0.5 for name in moved}, rel=1e-5)


def test_a_later_pattern_overrules_an_earlier_one():
    assert multipliers_of(roled(), {"bias": 3.0, "tower": 0.5, "tower.bias": 2.0}) == [0.5, 0.5, 2.0, 1.0, 1.0, 3.0]


def test_the_part_without_a_multiplier_is_the_first():
    optimizer, _ = built("adamw", {"^tower": 0.1})
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3, 1e-4])


def test_an_idle_pattern_is_refused_in_one_line(tiny: Protocol, tmp_path: Path):
    with pytest.raises(UsageError, match=r"^rate_multipliers: 'slots' is .* names begin with tower, head$"):
        require_found({"bias": 2.0, "slots": 0.5}, [p.name for p in roled()])
    with pytest.raises(UsageError, match=r"^rate_multipliers: 'tower' is found in no parameter's name"):
        prepare("sgd", protocol=changed(tiny, {"rate_multipliers": {"tower": 0.1}}, "test"), results=tmp_path)


@pytest.mark.parametrize(("name", "reason"), [
    ("lbfgs", "LBFGS doesn't support per-"),
    ("prodigy", "all of its groups move at one rate"),  # that of the first
])  # fmt: skip
def test_an_optimizer_of_one_rate_has_no_multipliers(name: str, reason: str):
    (chosen,) = select([name], {}, "default")
    with pytest.raises(UsageError, match=f"optimizer {name}: cannot have rate_multipliers: {reason}"):
        require_multipliers(chosen.spec, chosen.hyperparameters, [0.5])
    require_multipliers(chosen.spec, chosen.hyperparameters, [1.0])


@pytest.mark.parametrize("name", sorted(set(CATALOG) - {"lbfgs", "prodigy"}))
def test_every_other_entry_may_have_multipliers(name: str):
    (chosen,) = select([name], {}, "default")
    require_multipliers(chosen.spec, chosen.hyperparameters, [0.5])


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_schedule_multiplies_too(tiny: Protocol, name: str):
    """Warm-up over 4 steps of 8: after the first one a rate is its base × 1/4 × the multiplier."""
    rules = changed(tiny, {"rate_multipliers": {r"^text_encoder\.": 0.1}, "warmup": 0.5}, "test")
    (chosen,) = select([name], {}, "default")
    run = Run(protocol=rules, optimizer=name, reference=name, hyperparameters=dict(chosen.hyperparameters), seed=0)
    trainer = Trainer(run, CPU)
    trainer.train(1)
    names = {id(p): key for key, p in trainer.model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    base = chosen.hyperparameters["lr"]
    for key, rate in rates.items():
        assert rate == pytest.approx(base / 4 * (0.1 if key.startswith("text_encoder.") else 1)), key


def test_multipliers_are_part_of_a_protocol_only_where_there_are_any():
    mini = PROTOCOLS["mini"]
    assert mini.hash == "5629038cb352"
    assert changed(mini, {"rate_multipliers": {}}, "x").hash == mini.hash
    a, b = ({"text": 0.1, "bias": 2.0}, {"bias": 2.0, "text": 0.1})
    hashes = {changed(mini, {"rate_multipliers": given}, "x").hash for given in ({"text": 0.1}, {"text": 0.2}, a, b)}
    assert len(hashes | {mini.hash}) == 5  # their order decides where two are found in one name


@pytest.mark.parametrize(("given", "message"), [
    ({"a": 0.0}, "allowed are numbers > 0"), ({"a": -1.0}, "allowed are numbers > 0"), ({"(": 0.5}, "no regular exp"),
    ({"a": float("inf")}, "finite"),
])  # fmt: skip
def test_odd_multipliers_are_refused_in_one_line(given: dict, message: str):
    with pytest.raises(UsageError, match=message) as caught:
        changed(PROTOCOLS["mini"], {"rate_multipliers": given}, "--protocol mine.toml")
    assert "\n" not in str(caught.value)


def test_a_frozen_parameter_is_in_no_group(tiny: Protocol):
    network = tiny.workload.example()
    network.get_submodule("central").requires_grad_(False)
    found = roled_parameters(network, ROLES)
    optimizer = with_rates(entry("adamw"), found, {"lr": 0.1}, {"memories": 0.5})
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in network.parameters() if p.requires_grad}
    assert not held & {id(p) for p in network.get_submodule("central").parameters()}


def test_a_run_with_multipliers_differs_from_one_without(tiny: Protocol):
    (chosen,) = select(["adamw"], {}, "default")

    def weights(patterns: dict[str, float]) -> torch.Tensor:
        rules = changed(tiny, {"rate_multipliers": patterns}, "test")
        run = Run(protocol=rules, optimizer="adamw", reference="adamw", hyperparameters=dict(chosen.hyperparameters),
                  seed=0)  # fmt: skip
        trainer = Trainer(run, CPU)
        trainer.train(1)
        return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])

    plain = weights({})
    assert torch.equal(plain, weights({"encoder": 1.0})) and not torch.equal(plain, weights({"encoder": 0.1}))
