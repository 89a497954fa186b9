"""Pretrained towers from local files: what is read, how it fits, what is frozen, and runs of each source."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from made_flickr8k import make_flickr8k
from made_towers import (
    BUILTIN_TEXT,
    HALF,
    SIZE,
    TEXT_LENGTH,
    TIMM_ARGUMENTS,
    VOCABULARY,
    make_towers,
    write_mobilebert,
    write_timm,
    write_tokenizer,
)
from torchvision.io import write_jpeg

from bench.datasets.network_files import WithNetworkFiles
from bench.datasets.samples import Dataset
from bench.errors import UsageError
from bench.execution import execute
from bench.models.dropout import DropoutStream, ShareOfDropout
from bench.models.multimodal_memory import NO_DROPOUT
from bench.models.tower_files import LoadReport, load_into_, place_of, read_weights, sha256_of, weight_files
from bench.models.tower_modules import ARRIVING_DEVIATION, ARRIVING_MEAN, Renormalised
from bench.models.tower_sources import SOURCES, TowerOptions
from bench.models.towers import ROLES, TowerNetwork, file_digests, tower_options
from bench.plan import Run
from bench.protocol import Protocol
from bench.protocols import PROTOCOLS, changed, limited, load_protocol
from bench.record import CurvePoint, RunRecord, read_record, record_text
from bench.registry import select
from bench.runner import prepare
from bench.step import autocast
from bench.trainer import Trainer, resident_dataset

CPU = torch.device("cpu")
TIMM = {"source": "timm", "path": "towers/timm"}
MOBILEBERT = {"source": "transformers", "path": "towers/mobilebert"}
BUILTIN = {"source": "builtin", "path": "towers/text.pt", "arguments": BUILTIN_TEXT}
SHUFFLENET = {"source": "torchvision", "path": "towers/shufflenet.pth", "name": "shufflenet_v2_x0_5"}
CLIP = {"source": "open_clip", "path": "towers/open_clip"}
VIT = {"source": "transformers", "path": "towers/vit", "pooling": "cls"}
PAIRS = {
    "timm and transformers": {"image": TIMM, "text": MOBILEBERT},
    "open_clip": {"image": CLIP, "text": CLIP},
    "torchvision and builtin": {"image": SHUFFLENET, "text": BUILTIN},
    "transformers alone": {"image": VIT, "text": {"source": "transformers", "path": "towers/bert", "pooling": "cls"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_flickr8k(tmp_path_factory.mktemp("towers") / "flickr8k", (8, 4, 4)).parent
    words = (folder / "flickr8k" / "Flickr8k.token.txt").read_text().split()
    make_towers(folder, [word for word in words if word.isalpha()])
    return folder


@pytest.fixture
def copy(data_dir: Path, tmp_path: Path) -> Path:
    """To be damaged."""
    return shutil.copytree(data_dir, tmp_path / "data")


def rules(towers: dict[str, Any], *, data: dict[str, Any] | None = None, **model_options: Any) -> Protocol:
    """An epoch of two steps on 8 images and their first captions."""
    workload = {
        "name": "towers", "dataset": "bench.datasets.captioned:CaptionedData", "reads_files": True,
        "dataset_options": {
            "kind": "flickr8k", "captions": "first", "text_length": TEXT_LENGTH,
            "image": {"size": SIZE, "augment": "none"},
            "tokenizer": {"kind": "file", "path": "towers/mobilebert/tokenizer.json"}, **(data or {}),
        },
        "model": "bench.models.towers:TowerNetwork", "model_reads_files": True, "modalities": ["text", "image"],
        "model_options": {"towers": towers, "width": 8, "dropout": 0.1, **model_options},
    }  # fmt: skip
    settings = {"name": "towers", "epochs": 1, "batch_size": 4, "schedule": "constant", "warmup": 0.0}
    return changed(PROTOCOLS["mini"], {**settings, "workload": workload}, "test")


def run_of(protocol: Protocol, data_dir: Path, optimizer: str = "adamw", **changes: Any) -> Run:
    (chosen,) = select([optimizer], {}, "default")
    dataset = protocol.workload.build_dataset(data_dir, "cpu")
    return Run(protocol=protocol, optimizer=optimizer, reference=optimizer, seed=0, data_digest=dataset.digest,
               hyperparameters={**chosen.hyperparameters, "lr": 1e-3}, **changes)  # fmt: skip


def trained(protocol: Protocol, data_dir: Path, **changes: Any) -> RunRecord:
    record = execute(run_of(protocol, data_dir, **changes), device=CPU, data_dir=data_dir)
    assert record.outcome == "ok", record.failure
    return record


def trainer_of(protocol: Protocol, data_dir: Path, optimizer: str = "adamw") -> Trainer:
    return Trainer(run_of(protocol, data_dir, optimizer), CPU, data_dir)


def refusal(towers: dict[str, Any], data_dir: Path, **model_options: Any) -> str:
    """What `bench run` would say before anything runs; one line."""
    with pytest.raises(UsageError) as caught:
        rules(towers, **model_options).workload.check(data_dir)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("towers", PAIRS.values(), ids=list(PAIRS))
def test_a_tower_of_each_source_is_trained(towers: dict[str, Any], data_dir: Path):
    """In full: every parameter that a loss reaches moves, and the record names every file with its SHA-256."""
    protocol = rules(towers)
    record = trained(protocol, data_dir)
    assert record.diagnostics.without_gradient == () and not record.diagnostics.zero_update
    assert record.fingerprints is not None
    expected = {f"{name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for name, own in towers.items()
                for path in files_of(data_dir / own["path"])}  # fmt: skip
    assert record.fingerprints.files == expected
    assert read_record(record_text(record), "record") == record


def files_of(place: Path) -> list[Path]:
    """All of a folder but what the tower does not read."""
    return [path for path in place.iterdir() if path.name != "tokenizer.json"] if place.is_dir() else [place]


def test_a_users_own_function_gives_a_tower(data_dir: Path):
    own = {"source": "callable", "reference": f"{data_dir}/towers/own.py:mean_colour", "path": "towers/own.pt",
           "arguments": {"width": 8}}  # fmt: skip
    record = trained(rules({"image": own, "text": BUILTIN}), data_dir)
    assert record.fingerprints is not None
    assert {"image/source", "image/own.pt", "text/text.pt"} == set(record.fingerprints.files)
    assert record.fingerprints.files["image/source"] == sha256_of(data_dir / "towers" / "own.py")


def test_sound_takes_an_image_network(data_dir: Path):
    towers = {"audio": TIMM, "text": {**MOBILEBERT, "mode": "frozen"}}
    protocol = rules(towers, data={"audio": {"frames": 32, "mels": 32, "hop": 320, "n_fft": 512}})
    words_and_sound = changed(protocol, {"workload": {"modalities": ["text", "audio"]}}, "test")
    assert trained(words_and_sound, data_dir).loss is not None


def test_the_weights_are_those_of_the_files(data_dir: Path):
    network = rules(PAIRS["timm and transformers"]).workload.build_model({"data_dir": data_dir})
    image = read_weights(weight_files(data_dir / "towers" / "timm"))
    own = {name.removeprefix("towers.image.network."): value for name, value in network.state_dict().items()}
    assert set(image) - set(own) == {"head.weight", "head.bias"}
    assert all(torch.equal(own[name], value) for name, value in image.items() if not name.startswith("head."))
    text = read_weights(weight_files(data_dir / "towers" / "mobilebert"))
    assert torch.equal(
        network.get_parameter("towers.text.network.encoder.layer.1.attention.self.query.weight"),
        text["mobilebert.encoder.layer.1.attention.self.query.weight"],
    )
    assert network.remarks == ()


def test_towers_compute_what_their_libraries_do(data_dir: Path):
    """The tower in its library, on normalised images and on tokens with their mask, against the network's own."""
    from timm.models import VisionTransformer
    from transformers import AutoModel

    network: Any = rules(PAIRS["timm and transformers"]).workload.build_model({"data_dir": data_dir}).eval()
    data = resident_dataset(rules(PAIRS["timm and transformers"]).workload.model_dump_json(), data_dir, "cpu")
    batch = data.held_out("test").take(slice(0, 3))
    inputs, masks = batch.inputs(), batch.masks()
    vision = VisionTransformer(num_classes=5, **TIMM_ARGUMENTS).eval()
    vision.load_state_dict(read_weights(weight_files(data_dir / "towers" / "timm")))
    deviation, mean = (torch.tensor(each).view(3, 1, 1) for each in (ARRIVING_DEVIATION, ARRIVING_MEAN))
    pixels = inputs["image"] * deviation + mean
    expected = vision.forward_head(vision.forward_features((pixels - 0.5) / 0.5), pre_logits=True)
    torch.testing.assert_close(network.towers["image"](inputs["image"], None, NO_DROPOUT), expected)
    bert: Any = AutoModel.from_pretrained(data_dir / "towers" / "mobilebert", local_files_only=True).eval()
    tokens = bert(input_ids=inputs["text"], attention_mask=masks["text"].long()).last_hidden_state
    means = torch.stack([row[mask].mean(dim=0) for row, mask in zip(tokens, masks["text"], strict=True)])
    torch.testing.assert_close(network.towers["text"](inputs["text"], masks["text"], NO_DROPOUT), means)


def test_images_get_the_mean_and_deviation_of_the_tower():
    """A pixel of 0.6 arrives as (0.6 − 0.485) / 0.229 and is (0.6 − 0.5) / 0.25 for a tower of mean 0.5, 0.25."""
    arriving = (torch.tensor(0.6) - torch.tensor(ARRIVING_MEAN)) / torch.tensor(ARRIVING_DEVIATION)
    image = arriving.view(1, 3, 1, 1).expand(1, 3, 2, 2)
    found = Renormalised(HALF, (0.25, 0.25, 0.25))(image)
    torch.testing.assert_close(found, torch.full((1, 3, 2, 2), 0.4), rtol=0, atol=1e-6)
    assert torch.equal(Renormalised(None, None)(image), image)  # what is not said changes no bit


def test_a_report_counts_and_names_what_does_not_fit():
    """Of five weights: one fits, one has another shape, one head is left out, two are unexpected; one is missing."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    weights = {"0.weight": torch.ones(3, 2), "0.bias": torch.zeros(4), "1.weight": torch.zeros(1, 3),
               "head.weight": torch.zeros(1), "x": torch.zeros(1), "y": torch.zeros(1)}  # fmt: skip
    report = load_into_(network, weights, [r"head\."])
    assert (report.loaded, report.missing, report.unexpected) == (2, ("1.bias",), ("x", "y"))
    assert str(report) == ("2 tensors loaded, 1 missing (1.bias), 2 unexpected (x, y), 1 mismatched (0.bias: [4] in "
                           "the file, [3] in the network), 1 left out (head.weight)")  # fmt: skip
    assert torch.equal(network.get_parameter("0.weight"), torch.ones(3, 2)) and not report.exact
    many = LoadReport(loaded=0, missing=("a", "b", "c", "d", "e"))
    assert str(many) == "0 tensors loaded, 5 missing (a, b, c and 2 more), none unexpected, none mismatched"


def damaged(place: Path, prefix: str = "") -> None:
    """Weights of which one is missing, one unexpected and one of another shape."""
    from safetensors.torch import load_file, save_file

    path = weight_files(place)[0]
    weights = load_file(path)
    names = sorted(name for name in weights if re.match(rf"{prefix}.*(query|qkv)\.?.*weight", name))
    del weights[names[0]]
    weights[names[1]] = torch.zeros(3, 3)
    weights[f"{prefix}encoder.surplus.weight"] = torch.zeros(2)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(("name", "tower", "prefix"), [("image", TIMM, ""), ("text", MOBILEBERT, "mobilebert.")])
def test_weights_that_do_not_fit_are_refused_or_reported(name: str, tower: dict[str, Any], prefix: str, copy: Path):
    damaged(copy / tower["path"], prefix)
    towers = {**PAIRS["timm and transformers"], name: tower}
    line = refusal(towers, copy)
    assert re.search(rf"towers\.{name}: .*{tower['path']}: \d+ tensors loaded, 1 missing \(", line)
    assert re.search(r"1 unexpected \(.*surplus.weight\), 1 mismatched \(.*\[3, 3\] in the file", line)
    lenient = rules({**towers, name: {**tower, "strict": False}})
    (remark,) = [text for text in lenient.workload.check(copy).remarks if text.startswith("towers.")]
    assert remark.partition(": ")[2] in line
    plan = prepare("adamw", seeds=1, protocol=lenient, results=copy / "results", data_dir=copy)
    assert remark in plan.warnings


def test_a_changed_file_is_another_run(copy: Path):
    protocol = rules(PAIRS["timm and transformers"])
    before = run_of(protocol, copy)
    assert before.run_id == run_of(protocol, copy).run_id
    path = copy / "towers" / "timm" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    after = run_of(protocol, copy)
    assert after.run_id != before.run_id and after.protocol.hash == before.protocol.hash
    record = execute(before, device=CPU, data_dir=copy)
    assert record.outcome == "error" and "are not those of the study's plan" in record.failure.reason


def test_a_file_that_changes_under_a_study_is_noticed(copy: Path):
    """The process has read the data already, digests included; the network looks at its files anew."""
    protocol = rules(PAIRS["timm and transformers"])
    run = run_of(protocol, copy)
    resident_dataset(protocol.workload.model_dump_json(), copy, "cpu")
    path = copy / "towers" / "timm" / "config.json"
    path.write_text(path.read_text() + " ")
    record = execute(run, device=CPU, data_dir=copy)
    assert record.outcome == "error" and "files are not those of the study's plan" in record.failure.reason


@pytest.mark.parametrize("cache", [True, False])
def test_a_frozen_tower_keeps_every_bit(cache: bool, data_dir: Path):
    """Weights and running statistics, over steps of an optimizer that decays all weights it is given."""
    frozen = {name: {**own, "mode": "frozen"} for name, own in PAIRS["torchvision and builtin"].items()}
    trainer = trainer_of(rules(frozen, cache=cache), data_dir)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train(2)
    trainer.end_epoch()
    tower = trainer.model.get_submodule("towers.image")
    assert trainer.model.train().training and not any(module.training for module in tower.modules())
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]) == (name.startswith("towers.")), name
    held = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert len(held) == 8 and all(p.requires_grad for p in held)  # two projections of norm and linear


def test_statistics_are_not_gathered_anew_in_a_frozen_tower(data_dir: Path):
    """schedule_free_adamw has running statistics gathered for the weights that are read."""
    pytest.importorskip("schedulefree")
    towers = {"image": {**SHUFFLENET, "mode": "frozen"}, "text": BUILTIN}
    trainer = trainer_of(rules(towers, cache=False), data_dir, "schedule_free_adamw")
    before = {name: value.clone() for name, value in trainer.model.get_submodule("towers.image").state_dict().items()}
    trainer.train(2)
    trainer.end_epoch()
    after = trainer.model.get_submodule("towers.image").state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_results_of_frozen_towers_are_computed_once(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """As many samples as there are things go through the tower, however many epochs; the run is the same."""
    seen: dict[bool, int] = {True: 0, False: 0}
    records = {}
    frozen = {name: {**own, "mode": "frozen"} for name, own in PAIRS["timm and transformers"].items()}
    plain = TowerNetwork._unchanging
    for cache in (True, False):
        resident_dataset.cache_clear()

        def counting(self: TowerNetwork, name: str, x: torch.Tensor, mask: Any, cache: bool = cache) -> torch.Tensor:
            seen[cache] += len(x) if name == "image" else 0
            return plain(self, name, x, mask)

        monkeypatch.setattr(TowerNetwork, "_unchanging", counting)
        protocol = changed(rules(frozen, cache=cache), {"epochs": 3}, "test")
        records[cache] = [trained(protocol, data_dir), trained(protocol, data_dir, optimizer="sgd")]
    # 8 + 4 + 4 images for both runs; else each run's 3 × 8 in training, 4 in each of 4 looks at the test split (three
    # evaluations and the classes'), and 4 of validation.
    assert seen == {True: 16, False: 2 * (3 * 8 + 4 * 4 + 4)}
    for with_cache, without in zip(records[True], records[False], strict=True):
        assert with_cache.fingerprints.initial_weights == without.fingerprints.initial_weights
        assert with_cache.loss == pytest.approx(without.loss, rel=1e-5)  # sums over batches of another size
        assert with_cache.metrics == pytest.approx(without.metrics)


def test_results_equal_those_of_the_tower_itself(data_dir: Path):
    frozen = {name: {**own, "mode": "frozen"} for name, own in PAIRS["timm and transformers"].items()}
    trainer = trainer_of(rules(frozen, data={"captions": "one"}), data_dir)
    plain = trainer_of(rules(frozen, data={"captions": "one"}, cache=False), data_dir)
    sources = [[each.dataset.training(2, 7), *each.dataset.pools("test")] for each in (trainer, plain)]
    for with_cache, without in zip(*sources, strict=True):
        a, b = with_cache.take(torch.tensor([3, 0, 2])), without.take(torch.tensor([3, 0, 2]))
        assert torch.equal(a.match_N, b.match_N) and set(a.inputs()) == set(b.inputs())
        for name, result in a.inputs().items():
            expected = plain.model.get_submodule(f"towers.{name}")(b.inputs()[name], b.masks().get(name), NO_DROPOUT)
            torch.testing.assert_close(result, expected)


OWN_DATA = """
import torch

class Pairs:
    def __init__(self, split):
        self.count, self.start = {"training": (6, 0), "validation": (4, 10), "test": (4, 20)}[split]

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(self.start + i)
        return {"text": torch.randint(1, 30, (5,), generator=generator),
                "image": torch.randn(3, 16, 16, generator=generator)}
"""
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CUDA = pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_samples_that_are_all_in_memory_are_encoded_once_too(device: str, tmp_path: Path):
    """Towers of this project from fresh weights, so of each seed its own; in bf16, as the run's precision says."""
    (tmp_path / "data.py").write_text(OWN_DATA)
    image = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "heads": 2}
    arguments = {"image": image, "text": {**BUILTIN_TEXT, "max_tokens": 5}}
    towers = {name: {"source": "builtin", "mode": "frozen", "arguments": own} for name, own in arguments.items()}
    workload = {
        "name": "own", "dataset": "bench.datasets.own_dataset:OwnDataset", "modalities": ["text", "image"],
        "dataset_options": {"reference": f"{tmp_path}/data.py:Pairs", "text_length": 5},
        "model": "bench.models.towers:TowerNetwork", "model_reads_files": True,
        "model_options": {"towers": towers, "width": 8},
    }  # fmt: skip
    settings = {"epochs": 1, "batch_size": 3, "precision": "bf16", "workload": workload}
    run = run_of(changed(PROTOCOLS["mini"], settings, "test"), tmp_path)
    for seed in (0, 1):
        trainer = Trainer(run.model_copy(update={"seed": seed}), torch.device(device), tmp_path)
        own = resident_dataset(run.protocol.workload.model_dump_json(), tmp_path, device)
        indices = torch.tensor([4, 1], device=device)
        for split in ("validation", "test"):
            a, b = (each.held_out(split).take(indices[1:]) for each in (trainer.dataset, own))
            for name, result in a.inputs().items():
                with autocast(run.protocol, torch.device(device)):
                    expected = trainer.model.get_submodule(f"towers.{name}")(b.inputs()[name], None, NO_DROPOUT)
                torch.testing.assert_close(result, expected.float(), rtol=0.02, atol=0.02)  # bf16 has 8 bits
        batch = trainer.dataset.training(1, 0).take(indices)
        assert batch.text_NL is None and batch.inputs()["text"].shape == (2, 16)
        trainer.train(2)


def test_a_dataset_beside_files_answers_everything_itself():
    """What it left to `Dataset` would be a default, not what its own data says."""
    asked = {name for name in vars(Dataset) if not name.startswith("_")}
    assert asked <= set(vars(WithNetworkFiles))


def test_a_run_goes_on_from_its_state(data_dir: Path):
    """One step, and the second in a fresh trainer: the same bits as both in one."""
    towers = {"image": {**SHUFFLENET, "mode": "frozen"}, "text": MOBILEBERT}
    protocol = changed(rules(towers), {"rate_multipliers": {"^towers": 0.1}}, "test")
    whole, first, second = (trainer_of(protocol, data_dir) for _ in range(3))
    whole.train(2)
    first.train(1)
    second.restore(first.state())
    second.train(2)
    for (name, a), b in zip(whole.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_changed_inputs_are_encoded_anew(data_dir: Path):
    towers = {"image": {**TIMM, "mode": "frozen"}, "text": {**MOBILEBERT, "mode": "frozen"}}
    protocol = rules(towers, data={"image": {"size": SIZE, "augment": "crop_flip"}})
    remarks = [text for text in protocol.workload.check(data_dir).remarks if "frozen" in text]
    assert remarks == ["image: its tower is frozen, but training changes its inputs: they are encoded anew each step"]
    batch = trainer_of(protocol, data_dir).dataset.training(1, 0).take(slice(0, 2))
    assert batch.inputs()["image"].shape == (2, 3, SIZE, SIZE) and batch.inputs()["text"].shape == (2, 16)


def test_techniques_that_change_inputs_have_them_encoded_anew(data_dir: Path, tmp_path: Path):
    """Augmented images are no fixed things, whoever augments them; the plan says so."""
    frozen = {name: {**own, "mode": "frozen"} for name, own in PAIRS["timm and transformers"].items()}
    protocol = changed(rules(frozen), {"techniques": {"image_augmentation": {}}}, "test")
    plan = prepare("sgd", seeds=1, protocol=protocol, results=tmp_path, data_dir=data_dir)
    assert plan.warnings == ("image: its tower is frozen, but training changes its inputs: they are encoded anew each "
                             "step",)  # fmt: skip
    batch = trainer_of(protocol, data_dir).dataset.training(1, 0).take(slice(0, 2))
    assert batch.inputs()["image"].shape == (2, 3, SIZE, SIZE) and batch.inputs()["text"].shape == (2, 16)
    assert trained(protocol, data_dir).loss is not None


def test_a_stage_may_leave_towers_alone(data_dir: Path):
    """An epoch for the projections, then one for all at a tenth of the towers' rate, as in multi-stage training."""
    stages = [{"epochs": 1, "freeze": [r"^towers\."]}, {"epochs": 1, "rates": {r"^towers\.": 0.1}}]
    changes = {"epochs": 2, "techniques": {"stages": {"stages": stages}}}
    trainer = trainer_of(changed(rules(PAIRS["timm and transformers"]), changes, "test"), data_dir)
    weights = []
    for _ in range(2):
        weights.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})
        trainer.train(2)
        trainer.end_epoch()
    now = dict(trainer.model.named_parameters())
    for name, first in weights[0].items():
        assert torch.equal(first, weights[1][name]) == name.startswith("towers."), name
        assert not torch.equal(weights[1][name], now[name]), name


def test_a_librarys_dropout_is_the_same_in_both_passes_of_a_part(data_dir: Path):
    """Accumulation embeds a part twice: the masks are the part's own."""
    text = {"source": "transformers", "path": "towers/bert", "arguments": {"hidden_dropout_prob": 0.5}}
    workload = rules({"image": TIMM, "text": text}).workload
    network: Any = workload.build_model({"data_dir": data_dir, "vocab_size": VOCABULARY})
    stream, ids = DropoutStream(0.0, 1), {"text": torch.full((2, 5), 7)}

    def embedding(start: int) -> torch.Tensor:
        stream.start_step(3)
        return network(ids, dropout=ShareOfDropout(stream, start, 2, 4))["text"]

    first = embedding(0)
    assert torch.equal(embedding(0), first) and not torch.equal(embedding(2), first)
    assert not torch.equal(first, network.eval()(ids)["text"])


def test_a_multiplier_slows_a_tower_down(data_dir: Path):
    protocol = changed(rules(PAIRS["timm and transformers"]), {"rate_multipliers": {r"^towers\.image": 1e-3}}, "test")
    trainer = trainer_of(protocol, data_dir)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train(1)
    # Adam's first step moves every element with a gradient by the rate; decay is 1e-2 · rate · w beside it.
    moved = {name: (p - before[name]).abs().max().item() for name, p in trainer.model.named_parameters()}
    assert max(value for name, value in moved.items() if name.startswith("towers.image")) < 1.1e-6
    assert min(max(moved[name] for name in moved if name.startswith(part))
               for part in ("towers.text", "projections.")) > 0.9e-3  # fmt: skip


def test_a_librarys_dropout_follows_the_runs_stream(data_dir: Path):
    """Equal masks for equal steps wherever the global generator stands, other ones in the next step, none when read."""
    text = {"source": "transformers", "path": "towers/bert", "arguments": {"hidden_dropout_prob": 0.5}}
    towers = {"image": TIMM, "text": text}
    network: Any = rules(towers).workload.build_model({"data_dir": data_dir, "vocab_size": VOCABULARY})
    stream, ids = DropoutStream(0.0, 1), {"text": torch.full((2, 5), 7)}

    def embedding(step: int) -> torch.Tensor:
        stream.start_step(step)
        return network(ids, dropout=stream)["text"]

    first = embedding(0)
    state = torch.get_rng_state()
    torch.rand(3)
    assert torch.equal(embedding(0), first) and not torch.equal(embedding(1), first)
    torch.set_rng_state(state)
    embedding(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(network(ids)["text"], network.eval()(ids)["text"])  # without a stream there are no masks


def test_roles_are_by_the_kind_of_module(data_dir: Path):
    network = rules(PAIRS["timm and transformers"]).workload.build_model({"data_dir": data_dir})
    roles = ROLES(network)
    assert set(roles) == {name for name, _ in network.named_parameters()}
    for name, role in {
        "towers.image.network.cls_token": "embedding", "towers.image.network.pos_embed": "embedding",
        "towers.image.network.patch_embed.proj.weight": "convolution",
        "towers.image.network.blocks.0.attn.qkv.weight": "hidden_matrix",
        "towers.image.network.blocks.0.attn.qkv.bias": "bias", "towers.image.network.norm.weight": "norm",
        "towers.text.network.embeddings.word_embeddings.weight": "embedding",
        "towers.text.network.encoder.layer.0.attention.self.query.weight": "hidden_matrix",
        "towers.text.network.encoder.layer.0.attention.output.LayerNorm.weight": "norm",
        "projections.text.0.weight": "norm", "projections.text.1.weight": "head", "projections.text.1.bias": "bias",
    }.items():  # fmt: skip
        assert roles[name] == role, name


FAULTS = {
    "a hub's name": ({**TIMM, "path": "timm/vit_base_patch16_224.augreg_in21k"},
                     "towers.image: path is 'timm/vit_base.*nothing is downloaded"),
    "a hub's address": ({**TIMM, "path": "towers/shufflenet.pth", "name": "hf-hub:timm/vit_base_patch16_224"},
                        "name is 'hf-hub:timm/.*', which is no architecture of timm"),
    "no path": ({"source": "timm", "name": "vit_tiny_patch16_224"}, "source timm needs a path"),
    "no name": ({**SHUFFLENET, "name": None}, "source torchvision needs a name"),
    "another modality's source": ({"source": "builtin", "mode": "half"}, "towers.image.mode is 'half'"),
    "a file of something else": ({**TIMM, "path": "towers/own.py"}, "own.py is no file of weights; allowed are .safe"),
    "a folder of something else": ({**TIMM, "path": "towers"}, "folder towers has own.pt, shufflenet.pth, text.pt;"),
    "an unknown option": ({**TIMM, "trust_remote_code": True}, "towers.image.trust_remote_code is True: Extra inputs"),
    "no pattern": ({**TIMM, "leave_out": ["("]}, r"towers.image.leave_out: '\(' is no regular expression"),
    "no deviation": ({**TIMM, "deviation": [1.0, 0.0, 1.0]}, "towers.image.deviation: .* has to be above 0"),
    "another file by the way": ({**TIMM, "arguments": {"checkpoint_path": "x.pth"}}, "checkpoint_path is not allowed"),
    "weights of the library's": ({**SHUFFLENET, "arguments": {"pretrained": True}}, "pretrained is not allowed"),
    "pickles": ({**VIT, "arguments": {"weights_only": False}}, "arguments.weights_only is not allowed: it is no sett"),
    "code": ({**VIT, "arguments": {"trust_remote_code": True}}, "arguments.trust_remote_code is not allowed"),
    "no module": ({"source": "callable", "reference": "DATA/towers/own.py:no_module", "arguments": {"width": 8}},
                  "gives dict; expected a module with `width`"),
    "no function": ({"source": "callable", "reference": "DATA/towers/own.py:nothing"}, "has no function 'nothing'"),
    "another network": ({**SHUFFLENET, "name": "shufflenet_v2_x1_0"}, "281 tensors loaded|mismatched"),
}  # fmt: skip


@pytest.mark.parametrize(("tower", "message"), FAULTS.values(), ids=list(FAULTS))
def test_a_fault_is_one_line(tower: dict[str, Any], message: str, data_dir: Path):
    own = {key: value.replace("DATA", str(data_dir)) if isinstance(value, str) else value
           for key, value in tower.items()}  # fmt: skip
    assert re.search(message, refusal({"image": own, "text": BUILTIN}, data_dir))


def test_a_source_of_another_modality_is_refused(data_dir: Path):
    line = refusal({"image": TIMM, "text": TIMM}, data_dir)
    assert "towers.text: source is 'timm'; allowed for text are builtin, transformers, open_clip, callable" in line
    assert "towers are of nothing" in refusal({}, data_dir)
    assert "towers.image is missing; the data has image" in refusal({"text": BUILTIN}, data_dir)


def test_the_vocabulary_is_the_towers(copy: Path):
    path = copy / "towers" / "mobilebert" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["surplus"] = 99
    path.write_text(json.dumps(content))
    line = refusal({"image": TIMM, "text": MOBILEBERT}, copy)
    assert "the data's tokenizer has 100 ids, the tower 64; its own tokenizer is needed" in line


def test_without_a_data_folder_a_relative_path_is_nowhere():
    with pytest.raises(ValueError, match="pass --data-dir or set BENCH_DATA"):
        place_of("towers/timm", None)


@pytest.mark.parametrize(("tower", "module", "extra"), [
    (TIMM, "timm", "timm"), (MOBILEBERT, "transformers", "transformers"), (CLIP, "open_clip", "open_clip"),
])  # fmt: skip
def test_a_library_that_is_missing_is_named(
    tower: dict[str, Any], module: str, extra: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, module, None)
    name = "text" if tower is MOBILEBERT else "image"
    line = refusal({"image": SHUFFLENET, "text": BUILTIN, name: tower}, data_dir)
    assert line == f"workload towers unavailable: pip install 'optimizer-bench[{extra}]'"


class Evil:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_no_file_of_a_tower_brings_code(copy: Path):
    marker = copy / "marker"
    torch.save({"linear.weight": Evil(marker)}, copy / "towers" / "text.pt")
    assert "text.pt holds more than tensors" in refusal({"image": TIMM, "text": BUILTIN}, copy)
    code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()"
    (copy / "towers" / "mobilebert" / "modeling.py").write_text(code)
    path = copy / "towers" / "mobilebert" / "config.json"
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "modeling.C", "AutoModel": "modeling.M"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    assert "contains custom code" in refusal({"image": TIMM, "text": MOBILEBERT}, copy)
    (copy / "towers" / "bert" / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Evil(marker)}, copy / "towers" / "bert" / "pytorch_model.bin")
    refusal({"image": TIMM, "text": {"source": "transformers", "path": "towers/bert"}}, copy)
    assert not marker.exists()


@pytest.mark.parametrize("towers", [PAIRS["timm and transformers"], PAIRS["open_clip"]])
def test_nothing_is_looked_up_on_the_network(towers: dict[str, Any], data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    tried = []

    def refused(*arguments: Any, **more: Any) -> None:
        tried.append(arguments)
        raise OSError("no network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    rules(towers).workload.check(data_dir)
    assert tried == []


def test_an_index_leads_to_no_other_folder(tmp_path: Path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(ValueError, match=r"names '\.\./secret.safetensors', which is no file beside it"):
        weight_files(tmp_path)


def make_flickr30k(folder: Path, words: Sequence[str], counts: Sequence[int] = (8, 4, 4)) -> None:
    """Photographs of noise with five captions each, in the lists of three splits."""
    (folder / "images").mkdir(parents=True)
    generator, lines, number = torch.Generator().manual_seed(0), [], 0
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        names = [f"{number + i}.jpg" for i in range(count)]
        number += count
        for name in names:
            pixels = torch.randint(0, 256, (3, 40, 50), generator=generator, dtype=torch.uint8)
            write_jpeg(pixels, str(folder / "images" / name))
            lines += [f"{name}#{n}\ta {words[n]} {words[int(name.partition('.')[0]) % len(words)]}" for n in range(5)]
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")
    (folder / "results_20130124.token").write_text("\n".join(lines) + "\n")


def test_the_protocol_finetune_runs_on_files_where_its_page_has_them(tmp_path: Path):
    """As it is but for its length; the networks in the files are small, which is the files' affair."""
    from timm.models import VisionTransformer

    words = ["red", "blue", "dog", "cat", "runs"]
    make_towers(tmp_path, ["a", *words])
    make_flickr30k(tmp_path / "flickr30k", words)
    small = {"patch_size": 56, "embed_dim": 16, "depth": 1, "num_heads": 2}
    write_timm(tmp_path / "towers" / "vit_base_patch16_224", VisionTransformer(num_classes=5, **small),
               "vit_base_patch16_224", **small)  # fmt: skip
    shutil.rmtree(tmp_path / "towers" / "mobilebert")
    write_mobilebert(tmp_path / "towers" / "mobilebert", max_position_embeddings=64)
    write_tokenizer(tmp_path / "towers" / "mobilebert" / "tokenizer.json", ["a", *words])
    protocol = changed(limited(PROTOCOLS["finetune"], 4), {"epochs": 2}, "test")
    plan = prepare("adamw,muon", seeds=1, protocol=protocol, results=tmp_path / "results", data_dir=tmp_path)
    assert plan.warnings == ()
    for planned in plan.runs:
        points: list[CurvePoint] = []
        record = execute(planned, device=CPU, data_dir=tmp_path, on_epoch=points.append)
        assert record.outcome == "ok", record.failure
        assert set(record.fingerprints.files) == {"image/config.json", "image/model.safetensors", "text/config.json",
                                                  "text/model.safetensors"}  # fmt: skip
        assert points[-1].learning_rate == pytest.approx(0.5e-3)  # 2 steps on a cosine from 1e-3 to 0


def test_finetune_says_in_one_line_what_is_not_there(bench: Callable[..., Any], tmp_path: Path):
    for arguments in ((), ("--data-dir", tmp_path)):
        found = bench("run", "--protocol", "finetune", "--optimizers", "adamw", "--dry-run", *arguments)
        assert found.code == 2
        line = " ".join(found.err.split())
        assert "workload 'flickr30k_towers': towers.text: path is 'towers/mobilebert'" in line
        assert "Traceback" not in line
    assert "nothing is downloaded (docs/towers.md)" in line


def test_the_protocols_of_the_page_are_allowed(tmp_path: Path):
    page = (Path(__file__).parents[1] / "docs" / "towers.md").read_text()
    blocks = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    found = []
    for i, block in enumerate(blocks):
        (tmp_path / f"{i}.toml").write_text(block)
        found.append(load_protocol(str(tmp_path / f"{i}.toml")))
    own, slower = found
    towers = tower_options(own.workload.model_options["towers"])
    assert {name: each.mode for name, each in towers.items()} == {"text": "frozen", "image": "frozen"}
    assert towers["image"].name == "resnet50"
    assert list(slower.rate_multipliers.values()) == [1.0, 0.1]
    assert all(f"| `{source}` |" in page for source in SOURCES)
    assert all(f"`{key}`" in page for key in TowerOptions.model_fields)


def test_several_processes_are_refused(data_dir: Path):
    with pytest.raises(UsageError, match="--parallel ddp: the network is made of your files"):
        prepare("adamw", seeds=1, protocol=rules(PAIRS["timm and transformers"]), parallel="ddp", workers=2,
                data_dir=data_dir)  # fmt: skip


def test_the_digests_cover_every_file_that_is_read(data_dir: Path):
    digests = file_digests({"towers": PAIRS["timm and transformers"]}, data_dir)
    assert sorted(digests) == ["image/config.json", "image/model.safetensors", "text/config.json",
                               "text/model.safetensors"]  # fmt: skip
