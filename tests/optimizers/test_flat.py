"""The layout of flat state: it covers every element once, whatever the shapes, ages and limit."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.optimizers.custom_adam import CustomAdam
from bench.optimizers.flat import FlatState, ranges_of, stacks_of
from bench.optimizers.gda2 import GDA2
from bench.optimizers.universal_anderson_gda import UniversalAndersonGDA
from bench.optimizers.universal_muon import UniversalMuon
from bench.optimizers.universal_muon_stable import UniversalMuonStable

SHAPES = st.sampled_from([(), (1,), (5,), (3, 4), (4, 3), (2, 3, 2), (0, 3), (7, 9)])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(tensors=st.lists(st.tuples(st.integers(0, 2), SHAPES), min_size=1, max_size=12), limit=st.integers(1, 200))
def test_ranges_cover_every_element_once(tensors, limit):
    tensors = sorted(tensors)
    parameters = [torch.empty(shape) for _, shape in tensors]
    stacks = stacks_of(parameters, [age for age, _ in tensors])
    ranges = list(ranges_of(stacks, parameters, limit))
    assert [r.start for r in ranges] == [0, *(r.stop for r in ranges)][:-1]  # they follow each other from 0 …
    assert (ranges[-1].stop if ranges else 0) == sum(w.numel() for w in parameters)  # … to the end
    seen = [torch.zeros(w.numel(), dtype=torch.int) for w in parameters]
    for r in ranges:
        assert r.stop - r.start <= limit or len(r.blocks) == 1
        assert {tensors[p.index][0] for p in r.pieces} <= {r.age}
        assert sum(p.high - p.low for p in r.pieces) == r.stop - r.start
        assert [b.start for b in r.blocks] == [0, *(b.stop for b in r.blocks)][:-1]
        for block in r.blocks:
            shapes = {parameters[i].shape for i in range(block.first, block.first + block.rows)}
            assert len(shapes) == 1
        for p in r.pieces:
            seen[p.index][p.low : p.high] += 1
    assert all((count == 1).all() for count in seen)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(shapes=st.lists(SHAPES, min_size=1, max_size=8), limit=st.integers(1, 60), strided=st.booleans())
def test_what_is_read_from_gradients_is_what_is_written_to_weights(shapes, limit, strided):
    """Writing the gradients through the ranges gives every parameter its own gradient, in its own layout."""
    generator = torch.Generator().manual_seed(len(shapes))
    parameters = [torch.zeros(shape).mT if strided and len(shape) > 1 else torch.zeros(shape) for shape in shapes]
    for w in parameters:
        w.grad = torch.randn(w.shape, generator=generator)
    state = {w: {} for w in parameters}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.optimizers.flat.RANGE_ELEMENTS", limit)
        flat = FlatState(parameters, state, vectors={"x": (), "X": (2,)}, products={"p": (3,)})
    for r in flat.ranges:
        (out,) = flat.scratch(r, 1)
        g = flat.gradient(r, out=out)
        r.of(flat.vectors["x"]).copy_(g)
        for weights, piece in zip(flat.weights(r), flat.cut(r, g.clone()), strict=True):
            weights.add_(piece)
    for w in parameters:
        assert torch.equal(w, w.grad)
        assert torch.equal(state[w]["x"], w.grad)
        assert state[w]["X"].shape == (2, *w.shape)
        assert state[w]["p"].shape == (3,)


def parameters_of(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(6, 5), (4,), (6, 5), (2, 3, 2)]]


def train(optimizer, parameters, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for w in parameters:
            w.grad = torch.randn(w.shape, generator=generator).to(w.dtype)
        optimizer.step()


@pytest.mark.parametrize("constructor", [CustomAdam, GDA2, UniversalAndersonGDA])
def test_weights_may_be_given_new_memory(constructor):
    """`p.data = …`, as moving a module does: the step follows the parameter to where it is."""
    moved, still = parameters_of(0), parameters_of(0)
    optimizers = constructor(moved), constructor(still)
    for steps in (range(5), range(5, 9)):
        for optimizer, parameters in zip(optimizers, (moved, still), strict=True):
            train(optimizer, parameters, steps)
        for w in moved:
            w.data = w.data.clone()
    for a, b in zip(moved, still, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("constructor", [GDA2, UniversalAndersonGDA])
def test_a_saved_state_is_not_changed_by_what_follows(constructor):
    """What was loaded from a state of step 5 goes its own way, and leaves that state as it was."""
    parameters, others = parameters_of(0), parameters_of(0)
    optimizer, other = constructor(parameters), constructor(others)
    train(optimizer, parameters, range(5))
    saved = copy.deepcopy(optimizer.state_dict())
    other.load_state_dict(saved)
    with torch.no_grad():
        for a, b in zip(others, parameters, strict=True):
            a.copy_(b)
    before = copy.deepcopy(saved)
    train(other, others, range(5, 9))
    torch.testing.assert_close(saved["state"], before["state"], rtol=0, atol=0)
    train(optimizer, parameters, range(5, 9))
    for a, b in zip(parameters, others, strict=True):
        assert torch.equal(a, b)


FLAT = [CustomAdam, GDA2, UniversalAndersonGDA, UniversalMuon, UniversalMuonStable]
STRIDED = {
    "every second": lambda base: base[:12:2, 0],
    "a column": lambda base: base[:6, 1:2],
    "expanded": lambda base: base[0, :1].expand(6),
    "expanded matrix": lambda base: base[0, :1].expand(4, 6),
    "transposed": lambda base: base[:4, :6].T,
}


@pytest.mark.parametrize("gradient", STRIDED.values(), ids=STRIDED)
@pytest.mark.parametrize("constructor", FLAT)
def test_a_gradient_alone_may_have_any_strides(constructor, gradient):
    """One parameter is one piece, which nothing gathers: a kernel that reads on would read what is not its own."""
    base = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.nn.Parameter(torch.zeros(gradient(base).shape)) for _ in range(2))
    optimizers = constructor([ours]), constructor([theirs])
    for _ in range(5):
        ours.grad, theirs.grad = gradient(base), gradient(base).contiguous()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("constructor", [GDA2, UniversalAndersonGDA])
def test_parameters_that_drop_out_do_not_hold_the_memory_of_the_others(constructor):
    parameters = [torch.nn.Parameter(torch.zeros(1000)) for _ in range(10)]
    optimizer = constructor(parameters)
    train(optimizer, parameters, range(3))
    full = storage_bytes(optimizer)
    for frozen in range(1, 10):
        for w in parameters[:frozen]:
            w.grad = None
        optimizer.step()
    assert storage_bytes(optimizer) < 1.1 * full


def storage_bytes(optimizer):
    """Bytes of the distinct storages that the state keeps alive, and that a checkpoint holds."""
    tensors = [x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


@pytest.mark.parametrize("constructor", FLAT)
@pytest.mark.parametrize(("before", "after"), [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_a_state_loads_into_weights_of_another_dtype(constructor, before, after):
    some, others = parameters_of(0), parameters_of(0)
    for parameters, dtype in ((some, before), (others, after)):
        for w in parameters:
            w.data = w.data.to(dtype)
    first, second = constructor(some), constructor(others)
    train(first, some, range(6))
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        for a, b in zip(others, some, strict=True):
            a.copy_(b)
    train(first, some, range(6, 9))
    train(second, others, range(6, 9))
    for a, b in zip(some, others, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("constructor", FLAT)
def test_empty_parameters_alone_are_no_obstacle(constructor):
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in [(0,), (0, 3)]]
    train(constructor(parameters), parameters, range(3))


def test_a_history_of_another_length_begins_anew():
    for constructor, name in ((UniversalAndersonGDA, "anderson_m"), (GDA2, "history_size")):
        parameters = parameters_of(0)
        optimizer = constructor(parameters)
        train(optimizer, parameters, range(6))
        optimizer.param_groups[0][name] = 2
        optimizer.state.pop(parameters[1])  # a change of the set lays the vectors out anew
        train(optimizer, parameters, range(6, 12))
        assert all(w.isfinite().all() for w in parameters)
