"""A protocol small enough to run in a second, plugins as files, and the command in this process."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.protocol import Protocol
from bench.protocols import PROTOCOLS, changed

PLUGIN = """
import os
import torch

class Mine(torch.optim.Optimizer):
    def __init__(self, params, lr=0.01):
        super().__init__(params, {{"lr": lr}})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    {body}

NotOne = dict
"""

TINY = {
    "name": "tiny",
    "epochs": 2,
    "seeds": 2,
    "batch_size": 8,
    "workload": {
        "dataset_options": {"training": 32, "validation": 16, "test": 24, "image_size": 16, "audio_size": 16},
        "model_options": {
            "text_embed_dim": 16,
            "latent_dim": 16,
            "image_size": 16,
            "num_heads": 2,
            "memory_size": 16,
            "audio_channels": [4, 4, 8, 8],
        },
    },
}


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded data of tests stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny() -> Protocol:
    return changed(PROTOCOLS["mini"], TINY, "tiny")


@pytest.fixture(scope="session")
def tiny_toml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same protocol as a user's file."""
    path = tmp_path_factory.mktemp("protocol") / "tiny.toml"
    path.write_text("""
extends = "mini"
epochs = 2
seeds = 2
batch_size = 8
[workload.dataset_options]
training = 32
validation = 16
test = 24
image_size = 16
audio_size = 16
[workload.model_options]
text_embed_dim = 16
latent_dim = 16
image_size = 16
num_heads = 2
memory_size = 16
audio_channels = [4, 4, 8, 8]
""")
    return path


@pytest.fixture
def write_plugin(tmp_path: Path) -> Callable[[str], str]:
    """Writes a file with an optimizer class whose update of a parameter p is `body`; returns its reference."""

    def write(body: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(PLUGIN.format(body=body))
        return f"{path}:Mine"

    return write


class Called(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """The command as a user types it, in a folder with results/, on a terminal of 80 columns."""
    from bench.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> Called:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        assert isinstance(code, int)
        return Called(code, *capsys.readouterr())

    return call
