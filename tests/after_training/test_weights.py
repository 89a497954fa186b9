"""Keeping weights changes no bit of a run; what is kept is the best and the last; what is spoilt is refused."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kept_weights import CPU, content, last_weights, run_of, together

from bench import weights as module
from bench.checkpoint import Checkpoints, Keeper, StoppedError
from bench.errors import BadRecordError
from bench.execution import execute
from bench.protocol import Protocol
from bench.protocols import changed
from bench.store import write_atomic
from bench.trainer import Trainer
from bench.upkeep.cleaning import KINDS, removable
from bench.weight_keeping import WeightKeeper
from bench.weights import digest_path, packed, read_weights, write_weights

DRAWS = "p.add_(torch.randn_like(p), alpha=-1e-3)"


def both(folder: Path) -> WeightKeeper:
    return WeightKeeper(folder, best=True, last=True)


@pytest.mark.parametrize("name", ["adamw", "schedule_free_adamw"])
def test_a_run_that_keeps_weights_has_the_bits_of_one_that_does_not(constant: Protocol, tmp_path: Path, name: str):
    """In a bank, and alone with weights that are trained but not looked at."""
    if name == "schedule_free_adamw":
        pytest.importorskip("schedulefree")
    run = run_of(constant, name)
    assert content(together(run, weights=both(tmp_path))) == content(together(run))
    assert {path.name for path in tmp_path.iterdir()} == {
        "best.pt", "best.pt.sha256", "last.pt", "last.pt.sha256"}  # fmt: skip


def test_an_optimizer_that_draws_random_numbers_draws_the_same(
    constant: Protocol, tmp_path: Path, write_plugin: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
):
    """Also where looking at the validation split draws some."""
    evaluate = Trainer.evaluate

    def drawing(self: Trainer, split: str) -> dict[str, float]:
        if split == "validation":
            torch.rand(3)
        return evaluate(self, split)  # pyright: ignore[reportArgumentType]

    run = run_of(constant, write_plugin(DRAWS))
    plain = content(execute(run, device=CPU))
    monkeypatch.setattr(Trainer, "evaluate", drawing)
    assert content(execute(run, device=CPU, weights=both(tmp_path))) == plain


def test_the_command_keeps_them_and_says_where(study):
    assert len(study.runs) == 2
    for folder in study.runs:
        best, last = (read_weights(folder / f"{kind}.pt") for kind in ("best", "last"))
        assert (best.head.kind, last.head.kind, last.head.epoch) == ("best", "last", 2)
        assert best.head.score >= last.head.score
        assert best.head.run_id == last.head.run_id == folder.name
    assert "best weights of 2 of 2 runs" in study.err and "last weights of 2 of 2 runs" in study.err


@pytest.mark.parametrize(
    ("metric", "scores", "best"),
    [("avg_r1", (10.0, 30.0, 30.0, 20.0), 2), ("i2t_mean_rank", (9.0, 4.0, 4.0, 8.0), 2), ("avg_r1", (7.0,) * 4, 1)],
)
def test_the_best_is_the_first_of_the_highest_validation_scores(
    constant: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, scores: tuple, best: int
):
    """Or of the lowest where low ranks are good. Its weights are those that the run had after that epoch."""
    evaluate, told = Trainer.evaluate, iter([*scores, scores[-1]])

    def scripted(self: Trainer, split: str) -> dict[str, float]:
        found = evaluate(self, split)  # pyright: ignore[reportArgumentType]
        return found if split == "test" else {**found, metric: next(told)}

    monkeypatch.setattr(Trainer, "evaluate", scripted)
    run = run_of(changed(constant, {"epochs": 4, "primary_metric": metric}, "test"))
    assert together(run, weights=WeightKeeper(tmp_path, best=True)).outcome == "ok"
    found = read_weights(tmp_path / "best.pt")
    assert (found.head.epoch, found.head.step, found.head.score) == (best, 4 * best, scores[best - 1])
    monkeypatch.undo()
    shorter, _ = last_weights(run_of(changed(constant, {"epochs": best}, "test")), tmp_path / "shorter")
    assert all(torch.equal(value, shorter.network[name]) for name, value in found.network.items())


def test_epochs_without_evaluation_are_not_looked_at(constant: Protocol, tmp_path: Path):
    run = run_of(changed(constant, {"epochs": 3, "evaluate_every": 3}, "test"))
    together(run, weights=WeightKeeper(tmp_path, best=True))
    assert read_weights(tmp_path / "best.pt").head.epoch == 3


def test_a_run_that_is_stopped_and_goes_on_keeps_the_same(constant: Protocol, tmp_path: Path):
    """Stopped after every epoch, each time by another process."""
    run = run_of(changed(constant, {"epochs": 4}, "test"))
    together(run, weights=both(tmp_path / "at once"))
    pieces = tmp_path / "in pieces"
    while True:
        asked = iter([False, True])
        keeper = Keeper(Checkpoints(pieces), stopping=lambda a=asked: next(a, True))
        try:
            together(run, keeper=keeper, weights=both(pieces))
        except StoppedError:
            continue
        break
    for name in ("best.pt", "last.pt"):
        one, other = read_weights(tmp_path / "at once" / name), read_weights(pieces / name)
        assert one.head == other.head
        assert all(torch.equal(value, other.network[key]) for key, value in one.network.items())


def test_a_crash_between_a_file_and_its_digest_costs_nothing(
    constant: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The state kept is of an epoch before, which is done again, and so is the file."""
    run = run_of(changed(constant, {"epochs": 4}, "test"))
    together(run, weights=both(tmp_path / "whole"))
    best, folder = read_weights(tmp_path / "whole" / "best.pt").head.epoch, tmp_path / "crashed"

    def crashing(path: Path, content: str | bytes) -> None:
        if path.name == "best.pt.sha256" and epochs[-1:] == [best]:
            raise KeyboardInterrupt
        write_atomic(path, content)

    epochs: list[int] = []
    monkeypatch.setattr(module, "write_atomic", crashing)
    with pytest.raises(KeyboardInterrupt):
        together(run, weights=both(folder), keeper=Keeper(Checkpoints(folder), seconds=0.0),
                 on_epoch=lambda point: epochs.append(point.epoch))  # fmt: skip
    monkeypatch.undo()
    with pytest.raises(BadRecordError, match=r"best\.pt"):
        read_weights(folder / "best.pt")
    together(run, weights=both(folder), keeper=Keeper(Checkpoints(folder), seconds=0.0))
    assert read_weights(folder / "best.pt").head == read_weights(tmp_path / "whole" / "best.pt").head


def test_weights_of_an_earlier_attempt_are_not_taken_for_this_one(constant: Protocol, tmp_path: Path):
    """They go when a run begins anew, even where they are better than all that follow."""
    weights, _ = last_weights(run_of(constant, seed=4), tmp_path)
    head = weights.head.model_copy(update={"kind": "best", "score": 100.0, "epoch": 9})
    write_weights(tmp_path / "best.pt", packed(head, weights.network, {}, None))
    together(run_of(constant), weights=both(tmp_path))
    assert read_weights(tmp_path / "best.pt").head.epoch <= 2


def test_a_diverged_run_has_the_best_of_its_epochs_before(
    constant: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]
):
    """Weights grow by half a step; after eight steps, in the second epoch, they are 20 times as long."""
    protocol = changed(constant, {"epochs": 6, "diverged_norm_factor": 20.0}, "test")
    record = together(run_of(protocol, write_plugin("p.mul_(1.5)")), weights=both(tmp_path))
    assert record.outcome == "diverged"
    assert read_weights(tmp_path / "best.pt").head.epoch == 1 and not (tmp_path / "last.pt").exists()


def test_a_state_of_more_than_plain_data_is_left_out_and_named(
    constant: Protocol, tmp_path: Path, write_plugin: Callable[[str], str], capsys: pytest.CaptureFixture[str]
):
    run = run_of(constant, write_plugin("p.add_(p.grad, alpha=-.1); self.state[p]['f'] = lambda: 0"))
    assert together(run, weights=both(tmp_path)).outcome == "ok"
    assert capsys.readouterr().err.count("weights are kept without it") == 1
    assert read_weights(tmp_path / "last.pt").training is None


def test_cleaning_leaves_weights(study):
    assert not [item.path for item in removable(study.path, KINDS).items if "st.pt" in item.path.name]


# ---- spoilt files


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def without_digest(path: Path) -> None:
    digest_path(path).unlink()


def binary_digest(path: Path) -> None:
    digest_path(path).write_bytes(b"\xff\xfe")


def gone(path: Path) -> None:
    path.unlink()


def with_digest(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    digest_path(path).write_text(hashlib.sha256(content).hexdigest() + "  x\n")


def foreign(path: Path) -> None:
    with_digest(path, b"GIF89a")


def of_a_newer_format(path: Path) -> None:
    found = torch.load(path, weights_only=True)
    torch.save({**found, "head": found["head"].replace('"format":1', '"format":2')}, path)
    with_digest(path, path.read_bytes())


def of_another_protocol(path: Path) -> None:
    found = read_weights(path)
    head = found.head.model_copy(update={"protocol": changed(found.head.protocol, {"epochs": 9}, "test")})
    with_digest(path, packed(head, found.network, {}, None))


def with_an_object(path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (path.parent / "hurt",))

    torch.save({"head": "{}", "network": {"x": Bomb()}, "objective": {}, "training": None}, path)
    with_digest(path, path.read_bytes())


SPOILERS = [torn, flipped, without_digest, binary_digest, gone, foreign, of_a_newer_format, of_another_protocol,
            with_an_object]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_spoilt_file_is_named_and_refused(bench, study, tmp_path: Path, spoil: Callable[[Path], None]):
    for name in ("best.pt", "best.pt.sha256"):
        shutil.copy(study.runs[0] / name, tmp_path)
    spoil(tmp_path / "best.pt")
    done = bench("evaluate", tmp_path / "best.pt")
    assert done.code == 2 and done.out == "" and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert "best.pt" in done.err
    assert not (tmp_path / "hurt").exists()


@pytest.mark.parametrize(
    ("place", "named"),
    [({"model": "os:system"}, "os:system"), ({"dataset": "shutil:rmtree"}, "shutil:rmtree"),
     ({"dataset_options": {"reference": "evil.py:Data"}}, "evil.py:Data"),
     ({"model_options": {"towers": [{"image": "evil:load"}]}}, "evil:load")],
)  # fmt: skip
def test_code_that_only_the_file_names_is_not_imported(bench, study, tmp_path: Path, place: dict, named: str):
    found = read_weights(study.runs[0] / "best.pt")
    workload = found.head.protocol.workload.model_copy(update=place)
    protocol = found.head.protocol.model_copy(update={"workload": workload})
    head = found.head.model_copy(update={"protocol": protocol, "protocol_hash": protocol.hash})
    write_weights(tmp_path / "best.pt", packed(head, found.network, {}, None))
    done = bench("evaluate", tmp_path / "best.pt")
    assert done.code == 2 and f"names code outside bench, {named!r}; allowed with --protocol" in done.err
    assert bench("evaluate", tmp_path / "best.pt", "-p", "mini").code == 2
