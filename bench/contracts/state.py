"""Contracts of what an optimizer keeps between steps: saving, loading, copying."""

from __future__ import annotations

import copy
import io
import pickle
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.contracts.reachable import attributes, tensors_reachable
from bench.contracts.subject import (
    DTYPES,
    Subject,
    copies,
    parameters_of,
    random_gradients,
    require_same_bits,
    tensors_in,
)
from bench.contracts.verdict import Broken, Contract
from bench.seeding import globally_seeded

HALF = 10
HELD_FACTOR = 2.0
# A step of float64 against float32, relative to its length, beyond the rounding of float32 weights.
WIDENED_TOLERANCE = 1e-2
FLOAT32_EPS = torch.finfo(torch.float32).eps


def through_a_file(content: Any) -> Any:
    """`content` after torch.save and a load that accepts plain data only."""
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resume(subject: Subject) -> str:
    """Twenty steps against ten, a file, a fresh optimizer on fresh parameters, and ten more."""
    for dtype in DTYPES:
        whole, parts, fresh = (parameters_of(seed=seed, dtype=dtype) for seed in (0, 0, 99))
        with globally_seeded(1):
            subject.run(subject.build(whole), whole, range(2 * HALF))
        with globally_seeded(1):
            first = subject.build(parts)
            subject.run(first, parts, range(HALF))
            saved = through_a_file({"optimizer": first.state_dict(), "parameters": [w.detach() for w in parts]})
            with torch.random.fork_rng(devices=[]):  # draws at construction are not those of the resumed run
                second = subject.build(fresh)
            with torch.no_grad():
                for w, value in zip(fresh, saved["parameters"], strict=True):
                    w.copy_(value)
            second.load_state_dict(saved["optimizer"])
            subject.run(second, fresh, range(HALF, 2 * HALF))
        require_same_bits(fresh, whole, f"after a resume at step {HALF} of {2 * HALF} in {dtype}")
    return f"same bits after a resume at step {HALF} of {2 * HALF} in {len(DTYPES)} dtypes"


def state_bits(subject: Subject) -> str:
    """A loaded state against the saved one, bit by bit."""
    count = 0
    for dtype in DTYPES:
        parameters = parameters_of(dtype=dtype)
        optimizer, twin = subject.build(parameters), subject.build(parameters_of(dtype=dtype))
        subject.run(optimizer, parameters, range(7))
        ours = copy.deepcopy(optimizer.state_dict())
        twin.load_state_dict(through_a_file(ours))
        theirs = twin.state_dict()
        if (before := repr(ours["param_groups"])) != (after := repr(theirs["param_groups"])):
            raise Broken(f"groups are {after[:120]} after loading {before[:120]}")
        saved, loaded = tensors_in(ours["state"]), tensors_in(theirs["state"])
        require_same_bits(loaded, saved, f"between loaded and saved state in {dtype}")
        count = len(saved)
    return f"{count} tensors of state have the same bits after loading, in {len(DTYPES)} dtypes"


def kept_in_state(subject: Subject) -> str:
    """No tensor behind the object's other attributes, but in what a class declares as WORKSPACE."""
    parameters = parameters_of()
    optimizer = subject.build(parameters)
    subject.run(optimizer, parameters, range(6))
    known = [*parameters, *(w.grad for w in parameters if w.grad is not None), *tensors_in(dict(optimizer.state))]
    storages = {_address(x) for x in known}  # a view of saved state is saved with it
    places = [(f"the attribute {key!r}", value) for key, value in _own_attributes(optimizer).items()]
    places += [(f"attributes of parameter {i}", list(vars(w).values())) for i, w in enumerate(parameters)]
    for place, value in places:
        if found := [x for x in tensors_reachable(value) if x.numel() and _address(x) not in storages]:
            size = sum(x.numel() * x.element_size() for x in found)
            raise Broken(f"{len(found)} tensors of {size} bytes in {place}, which state_dict does not save")
    kept = tensors_in(dict(optimizer.state))
    size = sum(x.numel() for x in kept) / sum(w.numel() for w in parameters)
    return f"{size:.2g} numbers a weight, all of them in `state`"


def _address(x: Tensor) -> int:
    """Where a tensor's storage begins; views of one storage agree."""
    return x.untyped_storage().data_ptr()


def _own_attributes(optimizer: Optimizer) -> dict[str, Any]:
    """What an optimizer keeps beside its state, its groups and what torch's base class keeps of hooks."""
    torchs = ("state", "param_groups", "defaults")
    return {
        name: value
        for name, value in attributes(optimizer).items()
        if name not in torchs and not name.startswith("_optimizer_")
    }


def memory_released(subject: Subject) -> str:
    """Parameters frozen one by one: the storages behind the state against the state in them."""
    parameters = parameters_of(((30, 20),) * 8)
    optimizer = subject.build(parameters)
    subject.run(optimizer, parameters, range(3))
    worst = 1.0
    for frozen in range(1, len(parameters)):
        given: list[Tensor | None] = [*random_gradients(parameters, 3 + frozen)]
        given[:frozen] = [None] * frozen
        subject.apply(optimizer, parameters, given)
        held, used = _state_memory(optimizer, parameters)
        if held > HELD_FACTOR * used:
            raise Broken(
                f"{held} bytes are held for {used} bytes of state, {held / used:.3g} × as many, with {frozen} of "
                f"{len(parameters)} parameters frozen; allowed is {HELD_FACTOR:g}"
            )
        worst = max(worst, held / max(1, used))
    return f"at most {worst:.3g} × the state's bytes held while {len(parameters)} parameters are frozen one by one"


def _state_memory(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> tuple[int, int]:
    """Bytes of the storages that the state reaches, weights and gradients apart, and of the tensors seen in them."""
    theirs = {_address(x) for w in parameters for x in (w, w.grad) if x is not None}
    held: dict[int, int] = {}
    used: dict[int, int] = defaultdict(int)
    for x in tensors_reachable(list(optimizer.state.values())):
        if _address(x) not in theirs:
            held[_address(x)] = x.untyped_storage().nbytes()
            used[_address(x)] += x.numel() * x.element_size()
    return sum(held.values()), sum(min(used[address], size) for address, size in held.items())


def widened(subject: Subject) -> str:
    """The step after ten in float32, taken in float32 and, from the saved state, in float64."""
    narrow = parameters_of()
    first = subject.build(narrow)
    with globally_seeded(1):
        subject.run(first, narrow, range(HALF))
    wider = [nn.Parameter(w.detach().double()) for w in narrow]
    second = subject.build(wider)
    second.load_state_dict(through_a_file(first.state_dict()))
    before = copies(wider)
    for optimizer, weights in ((first, narrow), (second, wider)):
        with globally_seeded(2):
            subject.run(optimizer, weights, [HALF])
    worst = 0.0
    for i, (w, other, old) in enumerate(zip(wider, narrow, before, strict=True)):
        if w.dtype != torch.float64:
            raise Broken(f"parameter {i} became {w.dtype} in the step after loading")
        step, expected = w.detach() - old, other.detach().double() - old
        difference = torch.linalg.vector_norm(step - expected).item()
        length = torch.linalg.vector_norm(expected).item()
        beyond = difference - FLOAT32_EPS * torch.linalg.vector_norm(old).item()
        if not beyond <= WIDENED_TOLERANCE * length:
            raise Broken(f"the step of parameter {i} after loading is {difference:.2g} off the float32 one of length "
                         f"{length:.2g}; allowed is {WIDENED_TOLERANCE:g} of it")  # fmt: skip
        worst = max(worst, beyond / length) if length else worst
    return f"a float32 state goes on in float64; the next step is the float32 one to {worst:.2g} beyond its rounding"


def goes_its_own_way(subject: Subject, copier: Callable[[Any], Any]) -> str:
    """A copy in the middle of training against the original, on the same gradients."""
    parameters = parameters_of()
    optimizer = subject.build(parameters)
    subject.run(optimizer, parameters, range(7))
    pair: tuple[list[nn.Parameter], Optimizer] = copier((parameters, optimizer))
    other_parameters, other = pair
    for each, weights in ((optimizer, parameters), (other, other_parameters)):
        with globally_seeded(1):
            subject.run(each, weights, range(7, 14))
    require_same_bits(other_parameters, parameters, "7 steps after a copy at step 7")
    return "same bits 7 steps after a copy at step 7"


CONTRACTS = (
    Contract(
        name="resume",
        statement="A run saved, loaded into a fresh optimizer and continued has the bits of an uninterrupted one.",
        check=resume,
    ),
    Contract(
        name="resume_in_float64",
        statement="A state saved with float32 parameters loads with float64 ones, and the next step is the same one.",
        check=widened,
    ),
    Contract(
        name="state_bits",
        statement="state_dict and load_state_dict keep every bit of the state.",
        check=state_bits,
    ),
    Contract(
        name="kept_in_state",
        statement="Every tensor kept between steps, in objects too, is in `state`, where it is saved and counted.",
        check=kept_in_state,
    ),
    Contract(
        name="memory_released",
        statement="Parameters that have no gradient any more do not keep the memory of others' state.",
        check=memory_released,
    ),
    Contract(
        name="deep_copy",
        statement="A deep copy of optimizer and parameters goes on with the same bits.",
        check=lambda subject: goes_its_own_way(subject, copy.deepcopy),
    ),
    Contract(
        name="pickle",
        statement="A pickled optimizer goes on with the same bits.",
        check=lambda subject: goes_its_own_way(subject, lambda pair: pickle.loads(pickle.dumps(pair))),
    ),
)
