"""A study whose runs have kept their weights, as the command makes it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from bench.protocol import Protocol
from bench.protocols import changed


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As a worker has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def constant(tiny: Protocol) -> Protocol:
    """`tiny` with a rate that does not depend on the number of epochs."""
    return changed(tiny, {"name": "constant", "schedule": "constant", "warmup": 0.0}, "test")


class Kept(NamedTuple):
    """A study, the folders of its runs by seed, and what the command said."""

    path: Path
    runs: list[Path]
    err: str


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_toml: Path) -> Kept:
    """AdamW on two seeds by `bench run --save-best --save-last`."""
    folder = tmp_path_factory.mktemp("kept")
    command = ["run", "-p", str(tiny_toml), "-o", "adamw", "--seeds", "2", "--workers", "1", "--save-best",
               "--save-last", "--results", str(folder)]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "bench", *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return Kept(folder / "tiny", sorted((folder / "tiny" / "runs").iterdir()), done.stderr)
