"""Going on from stored weights: with the bits of a longer run where nothing else is asked for, under its own hash."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kept_weights import CPU, last_weights, run_of, together

from bench.continuing import continuation
from bench.driver import Watcher
from bench.errors import BadRecordError
from bench.execution import execute
from bench.placement import placed
from bench.protocol import Protocol
from bench.protocols import PROTOCOLS, changed
from bench.runner import carry_out
from bench.trainer import Trainer
from bench.weight_keeping import WeightKeeper
from bench.weights import digest_path, read_weights, start_path

DRAWS = "import random; p.add_(p.grad, alpha=-.1).mul_(1 - 1e-3 * (torch.rand(()).item() + random.random()))"


def go_on(weights, results: Path, **options):
    given = {"epochs": 2, "overrides": {}, "optimizer": None, "reset": False, "study": None, **options}
    return continuation(weights, results=results, placement=placed(device="cpu", workers=1), **given)


@pytest.mark.parametrize("name", ["adamw", "schedule_free_adamw", DRAWS])
def test_two_epochs_and_two_more_are_four(
    constant: Protocol, tmp_path: Path, write_plugin: Callable[[str], str], name: str
):
    """Batches, noise, dropout, the optimizer's state and its random numbers go on: no bit tells the two apart."""
    if name == "schedule_free_adamw":
        pytest.importorskip("schedulefree")
    given = write_plugin(name) if "(" in name else name
    whole, _ = last_weights(run_of(changed(constant, {"epochs": 4}, "test"), given), tmp_path / "whole")
    half, _ = last_weights(run_of(constant, given), tmp_path / "half")
    found = go_on(half, tmp_path / "results", optimizer=given if given != name else None)
    assert found.anew is None
    (run,) = found.plan.runs
    more, record = last_weights(run, tmp_path / "more", study=found.plan.store.path)
    assert record.outcome == "ok" and record.epochs == 2
    assert (more.head.epoch, more.head.step, more.head.score) == (4, 16, whole.head.score)
    assert all(torch.equal(value, more.network[key]) for key, value in whole.network.items())


def test_what_the_loss_has_learnt_goes_on_too(constant: Protocol, tmp_path: Path):
    """A learned temperature, and a queue of earlier embeddings, also where the optimizer begins anew."""
    techniques = {"techniques": {"learned_temperature": {}, "queue": {"size": 16}}}
    protocol = changed(constant, techniques, "test")
    whole, _ = last_weights(run_of(changed(protocol, {"epochs": 4}, "test")), tmp_path / "whole")
    half, _ = last_weights(run_of(protocol), tmp_path / "half")
    (run,) = go_on(half, tmp_path / "results").plan.runs
    more, _ = last_weights(run, tmp_path / "more", study=tmp_path / "results" / "constant-continued")
    assert more.objective and all(torch.equal(value, more.objective[name]) for name, value in whole.objective.items())
    assert all(torch.equal(value, more.network[name]) for name, value in whole.network.items())
    trainer = Trainer(go_on(half, tmp_path / "results", reset=True).plan.runs[0], CPU, start=half)
    assert all(torch.equal(value, trainer.objective.state_dict()[name]) for name, value in half.objective.items())
    assert not trainer.optimizer.state


def test_of_several_stages_the_last_one_goes_on(constant: Protocol, tmp_path: Path):
    stages = [{"epochs": 1, "freeze": ["text_encoder"]}, {"epochs": 1, "freeze": ["image_encoder"]}]
    protocol = changed(constant, {"techniques": {"stages": {"stages": stages}}}, "test")
    half, _ = last_weights(run_of(protocol), tmp_path / "half")
    (run,) = go_on(half, tmp_path / "results", epochs=3).plan.runs
    assert run.protocol.techniques.stages is not None
    assert [(stage.epochs, stage.freeze) for stage in run.protocol.techniques.stages.stages] == [
        (3, ("image_encoder",))]  # fmt: skip
    more, _ = last_weights(run, tmp_path / "more", study=tmp_path / "results" / "constant-continued")
    still = {name for name in half.network if torch.equal(half.network[name], more.network[name])}
    assert "image_encoder.cls" in still and "text_encoder.embedding.weight" not in still


def test_the_hash_covers_what_it_began_with(constant: Protocol, tmp_path: Path):
    half, _ = last_weights(run_of(constant), tmp_path)
    kept, anew = go_on(half, tmp_path / "a").plan, go_on(half, tmp_path / "b", reset=True).plan
    assert half.sha256 in kept.protocol.canonical_json()
    assert len({kept.protocol.hash, anew.protocol.hash, constant.hash}) == 3
    assert kept.protocol.name == "constant-continued" and kept.runs[0].seed == 3
    assert "start" not in constant.canonical_json() and PROTOCOLS["mini"].hash == "5629038cb352"
    other, _ = last_weights(run_of(constant, seed=4), tmp_path / "other")
    assert go_on(other, tmp_path / "c").plan.protocol.hash != kept.protocol.hash


@pytest.mark.parametrize(
    ("options", "why"),
    [({"overrides": {"lr": 0.02}}, "lr is 0.02, was 0.001"), ({"optimizer": "sgd"}, "the optimizer is sgd, was adamw"),
     ({"reset": True}, "--reset-optimizer")],
)  # fmt: skip
def test_other_settings_begin_without_the_state(constant: Protocol, tmp_path: Path, options: dict, why: str):
    half, _ = last_weights(run_of(constant), tmp_path)
    found = go_on(half, tmp_path / "results", **options)
    assert found.anew == why
    (run,) = found.plan.runs
    assert run.protocol.start is not None and not run.protocol.start.optimizer_state
    assert run.hyperparameters["lr"] == {"overrides": 0.02, "optimizer": 0.01}.get(next(iter(options)), 0.001)
    assert together(run, study=found.plan.store.path).outcome == "ok"


def test_code_of_ones_own_is_named_on_the_command_line(
    bench, constant: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]
):
    half, _ = last_weights(run_of(constant, write_plugin("p.add_(p.grad, alpha=-.1)")), tmp_path / "half")
    done = bench("continue", half.path, "--epochs", 1)
    assert done.code == 2 and "its optimizer 'mine.py:Mine' is no entry of the catalog" in done.err
    assert not (tmp_path / "results").exists()
    again = write_plugin("p.add_(p.grad, alpha=-.2)")
    assert go_on(half, tmp_path / "results", optimizer=again).anew == "the code of mine.py:Mine has changed"


def test_the_command_and_the_same_again(bench, study, tmp_path: Path):
    last = study.runs[0] / "last.pt"
    options = ("continue", last, "--epochs", 1, "-O", "lr=0.01", "--save-best", "--json")
    done = bench(*options)
    assert done.code == 0, done.err
    assert "adamw seed 0 after 2 epochs" in done.err and "optimizer state begun anew: lr is 0.01" in done.err
    (record,) = json.loads(done.out)
    assert record["hyperparameters"]["lr"] == 0.01 and record["protocol"]["name"] == "tiny-continued"
    (kept,) = (tmp_path / "results/tiny-continued/runs").glob("*/best.pt")
    assert read_weights(kept).head.epoch == 3
    again = bench(*options)
    assert again.code == 5 and "nothing to do" in again.err


@pytest.mark.parametrize(
    ("options", "said"),
    [(("--epochs", 0), "--epochs 0: epochs is 0"), (("--epochs", 1, "-O", "lr"), "-O 'lr': allowed is KEY=VALUE"),
     (("--epochs", 1, "-O", "lrr=1"), "unknown hyper-parameter 'lrr'"),
     (("--epochs", 1, "--optimizer", "adamm"), "unknown optimizer 'adamm'"),
     (("--epochs", 1, "--study", "../x"), "study '../x'")],
)  # fmt: skip
def test_what_is_not_allowed_is_said_in_a_line(bench, study, tmp_path: Path, options: tuple, said: str):
    done = bench("continue", study.runs[0] / "last.pt", *options)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_study_that_has_lost_what_it_began_with_says_so(constant: Protocol, tmp_path: Path):
    half, _ = last_weights(run_of(constant), tmp_path)
    plan = go_on(half, tmp_path / "results").plan
    path = start_path(plan.store.path, half.sha256)
    other, _ = last_weights(run_of(constant, seed=4), tmp_path / "other")
    path.write_bytes(other.path.read_bytes())
    with pytest.raises(BadRecordError, match="torn or was changed"):
        carry_out(plan, Watcher())
    digest_path(path).write_text(other.sha256 + "  x\n")
    with pytest.raises(BadRecordError, match="not what the protocol says its runs begin with"):
        carry_out(plan, Watcher())
    record = execute(plan.runs[0], device=CPU, study=plan.store.path, weights=WeightKeeper())
    assert record.outcome == "error" and record.failure is not None and "begin with" in record.failure.reason
    go_on(half, tmp_path / "results")  # the file is there, and mends it
    assert read_weights(path).sha256 == half.sha256
