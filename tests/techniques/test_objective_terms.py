"""The terms of a protocol's loss: what each is on a network, what is trained and kept, and what a protocol may ask."""

import json
from collections.abc import Callable, Sequence
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.checkpoint import Checkpoints, Keeper, StoppedError
from bench.datasets.samples import Dataset, Samples
from bench.errors import UsageError
from bench.execution import execute
from bench.models.dropout import DropoutStream
from bench.models.multimodal_memory import NO_DROPOUT, NO_MASKS, MultiModalMemoryNetwork
from bench.models.multimodal_memory_reference import encode, read
from bench.objective import pair_losses
from bench.plan import Run
from bench.protocol import Protocol
from bench.protocols import changed
from bench.record import CurvePoint, Outcome, RunRecord
from bench.registry import entry
from bench.runner import prepare
from bench.techniques.objective import Mixed, Objective, Targets
from bench.techniques.selection import with_techniques
from bench.trainer import Trainer

CPU = torch.device("cpu")
NAMES = ("image", "text", "audio")


@pytest.fixture(scope="module")
def few(tiny: Protocol) -> Protocol:
    """Three epochs of two steps."""
    return changed(tiny, {"epochs": 3, "batch_size": 16, "warmup": 0.0,
                          "workload": {"dataset_options": {"validation": 8, "test": 8}}}, "test")  # fmt: skip


def run_of(protocol: Protocol, name: str = "adamw", **settings: Any) -> Run:
    spec = entry(name)
    return Run(protocol=protocol, optimizer=spec.name, reference=name, hyperparameters={**spec.defaults, **settings},
               seed=0, source_digest=spec.source_digest)  # fmt: skip


def built(protocol: Protocol, *techniques: str) -> tuple[Objective, nn.Module, Dataset]:
    protocol = with_techniques(protocol, techniques)
    dataset = protocol.workload.build_dataset(None, CPU)
    network = protocol.workload.example(dataset.network_options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Objective(protocol, network, dataset), network, dataset


def embeddings(count: int = 6, seed: int = 0, width: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, width, generator=generator) for name in NAMES}


def targets(count: int = 6, labels: Sequence[int] | None = None, **more: Any) -> Targets:
    return Targets(match_B=torch.arange(count), label_B=torch.tensor(labels or range(count)), **more)


def plain(found: dict[str, Tensor], protocol: Protocol) -> dict[str, Tensor]:
    return pair_losses(found, torch.arange(6), temperature=protocol.workload.temperature, multi_positive=False)


def assert_equal_terms(found: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **(tolerance or {"rtol": 1e-5, "atol": 1e-6}))


# ---------------------------------------------------------------------- where nothing is to differ


@pytest.mark.parametrize("techniques", [(), ("reconstruction",), ("classification.contrastive_weight=1.0",)])
def test_without_a_technique_of_pairs_their_losses_keep_their_bits(few: Protocol, techniques: tuple[str, ...]):
    objective, *_ = built(few, *techniques)
    terms = objective.of_batch(embeddings(), targets(labels=[0, 1, 2, 3, 4, 5]))
    terms.pop("classification", None)
    assert_equal_terms(terms, plain(embeddings(), few), rtol=0, atol=0)


@pytest.mark.parametrize(
    "technique",
    ["learned_temperature", "queue.size=8", "supervised", "multi_positive", "hard_negatives.from_progress=0.5"],
)
def test_a_technique_with_nothing_to_do_yet_leaves_the_losses(few: Protocol, technique: str):
    objective, *_ = built(few, technique)
    assert_equal_terms(objective.of_batch(embeddings(), targets(progress=0.4)), plain(embeddings(), few))


def test_hard_negatives_begin_where_they_are_told_to(few: Protocol):
    objective, *_ = built(few, "hard_negatives.from_progress=0.5", "hard_negatives.strategy=hardest")
    early, late = (objective.of_batch(embeddings(), targets(progress=p)) for p in (0.4, 0.5))
    assert all(late[name] > early[name] for name in early)


# ---------------------------------------------------------------------- training through the real loop

EACH = {
    "learned_temperature": ["learned_temperature"], "reconstruction": ["reconstruction"], "queue": ["queue.size=24"],
    "semi_hard": ["hard_negatives"], "hardest": ["hard_negatives.strategy=hardest"], "supervised": ["supervised"],
    "multi_positive": ['multi_positive.equal=["match","text","label"]'], "siglip": ["siglip"],
    "classification": ["classification"],
}  # fmt: skip
ALL = ["queue.size=24", "hard_negatives.from_progress=0.3", "supervised", "learned_temperature", "reconstruction",
       "classification"]  # fmt: skip
FURTHER = {"reconstruction", "classification"}


def trained(protocol: Protocol, name: str) -> tuple[RunRecord, list[CurvePoint]]:
    curve: list[CurvePoint] = []
    return execute(run_of(protocol, name), device=CPU, on_epoch=curve.append), curve


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("technique", [*EACH, "all"])
def test_it_trains(few: Protocol, technique: str, optimizer: str):
    techniques = EACH.get(technique, ALL)
    grows = technique in ("queue", "all")  # negatives become more and harder: losses of one kind are compared
    few = changed(few, {"epochs": 5 if grows else 3}, "test")
    record, curve = trained(with_techniques(few, techniques), optimizer)
    assert record.outcome is Outcome.OK, record.failure
    compared = curve[2:] if grows else curve
    assert compared[-1].loss < compared[0].loss
    further = {name for name in FURTHER if any(name in each for each in techniques)}
    assert set(curve[0].pair_losses) == {"image_text", "image_audio", "text_audio"} | further
    assert record.loss == pytest.approx(sum(curve[-1].pair_losses.values()), rel=1e-5)


def in_pieces(run: Run, folder: Path) -> RunRecord:
    """The record of a run that a fresh process takes up after every second step."""
    while True:
        asked = iter([False, True])
        try:
            return execute(run, device=CPU, keeper=Keeper(Checkpoints(folder), steps=1,
                                                          stopping=lambda a=asked: next(a, True)))  # fmt: skip
        except StoppedError:
            continue


@pytest.mark.parametrize("techniques", [ALL, ["siglip", "reconstruction"]], ids=["all", "siglip"])
def test_what_it_learns_and_keeps_goes_on_with_the_same_bits(few: Protocol, tmp_path: Path, techniques: list[str]):
    run = run_of(with_techniques(few, techniques))
    whole, pieces = execute(run, device=CPU), in_pieces(run, tmp_path)
    same = {"metrics", "validation_metrics", "loss", "fingerprints", "diagnostics"}
    assert whole.model_dump(include=same) == pieces.model_dump(include=same)


def test_a_batch_in_parts_teaches_the_same(few: Protocol):
    """Text and image, so that nothing but the loss mixes samples; the second step sees what the first put away."""
    few = changed(few, {"workload": {"modalities": ["text", "image"]}}, "test")
    techniques = [*(each for each in ALL if each != "reconstruction"), "hard_negatives.strategy=hardest"]
    states = []
    for more in ([], ["accumulation.micro_batches=3"]):
        trainer = Trainer(run_of(with_techniques(few, [*techniques, *more]), "sgd"), CPU)
        trainer.train(2)
        states.append({**trainer.model.state_dict(), **trainer.objective.state_dict(),
                       "losses": trainer.take_step.last_losses})  # fmt: skip
    assert states[0].keys() == states[1].keys()
    for name, expected in states[0].items():
        torch.testing.assert_close(states[1][name], expected, rtol=1e-4, atol=1e-5, msg=name)


# ---------------------------------------------------------------------- learned temperature


def test_a_temperature_is_trained_from_the_workloads_and_is_in_the_state(few: Protocol):
    trainer = Trainer(run_of(with_techniques(few, ["learned_temperature"]), lr=0.05), CPU)
    scale = trainer.objective.pairs.log_scale
    assert scale.exp().item() == pytest.approx(1 / 0.07)
    trainer.train(2)
    assert scale.grad is not None and scale.grad.abs() > 0 and scale.exp().item() != pytest.approx(1 / 0.07, rel=0.01)
    assert torch.equal(trainer.state()["objective"]["pairs.log_scale"], scale)
    assert "objective.pairs.log_scale" not in trainer.updates.diagnostics(0).without_gradient


def test_the_scale_stays_below_its_limit_and_can_leave_it(few: Protocol):
    objective, *_ = built(few, "learned_temperature")
    scale = objective.pairs.log_scale
    with torch.no_grad():
        scale.fill_(9.0)
    at_limit = plain(embeddings(), changed(few, {"workload": {"temperature": 0.01}}, "test"))
    assert_equal_terms(objective.of_batch(embeddings(), targets()), at_limit, rtol=1e-4, atol=1e-4)
    objective.end_step(embeddings(), targets())
    assert scale.exp().item() == pytest.approx(100)
    sum(objective.of_batch(embeddings(), targets()).values(), torch.zeros(())).backward()
    assert scale.grad is not None and scale.grad.abs() > 0


# ---------------------------------------------------------------------- positives and queue


def test_same_labels_of_earlier_steps_are_no_negatives_of_supervised_samples(few: Protocol):
    """Everything has one label: what the queue holds changes nothing."""
    objective, *_ = built(few, "supervised", "queue.size=12")
    one = targets(labels=[3] * 6)
    before = objective.of_batch(embeddings(), one)
    objective.end_step(embeddings(seed=1), Targets(match_B=torch.arange(50, 56), label_B=one.label_B))
    assert_equal_terms(objective.of_batch(embeddings(), one), before)
    assert all(objective.of_batch(embeddings(), targets())[name] > before[name] for name in before)


def test_equal_texts_are_positives(few: Protocol):
    """As with match ids that say the same."""
    objective, *_ = built(few, "multi_positive.equal=text")
    text = torch.tensor([[5, 6], [7, 8], [5, 6], [9, 9], [1, 2], [7, 8]])
    batch = Samples(label_N=torch.zeros(6), match_N=torch.arange(6), text_NL=text)
    found = objective.of_batch(embeddings(), targets(text_B=objective.text_ids(batch)))
    expected = pair_losses(embeddings(), torch.tensor([0, 1, 0, 3, 4, 1]), temperature=0.07, multi_positive=True)
    assert_equal_terms(found, expected)


def test_groups_of_a_match_id_are_positives(few: Protocol):
    objective, *_ = built(few, "semantic_groups")
    match = torch.tensor([0, 0, 1, 1, 2, 2])
    found = objective.of_batch(embeddings(), Targets(match_B=match, label_B=match))
    assert_equal_terms(found, pair_losses(embeddings(), match, temperature=0.07, multi_positive=True), rtol=0, atol=0)


def test_mixed_images_have_mixed_targets_and_the_other_pairs_do_not(few: Protocol):
    objective, *_ = built(few, "mixup")
    partner, found = torch.tensor([2, 0, 1, 4, 3, 5]), embeddings()
    terms = objective.of_batch(found, targets(mixed=Mixed(partner_B=partner, share=0.7)))
    own, others = plain(found, few), plain({**found, "image": found["image"][partner.argsort()]}, few)
    expected = {name: 0.7 * own[name] + 0.3 * others[name] for name in ("image_text", "image_audio")}
    assert_equal_terms(terms, {**expected, "text_audio": own["text_audio"]})


# ---------------------------------------------------------------------- classification


def test_classification_by_a_head_that_knows_nothing_is_ln_of_the_classes(few: Protocol):
    objective, _, dataset = built(few, "classification")
    classes = len(dataset.training(1, 0).label_N.unique())
    nn.init.zeros_(objective.classifier.head.weight)
    nn.init.zeros_(objective.classifier.head.bias)
    terms = objective.of_batch(embeddings(), targets())
    assert terms["classification"].item() == pytest.approx(log(classes), rel=1e-6)
    pairs = {name: 0.3 * loss for name, loss in plain(embeddings(), few).items()}
    assert_equal_terms({name: terms[name] for name in pairs}, pairs)
    assert [(p.name, p.role.value) for p in objective.roled_parameters()] == [
        ("objective.classifier.head.weight", "head"), ("objective.classifier.head.bias", "bias")]  # fmt: skip


def test_a_mixed_image_has_two_labels(few: Protocol):
    objective, _, dataset = built(few, "classification", "mixup")
    label = dataset.training(1, 0).label_N[:6]
    partner, found = torch.tensor([5, 4, 3, 2, 1, 0]), embeddings()

    def of_label(label_B: Tensor, names: Sequence[str]) -> Tensor:
        only = {name: found[name] for name in names}
        return objective.classifier(only, Targets(match_B=torch.arange(6), label_B=label_B))

    mixed = Targets(match_B=torch.arange(6), label_B=label, mixed=Mixed(partner_B=partner, share=0.25))
    image = 0.25 * of_label(label, ["image"]) + 0.75 * of_label(label[partner], ["image"])
    expected = (image + of_label(label, ["text"]) + of_label(label, ["audio"])) / 3
    torch.testing.assert_close(objective.classifier(found, mixed), expected)


# ---------------------------------------------------------------------- reconstruction


def straightforward_latent(network: MultiModalMemoryNetwork, inputs: dict[str, Tensor]) -> Tensor:
    """Text and image seen together, by the concatenation that the forms of the network avoid."""
    present = {name: encode(network, name, inputs[name], None) for name in ("text", "image")}
    zeros = torch.zeros_like(present["text"])
    blocks = [present.get(name, zeros) + vector
              for name, vector in zip(("text", "image", "audio"), network.type_vectors, strict=True)]  # fmt: skip
    bits = torch.tensor([1.0, 1.0, 0.0]).expand(len(zeros), -1)
    fusion = network.fusion
    hidden = F.relu(fusion.expand_norm(fusion.expand(torch.cat([*blocks, bits], dim=1))))
    z = read(network.central, fusion.contract_norm(fusion.contract(hidden)))
    for _ in range(network.feedback_steps):
        z = read(network.central, z + F.relu(network.feedback_norm(network.feedback(z))))
    return z


@pytest.fixture(scope="module")
def embedded(few: Protocol) -> tuple[Objective, MultiModalMemoryNetwork, Samples]:
    objective, network, dataset = built(few, "reconstruction.weight=2.0")
    assert isinstance(network, MultiModalMemoryNetwork)
    return objective, network, dataset.training(1, 0).take(slice(0, 6))


def test_the_latent_of_two_modalities_is_that_of_the_straightforward_form(embedded):
    _, network, batch = embedded
    network.eval()
    seen = {name: x for name, x in batch.inputs().items() if name != "audio"}
    found = network.latent(seen, NO_MASKS, NO_DROPOUT)
    torch.testing.assert_close(found, straightforward_latent(network, batch.inputs()), rtol=1e-4, atol=1e-5)
    alone = network.latent({"image": seen["image"]})
    torch.testing.assert_close(alone, network({"image": seen["image"]})["image"], rtol=1e-4, atol=1e-5)


def test_reconstruction_is_the_squared_error_of_the_audio_encoding(embedded):
    objective, network, batch = embedded
    network.train()
    term = objective.of_samples(network, batch, {}, NO_DROPOUT)["reconstruction"]
    network.eval()
    wanted = network.audio_encoder(batch.inputs()["audio"], None, NO_DROPOUT)
    made = network.decoders["audio"](straightforward_latent(network, batch.inputs()))
    torch.testing.assert_close(term, 2.0 * (made - wanted).square().mean(), rtol=1e-4, atol=1e-5)


def test_the_target_of_reconstruction_gets_no_gradient_and_counts_no_statistics(embedded):
    objective, network, batch = embedded
    network.train()
    network.zero_grad(set_to_none=True)
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    state = torch.get_rng_state()
    masks = DropoutStream(0.1, 0)
    masks.start_step(0)
    objective.of_samples(network, batch, {}, masks)["reconstruction"].backward()
    assert all(torch.equal(value, buffers[name]) for name, value in network.named_buffers())
    assert all(p.grad is None for p in network.audio_encoder.parameters())
    assert all(p.grad is not None for p in network.decoders["audio"].parameters())
    assert network.text_encoder.embedding.weight.grad is not None
    assert torch.equal(torch.get_rng_state(), state)  # its dropout is of the step's stream
    assert all(module.training for module in network.audio_encoder.modules())


# ---------------------------------------------------------------------- language model


class Talker(nn.Module):
    """What the term asks of a network, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout_probability = 0.0
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor], dropout: object) -> dict[str, Tensor]:
        del masks, dropout
        return {name: x.flatten(1)[:, :4].float() * self.weight for name, x in inputs.items()}

    def language_model_loss(self, text_BL: Tensor, mask_BL: Tensor | None, dropout: object) -> Tensor:
        del mask_BL, dropout
        return self.weight.sum() * text_BL.float().mean()


def test_the_loss_of_a_language_model_is_added(few: Protocol):
    protocol = with_techniques(few, ["language_model.weight=0.25"])
    network, text = Talker(), torch.tensor([[1, 2], [3, 6]])
    objective = Objective(protocol, network, protocol.workload.build_dataset(None, CPU))
    batch = Samples(label_N=torch.zeros(2), match_N=torch.arange(2), text_NL=text)
    terms = objective.of_samples(network, batch, {}, NO_DROPOUT)
    assert {name: term.item() for name, term in terms.items()} == {"language_model": 0.25 * 3.0}


# ---------------------------------------------------------------------- distillation


@pytest.fixture(scope="module")
def stored(few: Protocol, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the weights of a fresh network as a file of a run's weights."""

    def write(name: str, protocol: Protocol = few, state: dict[str, Tensor] | None = None) -> Path:
        path = tmp_path_factory.mktemp("weights") / f"{name}.pt"
        network = protocol.workload.example()
        head = {"protocol": protocol.model_dump(mode="json"), "data_digest": None}
        torch.save({"head": json.dumps(head), "network": state or network.state_dict(), "training": None}, path)
        return path

    return write


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_wider_teacher_is_learned_from(few: Protocol, stored: Callable[..., Path], optimizer: str):
    wider = changed(few, {"workload": {"model_options": {"latent_dim": 32}}}, "test")
    protocol = with_techniques(few, [f"distillation.teacher={stored('wider', wider)}"])
    record, curve = trained(protocol, optimizer)
    assert record.outcome is Outcome.OK, record.failure
    assert [*curve[0].pair_losses] == ["image_text", "image_audio", "text_audio", "distillation"]
    assert curve[-1].loss < curve[0].loss


def test_the_student_with_the_teachers_weights_has_nothing_to_learn(few: Protocol, stored: Callable[..., Path]):
    """At α = 0; the teacher itself stands still, and is neither trained nor kept."""
    objective, network, dataset = built(few, f"distillation.teacher={stored('same')}", "distillation.alpha=0.0")
    batch = dataset.training(1, 0).take(slice(0, 6))
    network.eval()
    found = network(batch.inputs(), batch.masks(), NO_DROPOUT)
    terms = objective.of_batch(found, targets(teacher=objective.taught(batch)))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(dict.fromkeys(terms, 0), abs=1e-6)
    assert not list(objective.parameters()) and not objective.state_dict()


def test_a_protocol_is_that_of_the_teachers_content_wherever_it_lies(few: Protocol, stored: Callable[..., Path]):
    one, other = stored("one"), stored("other", state={"x": torch.ones(1)})
    two = one.with_name("two.pt")
    two.write_bytes(one.read_bytes())
    hashes = [with_techniques(few, [f"distillation.teacher={path}"]).hash for path in (one, two, other)]
    assert hashes[0] == hashes[1] != hashes[2] and few.hash not in hashes


def test_a_teacher_that_is_not_as_it_was_is_refused(few: Protocol, stored: Callable[..., Path]):
    path = stored("changed")
    protocol = with_techniques(few, [f"distillation.teacher={path}"])
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UsageError, match=r"changed.pt: its SHA-256 is not [0-9a-f]{64}; allowed is the file that"):
        prepare("sgd", protocol=protocol, seeds=1, results=path.parent)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GIF89a", "holds no weights of a run, or more than plain data and tensors"),
        (
            {"dataset_options": {"noise": 0.2}},
            "its noise is 0.2 and the protocol's 0.04; allowed are weights of the same data",
        ),
        ({"model": "os:system"}, "its network is os:system; allowed are bench's own, and the protocol's"),
        ({"state": {"x": torch.ones(1)}}, "Error.* in loading state_dict for MultiModalMemoryNetwork"),
    ],
    ids=["foreign", "other_data", "other_code", "other_weights"],
)
def test_a_file_that_cannot_teach_is_refused(
    few: Protocol, stored: Callable[..., Path], content: Any, message: str, tmp_path: Path
):
    if isinstance(content, bytes):
        path = tmp_path / "foreign.pt"
        path.write_bytes(content)
    else:
        path = stored("teacher", few, content.get("state"))
        head = {"protocol": changed(few, {"workload": {k: v for k, v in content.items() if k != "state"}}, "t")
                .model_dump(mode="json"), "data_digest": None}  # fmt: skip
        torch.save({**torch.load(path), "head": json.dumps(head)}, path)
    with pytest.raises(UsageError, match=f"technique distillation: teacher {path}: {message}") as caught:
        prepare("sgd", protocol=with_techniques(few, [f"distillation.teacher={path}"]), seeds=1, results=tmp_path)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- what a protocol may ask


@pytest.mark.parametrize(
    ("techniques", "changes", "message"),
    [
        (["learned_temperature.max_scale=10.0"], {},
         "technique learned_temperature: temperature 0.07 is a scale of 14.2857; allowed is at most max_scale, 10"),
        (["reconstruction"], {"modalities": ["text", "image"]},
         "technique reconstruction: workload 'paired_small' has no audio; allowed are workloads that have"),
        (['multi_positive.equal=["text"]'], {"modalities": ["image", "audio"]},
         "technique multi_positive.equal=text: workload 'paired_small' has no text; allowed are workloads that have"),
        (["language_model"], {}, "technique language_model: MultiModalMemoryNetwork has no language_model_loss; "
         "allowed are networks that have"),
        (["classification"], {"dataset_options": {"classes": 900, "training": 4}},
         "technique classification: the 4 training samples have as many labels; allowed are data with classes"),
    ],
)  # fmt: skip
def test_what_does_not_suit_network_or_data_is_said_before_anything_runs(
    few: Protocol, tmp_path: Path, techniques: list[str], changes: dict[str, Any], message: str
):
    protocol = changed(with_techniques(few, techniques), {"batch_size": 4, "workload": changes}, "test")
    with pytest.raises(UsageError) as caught:
        prepare("sgd", protocol=protocol, seeds=1, results=tmp_path)
    assert str(caught.value) == message


def test_a_missing_teacher_is_named(few: Protocol):
    with pytest.raises(UsageError, match=r"teacher nowhere\.pt: No such file or directory"):
        with_techniques(few, ["distillation.teacher=nowhere.pt"])


def test_techniques_that_exclude_each_other_are_named_without_all_others(few: Protocol):
    with pytest.raises(UsageError) as caught:
        with_techniques(few, ["siglip", "queue"])
    found, text = "{'queue': {}, 'siglip': {'initial_scale': 10.0, 'initial_bias': -10.0}}", str(caught.value)
    fault = "siglip and queue exclude each other; allowed is one of them"
    assert text == f"--technique queue: techniques is {found}: {fault}"
