"""Whole small studies through worker processes: resume, added seeds, crashes, plugins, equality with one process."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import bench
from bench.driver import Watcher
from bench.errors import EngineError, UsageError
from bench.execution import execute
from bench.executor import Progress
from bench.paths import without_folders
from bench.plan import Run
from bench.protocol import Protocol
from bench.record import Outcome, RunRecord
from bench.runner import parse_seeds, prepare
from bench.store import Store
from bench.study import Study, find_studies, load_study
from bench.together import Together

CPU = torch.device("cpu")


class Log(Watcher):
    """Notes what a study tells."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.epochs: list[Progress] = []
        self.retries: list[str] = []

    def run_done(self, record: RunRecord) -> None:
        self.done.append(record.run_id)

    def epoch_done(self, progress: Progress) -> None:
        self.epochs.append(progress)

    def retried(self, run: Run, how: str) -> None:
        self.retries.append(how)


def contents(study: Study) -> dict[str, dict]:
    """What of each record must not depend on when and where it was made."""
    free = {"seconds", "memory", "environment", "finished", "command", "curve_sha256", "device_use"}
    return {record.run_id: record.model_dump(exclude=free) for record in study.records}


def test_study_resumes_and_grows(tiny: Protocol, tmp_path: Path):
    log = Log()
    first = bench.run("sgd,adamw", protocol=tiny, seeds=1, results=tmp_path, workers=2, watcher=log)
    assert (first.name, len(first.records), len(log.done)) == ("tiny", 2, 2)
    assert len(log.epochs) == 2 * 2
    assert {p.worker for p in log.epochs} <= {0, 1}
    again = Log()
    same = bench.run("sgd,adamw", protocol=tiny, seeds=1, results=tmp_path, watcher=again)
    assert again.done == [] and same.records == first.records
    more = Log()
    grown = bench.run("sgd,adamw", protocol=tiny, seeds=2, results=tmp_path, workers=1, watcher=more)
    assert {record.seed for record in grown.records} == {0, 1} and len(more.done) == 2
    assert contents(grown) | contents(first) == contents(grown)
    assert load_study(tmp_path / "tiny") == (grown, {tiny.hash: 4})


def test_two_workers_and_this_process_give_the_same_bits(tiny: Protocol, tmp_path: Path):
    study = bench.run("gda2,muon", protocol=tiny, results=tmp_path, workers=2)
    plan = prepare("gda2,muon", protocol=tiny, results=tmp_path / "other")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    here: list[RunRecord] = []
    try:
        for run in plan.runs:
            Together().run([lambda member, run=run: here.append(execute(run, device=CPU, member=member))])
    finally:
        torch.set_num_threads(before)
    assert contents(study) == contents(Study(Path("x"), tiny, tuple(here)))


def test_records_of_two_protocols_are_not_mixed(tiny: Protocol, tmp_path: Path):
    bench.run("sgd", protocol=tiny, seeds=1, results=tmp_path, study="both")
    longer = bench.run("sgd", protocol=tiny, epochs=1, seeds=1, results=tmp_path, study="both")
    assert len(longer.records) == 1 and longer.protocol.epochs == 1
    other, counts = load_study(tmp_path / "both", tiny.hash)
    assert other.protocol == tiny and len(other.records) == 1
    assert counts == {tiny.hash: 1, longer.protocol.hash: 1}
    with pytest.raises(UsageError, match="no runs of protocol 'abc'"):
        load_study(tmp_path / "both", "abc")


def test_frame_has_a_row_a_run(tiny: Protocol, tmp_path: Path):
    frame = bench.run("sgd,adamw", protocol=tiny, results=tmp_path).frame()
    assert len(frame) == 4
    assert frame.groupby("optimizer")["avg_r1"].count().to_dict() == {"sgd": 2, "adamw": 2}
    assert set(frame["outcome"]) == {"ok"}


def test_every_entry_of_the_catalog_finishes_a_study(tiny: Protocol, tmp_path: Path):
    study = bench.run("builtin", protocol=tiny, epochs=1, seeds=1, results=tmp_path)
    assert len(study.records) == 18
    assert {r.outcome for r in study.records} <= {Outcome.OK, Outcome.DIVERGED}


def test_a_diverged_run_stops_alone(tiny: Protocol, tmp_path: Path):
    study = bench.run("sgd,adamw", protocol=tiny, seeds=1, overrides={"sgd": {"lr": 1e30}}, results=tmp_path)
    assert {r.optimizer: r.outcome for r in study.records} == {"sgd": Outcome.DIVERGED, "adamw": Outcome.OK}


def test_a_worker_that_dies_costs_one_retry_and_then_an_outcome(
    tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]
):
    log = Log()
    plugin = write_plugin("os.kill(os.getpid(), 9)")
    study = bench.run([plugin, "sgd"], protocol=tiny, seeds=1, results=tmp_path, workers=2, watcher=log)
    outcomes = {r.optimizer: r for r in study.records}
    assert log.retries == ["signal 9"]
    assert outcomes["mine.py:Mine"].outcome is Outcome.ERROR
    assert "died 2 times on this run, last by signal 9" in outcomes["mine.py:Mine"].failure.reason
    assert outcomes["sgd"].outcome is Outcome.OK


def test_a_worker_that_dies_once_loses_nothing(tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]):
    flag = tmp_path / "died"
    body = (
        f"os.path.exists({str(flag)!r}) or (open({str(flag)!r}, 'w').close(), os._exit(3)); p.add_(p.grad, alpha=-.1)"
    )
    log = Log()
    study = bench.run(write_plugin(body), protocol=tiny, seeds=1, results=tmp_path, workers=1, watcher=log)
    assert log.retries == ["exit code 3"]
    assert [r.outcome for r in study.records] == [Outcome.OK]
    assert len(next(iter(study.curves.values()))) == tiny.epochs


def test_failed_runs_stay_until_asked_for(tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]):
    flag = tmp_path / "fixed"
    body = f"assert os.path.exists({str(flag)!r}), 'not yet'; p.add_(p.grad, alpha=-.1)"
    arguments = {"protocol": tiny, "seeds": 1, "results": tmp_path}
    assert bench.run(write_plugin(body), **arguments).records[0].outcome is Outcome.ERROR
    flag.touch()
    assert bench.run(write_plugin(body), **arguments).records[0].outcome is Outcome.ERROR
    assert bench.run(write_plugin(body), **arguments, retry_failed=True).records[0].outcome is Outcome.OK


def test_a_changed_plugin_is_another_optimizer(tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]):
    arguments = {"protocol": tiny, "seeds": 1, "results": tmp_path}
    first = bench.run(write_plugin("p.add_(p.grad, alpha=-.1)"), **arguments).records
    both = bench.run(write_plugin("p.add_(p.grad, alpha=-.2)"), **arguments).records
    assert len(first) == 1 and len(both) == 2
    assert {r.optimizer for r in both} == {"mine.py:Mine"}


def test_what_a_plugin_prints_does_not_disturb_the_events(
    tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]
):
    plugin = write_plugin(
        "print('{\"event\": \"done\"}', flush=True); os.write(1, b'noise'); p.add_(p.grad, alpha=-.1)"
    )
    study = bench.run(plugin, protocol=tiny, seeds=1, results=tmp_path, workers=1)
    assert study.records[0].outcome is Outcome.OK
    assert "noise" in (study.path / "logs" / "worker-0.log").read_text()


def test_records_hold_no_folder_of_this_machine(tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]):
    plugin = write_plugin("raise RuntimeError('broken')")
    study = bench.run(plugin, protocol=tiny, seeds=1, results=tmp_path, data_dir=tmp_path)
    text = (Store(study.path).run_dir(study.records[0].run_id) / "run.json").read_text()
    assert "broken" in text
    for place in (str(tmp_path), str(Path.home()), os.getcwd()):  # noqa: PTH109
        assert f"{place}/" not in text


def test_a_damaged_record_is_made_again(tiny: Protocol, tmp_path: Path):
    arguments = {"protocol": tiny, "seeds": 1, "results": tmp_path}
    study = bench.run("sgd", **arguments)
    path = Store(study.path).run_dir(study.records[0].run_id) / "run.json"
    path.write_text(path.read_text()[:100])
    assert contents(bench.run("sgd", **arguments)) == contents(study)


def test_other_settings_of_one_optimizer_are_another_row(tiny: Protocol, tmp_path: Path):
    for rate in (0.01, 0.02):
        study = bench.run("sgd", protocol=tiny, seeds=1, overrides={"sgd": {"lr": rate}}, results=tmp_path)
    labels = set(study.labels.values())
    assert len(study.records) == len(labels) == 2
    assert all(label.startswith("sgd#") for label in labels)


def test_report_shows_what_was_asked_for_last(tiny: Protocol, tmp_path: Path):
    bench.run("sgd", protocol=tiny, seeds=1, results=tmp_path)
    bench.run("sgd", protocol=tiny, epochs=1, seeds=1, results=tmp_path)
    bench.run("sgd", protocol=tiny, seeds=1, results=tmp_path)  # nothing to do, but asked for
    study, _ = load_study(tmp_path / "tiny")
    assert study.protocol == tiny


def test_workers_that_cannot_start_end_the_study(tiny: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))  # an interpreter without a standard library
    with pytest.raises(EngineError, match=r"cannot start .*worker-\d\.log says why"):
        bench.run("sgd", protocol=tiny, seeds=2, results=tmp_path)
    assert not list((tmp_path / "tiny").glob("runs/*/run.json"))


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("run -o adamw,/home/joe/secret/mine.py:Mine", "run -o adamw,…/mine.py:Mine"),
        ("--data-dir=/mnt/a/b/c x", "--data-dir=…/c x"),
        ('File "/home/joe/x/y.py", line 3', 'File "…/y.py", line 3'),
        ("a/b 1/2 s/epoch", "a/b 1/2 s/epoch"),
    ],
)
def test_folders_are_cut_from_texts(text: str, paths: str):
    assert without_folders(text) == paths


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", (0, 1, 2)), ("0-2", (0, 1, 2)), ("7,", (7,)), ("0,3,8-10", (0, 3, 8, 9, 10)), ("2,2", (2,))],
)
def test_seeds(text: str, seeds: tuple[int, ...]):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "3-1", "1.5", "1-", "99999999", "0-99999999"])
def test_bad_seeds(text: str):
    with pytest.raises(UsageError, match=r"allowed are a count >= 1 \(5 = seeds 0 to 4\)"):
        parse_seeds(text)


def test_find_studies(tmp_path: Path):
    assert list(find_studies(tmp_path / "none")) == []
    for name in ("b", "a"):
        (tmp_path / name / "runs").mkdir(parents=True)
    os.utime(tmp_path / "b" / "runs", (2e9, 2e9))
    assert [path.name for path in find_studies(tmp_path)] == ["a", "b"]
    with pytest.raises(UsageError, match="no finished runs"):
        load_study(tmp_path / "a")
