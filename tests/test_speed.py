"""`bench speed`: what is compared with what, and which samples count; never how long anything takes."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench import timing
from bench.cli import cli
from bench.errors import UsageError
from bench.models.dropout import DropoutStream
from bench.optimizers.reference.catalog import REFERENCES
from bench.protocol import Protocol
from bench.protocols import PROTOCOLS, changed
from bench.registry import select
from bench.speed import step
from bench.speed.shortened import shortened
from bench.speed.straightforward import Loop, loader, network_of, samples_of
from bench.speed.traffic import moved_bytes
from bench.step import OptimizerStep
from bench.techniques.objective import Objective
from bench.workload import roled_parameters

CPU = torch.device("cpu")


class Machine:
    """A clock that stands still between calls, and the cores that other processes use in each round."""

    def __init__(self) -> None:
        self.now = 0.0
        self.load = iter([])

    def cores(self):
        return next(self.load)

    def lasting(self, *seconds):
        """A call that takes these times, one after the other."""
        left = iter(seconds)

        def call():
            self.now += next(left)

        return call


@pytest.fixture
def machine(monkeypatch):
    simulated = Machine()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: simulated.now)
    monkeypatch.setattr(timing, "ForeignLoad", lambda: simulated)
    monkeypatch.setattr(timing, "ROUND_SECONDS", 1.0)
    return simulated


def test_rounds_take_every_candidate_in_turn(machine):
    machine.load = iter([0.0] * 3)
    calls = []

    def call(name):
        calls.append(name)
        machine.now += 0.25

    found = timing.interleaved({"a": lambda: call("a"), "b": lambda: call("b")}, rounds=3, device=CPU)
    assert calls == ["a", "b"] * (
        2 + 3 * 2
    )  # twice to warm up; then a round is filled with two passes of half a second
    assert (found.kept, found.dropped, found.foreign) == (3, 0, 0.0)
    assert found.timings["a"] == timing.Timing(median=0.25, low=0.25, high=0.25)


def test_rounds_beside_foreign_load_are_repeated_and_do_not_count(machine):
    machine.load = iter([0.0, 1.5, 0.02, 0.9, 0.0])
    warmup, samples = (50.0, 50.0), (1.0, 100.0, 2.0, 100.0, 3.0)
    found = timing.interleaved({"a": machine.lasting(*warmup, *samples)}, rounds=3, device=CPU)
    assert (found.kept, found.dropped) == (3, 2)
    assert found.timings["a"].median == 2.0
    assert found.quiet


@pytest.mark.parametrize("load", [[1.0] * 6, [0.0] + [1.0] * 5])
def test_on_a_machine_that_is_hardly_ever_quiet_everything_counts_and_is_said(machine, load):
    machine.load = iter(load)
    found = timing.interleaved({"a": machine.lasting(*[2.0] * 8)}, rounds=3, device=CPU)
    assert (found.kept, found.dropped, found.foreign) == (0, 6, 1.0)
    assert not found.quiet


def test_foreign_load_is_what_is_busy_beyond_this_process(monkeypatch):
    # In 2 seconds the cores were busy for 3.5 seconds, 1.5 of them with this process: others used one core.
    busy, own, wall = iter([10.0, 13.5]), iter([4.0, 5.5]), iter([100.0, 102.0])
    monkeypatch.setattr(timing, "_busy_seconds", lambda: next(busy))
    monkeypatch.setattr(timing.time, "process_time", lambda: next(own))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(wall))
    assert timing.ForeignLoad().cores() == pytest.approx(1.0)


def test_where_the_system_does_not_tell_the_load_is_unknown(monkeypatch):
    monkeypatch.setattr(timing, "_busy_seconds", lambda: None)
    assert timing.ForeignLoad().cores() is None


def test_quartiles_by_hand():
    assert timing.timing([4.0, 1.0, 3.0, 2.0, 5.0]) == timing.Timing(median=3.0, low=2.0, high=4.0)


def speed(*arguments, of="optimizers"):
    return CliRunner().invoke(cli, ["speed", of, *arguments], catch_exceptions=False)


def test_every_entry_stands_beside_fused_adamw_and_its_plain_form(tiny_toml: Path):
    result = speed("-o", "sgd,custom_adam,universal_muon_auto,gda2", "-p", str(tiny_toml), "--rounds", "2",
                   "--threads", "1", "--json")  # fmt: skip
    assert result.exit_code == 0
    speeds = json.loads(result.stdout)
    rows = {(row["optimizer"], row["form"]): row for row in speeds["rows"]}
    assert next(iter(rows)) == ("fused AdamW", "")
    assert rows["fused AdamW", ""]["times_baseline"] == 1.0
    assert ("sgd", "plain") not in rows
    assert ("universal_muon_auto", "bfloat16 iterations") in rows
    for name in ("custom_adam", "gda2", "universal_muon_auto"):
        assert name in REFERENCES
        ratio = rows[name, "plain"]["milliseconds"] / rows[name, ""]["milliseconds"]
        assert rows[name, ""]["plain_over_this"] == pytest.approx(ratio)
        assert rows[name, "plain"]["plain_over_this"] is None
    assert rows["custom_adam", ""]["state_bytes_per_parameter"] == pytest.approx(8, abs=0.1)
    assert speeds["tensors"] > 50
    assert all(row["milliseconds"] > 0 and row["floor_share"] > 0 for row in speeds["rows"])


def test_the_table_names_its_conditions_and_what_is_not_timed(tiny_toml: Path):
    result = speed("-o", "adam,lbfgs", "-p", str(tiny_toml), "--rounds", "1", "--threads", "1")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert "interleaved rounds" in text
    assert "Not timed: lbfgs (its step needs closure)" in text


# ---- a network's step


def test_every_form_stands_beside_the_straightforward_one(
    tiny_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    picture, found = tmp_path / "roof.svg", []
    measure = step.measure
    monkeypatch.setattr(step, "measure", lambda *given, **named: found.append(measure(*given, **named)) or found[0])
    result = speed("-p", str(tiny_toml), "--rounds", "1", "--threads", "1", "--plot", str(picture), of="step")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "straightforward, bf16" in result.stdout and "harness" in result.stdout
    speeds = json.loads(json.dumps(found[0].as_json()))
    forms = {(form["name"], form["dtype"]): form for form in speeds["forms"]}
    names = ("straightforward", "ours", "bank of 4", "bank of 8")
    assert set(forms) == {(name, dtype) for name in names for dtype in ("float32", "bfloat16")}
    for (name, dtype), form in forms.items():
        plain = forms["straightforward", dtype]["milliseconds"]
        assert form["times_faster"] == pytest.approx(plain / form["milliseconds"])
        assert (name == "straightforward") == (form["times_faster"] == 1.0)
        assert form["moved"] > 0 and form["gemm_share"] > 0
    assert forms["bank of 4", "float32"]["operations"] == forms["bank of 8", "float32"]["operations"]
    assert forms["ours", "float32"]["operations"] < forms["straightforward", "float32"]["operations"]
    assert set(speeds["parts"]) == {"forward", "backward", "clip", "step", "data", "evaluation", "harness"}
    assert all(seconds > 0 for seconds in speeds["parts"].values())
    assert 0 < speeds["part_runs"] <= 8
    assert picture.read_text().startswith("<?xml")


def test_a_picture_of_an_unknown_kind_is_refused_before_anything_is_measured(tiny_toml: Path):
    with pytest.raises(UsageError, match=r"--plot roof\.bmp: allowed are files that end in \.png, \.svg, \.pdf"):
        speed("-p", str(tiny_toml), "--plot", "roof.bmp", of="step")


def test_a_network_of_ones_own_has_no_straightforward_form(tmp_path: Path):
    own = tmp_path / "own.toml"
    own.write_text('extends = "mini"\n[workload]\nmodel = "torch.nn:Linear"\n'
                   '[workload.model_options]\nin_features = 2\nout_features = 2\n')  # fmt: skip
    with pytest.raises(UsageError, match="Linear has no straightforward form"):
        speed("-p", str(own), of="step")


def test_operators_move_what_they_take_and_give():
    x = torch.zeros(10, 10)
    assert moved_bytes(lambda: x + x) == 3 * 400
    assert moved_bytes(lambda: x.T) == 0


def test_a_shortened_study_keeps_its_proportions(tiny: Protocol):
    mini = PROTOCOLS["mini"]
    options = shortened(mini, 10, 2).workload.dataset_options
    assert (options["training"], options["validation"], options["test"]) == (320, 160, 160)
    assert shortened(mini, 10, 2).epochs == 2
    assert shortened(tiny, 10_000, 3) == changed(tiny, {"epochs": 3}, "test")


# ---- data and a study


def test_data_is_timed_resident_fresh_and_item_by_item(tiny_toml: Path):
    result = speed("-p", str(tiny_toml), "--rounds", "1", "--threads", "1", "--json", of="data")
    assert result.exit_code == 0
    forms = [form["name"] for form in json.loads(result.stdout)["forms"]]
    assert forms == ["resident", "an epoch's own samples", "items through 2 loader processes"]


def test_items_are_the_samples_with_noise_on_pixels_alone():
    samples = PROTOCOLS["mini"].workload.build_dataset(None, CPU).held_out("test").take(slice(0, 64))
    (items,) = loader(samples, 64, 0.0, workers=0)
    batch = samples_of(items, CPU)
    assert samples.image_N3HW is not None and batch.image_N3HW is not None and batch.text_NL is not None
    assert torch.equal(batch.image_N3HW, samples.image_N3HW[batch.match_N])
    (items,) = loader(samples, 64, 0.1, workers=0)
    noisy = samples_of(items, CPU)
    assert noisy.image_N3HW is not None and noisy.text_NL is not None and samples.text_NL is not None
    assert torch.equal(noisy.text_NL, samples.text_NL[noisy.match_N])
    assert (noisy.image_N3HW - samples.image_N3HW[noisy.match_N]).std().item() == pytest.approx(0.1, rel=0.05)


def test_the_straightforward_loop_learns_what_ours_learns():
    """Without dropout, both forms of a study take the same step to the same weights."""
    protocol = changed(PROTOCOLS["mini"], {"workload": {"model_options": {"dropout": 0.0}}}, "test")
    dataset = protocol.workload.build_dataset(None, CPU)
    batch = dataset.held_out("validation").take(slice(0, 32))
    (chosen,) = select(["sgd"], {}, "default")
    networks = [network_of(protocol) for _ in range(2)]
    roled = [roled_parameters(network, protocol.workload.roles()) for network in networks]
    plain = Loop(chosen, networks[0], roled[0], protocol).step(batch)
    ours = chosen.spec.build(roled[1], dict(chosen.hyperparameters))
    objective, stream = Objective(protocol, networks[1], dataset), DropoutStream(0.0, 0)
    step = OptimizerStep(ours, chosen.spec.needs, networks[1], objective, stream, protocol, CPU)
    evaluation = step(batch, 0, nullcontext())
    assert plain == pytest.approx(evaluation.losses.sum().item(), rel=1e-5)
    for (name, a), (_, b) in zip(networks[0].named_parameters(), networks[1].named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name


@pytest.mark.slow
def test_a_study_stands_beside_the_straightforward_one(tiny_toml: Path):
    result = speed("-o", "sgd,gda2", "-p", str(tiny_toml), "--seeds", "1", "--json", of="study")
    assert result.exit_code == 0
    speeds = json.loads(result.stdout)
    assert set(speeds["straightforward"]) == {"sgd", "gda2"} and len(speeds["forms"]) == 2
    assert set(speeds["times_faster"]) == set(speeds["forms"])
