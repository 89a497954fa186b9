"""`bench speed`: what is compared with what, and which samples count; never how long anything takes."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench import timing
from bench.cli import cli
from bench.optimizers.reference.catalog import REFERENCES

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


def speed(*arguments):
    return CliRunner().invoke(cli, ["speed", "optimizers", *arguments], catch_exceptions=False)


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
