"""Where a run runs: versions, hardware, memory and the commit; no names of users, hosts or paths."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from bench.record import Environment

RECORDED_PACKAGES = (
    "optimizer-bench", "torch", "torchvision", "torchaudio", "numpy", "scipy", "pytorch_optimizer", "schedulefree",
    "opt_einsum",
)  # fmt: skip


@cache
def _git(*arguments: str) -> str | None:
    """What `git arguments` prints in the package's checkout; None outside one."""
    folder = Path(__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    """The CPU's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "system": platform.system()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def usable_cores() -> int:
    """Cores this process may use, a container's quota included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no such file: no quota; "max": no limit
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def environment(device: torch.device) -> Environment:
    """The record of this process on `device`."""
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return Environment(
        versions=_versions(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        processor=_processor(),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        git_commit=commit,
        git_dirty=None if status is None else bool(status),
    )


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of peak memory; on a CPU the process's high-water mark, where Linux lets it be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # elsewhere the mark of the whole process stands in
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Peak bytes since the last reset: allocated on the device, or resident of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def out_of_memory_kills() -> int:
    """How many processes of this control group the kernel has killed for memory; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = Path("/sys/fs/cgroup/memory.events").read_text().split("\n")
        return int(dict(line.split() for line in lines if line)["oom_kill"])
    return 0


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all tensors in the optimizer's state, nested ones included."""

    def size(value: object) -> int:
        if isinstance(value, Tensor):
            return value.numel() * value.element_size()
        if isinstance(value, dict):
            return sum(size(v) for v in value.values())
        if isinstance(value, list | tuple):
            return sum(size(v) for v in value)
        return 0

    return sum(size(state) for state in optimizer.state.values())
