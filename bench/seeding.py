"""Randomness by role: within a block (one seed) every optimizer meets the same streams.

A stream's seed depends on the block's seed and on what the stream is for, never on the optimizer. An optimizer that
draws random numbers itself gets a stream of its own, so that it cannot shift the data's.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

Role = Literal["init", "order", "augmentation", "dropout", "optimizer", "objective"]
_ROLE_NUMBERS: dict[Role, int] = {
    "init": 0,
    "order": 1,
    "augmentation": 2,
    "dropout": 3,
    "optimizer": 4,
    "objective": 5,
}


def role_seed(seed: int, role: Role) -> int:
    """The 63-bit seed of one role's stream in block `seed`."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(_ROLE_NUMBERS[role],))
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators within the block and put them back after it.

    For code that only knows the global generator: the initialisers of torch's layers, and an optimizer's own draws.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def globally_seeded(seed: int) -> Iterator[None]:
    """`torch_seeded`, and the same for the global generators of numpy and Python, which some libraries draw from."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch_seeded(seed):
            np.random.seed(seed % (1 << 32))
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


class GlobalGenerators:
    """Where the global generators of torch, numpy and Python stand, as they hold it: cheap enough for each step."""

    def __init__(self) -> None:
        self._torch, self._python = torch.get_rng_state(), random.getstate()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self._numpy = np.random.get_state()

    def restore(self) -> None:
        """Put them back there."""
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        np.random.set_state(self._numpy)
        random.setstate(self._python)


def generator_states() -> dict[str, Any]:
    """The states of the global generators of torch, numpy and Python, as plain data and tensors."""
    kind, keys, *rest = cast("tuple[Any, ...]", np.random.get_state())
    return {
        "torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": (kind, keys.tolist(), *rest), "python": random.getstate(),
    }  # fmt: skip


def set_generator_states(states: Mapping[str, Any]) -> None:
    """Put the global generators where `generator_states` found them."""
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    random.setstate(states["python"])


def batch_order(seed: int, epoch: int, samples: int) -> Tensor:
    """The order [samples] in which epoch `epoch` (from 1) visits the training samples; on the CPU."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(epoch,))
    generator = torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
    return torch.randperm(samples, generator=generator)


def order_fingerprint(order: Tensor) -> str:
    """SHA-256 of a batch order."""
    return hashlib.sha256(order.numpy().tobytes()).hexdigest()


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 over names and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
