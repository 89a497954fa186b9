"""The baseline file: what it holds, that the same runs are the same bytes, and that no damage is read as data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.check.baseline import NoBaselineError, read_baseline, to_text, write_baseline
from bench.check.snapshot import Snapshot, snapshot
from bench.check.update import update_lines
from bench.errors import BadRecordError, UsageError
from bench.protocols import changed
from bench.record import Outcome
from bench.store import Store
from bench.study import load_study


def test_a_file_holds_the_snapshot_of_its_study(write_study, tmp_path):
    snap = snapshot(write_study("main"))
    path = tmp_path / "baseline.json"
    assert write_baseline(snap, path)
    assert read_baseline(path) == snap
    assert not write_baseline(snap, path)
    content = json.loads(path.read_text())
    assert content["schema_version"] == 1
    assert content["protocol"]["epochs"] == 3 and content["protocol_hash"] == snap.protocol.hash
    assert content["metric"] == {"name": "avg_r1", "lower_is_better": False, "grain": 100 / 3000, "chance": 0.2}
    assert content["environments"][0]["git_commit"] == "c" * 40
    assert content["runs"][0]["evaluations"] == [[10, 2.0, 45.1 / 3], [20, 4.0, 45.1 * 2 / 3], [30, 6.0, 45.1]]
    assert content["derived"][0] == {"optimizer": "better", "ok": 5, "runs": 5, "mean": 45.1, "sd": 0.6708}


def test_the_same_runs_are_the_same_bytes_in_any_order(hand):
    snap = hand.snapshot()
    turned = snap.model_copy(update={"runs": snap.runs[::-1], "entries": snap.entries[::-1]})
    assert to_text(turned) == to_text(snap)


def test_a_changed_run_is_a_changed_line(hand):
    scores = hand.scores()
    scores["good"][2] = 40.0
    before, after = to_text(hand.snapshot()).splitlines(), to_text(hand.snapshot(scores)).splitlines()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 2  # the run, and its mean for the eye


def test_numbers_that_are_not_finite_survive(hand, tmp_path):
    snap = hand.snapshot()
    odd = snap.runs[0].model_copy(update={"loss": float("inf"), "metrics": {"avg_r1": 45.0, "i2t_mrr": float("nan")}})
    write_baseline(snap.model_copy(update={"runs": (odd, *snap.runs[1:])}), tmp_path / "b.json")
    found = read_baseline(tmp_path / "b.json").runs[0]
    assert found.loss == float("inf") and found.metrics["i2t_mrr"] != found.metrics["i2t_mrr"]


def test_an_interrupted_write_leaves_the_old_file(hand, tmp_path):
    path = tmp_path / "b.json"
    write_baseline(hand.snapshot(), path)
    code = """
import os, sys
from pathlib import Path
from bench.check.baseline import read_baseline, write_baseline
os.fsync = lambda descriptor: os.kill(os.getpid(), 9)  # killed after the bytes went out, before the file took its name
snap = read_baseline(Path(sys.argv[1]))
write_baseline(snap.model_copy(update={"runs": snap.runs[:1]}), Path(sys.argv[1]))
"""
    killed = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, timeout=120)
    assert killed.returncode == -9
    assert read_baseline(path) == hand.snapshot()


def broken(hand, **changes):
    """The file's content with keys replaced; `run` changes its first run."""
    content = json.loads(to_text(hand.snapshot()))
    content["runs"][0] |= changes.pop("run", {})
    return json.dumps(content | changes)


def broken_metric(hand, **changes):
    return broken(hand, metric=json.loads(to_text(hand.snapshot()))["metric"] | changes)


DAMAGE = {
    "torn": (lambda hand: to_text(hand.snapshot())[:2000], "Invalid JSON: EOF while parsing"),
    "empty": (lambda hand: "", "Invalid JSON"),
    "no object": (lambda hand: "[]", "Input should be an object"),
    "binary": (lambda hand: "\x00\x01", "Invalid JSON"),
    "no version": (lambda hand: "{}", "schema_version: Field required"),
    "version zero": (lambda hand: broken(hand, schema_version=0), "schema_version is 0"),
    "unknown key": (lambda hand: broken(hand, extra=1), "extra: Extra inputs are not permitted"),
    "wrong type": (lambda hand: broken(hand, run={"seed": "0"}), "runs.0.seed: Input should be a valid integer"),
    "turned round": (lambda hand: broken_metric(hand, lower_is_better=True), "metric.lower_is_better is True; the"),
    "blind": (lambda hand: broken_metric(hand, grain=50.0), "metric.grain is 50.0; the protocol's is 0.033"),
    "seed of a search": (lambda hand: broken(hand, run={"seed": 1_000_000}), "runs.0.seed: Input should be less than"),
    "too large": (lambda hand: broken(hand, run={"metrics": {"avg_r1": 1e101}}), "runs.0.metrics.avg_r1 is 1e+101"),
    "negative seed": (lambda hand: broken(hand, run={"seed": -1}), "runs.0.seed: Input should be greater than"),
    "outcome": (lambda hand: broken(hand, run={"outcome": "fine"}), "runs.0.outcome: Input should be 'ok'"),
    "twice": (lambda hand: broken(hand, run={"seed": 1}), "runs.1: 'better' has seed 1 already"),
    "stranger": (lambda hand: broken(hand, run={"optimizer": "who"}), "runs.0.optimizer is 'who'"),
    "no place": (lambda hand: broken(hand, run={"environment": 7}), "runs.0.environment is 7; there are 1"),
    "NaN": (lambda hand: broken(hand, run={"metrics": {"avg_r1": "NaN"}}), "runs.0.metrics.avg_r1 is nan"),
    "text": (lambda hand: broken(hand, run={"metrics": {"avg_r1": "45"}}), "runs.0.metrics.avg_r1: Input should be"),
    "no score": (lambda hand: broken(hand, run={"metrics": {}}), "runs.0.metrics.avg_r1 is None"),
    "seconds": (lambda hand: broken(hand, run={"training_seconds": "NaN"}), "runs.0.training_seconds: Input should"),
    "curve": (lambda hand: broken(hand, run={"evaluations": [[2, 1, 1], [2, 1, 1]]}), "runs.0.evaluations"),
    "control sign": (lambda hand: broken(hand, run={"optimizer": "a\x1b[2J"}), "runs.0.optimizer: allowed are"),
    "no runs": (lambda hand: broken(hand, runs=[]), "runs: there is none"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_one_line_with_file_and_key(hand, tmp_path, content, message):
    path = tmp_path / "b.json"
    path.write_text(content(hand))
    with pytest.raises(BadRecordError) as refused:
        read_baseline(path)
    assert str(refused.value).startswith(f"{path}: ") and message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_newer_other_and_missing_baselines_are_told_apart_from_damage(hand, tmp_path):
    path = tmp_path / "b.json"
    for content, message in (
        (broken(hand, schema_version=2, added={"in": "2"}), "schema_version 2 is newer"),
        (broken(hand, protocol_hash="0" * 12), "protocol_hash is '000000000000'"),
    ):
        path.write_text(content)
        with pytest.raises(NoBaselineError, match=message):
            read_baseline(path)
    with pytest.raises(NoBaselineError, match="there is no such baseline"):
        read_baseline(tmp_path / "none.json")


def test_an_option_that_overflows_is_named(hand, tmp_path):
    path = tmp_path / "b.json"
    path.write_text(to_text(hand.snapshot({"a": {0: 1.0, 1: 2.0}})).replace('"noise": 0.04', '"noise": 1e999'))
    with pytest.raises(BadRecordError, match=r"b.json: .*dataset_options.*noise is inf; allowed are finite numbers"):
        read_baseline(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_is_read_as_other_data(hand, tmp_path, data):
    """Any cut and any overwritten stretch is refused in one line, or does not change what is read but in that place."""
    text = to_text(hand.snapshot({"a": {0: 1.0, 1: 2.0}})).encode()
    start = data.draw(st.integers(0, len(text)))
    middle = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([b'"', b"}", b"null", b"1e999", b"NaN", b"-"])))
    path = tmp_path / "b.json"
    path.write_bytes(text[:start] + middle + text[start + data.draw(st.integers(0, 40)) :])
    try:
        assert isinstance(read_baseline(path), Snapshot)
    except (BadRecordError, NoBaselineError) as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1


def test_two_configurations_of_one_optimizer_need_a_choice(write_study, hand):
    study = write_study("main", {"sgd": {0: 1.0, 1: 2.0}})
    for seed in (0, 1):
        record = hand.record("sgd", seed, 3.0, configuration="c1xx", hyperparameters={"lr": 0.2})
        hand.store_run(Store(study.path), record)
    study, _ = load_study(study.path)
    with pytest.raises(UsageError, match=r"sgd has 2 configurations, .*: sgd#c0, sgd#c1xx"):
        snapshot(study)
    assert snapshot(study, ["sgd#c1xx"]).entries[0].hyperparameters == {"lr": 0.2}
    with pytest.raises(UsageError, match="--optimizers none matches none of sgd#c0, sgd#c1xx"):
        snapshot(study, ["sgd#c0", "none"])


def test_a_study_whose_records_cannot_be_kept_is_refused_in_words(write_study):
    for i, (scores, metrics, message) in enumerate((
        ({"line\nbreak": {0: 1.0, 1: 2.0}}, {}, r"study .*: optimizer: allowed are printable characters"),
        ({"a": {0: 1.0}}, {"avg_r5": 1.0}, r"a-s0-c0/run.json: the run is ok and has no avg_r1; allowed is a finite"),
        ({"a": {0: 1.0}}, {"avg_r1": float("nan")}, r"a-s0-c0/run.json: the run is ok and its avg_r1 is nan"),
        ({"a": {0: 1.0}}, {"avg_r1": 1e300}, r"a-s0-c0/run.json: the run is ok and its avg_r1 is 1e\+300"),
    )):  # fmt: skip
        study = write_study(f"study{i}", scores, **({"metrics": metrics} if metrics else {}))
        with pytest.raises(UsageError, match=message):
            snapshot(study)


def test_the_settings_of_an_entry_are_those_of_its_fullest_run(write_study, hand):
    study = write_study("main", {"a": {0: 1.0, 1: 2.0}})
    hand.store_run(Store(study.path), hand.record("a", 2, None, hyperparameters={}, outcome=Outcome.ERROR))
    assert snapshot(load_study(study.path)[0]).entries[0].hyperparameters == {"lr": 0.1}


def test_an_update_says_what_changes(hand):
    scores = hand.scores()
    scores["good"] = {seed: value + 1.0 for seed, value in scores["good"].items()}
    scores["new"] = scores.pop("poor")
    dirty = hand.place.model_copy(update={"git_dirty": True})
    lines = update_lines(hand.snapshot(), hand.snapshot(scores, place=dirty, lr=0.2))
    assert lines[:2] == ["added: new", "removed: poor"]
    assert "changed: good: lr 0.1 → 0.2" in lines
    assert any(line.startswith("level: good 45.08 → 46.08 (+1, 95 % +") for line in lines)
    assert not any(line.startswith("level: better") for line in lines)
    assert lines[-1] == "warning: the runs were made with changed files (commit cccccccccccc+)"
    assert update_lines(hand.snapshot(), hand.snapshot()) == ["no optimizer has changed"]
    assert update_lines(None, hand.snapshot()) == ["new: 4 optimizers, 20 runs"]


def test_an_update_names_a_changed_protocol_and_runs_that_are_not_there(hand):
    other = changed(hand.protocol, {"epochs": 4}, "test")
    scores = hand.scores()
    del scores["good"][4]
    after = hand.snapshot(scores, protocol=other)
    failed = after.runs[0].model_copy(update={"outcome": Outcome.ERROR, "metrics": {}})
    lines = update_lines(hand.snapshot(), after.model_copy(update={"runs": (failed, *after.runs[1:])}))
    assert "changed: protocol epochs: 3 in the baseline, 4 now" in lines
    assert "warning: 1 run did not finish, and a check leaves them out: better seed 0" in lines
    assert "warning: good has not run seed 4" in lines


def test_no_name_of_user_host_or_folder_is_in_the_file(write_study, tmp_path):
    text = to_text(snapshot(write_study("main")))
    for place in (str(tmp_path), str(Path.home()), os.uname().nodename):
        assert place not in text
