"""Records on disk: what is written comes back, a broken file is named, a write is never half done."""

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BadRecordError, StorageError, UsageError
from bench.plan import Run, slug
from bench.protocol import Protocol
from bench.protocols import PROTOCOLS
from bench.record import CurvePoint, Outcome, ProtocolName, RunRecord, Seconds, read_record, record_text
from bench.store import Store, study_name, write_atomic


def make_record(run_id: str = "sgd-s0-abc", **changes) -> RunRecord:
    values = {
        "run_id": run_id,
        "protocol": ProtocolName(name="tiny", hash="0" * 12),
        "optimizer": "sgd",
        "configuration": "c0",
        "hyperparameters": {"lr": 0.1},
        "seed": 0,
        "outcome": Outcome.OK,
        "finished": "2020-01-01T00:00:00+00:00",
    }
    return RunRecord(**(values | changes))  # fmt: skip


def make_point(epoch: int, loss: float = 1.0) -> CurvePoint:
    return CurvePoint(epoch=epoch, step=epoch, samples=epoch, loss=loss, pair_losses={"image_text": loss},
                      gradient_norm=1.0, update_ratio=0.1, learning_rate=0.1, metrics={}, seconds=Seconds(),
                      peak_bytes=1)  # fmt: skip


def test_record_comes_back_equal(tmp_path: Path):
    record = make_record(metrics={"avg_r1": 1.25}, loss=0.5, seconds=Seconds(training=1.5))
    Store(tmp_path).write_record(record)
    assert Store(tmp_path).read_record(record.run_id) == record
    assert Store(tmp_path).read_record("other") is None


def test_non_finite_numbers_are_strings_in_strict_json(tmp_path: Path):
    store = Store(tmp_path)
    store.write_record(make_record(loss=math.inf, metrics={"x": math.nan}))
    text = (tmp_path / "runs" / "sgd-s0-abc" / "run.json").read_text()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    content = json.loads(text, parse_constant=refuse)
    assert content["loss"] == "Infinity"
    assert content["metrics"]["x"] == "NaN"
    record = store.read_record("sgd-s0-abc")
    assert record is not None and record.loss == math.inf and math.isnan(record.metrics["x"])


def test_torn_last_line_of_a_curve_is_left_out(tmp_path: Path):
    store = Store(tmp_path)
    store.start_curve("r")
    for epoch in (1, 2):
        store.append_curve("r", make_point(epoch))
    path = tmp_path / "runs" / "r" / "curve.jsonl"
    path.write_text(path.read_text()[:-20])
    assert [point.epoch for point in store.read_curve("r")] == [1]
    assert store.read_curve("none") == []


def test_unreadable_records_are_named_and_the_others_kept(tmp_path: Path):
    store = Store(tmp_path)
    for i in range(3):
        store.write_record(make_record(f"sgd-s{i}-abc", seed=i))
    (tmp_path / "runs" / "sgd-s1-abc" / "run.json").write_text('{"schema_version": 1, "run_id":')
    good, bad = store.records()
    assert [r.seed for r in good] == [0, 2]
    assert len(bad) == 1 and "sgd-s1-abc" in str(bad[0]) and "Invalid JSON" in str(bad[0])


@pytest.mark.parametrize("newer", [{}, {"a_key_of_tomorrow": 1}, {"outcome": "better than ok"}])
def test_a_record_of_a_newer_schema_is_refused_by_its_version(newer: dict):
    content = json.loads(make_record("sgd-s0-abc").model_dump_json()) | newer | {"schema_version": 7}
    with pytest.raises(BadRecordError, match=r"^here: schema version 7 is newer .* up to 4; update bench$"):
        read_record(json.dumps(content), "here")


@settings(max_examples=3000, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode),
                 st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                              lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8), x, max_size=3),
                              max_leaves=8).map(lambda x: json.dumps(x).encode())))  # fmt: skip
def test_any_bytes_are_a_record_or_a_bad_record(content: bytes):
    with pytest.raises(BadRecordError, match=r"^somewhere: "):
        read_record(content, "somewhere")


WHOLE = record_text(make_record(metrics={"avg_r1": 1.25}, loss=0.5)).encode()


@settings(max_examples=3000, deadline=None)
@given(st.data())
def test_a_record_that_was_changed_anywhere_is_a_bad_record(data: st.DataObject):
    """Cut off, flipped in any bit, or with bytes put in: never read as something else, never another exception."""
    place = data.draw(st.integers(0, len(WHOLE) - 1))
    changed = data.draw(st.one_of(
        st.just(WHOLE[:place]),
        st.integers(0, 7).map(lambda bit: WHOLE[:place] + bytes([WHOLE[place] ^ 1 << bit]) + WHOLE[place + 1 :]),
        st.binary(min_size=1, max_size=9).map(lambda some: WHOLE[:place] + some + WHOLE[place:]),
    ))  # fmt: skip
    if changed == WHOLE:
        return
    with pytest.raises(BadRecordError, match=r"^somewhere: "):
        read_record(changed, "somewhere")


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*RunRecord.model_fields]), st.none() | st.booleans() | st.integers()
                       | st.text(max_size=4) | st.lists(st.integers(), max_size=2), max_size=4))  # fmt: skip
def test_a_record_of_the_first_schema_is_brought_up_to_date_or_named(changes: dict):
    """Version 1 has no figures, no sizes of pools, and neither the curve's digest nor a digest of its own."""
    content = json.loads(make_record().model_dump_json(exclude={"curve_sha256", "device_use", "pools", "figures"}))
    text = json.dumps(content | {"schema_version": 1})
    assert read_record(text, "here") == make_record()
    with contextlib.suppress(BadRecordError):
        assert read_record(json.dumps(content | changes | {"schema_version": 1}), "here").schema_version == 4


def test_a_curve_that_is_not_its_records_is_named(tmp_path: Path):
    store = Store(tmp_path)
    store.start_curve("sgd-s0-abc", [make_point(1)])
    store.append_curve("sgd-s0-abc", make_point(2))
    store.write_record(make_record())
    record = store.read_record("sgd-s0-abc")
    assert record is not None and len(store.read_curve(record.run_id, record.curve_sha256)) == 2
    path = tmp_path / "runs" / record.run_id / "curve.jsonl"
    path.write_text(path.read_text().replace('"loss":1.0', '"loss":2.0', 1))
    assert len(store.read_curve(record.run_id)) == 2
    with pytest.raises(BadRecordError, match=r"curve\.jsonl: not what its record says it is"):
        store.read_curve(record.run_id, record.curve_sha256)


CLAIM = """
import sys, time
from pathlib import Path
from bench.store import Store
with Store(Path(sys.argv[1])).claim("r") as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_a_run_has_one_writer_whose_lock_goes_with_it(tmp_path: Path):
    store = Store(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", CLAIM, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    assert store.is_claimed("r") and not store.is_claimed("other")
    with store.claim("r") as mine, store.claim("other") as free:
        assert (mine, free) == (False, True)
    process.kill()
    process.communicate()
    assert not store.is_claimed("r")
    (tmp_path / "runs" / "r" / ".run.json.abc.tmp").write_text("half a rec")
    with store.claim("r") as mine:
        assert mine and [path.name for path in (tmp_path / "runs" / "r").iterdir()] == [".lock"]


def test_records_are_set_aside_under_names_of_their_own(tmp_path: Path):
    store = Store(tmp_path)
    assert store.set_aside("sgd-s0-abc") is None
    for number in (1, 2):
        store.write_record(make_record(loss=float(number)))
        path = store.set_aside("sgd-s0-abc")
        assert path is not None and path.name == f"run.set-aside-{number}.json"
        assert read_record(path.read_bytes(), "x").loss == number
    assert store.records() == ([], [])


def test_a_record_set_aside_never_replaces_another(tmp_path: Path):
    store, folder = Store(tmp_path), tmp_path / "runs" / "sgd-s0-abc"
    for _ in range(2):
        store.write_record(make_record())
        store.set_aside("sgd-s0-abc")
    (folder / "run.set-aside-1.json").unlink()
    (folder / "run.set-aside-2.json").write_text("the second")
    for _ in range(2):
        store.write_record(make_record())
        store.set_aside("sgd-s0-abc")
    assert (folder / "run.set-aside-2.json").read_text() == "the second"
    assert len(list(folder.glob("run.set-aside-*.json"))) == 3


def refused(*_: object, **__: object) -> None:
    raise OSError(37, "No locks available")


@pytest.mark.parametrize("call", ["fcntl.flock", "pathlib.Path.rename", "pathlib.Path.unlink"])
def test_what_the_disk_refuses_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    store = Store(tmp_path)
    store.write_record(make_record())
    (tmp_path / "runs" / "sgd-s0-abc" / ".x.tmp").touch()
    monkeypatch.setattr(call, refused)
    with pytest.raises(StorageError, match="No locks available; everything"), store.claim("sgd-s0-abc"):
        store.set_aside("sgd-s0-abc")


def test_a_record_or_curve_that_cannot_be_read_is_named(tmp_path: Path):
    for name in ("run.json", "curve.jsonl"):
        (tmp_path / "runs" / "r" / name).mkdir(parents=True)
    with pytest.raises(BadRecordError, match=r"run\.json: Is a directory"):
        Store(tmp_path).read_record("r")
    with pytest.raises(BadRecordError, match=r"curve\.jsonl: Is a directory"):
        Store(tmp_path).read_curve("r")


def test_a_curve_is_on_the_disk_before_the_record_that_vouches_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store, synced, sync = Store(tmp_path), [], os.fsync

    def note(file: int) -> None:
        synced.append(Path(f"/proc/self/fd/{file}").readlink().name)
        sync(file)

    store.start_curve("sgd-s0-abc")
    store.append_curve("sgd-s0-abc", make_point(1))
    monkeypatch.setattr(os, "fsync", note)
    store.write_record(make_record())
    assert [name.strip(".").partition(".")[0] for name in synced] == ["curve", "run", "sgd-s0-abc"]


def test_old_leftovers_of_crashed_writers_are_removed(tmp_path: Path):
    old, new = tmp_path / "protocols" / ".a.json.1.tmp", tmp_path / ".last_used.2.tmp"
    old.parent.mkdir()
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (0, 0))
    Store(tmp_path).remove_leftovers()
    assert not old.exists() and new.exists()


def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.json"
    write_atomic(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"a\.json: No space left on device; everything stored before is whole"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_killed_writer_leaves_a_whole_file(tmp_path: Path):
    """A process that rewrites one file for ever is killed at odd moments; the file is always one of its versions."""
    path = tmp_path / "a.json"
    code = f"""
from pathlib import Path
from bench.store import write_atomic
i = 0
while True:
    write_atomic(Path({str(path)!r}), str(i % 10) * 300_000)
    i += 1
"""
    for attempt in range(8):
        process = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.003 * attempt)
        process.kill()
        process.wait()
        text = path.read_text()
        assert len(text) == 300_000 and len(set(text)) == 1


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 101, "..", "nul\0"])
def test_study_names_stay_in_their_folder(name: str):
    with pytest.raises(UsageError, match="allowed are letters"):
        study_name(name)


@given(st.text(max_size=80))
def test_slug_is_a_plain_file_name(name: str):
    result = slug(name)
    assert result and "/" not in result and not result.startswith((".", "-")) and len(result) <= 60
    assert result.isascii()


def make_run(protocol: Protocol, **changes) -> Run:
    return Run(
        **{
            "protocol": protocol,
            "optimizer": "sgd",
            "reference": "sgd",
            "hyperparameters": {"lr": 0.1},
            "seed": 0,
            **changes,
        }
    )


def test_run_id_changes_with_all_that_changes_a_result():
    base = make_run(PROTOCOLS["mini"])
    others = [make_run(PROTOCOLS["standard"]), *(make_run(PROTOCOLS["mini"], **change) for change in (
        {"optimizer": "adam"}, {"hyperparameters": {"lr": 0.2}}, {"seed": 1}, {"revision": 2},
        {"source_digest": "x"}, {"data_digest": "x"}))]  # fmt: skip
    assert len({run.run_id for run in [base, *others]}) == 7 + 1
    assert base.run_id == make_run(PROTOCOLS["mini"]).run_id
    assert base.run_id.startswith("sgd-s0-")
    assert make_run(PROTOCOLS["mini"], optimizer="my file.py:Mine").run_id.startswith("my-file.py-Mine-s0-")
