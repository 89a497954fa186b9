"""Files in MNIST's format with digits that are easy to tell apart, and a protocol small enough to run in a second."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.continual.figures import all_figures, entries
from bench.protocol import Protocol
from bench.protocols import PROTOCOLS, changed
from bench.record import MemoryUse, Outcome, ProtocolName, RunRecord, Seconds
from bench.study import Study

PER_CLASS = 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_mnist(folder: Path, label_N: np.ndarray) -> Path:
    """Noise with a bright band at a height of each digit's own."""
    rng = np.random.default_rng(0)
    image_NHW = rng.integers(0, 60, (len(label_N), 28, 28), dtype=np.uint8)
    for image, label in zip(image_NHW, label_N, strict=True):
        image[2 * label + 3 : 2 * label + 7] = 250
    (folder / "mnist").mkdir(parents=True)
    for name, magic, items in (("images-idx3", 0x803, image_NHW), ("labels-idx1", 0x801, label_N.astype(np.uint8))):
        header = struct.pack(f">{1 + items.ndim}I", magic, *items.shape)
        (folder / "mnist" / f"t10k-{name}-ubyte").write_bytes(header + items.tobytes())
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with 16 images of each digit."""
    labels = np.random.default_rng(1).permutation(np.arange(10 * PER_CLASS) % 10)
    return write_mnist(tmp_path_factory.mktemp("data"), labels)


SMALL = {
    "name": "small",
    "epochs": 10,
    "evaluate_every": 2,
    "batch_size": 4,
    "workload": {
        "dataset_options": {
            "epochs_per_task": 2, "buffer": 4, "image_size": 28, "training_per_class": 9, "validation_per_class": 2,
            "test_per_class": 5,
        },
        "model_options": {"patch_size": 14, "width": 8, "embedding": 8, "image_layers": 1, "dropout": 0.1},
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def small() -> Protocol:
    return changed(PROTOCOLS["continual_mini"], SMALL, "test")


@pytest.fixture(scope="session")
def small_fusion(small: Protocol) -> Protocol:
    """The same for the other network."""
    options = PROTOCOLS["continual_fusion"].workload.model_options
    own = {**options, **small.workload.model_options, "fusion_layers": 1}
    del own["temperature"]
    workload = {"model": PROTOCOLS["continual_fusion"].workload.model, "model_options": own}
    return changed(small, {"name": "small_fusion", "workload": workload}, "test")


MATRICES = {
    "keeps": [[90.0, 0, 0], [80, 80, 0], [75, 75, 85]],
    "forgets": [[90.0, 0, 0], [60, 80, 0], [45, 55, 85]],
}
SHIFTS = {"keeps": (-3.0, 0.0, 3.0), "forgets": (1.0, -2.0, 1.0)}  # of the last row, by seed


def _record(protocol: Protocol, name: str, seed: int) -> RunRecord:
    *earlier, last = MATRICES[name]
    matrix = [*earlier, [value + SHIFTS[name][seed] for value in last]]
    return RunRecord(
        run_id=f"{name}-s{seed}", protocol=ProtocolName(name=protocol.name, hash=protocol.hash), optimizer=name,
        configuration="c0", hyperparameters={"lr": 0.1}, seed=seed, outcome=Outcome.OK, metrics=all_figures(matrix),
        figures=entries(matrix), chance={"average_accuracy": 10.0}, loss=1.0, epochs=3, steps=9,
        seconds=Seconds(training=6.0), memory=MemoryUse(peak_bytes=1, state_bytes=1),
        finished="2020-01-01T00:00:00+00:00",
    )  # fmt: skip


@pytest.fixture
def by_hand(tmp_path: Path) -> Callable[[Protocol], Study]:
    """A study of two optimizers and three seeds over three tasks, with known numbers."""

    def study(protocol: Protocol) -> Study:
        records = tuple(_record(protocol, name, seed) for name in MATRICES for seed in range(3))
        return Study(tmp_path, protocol, records)

    return study
