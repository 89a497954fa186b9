"""What is made of a GPU's figures."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.record import DeviceUse
from bench.telemetry import DeviceWatch, Sample, device_use


class Nvml:
    """The interface of pynvml, of a device whose figures are given; those left out it does not know."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, *, prefix: str = "GPU", driver: bool = True, **figures: list[Any]) -> None:
        self.prefix, self.driver, self.figures = prefix, driver, figures
        self.asked_for: list[str] = []
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise self.NVMLError
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.asked_for.append(uuid)
        if not uuid.startswith(self.prefix):
            raise self.NVMLError
        return uuid

    def _next(self, name: str) -> Any:
        if name not in self.figures:
            raise self.NVMLError
        values = self.figures[name]
        return values.pop(0) if len(values) > 1 else values[0]

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=self._next("utilization"), memory=0)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(used=self._next("memory"), total=0, free=0)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        return self._next("temperature")

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        return self._next("milliwatts")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        return self._next("millijoules")


@pytest.fixture(autouse=True)
def cuda_device(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A device as torch describes it, where the test does not need a real one."""
    if "real" not in request.node.name:
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234-abcd"))


def watched(nvml: Nvml, looks: int = 3) -> DeviceUse | None:
    with DeviceWatch(torch.device("cuda"), nvml, interval=0.02) as watch:
        while nvml.open and len(watch._samples) < looks:
            time.sleep(0.005)
    return watch.use()


def test_a_watched_device():
    nvml = Nvml(utilization=[0, 50, 100], memory=[10, 30, 20], temperature=[40, 60, 50], milliwatts=[1],
                millijoules=[5_000, 6_000, 9_500])  # fmt: skip
    use = watched(nvml)
    assert use is not None
    assert use.samples >= 4  # the last is taken at the end
    assert use.mean_utilization_percent == (0 + 50 + 100 * (use.samples - 2)) / use.samples
    assert (use.peak_memory_bytes, use.max_temperature_celsius, use.energy_joules) == (30, 60.0, 4.5)
    assert nvml.open == 0


def test_what_a_device_does_not_know_is_none():
    use = watched(Nvml(memory=[7]))
    assert use is not None
    assert use == DeviceUse(samples=use.samples, peak_memory_bytes=7)


@pytest.mark.parametrize("nvml", [Nvml(driver=False), Nvml(prefix="other")])
def test_without_a_driver_or_the_device_there_is_nothing(nvml: Nvml):
    assert watched(nvml) is None
    assert nvml.open == 0


def test_a_part_of_a_device_is_found():
    nvml = Nvml(prefix="MIG", memory=[7])
    assert watched(nvml) is not None
    assert nvml.asked_for == ["GPU-1234-abcd", "MIG-1234-abcd"]


def test_a_cpu_is_not_watched():
    nvml = Nvml(memory=[7])
    with DeviceWatch(torch.device("cpu"), nvml) as watch:
        pass
    assert (watch.use(), nvml.asked_for) == (None, [])


def test_watching_ends_with_an_exception():
    nvml = Nvml(memory=[7])
    with pytest.raises(ZeroDivisionError), DeviceWatch(torch.device("cuda"), nvml):
        raise ZeroDivisionError
    assert nvml.open == 0


def test_energy_without_a_counter_is_the_integral_of_the_power():
    # 100 W rising to 200 W in 2 s: 300 J; then 200 W for 1 s: 200 J.
    powers = [(10.0, 100.0), (12.0, 200.0), (13.0, 200.0)]
    use = device_use([Sample(seconds=seconds, power_watts=watts) for seconds, watts in powers])
    assert use == DeviceUse(samples=3, energy_joules=500.0)


def test_a_counter_that_began_anew_is_not_used():
    samples = [Sample(seconds=0.0, power_watts=10.0, energy_joules=900.0),
               Sample(seconds=2.0, power_watts=10.0, energy_joules=5.0)]  # fmt: skip
    assert device_use(samples) == DeviceUse(samples=2, energy_joules=20.0)


def test_one_sample_has_no_energy():
    assert device_use([Sample(seconds=0.0, power_watts=10.0, energy_joules=900.0)]) == DeviceUse(samples=1)
    assert device_use([]) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_device():
    pytest.importorskip("pynvml", reason="needs the extra gpu")
    with DeviceWatch(torch.device("cuda"), interval=0.1) as watch:
        x = torch.ones(4096, 4096, device="cuda")
        before = time.monotonic()
        while time.monotonic() - before < 2:
            x = (x @ x).clamp(max=1)
            torch.cuda.synchronize()
    use = watch.use()
    assert use is not None
    assert use.samples > 10
    assert use.mean_utilization_percent is None or use.mean_utilization_percent > 10
    assert use.peak_memory_bytes is not None
    assert use.peak_memory_bytes > x.nbytes
    assert use.energy_joules is None or 10 < use.energy_joules < 5000
