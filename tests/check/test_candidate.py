"""The runs of `bench check --run`: whose settings, whose code, and which records count as this code's."""

from dataclasses import replace

import pytest

from bench.check import candidate
from bench.check.candidate import code_digest, plan_candidate
from bench.check.snapshot import snapshot
from bench.errors import UsageError
from bench.plan import ended
from bench.protocols import changed
from bench.record import Outcome
from bench.runner import prepare
from bench.study import Study


def finished(run):
    """The record of a run as if it had been trained."""
    return ended(run, Outcome.OK, None, None).model_copy(update={"metrics": {"avg_r1": 1.0}, "chance": {"avg_r1": 0.2}})


@pytest.fixture(scope="module")
def baseline(tiny, tmp_path_factory):
    """Two optimizers, one with a rate of its own, three seeds that are not the first."""
    folder = tmp_path_factory.mktemp("baseline")
    plan = prepare("sgd,adam", protocol=tiny, seeds="3-5", overrides={"sgd": {"lr": 0.02}}, results=folder)
    records = tuple(finished(run) for run in plan.runs)
    return snapshot(Study(folder / "tiny", tiny, records))


def planned(found):
    return {(run.optimizer, run.seed): run for run in found.plan.runs}


def named(baseline, old, new):
    """The baseline with an entry under another name."""
    entries = tuple(e.model_copy(update={"optimizer": new}) if e.optimizer == old else e for e in baseline.entries)
    runs = tuple(r.model_copy(update={"optimizer": new}) if r.optimizer == old else r for r in baseline.runs)
    return baseline.model_copy(update={"entries": entries, "runs": runs})


def test_seeds_and_settings_are_the_baselines(baseline, tmp_path):
    found = plan_candidate(baseline, results=tmp_path)
    assert set(planned(found)) == {(name, seed) for name in ("sgd", "adam") for seed in (3, 4, 5)}
    assert planned(found)["sgd", 3].hyperparameters["lr"] == 0.02
    for entry in baseline.entries:
        assert planned(found)[entry.optimizer, 3].configuration == entry.configuration
    assert found.plan.protocol == baseline.protocol
    assert found.plan.store.path.parent == tmp_path and found.plan.store.path.name.startswith("check-tiny-")
    assert found.notes == () and not list(tmp_path.iterdir())


def test_names_and_globs_choose_a_part(baseline, tmp_path):
    for chosen in (["sgd"], ["s*"], ["sgd", "s*"]):
        found = plan_candidate(baseline, chosen, results=tmp_path)
        assert {name for name, _ in planned(found)} == {"sgd"} == set(found.baseline.names)
    assert len(planned(plan_candidate(baseline, ["all"], results=tmp_path))) == 6
    with pytest.raises(UsageError, match="unknown entry of the baseline 'sgdd': did you mean 'sgd'"):
        plan_candidate(baseline, ["sgdd"], results=tmp_path)


def test_another_class_takes_an_entrys_place(baseline, tmp_path, write_plugin):
    plugin = write_plugin("p.add_(p.grad, alpha=-group['lr'])")
    found = plan_candidate(baseline, [f"sgd={plugin}"], results=tmp_path)
    run = planned(found)["sgd", 3]
    assert (run.reference, run.hyperparameters, len(run.source_digest)) == (plugin, {"lr": 0.02}, 64)
    assert found.notes[0].startswith(f"sgd: {plugin} does not take the recorded settings dampening, ")
    assert found.notes[1] == "sgd is run as mine.py:Mine"
    both = plan_candidate(baseline, ["all", f"sgd={plugin}"], results=tmp_path)
    assert {name for name, _ in planned(both)} == {"sgd", "adam"}
    with pytest.raises(UsageError, match=r"unknown entry of the baseline 'mine.py:Mine'.*NAME=file.py:Class"):
        plan_candidate(baseline, [plugin], results=tmp_path)


def test_a_result_file_names_no_code(baseline, tmp_path, write_plugin):
    plugin = write_plugin("p.add_(p.grad, alpha=-group['lr'])")
    with_plugin = named(baseline, "sgd", "mine.py:Mine")
    with pytest.raises(UsageError, match=r"'mine\.py:Mine' is not built in, and a result file is never asked"):
        plan_candidate(with_plugin, results=tmp_path)
    found = plan_candidate(with_plugin, [plugin, "adam"], results=tmp_path)
    assert planned(found)["mine.py:Mine", 3].reference == plugin
    left_out = plan_candidate(with_plugin, results=tmp_path, allow_removed=["mine.py:Mine"])
    assert {name for name, _ in planned(left_out)} == {"adam"}
    with pytest.raises(UsageError, match="'os:system' is not built in"):
        plan_candidate(named(baseline, "sgd", "os:system"), results=tmp_path)
    for key, value in (("dataset", "os:system"), ("model", "subprocess:Popen")):
        foreign = changed(baseline.protocol, {"workload": {key: value}}, "test")
        with pytest.raises(UsageError, match=f"workload.{key} is '{value}'"):
            plan_candidate(baseline.model_copy(update={"protocol": foreign}), results=tmp_path)


def test_an_optimizer_that_left_the_catalog_is_not_run(baseline, tmp_path):
    found = plan_candidate(named(baseline, "sgd", "old_one"), results=tmp_path)
    assert {name for name, _ in planned(found)} == {"adam"}
    assert set(found.baseline.names) == {"old_one", "adam"}  # for the gate to judge
    gone = named(named(baseline, "sgd", "old_one"), "adam", "older_one")
    with pytest.raises(UsageError, match="none of the baseline's optimizers is in the registry"):
        plan_candidate(gone, results=tmp_path)


def test_records_count_only_for_the_code_that_made_them(baseline, tmp_path, write_plugin, monkeypatch):
    first = plan_candidate(baseline, ["sgd"], results=tmp_path)
    for run in first.plan.runs[:2]:  # an interrupted check
        first.plan.store.write_record(finished(run))
    assert len(plan_candidate(baseline, ["sgd"], results=tmp_path).plan.missing) == 1
    assert len(plan_candidate(baseline, ["sgd"], results=tmp_path, fresh=True).plan.missing) == 3
    edited = tmp_path / "adamw.py"
    edited.write_text("edited")
    sources = candidate._sources()
    monkeypatch.setattr(candidate, "_sources", lambda: sources | {"optimizers/adamw.py": edited})
    again = plan_candidate(baseline, ["sgd"], results=tmp_path)
    assert len(again.plan.missing) == 3
    assert again.plan.store.path != first.plan.store.path


def test_the_digest_covers_the_package_and_a_plugin(tmp_path, write_plugin):
    assert code_digest("cpu", 1) == code_digest("cpu", 1) != code_digest("cpu", 2)
    names = set(candidate._sources())
    assert {"trainer.py", "optimizers/adamw.py", "models/dropout.py", "datasets/paired.py"} <= names
    before = code_digest("cpu", 1)
    from bench.registry import entry

    entry(write_plugin("p.add_(p.grad, alpha=-0.123)"))
    assert code_digest("cpu", 1) != before


def test_only_the_planned_runs_are_compared(baseline, tmp_path):
    found = plan_candidate(baseline, ["sgd"], results=tmp_path)
    records = tuple(finished(run) for run in found.plan.runs)
    other = plan_candidate(baseline, ["adam"], results=tmp_path).plan.runs[0]
    study = Study(tmp_path, baseline.protocol, (*records, finished(other)))
    assert found.of(study) == replace(study, records=records)
