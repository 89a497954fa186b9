"""Runs over tasks through the real trainer: the matrix, resuming in mid-task, pairing, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.checkpoint import Checkpoints, Keeper, StoppedError
from bench.continual.figures import all_figures
from bench.continual.kind import _right
from bench.continual.objective import ContinualObjective
from bench.errors import UsageError
from bench.execution import execute
from bench.metrics import NonFiniteEmbeddingError
from bench.objective import multi_positive_info_nce
from bench.plan import TUNING_SEEDS, Run
from bench.protocol import Protocol
from bench.protocols import PROTOCOLS, changed, with_epochs
from bench.record import CurvePoint, Outcome, RunRecord, read_record, record_text
from bench.registry import select
from bench.runner import prepare
from bench.seeding import torch_seeded
from bench.summary import is_rank, lower_is_better, metric_title, unit
from bench.techniques.objective import Targets

CPU = torch.device("cpu")
TIMES = {"seconds", "memory", "environment", "finished", "command", "curve_sha256", "device_use"}


def run_of(protocol: Protocol, name: str = "adamw", seed: int = 3) -> Run:
    (chosen,) = select([name], {}, "default")
    return Run(protocol=protocol, optimizer=chosen.spec.name, reference=chosen.reference,
               hyperparameters=dict(chosen.hyperparameters), seed=seed, revision=chosen.spec.revision,
               source_digest=chosen.spec.source_digest)  # fmt: skip


def carried_out(run: Run, data: Path) -> tuple[RunRecord, list[CurvePoint]]:
    curve: list[CurvePoint] = []
    return execute(run, device=CPU, data_dir=data, on_epoch=curve.append), curve


def test_a_record_holds_the_matrix_and_its_figures(small: Protocol, digits: Path):
    record, curve = carried_out(run_of(small), digits)
    assert record.outcome is Outcome.OK, record.failure
    matrix = [[record.figures[f"accuracy_{t}_{i}"] for i in range(1, 6)] for t in range(1, 6)]
    assert len(record.figures) == 25 and all(matrix[t][i] == 0 for t in range(5) for i in range(t + 1, 5))
    assert record.metrics == {**all_figures(matrix), "task_incremental_accuracy": record.metrics[WITHIN]}
    assert record.metrics["accuracy_5"] == matrix[4][4] and record.metrics[WITHIN] >= record.metrics["average_accuracy"]
    assert [p.epoch for p in curve if p.metrics] == [2, 4, 6, 8, 10]
    assert [p.metrics["accuracy_1"] for p in curve if p.metrics] == [row[0] for row in matrix]
    assert set(record.validation_metrics) == {"average_accuracy", WITHIN, *(f"accuracy_{i}" for i in range(1, 6))}
    assert (record.chance["average_accuracy"], record.chance[WITHIN], record.ceiling) == (10, 50, {})
    assert set(curve[0].pair_losses) == {"classification", "contrastive"}
    # 18 new images an epoch make 4 batches of 4; from the second task on each is joined by two.
    assert (record.steps, curve[-1].samples) == (40, 40 * 4 + 32 * 2)
    assert read_record(record_text(record), "test") == record


WITHIN = "task_incremental_accuracy"


def test_looks_within_a_task_change_neither_the_matrix_nor_the_figures(small: Protocol, digits: Path):
    often, curve = carried_out(run_of(changed(small, {"evaluate_every": 1}, "test")), digits)
    seldom, _ = carried_out(run_of(small), digits)
    assert [p.epoch for p in curve if p.metrics] == list(range(1, 11))
    assert (often.metrics, often.figures) == (seldom.metrics, seldom.figures)
    assert curve[0].metrics["forgetting"] == 0 and curve[2].metrics["accuracy_3"] == 0


@pytest.mark.parametrize("network", ["small", "small_fusion"])
def test_a_run_stopped_in_mid_task_goes_on_with_the_same_bits(
    network: str, digits: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    """Stopped after every third step: within epochs, between those of a task, and between tasks."""
    run, stops = run_of(request.getfixturevalue(network)), 0
    while True:
        asked = iter([False, True])
        keeper = Keeper(Checkpoints(tmp_path), steps=3, stopping=lambda a=asked: next(a, True))
        try:
            record = execute(run, device=CPU, data_dir=digits, keeper=keeper)
        except StoppedError:
            stops += 1
            continue
        break
    assert stops >= 10 and record.outcome is Outcome.OK
    whole, _ = carried_out(run, digits)
    assert record.model_dump(exclude=TIMES) == whole.model_dump(exclude=TIMES)


def test_every_optimizer_of_a_block_meets_the_same_samples(small: Protocol, digits: Path):
    once = changed(small, {"epochs": 5, "workload": {"dataset_options": {"epochs_per_task": 1}}}, "test")
    records = [carried_out(run_of(once, name), digits)[0] for name in ("sgd", "gda2", "universal_muon_preserve")]
    assert all(r.fingerprints == records[0].fingerprints and r.outcome is Outcome.OK for r in records)
    assert len({r.loss for r in records}) == 3
    other, _ = carried_out(run_of(once, "sgd", seed=4), digits)
    assert other.fingerprints != records[0].fingerprints


def test_replay_keeps_what_is_lost_without_it(small: Protocol, digits: Path):
    """A band at a height of its own is learned by a few steps; without replay the first tasks are forgotten."""
    model = {"width": 16, "embedding": 16, "patch_size": 7, "dropout": 0.0}
    data = {"epochs_per_task": 8, "buffer": 9}
    longer = changed(small, {"epochs": 40, "workload": {"model_options": model, "dataset_options": data}}, "test")
    without = changed(longer, {"workload": {"dataset_options": {"replay_share": 0.0}}}, "test")
    kept, lost = (carried_out(run_of(protocol), digits)[0].metrics for protocol in (longer, without))
    assert kept["average_accuracy"] > lost["average_accuracy"] + 10
    assert kept["forgetting"] < lost["forgetting"] - 20


def test_a_search_scores_the_last_row_of_the_validation_split(small: Protocol, digits: Path):
    record, _ = carried_out(run_of(small, seed=TUNING_SEEDS), digits)
    row = [record.validation_metrics[f"accuracy_{i}"] for i in range(1, 6)]
    assert record.validation_metrics["average_accuracy"] == pytest.approx(sum(row) / 5)


def test_who_has_the_highest_logit_among_all_and_among_its_task():
    logits = torch.tensor([[3.0, 1, 2, 0], [3, 1, 2, 0], [0, 1, 4, 4.5], [0, 1, 5, 4.5]])
    labels = torch.tensor([0, 2, 2, 2])
    assert _right(logits, labels, 2).int().tolist() == [[1, 0, 0, 1], [1, 1, 0, 1]]
    with pytest.raises(NonFiniteEmbeddingError, match="1 non-finite values"):
        _right(torch.tensor([[float("nan"), 0]]), torch.tensor([0]), 2)


def test_the_loss_is_cross_entropy_and_the_weighted_contrastive_one(small: Protocol, digits: Path):
    data = small.workload.build_dataset(digits, CPU)
    network = small.workload.example(data.network_options)
    label_B = torch.tensor([0, 1, 1])
    with torch_seeded(0):
        image_BD, text_CD = torch.randn(3, 4), torch.randn(2, 4)
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    found = ContinualObjective(small, network, data).of_batch(
        {"image": image_BD, "text": text_CD, "logits": logits}, Targets(match_B=label_B, label_B=label_B)
    )
    # ln(1 + e⁻²) = .126928, ln 2 = .693147, ln(1 + e⁻¹) = .313262
    assert found["classification"].item() == pytest.approx((0.126928 + 0.693147 + 0.313262) / 3, abs=1e-6)
    pair = multi_positive_info_nce(image_BD, text_CD[label_B], small.workload.temperature, label_B)
    assert found["contrastive"].item() == pytest.approx(0.3 * pair.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 9}, "epochs is 9; allowed is 10: 5 tasks of 2 epochs"),
        ({"techniques": {"classification": None}}, "techniques none; allowed with tasks is classification alone"),
        ({"techniques": {"queue": {}}}, "techniques queue, classification; allowed with tasks"),
        ({"workload": {"model_options": {"patch_size": 5}}}, "image_size is 28; allowed are multiples of patch_size 5"),
        ({"primary_metric": "avg_r1"}, "unknown primary_metric 'avg_r1'"),
    ],
)
def test_what_does_not_go_with_tasks_is_refused_before_anything_runs(
    small: Protocol, digits: Path, tmp_path: Path, changes: dict[str, Any], message: str
):
    with pytest.raises(UsageError) as error:
        prepare("adamw", protocol=changed(small, changes, "test"), data_dir=digits, results=tmp_path, device="cpu")
    assert message in str(error.value)


def test_data_that_come_in_no_tasks_and_a_head_that_is_too_small_are_refused(
    small: Protocol, small_fusion: Protocol, tiny: Protocol, digits: Path, tmp_path: Path
):
    few = changed(small_fusion, {"workload": {"model_options": {"classes": 4}}}, "test")
    with pytest.raises(UsageError, match=r"the head has 4 classes and there are 10 prompts"):
        prepare("adamw", protocol=few, data_dir=digits, results=tmp_path, device="cpu")
    whole = tiny.workload.model_copy(update={"kind": "continual"})
    odd = small.model_copy(update={"workload": whole})
    with pytest.raises(UsageError, match=r"PairedData come in no tasks; allowed is a TaskDataset"):
        prepare("adamw", protocol=odd, results=tmp_path, device="cpu")


def test_epochs_are_shared_by_the_tasks(small: Protocol):
    longer = with_epochs(small, 20, "--epochs 20")
    assert (longer.epochs, longer.workload.dataset_options["epochs_per_task"]) == (20, 4)
    with pytest.raises(UsageError, match=r"--epochs 12: protocol 'small' has 5 tasks; allowed are multiples of 5"):
        with_epochs(small, 12, "--epochs 12")
    assert with_epochs(PROTOCOLS["mini"], 12, "--epochs 12").epochs == 12


def test_presets_are_those_of_the_documents():
    """Batch, epochs a task, buffer a class and precision."""
    found = {name: (p.batch_size, p.workload.dataset_options["epochs_per_task"], p.workload.dataset_options["buffer"],
                    p.precision) for name, p in PROTOCOLS.items() if name.startswith("continual")}  # fmt: skip
    assert found["continual_speed"] == (256, 8, 400, "bf16")
    assert found["continual"] == found["continual_fusion"] == (256, 10, 500, "bf16")
    assert found["continual_accuracy"] == (128, 15, 700, "float32")
    for name in found:
        protocol = PROTOCOLS[name]
        assert protocol.workload.kind == "continual" and '"kind":"continual"' in protocol.canonical_json()
        assert protocol.techniques.classification is not None
        assert protocol.techniques.classification.contrastive_weight == 0.3
        assert protocol.workload.dataset_options["replay_share"] == 0.5
    assert '"kind"' not in PROTOCOLS["mini"].canonical_json()


def test_forgetting_is_a_percent_of_which_less_is_better():
    assert lower_is_better("forgetting") and not is_rank("forgetting") and unit("forgetting") == "%"
    assert not lower_is_better("backward_transfer") and not lower_is_better("average_accuracy")
    assert metric_title("accuracy_3") == "accuracy of task 3"
    assert metric_title("backward_transfer") == "backward transfer"
    assert metric_title("task_incremental_accuracy") == "task-incremental accuracy"
