"""The training loop: blocks, determinism, outcomes, diagnostics and what a record holds."""

from collections.abc import Callable

import pytest
import torch

from bench import trainer
from bench.datasets.documents import expected_log_same_class
from bench.diagnostics import UpdateWatch
from bench.execution import execute
from bench.plan import TUNING_SEEDS, Run
from bench.protocol import Protocol
from bench.protocols import changed
from bench.record import CurvePoint, Outcome, RunRecord
from bench.registry import entry

CPU = torch.device("cpu")


def train(protocol: Protocol, optimizer: str = "adamw", seed: int = 0, **hyperparameters) -> RunRecord:
    record, _ = train_with_curve(protocol, optimizer, seed, **hyperparameters)
    return record


def train_with_curve(
    protocol: Protocol, optimizer: str = "adamw", seed: int = 0, **hyperparameters
) -> tuple[RunRecord, list[CurvePoint]]:
    spec = entry(optimizer)
    settings = {**spec.defaults, **hyperparameters}
    curve: list[CurvePoint] = []
    run = Run(protocol=protocol, optimizer=spec.name, reference=optimizer, hyperparameters=settings, seed=seed,
              source_digest=spec.source_digest)  # fmt: skip
    return execute(run, device=CPU, on_epoch=curve.append), curve


def test_block_gives_every_optimizer_the_same_start(tiny: Protocol):
    records = [train(tiny, name) for name in ("sgd", "adamw", "gda2", "universal_muon_preserve", "muon")]
    first = records[0].fingerprints
    assert first is not None and first.initial_loss is not None
    assert all(record.fingerprints == first for record in records)
    assert train(tiny, "sgd", seed=1).fingerprints != first


def test_same_run_twice_is_the_same_to_the_last_bit(tiny: Protocol):
    one, two = train_with_curve(tiny, "gda2"), train_with_curve(tiny, "gda2")
    keep = {
        "metrics",
        "validation_metrics",
        "class_metrics",
        "loss",
        "fingerprints",
        "diagnostics",
        "chance",
        "ceiling",
    }
    assert one[0].model_dump(include=keep) == two[0].model_dump(include=keep)
    times = {"seconds", "peak_bytes"}
    assert [p.model_dump(exclude=times) for p in one[1]] == [p.model_dump(exclude=times) for p in two[1]]


def test_global_random_state_does_not_reach_a_run(tiny: Protocol):
    torch.manual_seed(1)
    one = train(tiny)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert train(tiny).metrics == one.metrics
    assert torch.equal(torch.get_rng_state(), state)


def test_custom_adam_is_adam(tiny: Protocol):
    longer = changed(tiny, {"epochs": 6}, "test")
    for seed in range(2):
        adam, custom = train_with_curve(longer, "adam", seed)[1], train_with_curve(longer, "custom_adam", seed)[1]
        assert [p.loss for p in adam] == pytest.approx([p.loss for p in custom], abs=1e-6)


def test_record_holds_what_tables_need(tiny: Protocol):
    record, curve = train_with_curve(tiny)
    assert record.outcome is Outcome.OK and record.failure is None
    assert [p.epoch for p in curve] == [1, 2]
    assert (record.epochs, record.steps, curve[-1].samples) == (2, 8, 64)
    assert record.metrics == curve[-1].metrics
    for direction in ("i2t", "t2i", "i2a", "a2i", "t2a", "a2t"):
        for kind in ("r1", "r5", "r10"):
            assert 0 <= record.metrics[f"{direction}_{kind}"] <= 100
    assert record.metrics["avg_r1"] == pytest.approx(
        sum(record.metrics[f"{d}_r1"] for d in ("i2t", "t2i", "i2a", "a2i", "t2a", "a2t")) / 6
    )
    assert record.chance["avg_r1"] == pytest.approx(100 / 24)
    assert record.chance["avg_r1"] < record.ceiling["avg_r1"] <= 100
    assert record.validation_metrics and record.class_metrics
    assert record.loss == pytest.approx(curve[-1].loss)
    assert curve[-1].loss == pytest.approx(sum(curve[-1].pair_losses.values()), rel=1e-5)
    assert record.seconds.training > record.seconds.optimizer_step > 0
    assert record.seconds.evaluation > 0
    assert record.memory.peak_bytes > 0 and record.memory.state_bytes > 0
    assert record.environment is not None and record.environment.versions["torch"]


def test_optimizer_state_bytes_are_counted(tiny: Protocol):
    record = train(tiny, "custom_sgd")  # one float32 buffer
    with_gradient = record.diagnostics.parameters - record.diagnostics.parameters_without_gradient
    assert record.memory.state_bytes == 4 * with_gradient


def test_parameters_without_gradient_are_named(tiny: Protocol):
    diagnostics = train(tiny).diagnostics
    assert all(n.startswith("decoders.") or "_mlp." in n for n in diagnostics.without_gradient)
    assert 0 < diagnostics.parameters_without_gradient < diagnostics.parameters
    assert diagnostics.observed_steps == 2  # the first step of each epoch


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(tiny: Protocol, precision: str):
    record = train(changed(tiny, {"precision": precision, "epochs": 1}, "test"))
    assert record.outcome is Outcome.OK


def test_too_high_a_rate_diverges_and_has_no_metrics(tiny: Protocol):
    record, curve = train_with_curve(tiny, "sgd", lr=1e30)
    assert record.outcome is Outcome.DIVERGED
    assert record.metrics == {} and record.validation_metrics == {}
    assert record.failure is not None and record.failure.epoch == 1 and record.failure.traceback is None
    assert len(curve) == 1  # the run stops at once
    assert record.fingerprints is not None


def test_exploded_weights_behind_a_finite_loss_are_divergence(tiny: Protocol, write_plugin: Callable[[str], str]):
    """Scaling the weights before a norm leaves the loss as it is."""
    body = "p.mul_(30 if p.ndim == 2 else 1)"
    record = train(tiny, write_plugin(body))
    assert record.outcome is Outcome.DIVERGED
    assert record.failure is not None and "norm of" in record.failure.reason


def test_loss_over_the_limit_is_divergence(tiny: Protocol, write_plugin: Callable[[str], str]):
    protocol = changed(tiny, {"diverged_loss_factor": 1.0001, "diverged_norm_factor": 1e30}, "test")
    record = train(protocol, write_plugin("p.add_(p.grad, alpha=0.1)"))  # uphill
    assert record.outcome is Outcome.DIVERGED
    assert record.failure is not None and "is over 1.0001 × the initial" in record.failure.reason


@pytest.mark.parametrize(
    ("body", "outcome", "reason"),
    [
        ("raise RuntimeError('broken on purpose')", Outcome.ERROR, "RuntimeError: broken on purpose"),
        ("raise torch.OutOfMemoryError('no room')", Outcome.OUT_OF_MEMORY, "OutOfMemoryError: no room"),
        ("raise MemoryError", Outcome.OUT_OF_MEMORY, "MemoryError"),
    ],
)
def test_a_failure_is_a_result_with_its_traceback(
    tiny: Protocol, write_plugin: Callable[[str], str], body: str, outcome: Outcome, reason: str
):
    record = train(tiny, write_plugin(body))
    assert record.outcome is outcome and record.metrics == {}
    assert record.failure is not None and record.failure.reason.startswith(reason)
    assert record.failure.traceback is not None and "mine.py" in record.failure.traceback
    assert 'File "/' not in record.failure.traceback


def test_zero_and_large_updates_are_counted(tiny: Protocol, write_plugin: Callable[[str], str]):
    record = train(tiny, write_plugin("p.add_(0 if p.ndim == 2 else 1e-3 * p)"))
    diagnostics = record.diagnostics
    assert diagnostics.zero_update["text_projection.weight"] == 2
    assert "audio_encoder.convolutions.0.weight" not in diagnostics.zero_update
    assert diagnostics.large_update == {}
    doubled = train(tiny, write_plugin("p.mul_(-1.5)")).diagnostics
    assert doubled.large_update["text_projection.weight"] == 2


def test_update_ratio_is_the_quotient_of_norms():
    model = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
    model.weight.grad = torch.ones(1, 2)
    watch = UpdateWatch(model)
    with watch.observe(), torch.no_grad():
        model.weight += torch.tensor([[0.0, 0.5]])
    assert watch.last_ratio == pytest.approx(0.1)


def test_evaluation_follows_the_protocol(tiny: Protocol):
    _, curve = train_with_curve(changed(tiny, {"epochs": 5, "evaluate_every": 2}, "test"))
    assert [bool(point.metrics) for point in curve] == [False, True, False, True, True]


def test_a_run_of_a_search_is_evaluated_at_its_end_alone_with_the_same_result(tiny: Protocol):
    record, points = train_with_curve(tiny, seed=TUNING_SEEDS)
    assert [bool(point.metrics) for point in points] == [False, True]
    # Looking in between changes nothing: a seed that ranks gives the same with and without.
    assert train(tiny).metrics == train(changed(tiny, {"evaluate_every": 2}, "test")).metrics
    assert record.metrics and record.validation_metrics


def test_partial_last_batch_is_used_or_dropped(tiny: Protocol):
    odd = {"workload": {"dataset_options": {"training": 35}}}
    assert train(changed(tiny, odd, "test")).steps == 2 * 4
    kept, curve = train_with_curve(changed(tiny, odd | {"drop_last": False}, "test"))
    assert (kept.steps, curve[-1].samples) == (2 * 5, 70)


def test_learning_rate_follows_the_schedule(tiny: Protocol):
    _, curve = train_with_curve(changed(tiny, {"schedule": "cosine", "warmup": 0.0}, "test"), lr=0.01)
    assert [p.learning_rate for p in curve] == pytest.approx([0.01 * 0.6913417, 0.01 * 0.0380602], rel=1e-5)


def test_an_exception_after_a_non_finite_loss_is_divergence(tiny: Protocol, write_plugin: Callable[[str], str]):
    """A library that cannot bear NaN raises; the run had diverged before."""
    body = "assert p.isfinite().all(), 'cannot bear this'; p.fill_(float('nan'))"
    record = train(tiny, write_plugin(body))
    assert record.outcome is Outcome.DIVERGED
    assert record.failure is not None and "cannot bear this" in record.failure.reason


def test_a_plugin_changed_in_mid_study_is_not_run(tiny: Protocol, write_plugin: Callable[[str], str]):
    """A record must not stand under the identity of code that did not make it."""
    reference = write_plugin("p.add_(p.grad, alpha=-0.1)")
    run = Run(protocol=tiny, optimizer="mine.py:Mine", reference=reference, hyperparameters={"lr": 0.1}, seed=0,
              source_digest=entry(reference).source_digest)  # fmt: skip
    assert execute(run, device=CPU).outcome is Outcome.OK
    write_plugin("p.add_(p.grad, alpha=-0.2)")
    record = execute(run, device=CPU)
    assert record.outcome is Outcome.ERROR
    assert record.failure is not None and "source has changed since the study was planned" in record.failure.reason


def test_lowest_loss_counts_the_batches_as_they_are(tiny: Protocol):
    documents = {
        "workload": {"dataset": "bench.datasets.documents:DocumentsData"},
        "drop_last": False,
        "batch_size": 32,
    }
    options = {"training": 40, "validation": 8, "test": 8, "image_size": 16, "audio_size": 16}
    protocol = changed(tiny, documents | {"drop_last": False, "batch_size": 32}, "test")
    workload = protocol.workload.model_copy(update={"dataset_options": options})
    record = train(protocol.model_copy(update={"workload": workload}))
    expected = 3 * (expected_log_same_class(32, 10) + expected_log_same_class(8, 10)) / 2
    assert record.best_loss == pytest.approx(expected)


def test_fingerprint_is_of_the_order_that_was_used(tiny: Protocol, monkeypatch: pytest.MonkeyPatch):
    before = train(tiny).fingerprints
    monkeypatch.setattr(trainer, "batch_order", lambda seed, epoch, samples: torch.arange(samples))
    after = train(tiny).fingerprints
    assert before is not None and after is not None
    assert before.batch_order != after.batch_order and before.initial_weights == after.initial_weights
