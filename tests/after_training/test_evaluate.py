"""Stored weights have the record's metrics; together they rank by the mean of their similarities."""

import json
from pathlib import Path

import pytest
import torch
from kept_weights import CPU, run_of

from bench.evaluation import evaluate
from bench.execution import execute
from bench.metrics import embedding_scores, ensemble_scores
from bench.protocol import Protocol
from bench.protocols import changed
from bench.record import read_record
from bench.weight_keeping import WeightKeeper
from bench.weights import packed, read_weights, write_weights


def test_the_last_weights_have_the_records_metrics_exactly(bench, study):
    """To the last bit, by the bank that the worker had."""
    for folder in study.runs:
        record = read_record((folder / "run.json").read_bytes(), "run.json")
        done = bench("evaluate", folder / "last.pt", "--json")
        assert done.code == 0, done.err
        found = json.loads(done.out)
        (row,) = found["rows"]
        assert (row["metrics"], row["class_metrics"]) == (record.metrics, record.class_metrics)
        assert (found["chance"], found["ceiling"], found["pools"]) == (record.chance, record.ceiling, record.pools)
        (row,) = json.loads(bench("evaluate", folder / "last.pt", "--json", "--split", "validation").out)["rows"]
        assert row["metrics"] == record.validation_metrics
        assert row["metrics"]["avg_r1"] == read_weights(folder / "last.pt").head.score


@pytest.mark.parametrize("name", ["adamw", "schedule_free_adamw"])
def test_so_have_those_of_a_run_that_was_alone(constant: Protocol, tmp_path: Path, name: str):
    """Whose sums round otherwise than a bank's."""
    if name == "schedule_free_adamw":
        pytest.importorskip("schedulefree")
    record = execute(run_of(constant, name), device=CPU, weights=WeightKeeper(tmp_path, last=True))
    found = evaluate([read_weights(tmp_path / "last.pt")], split="test", data_dir=None, device=CPU)
    assert found.rows[0].metrics == record.metrics


def test_the_table_has_every_file_the_ensemble_chance_and_ceiling(bench, study):
    done = bench("evaluate", *(folder / "last.pt" for folder in study.runs))
    assert done.code == 0 and max(map(len, done.out.splitlines())) <= 80
    lines = done.out.splitlines()
    assert [line.split("  ")[0].strip() for line in lines[2:5]] == [
        "adamw seed 0 last", "adamw seed 1 last", "ensemble of 2"]  # fmt: skip
    assert any(line.startswith("chance: R@1 4.17 %") for line in lines)
    assert any(line.startswith("ceiling (best possible matcher): R@1") for line in lines)


def test_an_ensemble_ranks_by_the_mean_of_the_similarities():
    """Two queries and two items at right angles. The first network takes query 0 for item 1, by cosines 0.6 and 0.8,
    the second is sure of item 0, by 1 and 0: together 0.8 and 0.4."""
    item = torch.eye(2)
    first = {"text": torch.tensor([[0.6, 0.8], [0.0, 5.0]]), "image": item}
    second = {"text": torch.eye(2), "image": 3 * item}
    ids = torch.arange(2)
    assert embedding_scores(first, ids)["t2i_r1"] == 50.0
    assert embedding_scores(second, ids)["t2i_r1"] == 100.0
    assert ensemble_scores([first, second], ids)["t2i_r1"] == 100.0
    assert ensemble_scores([first, first], ids) == embedding_scores(first, ids)


def test_weights_of_other_data_are_no_ensemble(bench, study, tmp_path: Path):
    found = read_weights(study.runs[0] / "last.pt")
    protocol = changed(found.head.protocol, {"workload": {"dataset_options": {"noise": 0.5}}}, "test")
    head = found.head.model_copy(update={"protocol": protocol, "protocol_hash": protocol.hash})
    write_weights(tmp_path / "last.pt", packed(head, found.network, {}, None))
    done = bench("evaluate", study.runs[0] / "last.pt", tmp_path / "last.pt")
    assert done.code == 2 and done.err.count("\n") == 1
    assert "(dataset_options.noise 0.04 → 0.5); allowed in an ensemble are weights of the same data" in done.err


def test_weights_of_another_network_are_refused(bench, study, tmp_path: Path):
    found = read_weights(study.runs[0] / "last.pt")
    network = {name: value for name, value in found.network.items() if name != "type_vectors"}
    write_weights(tmp_path / "last.pt", packed(found.head, network, {}, None))
    done = bench("evaluate", tmp_path / "last.pt")
    assert done.code == 2 and done.err.count("\n") == 1 and "type_vectors" in done.err


def test_files_that_are_not_the_runs_are_refused(bench, study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = read_weights(study.runs[0] / "last.pt")
    head = found.head.model_copy(update={"data_digest": "ab" * 32})
    write_weights(tmp_path / "last.pt", packed(head, found.network, {}, None))
    done = bench("evaluate", tmp_path / "last.pt")
    assert done.code == 2 and "their SHA-256 is None, the run's abababababab" in done.err
