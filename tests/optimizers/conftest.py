"""Tiny tensors: one thread is faster than several that wait for each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bench.spec import OptimizerSpec


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def need_packages() -> Callable[[OptimizerSpec], None]:
    """Skips the test where a package of the entry is not installed."""

    def need(spec: OptimizerSpec) -> None:
        for package in spec.packages:
            pytest.importorskip(package)
        if isinstance(spec.constructor, str):
            pytest.importorskip(spec.constructor.partition(":")[0])

    return need
