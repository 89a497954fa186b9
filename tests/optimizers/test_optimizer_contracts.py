"""What every optimizer of the catalog keeps, whatever its formula."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.optimizers.catalog import CATALOG
from bench.spec import Role, RoledParameter

SHAPES = [(), (5,), (6, 4), (4, 6), (3, 4, 2), (2, 3, 2, 2), (0, 3)]
# Small matrices take the matrix code too, and decay is on where there is decay.
SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"weight_decay": 0.1},
    "adam": {"weight_decay": 0.1},
    "adamw": {"weight_decay": 0.1},
    "custom_adam": {"weight_decay": 0.1},
    "gda2": {"weight_decay": 0.1, "reg": 1e-6, "history_size": 3},
    "universal_muon_auto": {"weight_decay": 0.1, "ortho_threshold": 4},
    "universal_muon_preserve": {"weight_decay": 0.1, "ortho_threshold": 4},
    "universal_muon_stable": {"weight_decay": 0.1, "ortho_threshold": 4},
    "universal_anderson_gda": {"weight_decay": 0.1, "anderson_reg": 1e-6},
    "custom_sgd": {"weight_decay": 0.1},
    "anderson_gda": {"beta": 0.3},
    "muon": {},
}
OWN = sorted(set(CATALOG) - {"sgd", "adam", "adamw"})
every_entry = pytest.mark.parametrize("name", CATALOG)
every_own_entry = pytest.mark.parametrize("name", OWN)


def parameters_of(shapes=SHAPES, *, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def roled(parameters):
    roles = [Role.HIDDEN_MATRIX if w.ndim == 2 else Role.BIAS for w in parameters]
    pairs = zip(parameters, roles, strict=True)
    return [RoledParameter(name=str(i), parameter=w, role=role) for i, (w, role) in enumerate(pairs)]


def build(name, parameters, **overrides):
    return CATALOG[name].build(roled(parameters), {**CATALOG[name].defaults, **SETTINGS[name], **overrides})


def set_gradients(parameters, step):
    generator = torch.Generator().manual_seed(1000 + step)
    for w in parameters:
        w.grad = torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w.dtype)


def run(optimizer, parameters, steps):
    for step in steps:
        set_gradients(parameters, step)
        optimizer.step()


def assert_same_bits(some, others):
    for position, (a, b) in enumerate(zip(some, others, strict=True)):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=lambda text, i=position: f"{i}: {text}")


def tensors_in(value):
    """Every tensor in nested dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for each in value.values() for tensor in tensors_in(each)]
    if isinstance(value, list | tuple):
        return [tensor for each in value for tensor in tensors_in(each)]
    return []


@every_entry
def test_every_parameter_moves_and_stays_finite(name):
    parameters = parameters_of()
    before = [w.detach().clone() for w in parameters]
    run(build(name, parameters), parameters, range(20))
    for w, old in zip(parameters, before, strict=True):
        assert w.isfinite().all()
        assert w.numel() == 0 or not torch.equal(w, old)


@every_entry
def test_gradients_are_read_only(name):
    parameters = parameters_of()
    optimizer = build(name, parameters)
    for step in range(6):
        set_gradients(parameters, step)
        gradients = [w.grad for w in parameters if w.grad is not None]
        versions, values = [g._version for g in gradients], [g.clone() for g in gradients]
        optimizer.step()
        assert all(w.grad is g for w, g in zip(parameters, gradients, strict=True))
        assert [g._version for g in gradients] == versions  # nothing wrote to them in place
        assert_same_bits(gradients, values)


@every_entry
def test_a_parameter_without_gradient_has_no_decay_and_no_state(name):
    parameters = parameters_of()
    before = parameters[2].detach().clone()
    optimizer = build(name, parameters)
    for step in range(6):
        set_gradients(parameters, step)
        parameters[2].grad = None
        optimizer.step()
    assert torch.equal(parameters[2], before)
    assert not optimizer.state.get(parameters[2])


@every_entry
def test_gradients_may_come_and_go(name):
    parameters = parameters_of()
    optimizer = build(name, parameters)
    for step in range(12):
        set_gradients(parameters, step)
        absent = parameters[step % len(parameters)]
        absent.grad = None
        before = absent.detach().clone()
        optimizer.step()
        assert torch.equal(absent, before)
    assert all(w.isfinite().all() for w in parameters)


@every_entry
def test_no_gradient_at_all_is_no_step(name):
    parameters = parameters_of()
    before = [w.detach().clone() for w in parameters]
    optimizer = build(name, parameters)
    assert optimizer.step() is None
    assert_same_bits(parameters, before)
    assert not optimizer.state


@every_entry
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_resumed_run_equals_an_uninterrupted_one(name, dtype):
    whole, parts = parameters_of(dtype=dtype), parameters_of(dtype=dtype)
    run(build(name, whole), whole, range(20))
    first = build(name, parts)
    run(first, parts, range(10))
    file = io.BytesIO()
    torch.save({"optimizer": first.state_dict(), "parameters": parts}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = parameters_of(seed=99, dtype=dtype)
    with torch.no_grad():
        for w, value in zip(fresh, saved["parameters"], strict=True):
            w.copy_(value)
    second = build(name, fresh)
    second.load_state_dict(saved["optimizer"])
    run(second, fresh, range(10, 20))
    assert_same_bits(fresh, whole)


@every_entry
def test_a_loaded_state_has_the_bits_of_the_saved_one(name):
    parameters = parameters_of()
    optimizer = build(name, parameters)
    run(optimizer, parameters, range(7))
    twin = build(name, parameters_of())
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    ours, theirs = optimizer.state_dict(), twin.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert_same_bits(tensors_in(theirs["state"]), tensors_in(ours["state"]))


@every_entry
@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_a_copy_goes_its_own_way_with_the_same_bits(name, copier):
    parameters = parameters_of()
    optimizer = build(name, parameters)
    run(optimizer, parameters, range(7))
    other_parameters, other = copier((parameters, optimizer))
    run(optimizer, parameters, range(7, 14))
    run(other, other_parameters, range(7, 14))
    assert_same_bits(other_parameters, parameters)


@every_entry
def test_the_same_seed_gives_the_same_bits(name):
    some, others = parameters_of(), parameters_of()
    run(build(name, some), some, range(12))
    torch.rand(3)  # the global generator plays no part
    run(build(name, others), others, range(12))
    assert_same_bits(some, others)


@every_entry
def test_the_closure_runs_once_with_gradients_and_its_loss_is_returned(name):
    parameters = parameters_of()
    twins = parameters_of()
    optimizer, twin = build(name, parameters), build(name, twins)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = torch.stack([w.square().sum() for w in parameters]).sum()
        loss.backward()
        calls.append(loss.item())
        return calls[-1]

    for step in range(4):
        for w in twins:
            w.grad = 2 * w.detach()
        returned = optimizer.step(closure)
        twin.step()
        assert len(calls) == step + 1
        assert returned == calls[-1]
    assert_same_bits(parameters, twins)


@every_entry
def test_a_schedule_equals_setting_the_rate_by_hand(name):
    scheduled, by_hand = parameters_of(), parameters_of()
    optimizer, other = build(name, scheduled), build(name, by_hand)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    rates = [group["lr"] for group in other.param_groups]
    for step in range(8):
        run(optimizer, scheduled, [step])
        scheduler.step()
        for group, rate in zip(other.param_groups, rates, strict=True):
            group["lr"] = rate * (1 / (1 + step))
        run(other, by_hand, [step])
    assert_same_bits(scheduled, by_hand)


@every_entry
def test_groups_are_as_optimizers_apart(name):
    """Two groups, one added after three steps at a rate of its own, against two optimizers."""
    early, late = parameters_of(seed=1), parameters_of([(7,), (2, 5)], seed=2)
    early_twins, late_twins = parameters_of(seed=1), parameters_of([(7,), (2, 5)], seed=2)
    optimizer, first = build(name, early), build(name, early_twins)
    constructor, settings = CATALOG[name].load(), {**CATALOG[name].defaults, **SETTINGS[name]}
    second = constructor(late_twins, **{**settings, "lr": 0.05})
    run(optimizer, early, range(3))
    optimizer.add_param_group({"params": late, "lr": 0.05})
    run(first, early_twins, range(3))
    for step in range(3, 12):
        run(optimizer, early + late, [step])
        set_gradients(early_twins + late_twins, step)
        first.step()
        second.step()
    assert_same_bits(early + late, early_twins + late_twins)


@every_entry
def test_an_empty_group_and_named_parameters_are_fine(name):
    parameters, twins = parameters_of([(3,), (2, 2)]), parameters_of([(3,), (2, 2)])
    settings = {**CATALOG[name].defaults, **SETTINGS[name]}
    with_empty = CATALOG[name].load()([{"params": []}, {"params": parameters}], **settings)
    named = CATALOG[name].load()(zip("ab", twins, strict=True), **settings)
    run(with_empty, parameters, range(6))
    run(named, twins, range(6))
    assert_same_bits(parameters, twins)
    assert named.state_dict()["param_groups"][0]["param_names"] == ["a", "b"]


@every_entry
def test_step_hooks_run(name):
    parameters = parameters_of([(3,)])
    optimizer = build(name, parameters)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    run(optimizer, parameters, range(2))
    assert seen == ["before", "after", "before", "after"]


@every_entry
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_dtype_and_device_are_kept(name, dtype):
    parameters = parameters_of(dtype=dtype)
    optimizer = build(name, parameters)
    run(optimizer, parameters, range(8))
    assert all(w.dtype == dtype and w.isfinite().all() for w in parameters)
    for w, state in optimizer.state.items():
        for key, value in state.items():
            for tensor in tensors_in(value):
                assert key == "step" or tensor.dtype == dtype
                assert tensor.device == w.device


@every_entry
def test_strides_do_not_matter(name):
    """Transposed and sliced parameters against contiguous ones, to the rounding of matrix products."""
    generator = torch.Generator().manual_seed(5)
    strided = [
        torch.nn.Parameter(torch.randn(4, 6, generator=generator, dtype=torch.float64).T),
        torch.nn.Parameter(torch.randn(6, 8, generator=generator, dtype=torch.float64)[:, ::2]),
        torch.nn.Parameter(torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64).permute(1, 3, 0, 2)),
    ]
    contiguous = [torch.nn.Parameter(w.detach().clone(memory_format=torch.contiguous_format)) for w in strided]
    assert not any(w.is_contiguous() for w in strided)
    optimizers = build(name, strided), build(name, contiguous)
    for step in range(8):
        for a, b in zip(strided, contiguous, strict=True):
            a.grad = torch.randn(a.shape, generator=generator, dtype=torch.float64)
            if step % 2:
                a.grad = a.grad.transpose(0, 1).contiguous().transpose(0, 1)
            b.grad = a.grad.clone(memory_format=torch.contiguous_format)
        for optimizer in optimizers:
            optimizer.step()
    # torch.optim.Muon works in bfloat16, whose rounding differs with the layout.
    tolerance = 1e-3 if name == "muon" else 1e-9
    for a, b in zip(strided, contiguous, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@every_entry
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30], ids=str)
def test_gradients_that_are_not_finite_raise_nothing(name, bad):
    parameters = parameters_of()
    optimizer = build(name, parameters)
    for step in range(10):
        set_gradients(parameters, step)
        if step in (1, 5):
            for w in parameters:
                assert w.grad is not None
                w.grad.fill_(bad)
        optimizer.step()


class HostReads(TorchDispatchMode):
    """Counts the operations through which a value of a tensor reaches the host."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(word in str(func) for word in ("_local_scalar_dense", "nonzero", "aten.equal", "is_nonzero", "_unique")):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def test_the_detector_of_host_reads_finds_one():
    with HostReads() as reads:
        bool(torch.ones(()) > 0)
    assert reads.found


@pytest.mark.parametrize("name", sorted(set(OWN) - {"muon"}))  # AdamW of torch.optim reads its step counter, on the CPU
def test_a_step_reads_no_tensor_value_on_the_host(name):
    parameters = parameters_of()
    optimizer = build(name, parameters)
    with HostReads() as reads:
        run(optimizer, parameters, range(8))
    assert reads.found == []


@every_own_entry
def test_all_that_is_kept_is_in_the_state(name):
    """No tensor outside `state` and the groups: state bytes can be counted, and nothing is lost on saving."""
    parameters = parameters_of()
    optimizer = build(name, parameters)
    run(optimizer, parameters, range(6))
    kept = {key: value for key, value in vars(optimizer).items() if key not in ("state", "param_groups")}
    assert tensors_in(kept) == []
    assert set(kept) - set(vars(torch.optim.SGD(parameters))) <= {"_algorithms"}
    per_parameter = sum(tensor.numel() for tensor in tensors_in(dict(optimizer.state)))
    size = sum(w.numel() for w in parameters)
    # Vectors of the parameters' size: moments, then the history.
    vectors = {"gda2": 2 + 2 + 3 * 3, "universal_anderson_gda": 2 + 2 + 2 * 3, "anderson_gda": 1 + 3, "custom_sgd": 1}
    if name != "muon":
        assert per_parameter == size * vectors.get(name, 2)
