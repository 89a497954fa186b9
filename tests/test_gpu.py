"""What only a CUDA device can show: no waiting within an epoch, the same bits twice, banks there too."""

from pathlib import Path

import pytest
import torch

from bench.execution import execute
from bench.models.dropout import BankDropout, DropoutStream
from bench.models.multimodal_memory_bank import NetworkBank
from bench.objective import bank_pair_losses, pair_losses
from bench.plan import Run
from bench.protocol import Protocol
from bench.protocols import PROTOCOLS, changed
from bench.record import RunRecord
from bench.registry import GROUPS, entry
from bench.seeding import torch_seeded
from bench.trainer import Trainer
from bench.worker import prepare_process

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SHORT = changed(PROTOCOLS["mini"], {"epochs": 2, "workload": {"dataset_options": {"training": 256}}}, "test")


def run_of(optimizer: str, protocol: Protocol = SHORT) -> Run:
    spec = entry(optimizer)
    return Run(protocol=protocol, optimizer=spec.name, reference=optimizer, seed=0,
               hyperparameters=dict(spec.defaults), source_digest=spec.source_digest)  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", GROUPS["all"])
def test_an_epoch_waits_for_the_device_at_its_first_step_alone(optimizer: str, precision: str):
    """The first step is watched, which reads values back."""
    trainer = Trainer(run_of(optimizer, changed(SHORT, {"precision": precision}, "test")), torch.device("cuda"))
    trainer.train(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train(trainer.steps_per_epoch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_run_has_the_same_bits_twice():
    def content(record: RunRecord) -> dict:
        return record.model_dump(exclude={"seconds", "memory", "environment", "finished", "device_use"})

    prepare_process(1)
    first, second = (content(execute(run_of("adamw"), device=torch.device("cuda"))) for _ in range(2))
    assert first == second


def test_a_bank_has_the_gradients_of_its_networks_alone():
    device, workload = torch.device("cuda"), SHORT.workload
    dataset = workload.build_dataset(None, device)
    batch = dataset.training(1, 0).take(torch.arange(32, device=device))
    networks = []
    for seed in range(4):
        with torch_seeded(seed):
            networks.append(workload.build_model(dataset.network_options).to(device))
    losses, gradients = [], []
    for seed, network in enumerate(networks):
        stream = DropoutStream(0.1, seed, device)
        stream.start_step(0)
        loss = torch.stack(list(pair_losses(network(batch.inputs(), batch.masks(), stream), batch.match_N,
                                            temperature=0.07, multi_positive=False).values())).sum()  # fmt: skip
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    bank = NetworkBank(networks)
    dropout = BankDropout([DropoutStream(0.1, seed, device) for seed in range(4)])
    dropout.start_step(0)
    inputs = {name: x.expand(4, *x.shape) for name, x in batch.inputs().items()}
    embeddings = bank.forward(inputs, {}, dropout, training=True)
    both = torch.stack(list(bank_pair_losses(embeddings, batch.match_N.expand(4, -1), temperature=0.07,
                                             multi_positive=False).values())).sum(0)  # fmt: skip
    assert torch.allclose(both, torch.stack(losses), rtol=1e-4)
    found = torch.autograd.grad(both.sum(), list(bank.weights.values()), allow_unused=True)
    for name, gradient in zip(bank.weights, found, strict=True):
        for k in range(4 if gradient is not None else 0):
            assert gradient is not None
            assert torch.allclose(gradient[k], gradients[k][name], rtol=1e-2, atol=1e-4), name


def test_measurements_run_on_the_device(tmp_path: Path):
    from bench.speed import step

    found = step.measure(SHORT, data_dir=None, device=torch.device("cuda"), rounds=1)
    assert {form.name for form in found.forms} == {"straightforward", "ours", "bank of 4", "bank of 8"}
