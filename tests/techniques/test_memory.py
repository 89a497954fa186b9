"""A batch in parts, and activations computed again: the same gradients in less memory."""

from contextlib import nullcontext

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from bench.datasets.samples import Samples
from bench.errors import UsageError
from bench.execution import execute
from bench.models.dropout import DropoutStream, ShareOfDropout
from bench.plan import Run
from bench.protocol import Protocol
from bench.protocols import changed
from bench.registry import entry
from bench.runner import prepare
from bench.seeding import torch_seeded
from bench.step import OptimizerStep
from bench.techniques.objective import Objective
from bench.techniques.selection import with_techniques

CPU = torch.device("cpu")


def gradients(protocol: Protocol, batch: Samples, names=("text", "image"), dtype=torch.float64) -> dict:
    """Of one step of SGD: by parameter, and the losses."""
    data = protocol.workload.build_dataset(None, CPU)
    with torch_seeded(0):
        network = protocol.workload.build_model(data.network_options).to(dtype)
    batch = batch._each(lambda x: x.to(dtype) if x.is_floating_point() else x)
    gone = {"audio": {"audio_N1FT": None, "audio_mask_NT": None}, "text": {}, "image": {}}
    batch = type(batch)(**{f: None if any(f in gone[m] for m in gone if m not in names) else getattr(batch, f)
                           for f in batch.__slots__})  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    step = OptimizerStep(optimizer, frozenset(), network, Objective(protocol, network, data),
                         DropoutStream(network.dropout_probability, 3), protocol, CPU)  # fmt: skip
    evaluation = step(batch, 5, nullcontext())
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return found | {"losses": evaluation.losses, "norm": evaluation.gradient_norm} | dict(network.named_buffers())


@pytest.fixture(scope="module")
def batch(tiny: Protocol) -> Samples:
    return tiny.workload.build_dataset(None, CPU).held_out("test").take(slice(0, 24)).take(torch.arange(24))


@pytest.mark.parametrize("parts", [2, 3, 4, 5])
def test_parts_have_the_gradients_of_the_whole_batch_under_the_same_dropout(tiny: Protocol, batch: Samples, parts):
    """Text and image: nothing but the loss mixes their samples. 24 in 5 parts are 5, 5, 5, 5, 4."""
    whole = gradients(tiny, batch)
    in_parts = gradients(with_techniques(tiny, [f"accumulation.micro_batches={parts}"]), batch)
    assert whole.keys() == in_parts.keys()
    for name, expected in whole.items():
        torch.testing.assert_close(in_parts[name], expected, rtol=1e-9, atol=1e-11, msg=name)


def test_four_parts_of_eight_equal_a_batch_of_32_to_a_millionth_in_float32(tiny: Protocol):
    larger = changed(tiny, {"workload": {"dataset_options": {"test": 32}}}, "test")
    batch = larger.workload.build_dataset(None, CPU).held_out("test").take(torch.arange(32))
    whole = gradients(larger, batch, dtype=torch.float32)
    in_parts = gradients(with_techniques(larger, ["accumulation"]), batch, dtype=torch.float32)
    for name, expected in whole.items():
        assert (in_parts[name] - expected).abs().max() <= 1e-6 * max(1.0, expected.abs().max().item()), name


def test_of_audio_a_part_has_its_own_batch_statistics_counted_once_a_part(tiny: Protocol, batch: Samples):
    """Running variance after one step of two parts: two updates of momentum 0.1, not four."""
    everything = ("text", "image", "audio")
    found = gradients(with_techniques(tiny, ["accumulation.micro_batches=2"]), batch, everything)
    assert found["audio_encoder.norms.0.num_batches_tracked"] == 2
    assert gradients(tiny, batch, everything)["audio_encoder.norms.0.num_batches_tracked"] == 1


def test_a_share_of_dropout_is_those_rows_of_the_whole_mask():
    x = torch.ones(2 * 10, 7)  # two modalities of ten samples
    stream = DropoutStream(0.5, 1)
    stream.start_step(4)
    whole = stream(x).view(2, 10, 7)
    for start, own in ((0, 3), (3, 4), (7, 3)):
        stream.start_step(4)
        part = ShareOfDropout(stream, start, own, 10)(torch.ones(2 * own, 7))
        assert torch.equal(part.view(2, own, 7), whole[:, start : start + own])
    with pytest.raises(ValueError, match=r"tensor \[5, 7\] of a part of a batch; .* the 3 samples"):
        ShareOfDropout(stream, 0, 3, 10)(torch.ones(5, 7))


def saved_bytes(protocol: Protocol, batch: Samples) -> int:
    """What a forward pass keeps for the backward pass."""
    sizes: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch_seeded(0):
        network = protocol.workload.build_model(protocol.workload.build_dataset(None, CPU).network_options)
    if protocol.techniques.checkpointing:
        from bench.techniques.checkpointing import checkpoint_encoders

        checkpoint_encoders(network)
    stream = DropoutStream(0.1, 0)
    stream.start_step(0)
    with saved_tensors_hooks(pack, lambda x: x):
        network({"text": batch.text_NL, "image": batch.image_N3HW}, {}, stream)
    return sum(sizes.values()) - sum(p.untyped_storage().nbytes() for p in network.parameters())


def trained(protocol: Protocol, optimizer="adamw"):
    spec = entry(optimizer)
    run = Run(protocol=protocol, optimizer=optimizer, reference=optimizer, hyperparameters=dict(spec.defaults), seed=0)
    curve = []
    record = execute(run, device=CPU, on_epoch=curve.append)
    assert record.outcome == "ok", record.failure
    return record.metrics, [(p.loss, p.gradient_norm) for p in curve]


def plain_path(protocol: Protocol) -> Protocol:
    """Without the shared passes of small networks, whose sums round otherwise: what a stage of its own is for."""
    return changed(protocol, {"techniques": {"stages": {"stages": [{"epochs": protocol.epochs}]}}}, "test")


def test_checkpointed_encoders_train_to_the_same_bits_and_keep_less(tiny: Protocol, batch: Samples):
    deep = changed(plain_path(tiny), {"workload": {"model_options": {"num_layers": 3}}}, "test")
    recomputed = with_techniques(deep, ["checkpointing"])
    assert trained(recomputed) == trained(deep)
    assert saved_bytes(recomputed, batch) < 0.4 * saved_bytes(deep, batch)


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_a_run_in_parts_with_checkpoints_is_the_plain_run_up_to_rounding(tiny: Protocol, precision: str):
    two = changed(tiny, {"workload": {"modalities": ["text", "image"]}, "precision": precision}, "test")
    _, curve = trained(with_techniques(two, ["accumulation.micro_batches=2", "checkpointing"]), "sgd")
    _, plain = trained(plain_path(two), "sgd")
    for ours, theirs in zip(curve, plain, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4 if precision == "float32" else 0.02, nan_ok=True)


@pytest.mark.parametrize("technique", ["accumulation", "checkpointing"])
def test_optimizers_that_evaluate_the_loss_themselves_are_refused(tiny: Protocol, tmp_path, technique):
    with pytest.raises(UsageError, match=rf"^optimizer lbfgs: technique {technique} does not go with its need closure"):
        prepare("lbfgs", protocol=with_techniques(tiny, [technique]), results=tmp_path)
