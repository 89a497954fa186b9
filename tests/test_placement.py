"""Where runs run: defaults, refused values, and what a worker's environment pins."""

import math
from pathlib import Path

import pytest

from bench import placement
from bench.engines.local import gpus_in_sight, worker_environment
from bench.environment import usable_cores
from bench.errors import UsageError
from bench.placement import Placement, placed


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two of them, as far as torch's count goes."""
    monkeypatch.setattr(placement.torch.cuda, "device_count", lambda: 2)
    return monkeypatch


def test_a_worker_a_core_without_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placement.torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("BENCH_DATA", raising=False)
    assert placed() == Placement(device="cpu", workers=usable_cores())
    assert placed(workers=3, threads=2, data_dir="d") == Placement(
        device="cpu", workers=3, threads=2, data_dir=Path("d"))  # fmt: skip


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("device", "used", "workers"),
    [(None, "cuda", 2), ("cuda", "cuda", 2), ("cuda:1", "cuda:1", 1), ("cpu", "cpu", None)],
)
def test_a_worker_a_gpu(device: str | None, used: str, workers: int | None):
    found = placed(device=device)
    assert (found.device, found.workers) == (used, workers or usable_cores())


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:2"}, "--device 'cuda:2': allowed here are cpu, cuda, cuda:0, cuda:1"),
        ({"workers": 0}, "--workers 0: allowed is a count >= 1"),
        ({"threads": -1}, "--threads -1: allowed"),
        ({"checkpoint_steps": 0}, "--checkpoint-steps 0: allowed"),
        ({"time_limit": 0.0}, r"--time-limit 0: allowed are 0\.001 to 1e\+09 seconds"),
        ({"time_limit": math.nan}, "--time-limit nan: allowed"),
        ({"time_limit": math.inf}, "--time-limit inf: allowed"),
        ({"time_limit": 1e10}, r"--time-limit 1e\+10: allowed"),
        ({"checkpoint_seconds": -1.0}, r"--checkpoint-seconds -1: allowed are 0 to 1e\+09 seconds"),
    ],
)
def test_bad_values_are_named(options: dict, message: str):
    with pytest.raises(UsageError, match=message):
        placed(**options)


def test_placement_travels_as_text():
    found = placed(data_dir="d", time_limit=3.5, checkpoint_steps=4, command="bench run")
    assert Placement.model_validate_json(found.model_dump_json()) == found


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("visible", "ids"), [(None, ["0", "1"]), ("3,5", ["3", "5"]), ("GPU-ab, GPU-cd", ["GPU-ab", "GPU-cd"]), ("", [])]
)
def test_gpus_in_sight(visible: str | None, ids: list[str]):
    assert gpus_in_sight({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == ids


def test_a_workers_environment_pins_threads_and_its_gpu():
    found = worker_environment({"OMP_NUM_THREADS": "64", "CUDA_VISIBLE_DEVICES": "3,5", "HOME": "/h"}, 2, "5")
    assert found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == "2"
    assert found["CUDA_VISIBLE_DEVICES"] == "5" and found["HOME"] == "/h"
    assert worker_environment({"CUDA_VISIBLE_DEVICES": "3,5"}, 1)["CUDA_VISIBLE_DEVICES"] == "3,5"


def test_the_allocator_is_tuned_where_the_user_has_not_done_it():
    assert worker_environment({}, 1)["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert worker_environment({"GLIBC_TUNABLES": "glibc.malloc.check=1"}, 1)["GLIBC_TUNABLES"] == "glibc.malloc.check=1"
