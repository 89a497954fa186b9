"""A run that is stopped and goes on ends with the bits of one that was not; a spoilt state is never used."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.checkpoint import Checkpoints, Keeper, StoppedError
from bench.errors import StorageError
from bench.execution import execute
from bench.optimizers.catalog import CATALOG
from bench.plan import Run
from bench.protocol import Protocol
from bench.protocols import changed
from bench.record import Outcome, RunRecord, read_record, record_text
from bench.registry import entry, select

CPU = torch.device("cpu")
TIMES = {"seconds", "memory", "environment", "finished", "command", "curve_sha256", "device_use"}


def run_of(protocol: Protocol, name: str) -> Run:
    (chosen,) = select([name], {}, "default")
    return Run(protocol=protocol, optimizer=chosen.spec.name, reference=chosen.reference,
               hyperparameters=dict(chosen.hyperparameters), seed=3, revision=chosen.spec.revision,
               source_digest=chosen.spec.source_digest)  # fmt: skip


def content(record: RunRecord) -> dict:
    return record.model_dump(exclude=TIMES)


def in_pieces(run: Run, folder: Path, steps: int | None = None) -> tuple[RunRecord, list[list[int]]]:
    """The record of a run that is stopped wherever it can be, and the epochs each piece had behind it and did."""
    pieces: list[list[int]] = []
    while True:
        asked = iter([False, True])  # a fresh process takes one stretch and is stopped at the next place
        keeper = Keeper(Checkpoints(folder), steps=steps, stopping=lambda a=asked: next(a, True))
        epochs: list[int] = []
        try:
            record = execute(run, device=CPU, keeper=keeper, on_epoch=lambda point, e=epochs: e.append(point.epoch))
        except StoppedError:
            pieces.append(epochs)
            continue
        return record, [*pieces, epochs]


OBJECTS = "shampoo"  # whose library keeps objects in the state: a known limit of its contract


@pytest.mark.parametrize("name", sorted(set(CATALOG) - {OBJECTS}))
def test_every_entry_goes_on_with_the_same_bits(tiny: Protocol, tmp_path: Path, name: str):
    """Stopped after every second step, within epochs and between them."""
    for package in entry(name).packages:
        pytest.importorskip(package)
    run = run_of(tiny, name)
    record, pieces = in_pieces(run, tmp_path, steps=2)
    assert record.outcome in (Outcome.OK, Outcome.DIVERGED) and len(pieces) > 2
    assert content(record) == content(execute(run, device=CPU))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_goes_on_with_the_same_bits(tiny: Protocol, tmp_path: Path, precision: str):
    """With fp16 the scaler's state counts too."""
    run = run_of(changed(tiny, {"precision": precision}, "test"), "adamw")
    assert content(in_pieces(run, tmp_path, steps=2)[0]) == content(execute(run, device=CPU))


def test_a_state_of_more_than_plain_data_is_named_and_the_run_begins_anew(
    tiny: Protocol, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("pytorch_optimizer")
    run, behind = run_of(tiny, OBJECTS), []
    with pytest.raises(StoppedError):
        execute(run, device=CPU, keeper=Keeper(Checkpoints(tmp_path), stopping=lambda: True))
    assert "its state holds more than plain data and tensors" in capsys.readouterr().err
    record = execute(run, device=CPU, keeper=Keeper(Checkpoints(tmp_path)), on_start=behind.extend)
    assert record.outcome is Outcome.OK and behind == []


def test_optimizer_that_draws_random_numbers_goes_on_with_the_same_bits(
    tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]
):
    body = "import random, numpy; p.mul_(1 - 1e-3 * (torch.rand(()).item() + random.random() + numpy.random.rand()))"
    run = run_of(tiny, write_plugin(body))
    assert content(in_pieces(run, tmp_path, steps=1)[0]) == content(execute(run, device=CPU))


def test_what_an_optimizer_keeps_on_itself_or_in_other_types_goes_on(
    tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]
):
    """A count on the object, and an average in double precision, whose digits the update shows."""
    body = (
        "self.count = getattr(self, 'count', 0) + 1; s = self.state[p]; "
        "s['mean'] = .9 * s.get('mean', torch.zeros_like(p, dtype=torch.float64)) + p.grad / 3; "
        "p.sub_((.1 * s['mean'] / self.count**.5 * (1 + (s['mean'] - s['mean'].float()) * 1e7)).float())"
    )
    run = run_of(tiny, write_plugin(body))
    assert content(in_pieces(run, tmp_path, steps=3)[0]) == content(execute(run, device=CPU))


@pytest.mark.parametrize(
    "broken",
    ["self.state[p]['f'] = lambda: 0", "self.state_dict = lambda: 1 / 0",
     "type(self).load_state_dict = lambda *state: 1 / 0"],
)  # fmt: skip
def test_a_state_that_cannot_be_taken_or_given_back_is_no_failure(
    tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str], broken: str
):
    run = run_of(tiny, write_plugin(f"p.add_(p.grad, alpha=-.1); {broken}"))
    with pytest.raises(StoppedError):
        execute(run, device=CPU, keeper=Keeper(Checkpoints(tmp_path), stopping=lambda: True))
    record = execute(run, device=CPU, keeper=Keeper(Checkpoints(tmp_path), seconds=0.0))
    assert record.outcome is Outcome.OK and content(record) == content(execute(run, device=CPU))


def test_a_state_that_cannot_be_removed_is_a_fault_of_the_disk(
    tiny: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("checkpoint-"):
            raise PermissionError(13, "Permission denied")
        unlink(path, missing_ok)

    Checkpoints(tmp_path).write(9, {"run_id": "of an earlier attempt"})
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(StorageError, match="Permission denied; everything stored before is whole"):
        execute(run_of(tiny, "sgd"), device=CPU, keeper=Keeper(Checkpoints(tmp_path), steps=1))


def test_a_message_that_is_no_text_is_recorded(tiny: Protocol, write_plugin: Callable[[str], str]):
    record = execute(run_of(tiny, write_plugin(r"raise ValueError('\udcff.bin')")), device=CPU)
    assert record.outcome is Outcome.ERROR
    assert read_record(record_text(record), "x").failure.reason == "ValueError: ?.bin"


def test_diverged_run_goes_on_to_the_same_end(tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]):
    """Weights grow by half a step; after eight steps, in the second epoch, they are 20 times as long."""
    run = run_of(changed(tiny, {"epochs": 6, "diverged_norm_factor": 20.0}, "test"), write_plugin("p.mul_(1.5)"))
    record, pieces = in_pieces(run, tmp_path, steps=1)
    assert record.outcome is Outcome.DIVERGED and len(pieces) > 3
    assert content(record) == content(execute(run, device=CPU))


def test_state_is_kept_at_an_epochs_end_when_it_is_time(tiny: Protocol, tmp_path: Path):
    run = run_of(tiny, "sgd")
    execute(run, device=CPU, keeper=Keeper(Checkpoints(tmp_path), seconds=3600.0))
    assert not list(tmp_path.iterdir())
    execute(run, device=CPU, keeper=Keeper(Checkpoints(tmp_path), seconds=0.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-000000004.pt", "checkpoint-000000004.pt.sha256"]  # fmt: skip


STATES = [{"run_id": "r", "step": step, "x": torch.arange(100.0) + step} for step in (1, 2, 3)]


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path)
    for state in STATES:
        checkpoints.write(state["step"], state)
    return checkpoints


def newest(checkpoints: Checkpoints) -> Path:
    return max(checkpoints.folder.glob("*.pt"))


def test_the_two_newest_states_are_kept(kept: Checkpoints):
    assert sorted(path.name for path in kept.folder.glob("*.pt")) == [
        "checkpoint-000000002.pt", "checkpoint-000000003.pt"]  # fmt: skip
    assert kept.read()["step"] == 3
    kept.clear()
    assert kept.read() is None and not list(kept.folder.iterdir())


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    """A whole file with a digest of its own that is no state."""
    path.write_bytes(b"GIF89a")
    path.with_name(path.name + ".sha256").write_text(hashlib.sha256(b"GIF89a").hexdigest() + "  x\n")


def without_digest(path: Path) -> None:
    path.with_name(path.name + ".sha256").unlink()


def binary_digest(path: Path) -> None:
    path.with_name(path.name + ".sha256").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize("spoil", [torn, flipped, empty, foreign, without_digest, binary_digest])
def test_a_spoilt_state_is_left_out_and_the_one_before_it_serves(kept: Checkpoints, spoil: Callable[[Path], None]):
    spoil(newest(kept))
    state = kept.read()
    assert state is not None and state["step"] == 2 and torch.equal(state["x"], STATES[1]["x"])
    newest(kept).unlink()
    spoil(newest(kept))
    assert kept.read() is None


def test_code_in_a_state_is_not_carried_out(tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "hurt",))

    Checkpoints(tmp_path).write(1, {"run_id": Bomb()})
    assert Checkpoints(tmp_path).read() is None
    assert not (tmp_path / "hurt").exists()


def test_the_state_of_another_run_or_library_is_not_used(tiny: Protocol, tmp_path: Path):
    run, other = run_of(tiny, "sgd"), run_of(tiny, "adamw")
    with pytest.raises(StoppedError):
        execute(other, device=CPU, keeper=Keeper(Checkpoints(tmp_path), stopping=lambda: True))
    behind: list[int] = []
    execute(run, device=CPU, keeper=Keeper(Checkpoints(tmp_path)), on_start=lambda points: behind.append(len(points)))
    assert behind == [0]
    (path,) = tmp_path.glob("*.pt")
    Checkpoints(tmp_path).write(9, {**torch.load(path, weights_only=True), "versions": {"torch": "1.0"}})
    assert behind == [0]
    execute(other, device=CPU, keeper=Keeper(Checkpoints(tmp_path)), on_start=lambda points: behind.append(len(points)))
    assert behind == [0, 0]
    execute(other, device=CPU, keeper=Keeper(Checkpoints(tmp_path), seconds=0.0))
    assert Checkpoints(tmp_path).read()["step"] == 4  # the unusable later one is gone
