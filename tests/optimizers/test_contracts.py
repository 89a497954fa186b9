"""The contracts themselves: each finds the fault it is there for, in an Adam that has that fault alone."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.optim import Optimizer

from bench.cli import cli
from bench.contracts import CONTRACTS, Subject, Verdict, judge
from bench.contracts.reads import HostReads
from bench.spec import OptimizerSpec


class SoundAdam(Optimizer):
    """Adam with coupled decay, and hooks for one fault each."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        for name, value in {"lr": lr, "eps": eps, "weight_decay": weight_decay}.items():
            self.refuse(name, value)
        for value in betas:
            if not 0 <= value < 1:
                raise ValueError(f"betas is {betas!r}; allowed: numbers in [0, 1)")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    def refuse(self, name, value):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value!r}; allowed: finite numbers >= 0")

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None if closure is None else self.evaluate(closure)
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    self.without_gradient(w, group)
                else:
                    self.update(w, w.grad, self.memory(w), group)
        return loss

    @torch.enable_grad()
    def evaluate(self, closure):
        return closure()

    def memory(self, w):
        return self.state[w]

    def without_gradient(self, w, group):
        pass

    def rate(self, group):
        return group["lr"]

    def corrections(self, group, t):
        beta1, beta2 = group["betas"]
        return 1 - beta1**t, 1 - beta2**t

    def update(self, w, g, state, group):
        if not state:
            state.update(t=0, m=torch.zeros_like(w), v=torch.zeros_like(w))
        state["t"] += 1
        beta1, beta2 = group["betas"]
        g = g + group["weight_decay"] * w
        state["m"].lerp_(g, 1 - beta1)
        state["v"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        first, second = self.corrections(group, state["t"])
        denominator = self.wide(state["v"] / second).sqrt() + group["eps"]
        w.sub_((self.rate(group) / first * state["m"] / denominator).to(w.dtype))

    def wide(self, x):
        return x.to(torch.promote_types(x.dtype, torch.float32))  # eps is zero in float16


class WithoutBiasCorrection(SoundAdam):
    def corrections(self, group, t):
        return 1.0, 1.0


class KeepsMomentsOutsideState(SoundAdam):
    def memory(self, w):
        if not hasattr(self, "moments"):
            self.moments = {}
        return self.moments.setdefault(w, {})


class KeepsMomentsInAnObject(SoundAdam):
    def memory(self, w):
        if not hasattr(self, "kept"):
            self.kept = SimpleNamespace(deeper=[SimpleNamespace(moments={})])
        return self.kept.deeper[0].moments.setdefault(w, {})


@dataclass(slots=True)
class Slots:
    moments: dict = field(default_factory=dict)


class KeepsMomentsInSlots(SoundAdam):
    def memory(self, w):
        if not hasattr(self, "kept"):
            self.kept = Slots()
        return self.kept.moments.setdefault(w, {})


class KeepsMomentsOnTheParameter(SoundAdam):
    def memory(self, w):
        if not hasattr(w, "moments"):
            w.moments = {}
        return w.moments


class HoldsMoreMemoryThanItUses(SoundAdam):
    def update(self, w, g, state, group):
        if not state:
            m = w.new_zeros(4 * w.numel())[: w.numel()].view(w.shape)
            state.update(t=0, m=m, v=torch.zeros_like(w))
        super().update(w, g, state, group)


class KeepsFloat32State(SoundAdam):
    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for saved, state in zip(state_dict["state"].values(), self.state.values(), strict=True):
            state.update({name: saved[name].clone() for name in ("m", "v")})


class MisreadsTheGradientOfALoneParameter(SoundAdam):
    def update(self, w, g, state, group):
        if len(group["params"]) == 1 and g.untyped_storage().nbytes() >= w.numel() * w.element_size():
            g = g.as_strided(w.shape, w.stride())
        super().update(w, g, state, group)


class NeedsAnElement(SoundAdam):
    def without_gradient(self, w, group):
        pass

    def rate(self, group):
        torch.cat([w.flatten() for w in group["params"]]).max()
        return group["lr"]


class AddsEpsInFloat16(SoundAdam):
    def wide(self, x):
        return x


class TakesAnUncheckedNumber(SoundAdam):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, warmup=10, nesterov=False):
        super().__init__(params, lr, betas, eps, weight_decay)


class NamesAnotherSetting(SoundAdam):
    def refuse(self, name, value):
        super().refuse(f"{name}_1d", value)


class Workspace:
    WORKSPACE: ClassVar[tuple[str, ...]] = ("scratch",)

    def __init__(self, w):
        self.scratch, self.view = torch.zeros(100), w.detach()


class HasWorkspace(SoundAdam):
    def update(self, w, g, state, group):
        self.workspace = Workspace(w)
        super().update(w, g, state, group)


class ScalesGradientInPlace(SoundAdam):
    def update(self, w, g, state, group):
        super().update(w, g.mul_(0.5), state, group)


class DecaysWithoutGradient(SoundAdam):
    def without_gradient(self, w, group):
        w.mul_(1 - group["lr"] * group["weight_decay"])


class ReadsOnTheHost(SoundAdam):
    def update(self, w, g, state, group):
        if w.numel() and not math.isfinite(g.flatten()[0].item()):
            return
        super().update(w, g, state, group)


class DrawsFromTheSystem(SoundAdam):
    def rate(self, group):
        return group["lr"] * (1 + os.urandom(1)[0] / 1000)


class DrawsFromTheGlobalGenerator(SoundAdam):
    def update(self, w, g, state, group):
        super().update(w, g + 1e-3 * torch.randn_like(g), state, group)


class ChangesDtype(SoundAdam):
    def update(self, w, g, state, group):
        super().update(w, g, state, group)
        if w.dtype == torch.bfloat16:
            w.data = w.data.float()


class IgnoresTheRateOfItsGroup(SoundAdam):
    def rate(self, group):
        return self.defaults["lr"]


class AcceptsNaN(SoundAdam):
    def refuse(self, name, value):
        if value < 0 or value == math.inf:
            raise ValueError(f"{name} is {value!r}; allowed: numbers >= 0")


class CallsTheClosureTwice(SoundAdam):
    @torch.enable_grad()
    def evaluate(self, closure):
        closure()
        return closure()


class ClimbsUp(SoundAdam):
    def rate(self, group):
        return -group["lr"]


LEARNING = {"quadratic", "rosenbrock", "logistic_regression", "small_network"}
# What breaks with the fault by necessity, beside the fault's own contract.
CASES = {
    WithoutBiasCorrection: ("even_steps", set()),
    KeepsMomentsOutsideState: ("kept_in_state", {"resume", "resume_in_float64", "deep_copy", "pickle"}),
    KeepsMomentsInAnObject: ("kept_in_state", {"resume", "resume_in_float64", "deep_copy", "pickle"}),
    KeepsMomentsInSlots: ("kept_in_state", {"resume", "resume_in_float64", "deep_copy", "pickle"}),
    KeepsMomentsOnTheParameter: ("kept_in_state", {"resume", "resume_in_float64", "deep_copy"}),
    HoldsMoreMemoryThanItUses: ("memory_released", set()),
    KeepsFloat32State: ("resume_in_float64", set()),
    MisreadsTheGradientOfALoneParameter: ("layout", set()),
    NeedsAnElement: ("empty_parameter", set()),
    AddsEpsInFloat16: ("zero_gradients", set()),
    TakesAnUncheckedNumber: ("hyperparameters", set()),
    NamesAnotherSetting: ("hyperparameters", set()),
    ScalesGradientInPlace: ("gradients_untouched", {"layout"}),
    DecaysWithoutGradient: ("no_gradient", {"gradients_come_and_go", "no_gradients_at_all"}),
    ReadsOnTheHost: ("host_reads", set()),
    DrawsFromTheSystem: (
        "determinism",
        {"resume", "deep_copy", "pickle", "rates_of_groups", "added_group", "schedule", "closure", "empty_group",
         "layout", "even_steps", "resume_in_float64"},
    ),
    DrawsFromTheGlobalGenerator: ("own_randomness", {"layout"}),
    ChangesDtype: ("dtype_and_device", {"resume", "state_bits"}),
    IgnoresTheRateOfItsGroup: ("rates_of_groups", {"added_group", "schedule"}),
    AcceptsNaN: ("hyperparameters", set()),
    CallsTheClosureTwice: ("closure", set()),
    ClimbsUp: ("quadratic", LEARNING),
}  # fmt: skip


def subject_of(constructor) -> Subject:
    name = constructor.__name__
    return Subject.of(
        OptimizerSpec(name=name, title=name, constructor=constructor, defaults={"lr": 1e-3}, reference=name)
    )


def broken(constructor) -> dict[str, str]:
    findings = [judge(subject_of(constructor), contract) for contract in CONTRACTS.values()]
    return {finding.contract: finding.detail for finding in findings if finding.verdict is Verdict.BROKEN}


def test_the_sound_one_keeps_every_contract():
    assert broken(SoundAdam) == {}


@pytest.mark.parametrize("constructor", CASES, ids=lambda constructor: constructor.__name__)
def test_a_fault_is_found_by_its_own_contract(constructor):
    own, implied = CASES[constructor]
    found = broken(constructor)
    assert own in found
    assert set(found) <= {own} | implied, found


def test_findings_say_how_much_and_where():
    found = broken(WithoutBiasCorrection)["even_steps"]
    # The first step is (1 - b1) / sqrt(1 - b2) = 0.1 / sqrt(0.001) = 3.16 rates, the second 4.25.
    assert found.startswith("steps 1, 2 and 30 are 0.00316, 0.00425 and ")
    found = broken(ScalesGradientInPlace)["gradients_untouched"]
    assert found.startswith("largest difference ")
    assert "in gradients before and after step 1, in tensor " in found
    found = broken(ReadsOnTheHost)["host_reads"]
    assert found.startswith("6 host reads a step over 6 parameters")
    found = broken(AcceptsNaN)["hyperparameters"]
    assert found == "accepts 3 of 12 bad values: lr=nan, eps=nan, weight_decay=nan"
    assert broken(TakesAnUncheckedNumber)["hyperparameters"] == "accepts 1 of 13 bad values: warmup=nan"
    found = broken(NamesAnotherSetting)["hyperparameters"]
    assert found.startswith("9 of 12 refusals are no ValueError naming the value: lr=-1.0: lr_1d is -1.0; ")
    found = broken(KeepsMomentsInAnObject)["kept_in_state"]
    # Two moments of 102 weights, 4 bytes each.
    assert found == "12 tensors of 816 bytes in the attribute 'kept', which state_dict does not save"


def test_workspace_that_a_class_declares_is_no_state(monkeypatch):
    assert broken(HasWorkspace) == {}
    monkeypatch.setattr(Workspace, "WORKSPACE", ())
    assert set(broken(HasWorkspace)) == {"kept_in_state"}


X = torch.arange(9.0).view(3, 3) + torch.eye(3)
READS = {
    "item": lambda x: x[0, 0].item(),
    "bool": lambda x: bool(x[0, 0] > 0),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "asarray": lambda x: np.asarray(x),
    "cpu": lambda x: x.cpu(),
    "text": lambda x: f"{x}",
    "solve": lambda x: torch.linalg.solve(x, x),
    "inv": lambda x: torch.linalg.inv(x),
    "eigh": lambda x: torch.linalg.eigh(x),
    "svd": lambda x: torch.linalg.svd(x),
    "mask": lambda x: x[x > 0],
    "set_by_mask": lambda x: x.clone().__setitem__(x > 0, 0),
    "put_by_mask": lambda x: x.clone().index_put_((x > 0,), x[0, 0]),
    "masked_select": lambda x: x.masked_select(x > 0),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "allclose": lambda x: torch.allclose(x, x),
    "equal": lambda x: torch.equal(x, x),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.tensor([1, 2, 3]), dim=0),
    "unique": lambda x: x.unique(),
}
NO_READS = {
    "solve_ex": lambda x: torch.linalg.solve_ex(x, x),
    "where": lambda x: torch.where(x > 0, x, 0),
    "masked_fill": lambda x: x.masked_fill(x > 0, 0),
    "index": lambda x: x[torch.tensor([0, 1])],
    "slice": lambda x: x[:, 1:],
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=0),
    "norm": lambda x: torch.linalg.vector_norm(x),
    "dtype": lambda x: x.double(),
}


@pytest.mark.parametrize("kind", READS)
def test_the_detector_finds_every_kind_of_host_read_once(kind):
    with HostReads() as reads:
        READS[kind](X)
    assert len(reads.found) == 1, reads.found


@pytest.mark.parametrize("kind", NO_READS)
def test_the_detector_finds_nothing_where_nothing_is_read(kind):
    with HostReads() as reads:
        NO_READS[kind](X)
    assert reads.found == []


@pytest.mark.parametrize("constructor", [WithoutBiasCorrection, ReadsOnTheHost], ids=lambda c: c.__name__)
def test_doctor_names_the_contract_of_a_plugin(constructor, monkeypatch):
    """Without the network, which has tests of its own."""
    monkeypatch.setattr("bench.doctor.report.look_at", lambda *_: None)
    monkeypatch.setattr("bench.doctor.report.try_rates", lambda *_: None)
    result = CliRunner().invoke(cli, ["doctor", f"{Path(__file__)}:{constructor.__name__}", "-p", "mini"])
    assert result.exit_code == 1
    own, _ = CASES[constructor]
    assert f"1 broken ({own})" in " ".join(result.stdout.split())
