"""Contracts of the numbers of a step: every shape, dtype and layout, the same bits again, nothing read on the host."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from bench.contracts.reads import HostReads
from bench.contracts.subject import (
    DTYPES,
    SHAPES,
    Subject,
    copies,
    parameters_of,
    random_gradients,
    require_close,
    require_finite,
    require_same_bits,
    shape_text,
    tensors_in,
)
from bench.contracts.verdict import Broken, Contract
from bench.seeding import globally_seeded

# To the rounding of matrix products in float64.
LAYOUT_TOLERANCE = 1e-9
WATCHED_STEPS = 30  # some work is done every tenth step, or begins at the 25th


def _draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# A name, the parameter's shape and its gradient; autograd hands out the expanded ones for the sum of the weights.
LONE_GRADIENTS: tuple[tuple[str, tuple[int, ...], Callable[[torch.Generator], Tensor]], ...] = (
    ("a gradient of stride 2", (6,), lambda generator: _draw(generator, 12)[::2]),
    ("a gradient that is a column", (6, 1), lambda generator: _draw(generator, 6, 3)[:, :1]),
    ("an expanded gradient", (5,), lambda generator: _draw(generator).expand(5)),
    ("an expanded gradient", (6, 4), lambda generator: _draw(generator).expand(6, 4)),
)


def every_shape(subject: Subject) -> str:
    """0 to 4 dimensions."""
    parameters = parameters_of()
    before = copies(parameters)
    subject.run(subject.build(parameters), parameters, range(20))
    require_finite(parameters, "after 20 steps")
    for i, (w, old) in enumerate(zip(parameters, before, strict=True)):
        if w.numel() and torch.equal(w, old):
            raise Broken(f"parameter {i} of shape {shape_text(w)} has not moved in 20 steps with gradients")
    shapes = ", ".join(shape_text(w) for w in parameters)
    return f"shapes {shapes} move and stay finite in 20 steps"


def empty_parameter(subject: Subject) -> str:
    """A parameter without elements beside another, and parameters none of which has elements."""
    parameters = parameters_of(((0, 3), (2, 2)))
    before = copies(parameters)[1]
    subject.run(subject.build(parameters), parameters, range(6))
    require_finite(parameters, "after 6 steps beside an empty parameter")
    if torch.equal(parameters[1], before):
        raise Broken("the parameter beside an empty one has not moved in 6 steps")
    empty = parameters_of(((0,), (0, 3)))
    subject.run(subject.build(empty), empty, range(6))
    return "a parameter of shape [0, 3] is no obstacle in 6 steps, nor are [0] and [0, 3] alone"


def dtype_and_device(subject: Subject) -> str:
    """Weights keep their dtype, and state lies with its parameter."""
    for dtype in DTYPES:
        parameters = parameters_of(dtype=dtype)
        optimizer = subject.build(parameters)
        subject.run(optimizer, parameters, range(8))
        for i, w in enumerate(parameters):
            if w.dtype != dtype:
                raise Broken(f"parameter {i} of shape {shape_text(w)} became {w.dtype} from {dtype} in 8 steps")
            away = [x for x in tensors_in(optimizer.state.get(w)) if x.device != w.device]
            if away:
                raise Broken(f"state of parameter {i} on {w.device} lies on {away[0].device}")
        require_finite(parameters, f"after 8 steps in {dtype}")
    return f"weights keep {', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)} and their device"


def layout(subject: Subject) -> str:
    """Several parameters, and gradients of one alone, which no optimizer has to gather from several places."""
    _strided_parameters(subject)
    for name, shape, gradient in LONE_GRADIENTS:
        _lone_gradient(subject, name, shape, gradient)
    return (
        f"strided and contiguous parameters, and {len(LONE_GRADIENTS)} gradients of a lone parameter, agree to "
        f"{LAYOUT_TOLERANCE:g} after 8 steps in float64"
    )


def _lone_gradient(
    subject: Subject, name: str, shape: tuple[int, ...], gradient: Callable[[torch.Generator], Tensor]
) -> None:
    """A gradient that does not lie in memory as its parameter does, against a copy that does."""
    generator = torch.Generator().manual_seed(6)
    (strided,), (contiguous,) = (parameters_of((shape,), dtype=torch.float64) for _ in range(2))
    optimizers = subject.build([strided]), subject.build([contiguous])
    for step in range(8):
        given = gradient(generator)
        same = given.clone(memory_format=torch.contiguous_format)
        for optimizer, w, g in zip(optimizers, (strided, contiguous), (given, same), strict=True):
            with globally_seeded(step):
                subject.apply(optimizer, [w], [g])
    when = f"between {name} and its contiguous copy, of a parameter of shape {list(shape)} alone, after 8 steps"
    require_close([strided], [contiguous], when, tolerance=LAYOUT_TOLERANCE)


def _strided_parameters(subject: Subject) -> None:
    """Transposed and sliced parameters against contiguous ones."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return _draw(generator, *shape)

    strided = [
        nn.Parameter(draw(4, 6).T),
        nn.Parameter(draw(6, 8)[:, ::2]),
        nn.Parameter(draw(2, 3, 2, 2).permute(1, 3, 0, 2)),
    ]
    contiguous = [nn.Parameter(w.detach().clone(memory_format=torch.contiguous_format)) for w in strided]
    optimizers = subject.build(strided), subject.build(contiguous)
    for step in range(8):
        given = [draw(*w.shape) for w in strided]
        if step % 2:
            given = [g.transpose(0, 1).contiguous().transpose(0, 1) for g in given]
        same = [g.clone(memory_format=torch.contiguous_format) for g in given]
        for optimizer, weights, gradients in zip(optimizers, (strided, contiguous), (given, same), strict=True):
            with globally_seeded(step):
                subject.apply(optimizer, weights, gradients)
    require_close(strided, contiguous, "between strided and contiguous after 8 steps", tolerance=LAYOUT_TOLERANCE)


def determinism(subject: Subject) -> str:
    """Twelve steps twice under the same global seed."""
    some, others = parameters_of(), parameters_of()
    for parameters in (some, others):
        with globally_seeded(1):
            subject.run(subject.build(parameters), parameters, range(12))
    require_same_bits(some, others, "between two runs of 12 steps under one seed")
    return "two runs of 12 steps have the same bits"


def own_randomness(subject: Subject) -> str:
    """The states of the global generators of torch, numpy and Python before and after."""
    parameters = parameters_of()
    optimizer = subject.build(parameters)
    before = _generators()
    subject.run(optimizer, parameters, range(12))
    if drawn := [name for name, state in _generators().items() if state != before[name]]:
        raise Broken(
            f"12 steps draw from the global generator of {' and '.join(drawn)}, which state_dict does not save"
        )
    return "12 steps leave the global generators as they were"


def _generators() -> dict[str, bytes]:
    """The states of the global generators."""
    states = {"torch": torch.get_rng_state().tolist(), "numpy": np.random.get_state(), "Python": random.getstate()}
    return {name: pickle.dumps(state) for name, state in states.items()}


def host_reads(subject: Subject) -> str:
    """Values of tensors that reach Python in `step()`."""
    parameters = parameters_of()
    optimizer = subject.build(parameters)
    found: list[str] = []
    for step in range(WATCHED_STEPS):
        given = random_gradients(parameters, step)
        with HostReads() as reads:
            subject.apply(optimizer, parameters, given)
        found += reads.found
    if found:
        kinds = ", ".join(sorted(set(found)))
        raise Broken(f"{len(found) / WATCHED_STEPS:.3g} host reads a step over {len(SHAPES)} parameters ({kinds})")
    return f"0 host reads in {WATCHED_STEPS} steps"


CONTRACTS = (
    Contract(
        name="every_shape",
        statement="Parameters of 0 to 4 dimensions move and stay finite.",
        check=every_shape,
    ),
    Contract(
        name="empty_parameter",
        statement="Parameters without elements are no obstacle, also where there is no other.",
        check=empty_parameter,
    ),
    Contract(
        name="dtype_and_device",
        statement="Weights keep their dtype and device and stay finite, in float32, float64 and bfloat16.",
        check=dtype_and_device,
    ),
    Contract(
        name="layout",
        statement="Strides of parameters and gradients do not matter: all end where contiguous ones do.",
        check=layout,
    ),
    Contract(
        name="determinism",
        statement="The same seed gives the same bits.",
        check=determinism,
    ),
    Contract(
        name="own_randomness",
        statement="No draw from a global generator of torch, numpy or Python.",
        check=own_randomness,
    ),
    Contract(
        name="host_reads",
        statement="step() reads no value of a tensor on the host.",
        check=host_reads,
    ),
)
