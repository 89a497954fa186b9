"""What a GPU is at while a run goes on: utilisation, memory, temperature, energy, by NVML (extra `gpu`)."""

from __future__ import annotations

import importlib
import itertools
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from bench.record import DeviceUse

INTERVAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at a device; None: it does not say. `energy` is its counter, in joules."""

    seconds: float
    utilization_percent: float | None = None
    memory_bytes: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    energy_joules: float | None = None


def device_use(samples: list[Sample]) -> DeviceUse | None:
    """What samples, in the order of time, come to; None without any."""
    if not samples:
        return None
    utilization = [s.utilization_percent for s in samples if s.utilization_percent is not None]
    memory = [s.memory_bytes for s in samples if s.memory_bytes is not None]
    temperature = [s.temperature_celsius for s in samples if s.temperature_celsius is not None]
    return DeviceUse(
        samples=len(samples),
        mean_utilization_percent=fmean(utilization) if utilization else None,
        peak_memory_bytes=max(memory, default=None),
        max_temperature_celsius=max(temperature, default=None),
        energy_joules=_energy(samples),
    )


def _energy(samples: list[Sample]) -> float | None:
    """The counter's difference, or where there is none the integral of the power by the trapezoidal rule."""
    counted = [s.energy_joules for s in samples if s.energy_joules is not None]
    if len(counted) >= 2 and counted[-1] >= counted[0]:
        return counted[-1] - counted[0]
    powers = [(s.seconds, s.power_watts) for s in samples if s.power_watts is not None]
    if len(powers) < 2:
        return None
    steps = itertools.pairwise(powers)
    return sum((later - sooner) * (p + q) / 2 for (sooner, p), (later, q) in steps)


class DeviceWatch(AbstractContextManager["DeviceWatch"]):
    """Looks at a device about once a second, in a thread, for as long as the block lasts.

    Says nothing, and costs nothing, where the device is no GPU or NVML is not there. `nvml` has the interface of the
    module `pynvml` of nvidia-ml-py.
    """

    def __init__(self, device: torch.device, nvml: Any = None, interval: float = INTERVAL_SECONDS) -> None:
        self._device, self._nvml, self._interval = device, nvml, interval
        self._samples: list[Sample] = []
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> DeviceWatch:
        if self._device.type == "cuda" and (handle := self._handle()) is not None:
            self._thread = threading.Thread(target=self._watch, args=(handle,), name="telemetry", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._thread is not None:
            self._ending.set()
            self._thread.join()
            self._thread = None
            self._nvml.nvmlShutdown()

    def use(self) -> DeviceUse | None:
        """What was seen; None where nothing was."""
        return device_use(self._samples)

    def _handle(self) -> Any:
        """NVML's handle of the device; None without the library, a driver, or a device that it knows."""
        if self._nvml is None:
            try:
                self._nvml = importlib.import_module("pynvml")
            except ImportError:
                return None
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError:
            return None
        identity = torch.cuda.get_device_properties(self._device).uuid
        for kind in ("GPU", "MIG"):  # torch leaves the prefix out
            try:
                return self._nvml.nvmlDeviceGetHandleByUUID(f"{kind}-{identity}")
            except self._nvml.NVMLError:
                continue
        self._nvml.nvmlShutdown()
        return None

    def _watch(self, handle: Any) -> None:
        """Take samples until the end, one of them there."""
        while True:
            ending = self._ending.is_set()
            self._samples.append(self._sample(handle))
            if ending:
                return
            self._ending.wait(self._interval)

    def _sample(self, handle: Any) -> Sample:
        nvml = self._nvml

        def asked(name: str, *arguments: Any) -> Any:
            try:
                return getattr(nvml, name)(handle, *arguments)
            except nvml.NVMLError:  # not every device knows everything, and a device can fall off its bus
                return None

        utilization, memory = asked("nvmlDeviceGetUtilizationRates"), asked("nvmlDeviceGetMemoryInfo")
        milliwatts = asked("nvmlDeviceGetPowerUsage")
        millijoules = asked("nvmlDeviceGetTotalEnergyConsumption")
        temperature = asked("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
        return Sample(
            seconds=time.monotonic(),
            utilization_percent=None if utilization is None else float(utilization.gpu),
            memory_bytes=None if memory is None else int(memory.used),
            temperature_celsius=None if temperature is None else float(temperature),
            power_watts=None if milliwatts is None else milliwatts / 1000,
            energy_joules=None if millijoules is None else millijoules / 1000,
        )
