"""Contracts of what an optimizer keeps between steps: saving, loading, copying."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from bench.contracts.subject import (
    DTYPES,
    Subject,
    parameters_of,
    require_same_bits,
    tensors_in,
)
from bench.contracts.verdict import Broken, Contract
from bench.seeding import globally_seeded

HALF = 10


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
    """No tensor in the object's other attributes."""
    parameters = parameters_of()
    optimizer = subject.build(parameters)
    subject.run(optimizer, parameters, range(6))
    known = [*parameters, *(w.grad for w in parameters if w.grad is not None), *tensors_in(dict(optimizer.state))]
    storages = {x.untyped_storage().data_ptr() for x in known}  # a view of saved state is saved with it
    elsewhere = {
        key: found
        for key, value in vars(optimizer).items()
        if key not in ("state", "param_groups")
        and (found := [x for x in tensors_in(value) if x.untyped_storage().data_ptr() not in storages])
    }
    if elsewhere:
        key, found = next(iter(elsewhere.items()))
        size = sum(x.numel() * x.element_size() for x in found)
        raise Broken(f"{len(found)} tensors of {size} bytes in the attribute {key!r}, which state_dict does not save")
    kept = tensors_in(dict(optimizer.state))
    size = sum(x.numel() for x in kept) / sum(w.numel() for w in parameters)
    return f"{size:.2g} numbers a weight, all of them in `state`"


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
        name="state_bits",
        statement="state_dict and load_state_dict keep every bit of the state.",
        check=state_bits,
    ),
    Contract(
        name="kept_in_state",
        statement="Every tensor kept between steps is in `state`, where it is saved and counted.",
        check=kept_in_state,
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
