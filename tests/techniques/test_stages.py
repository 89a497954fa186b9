"""Training in stages: what stands still, what learns slower, what is refused."""

import contextlib
from itertools import pairwise

import pytest
import torch

from bench.checkpoint import Checkpoints, Keeper, StoppedError
from bench.errors import UsageError
from bench.execution import execute
from bench.models.multimodal_memory import MultiModalMemoryNetwork
from bench.plan import Run
from bench.protocol import Protocol
from bench.protocols import changed
from bench.registry import entry, select
from bench.runner import prepare
from bench.trainer import Trainer

CPU = torch.device("cpu")
ENCODERS = ["text_encoder", "audio_encoder"]
BUILTIN = [item.spec.name for item in select(["builtin"], {}, "default")]


def staged(protocol: Protocol, *stages: dict) -> Protocol:
    epochs = sum(stage["epochs"] for stage in stages)
    return changed(protocol, {"epochs": epochs, "techniques": {"stages": {"stages": list(stages)}}}, "test")


def run_of(protocol: Protocol, name: str) -> Run:
    return Run(protocol=protocol, optimizer=name, reference=name, hyperparameters=dict(entry(name).defaults), seed=0)


def weights_by_epoch(run: Run) -> list[dict[str, torch.Tensor]]:
    """Parameters and buffers at the start and after each epoch."""
    trainer = Trainer(run, CPU)
    found = [{name: x.clone() for name, x in trainer.model.state_dict().items()}]
    for _ in trainer.epochs(Keeper()):
        found.append({name: x.clone() for name, x in trainer.model.state_dict().items()})
    return found


def changed_names(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("name", BUILTIN)
def test_what_a_stage_freezes_stands_still_to_the_bit_and_then_learns(tiny: Protocol, name: str):
    """Momentum, weight decay and running statistics included; whatever the optimizer."""
    weights = weights_by_epoch(run_of(staged(tiny, {"epochs": 1, "freeze": ENCODERS}, {"epochs": 1}), name))
    first, second = (changed_names(*pair) for pair in pairwise(weights))
    assert first and not any(place.startswith(tuple(ENCODERS)) for place in first)
    assert {"text_encoder.norm.weight", "audio_encoder.norms.0.running_mean", "image_encoder.cls"} <= second


def test_a_frozen_encoder_drops_nothing_and_keeps_its_statistics(tiny: Protocol):
    trainer = Trainer(run_of(staged(tiny, {"epochs": 2, "freeze": ENCODERS}), "sgd"), CPU)
    trainer.train(1)
    batch = trainer.dataset.held_out("test").take(slice(0, 4))
    trainer.dropout.start_step(0)
    network = trainer.model
    assert isinstance(network, MultiModalMemoryNetwork)
    assert not network.audio_encoder.training and network.image_encoder.training
    twice = [network.text_encoder(batch.text_NL, None, trainer.dropout) for _ in range(2)]
    assert torch.equal(*twice)


def test_a_rate_of_a_stage_scales_the_step_of_plain_sgd(tiny: Protocol):
    """Without momentum the first step is −lr · factor · gradient."""
    moved = []
    for stage in ({"epochs": 1}, {"epochs": 1, "rates": {"image_encoder": 0.25}}):
        run = run_of(staged(tiny, stage), "sgd").model_copy(update={"hyperparameters": {"lr": 0.01}})
        trainer = Trainer(run, CPU)
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        trainer.train(1)
        moved.append({name: p.detach() - before[name] for name, p in trainer.model.named_parameters()})
    for name, step in moved[0].items():
        factor = 0.25 if "image_encoder" in name else 1.0
        torch.testing.assert_close(
            moved[1][name], factor * step, rtol=1e-3, atol=1e-7
        )  # a weight of 1 has steps of 6e-8


def test_the_rate_of_each_stage_holds_in_its_epochs(tiny: Protocol):
    stages = {"epochs": 1, "rates": {"encoder": 0.1}}, {"epochs": 2, "rates": {"encoder": 0.5, "fusion": 2.0}}
    run = run_of(changed(staged(tiny, *stages), {"schedule": "constant", "warmup": 0.0}, "test"), "adamw")
    trainer, seen = Trainer(run, CPU), []
    rate = run.hyperparameters["lr"]
    for _ in trainer.epochs(Keeper()):
        groups = trainer.optimizer.param_groups
        seen.append({round(group["lr"] / rate, 6) for group in groups})
    assert seen == [{0.1, 1.0}, {0.5, 1.0, 2.0}, {0.5, 1.0, 2.0}]


@pytest.mark.parametrize("name", ["adamw", "universal_muon_preserve"])
def test_a_run_in_stages_goes_on_with_the_same_bits(tiny: Protocol, tmp_path, name: str):
    protocol = staged(tiny, {"epochs": 1, "freeze": ENCODERS, "rates": {"image": 0.5}}, {"epochs": 1})
    whole = execute(run_of(protocol, name), device=CPU)
    record = None
    while record is None:
        asked = iter([False, True])
        keeper = Keeper(Checkpoints(tmp_path), steps=1, stopping=lambda a=asked: next(a, True))
        with contextlib.suppress(StoppedError):
            record = execute(run_of(protocol, name), device=CPU, keeper=keeper)
    assert (record.metrics, record.loss) == (whole.metrics, whole.loss)


@pytest.mark.parametrize(
    ("stages", "message"),
    {
        "no such part": ([{"epochs": 2, "freeze": ["textencoder"]}], "'textencoder' is found in no trainable"),
        "nothing left": ([{"epochs": 2, "freeze": ["."]}], "leaves nothing to train"),
        "too few epochs": ([{"epochs": 1}], "stages have 1 epochs, the protocol 2"),
        "no expression": ([{"epochs": 2, "freeze": ["("]}], r"'\(' is no regular expression"),
        "no stage": ([], "at least 1 item"),
        "rate zero": ([{"epochs": 2, "rates": {"cls": 0.0}}], "greater than 0"),
    }.values(),
)  # fmt: skip
def test_stages_that_do_not_suit_are_one_line(tiny: Protocol, tmp_path, stages: list, message: str):
    def plan() -> object:
        return prepare("sgd", protocol=changed(tiny, {"techniques": {"stages": {"stages": stages}}}, "mine"),
                       results=tmp_path)  # fmt: skip

    with pytest.raises(UsageError, match=message):
        plan()
    assert not list(tmp_path.iterdir())
