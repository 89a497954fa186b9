"""A protocol small enough to run in a second, and plugins as files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.protocol import PROTOCOLS, Protocol, changed

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
