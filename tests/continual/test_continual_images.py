"""Labelled images in tasks: whose images come when, with which replay and which texts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.datasets.continual_images import DIGITS, ContinualImages, TaskSamples
from bench.datasets.samples import DataError
from bench.datasets.tokenizers import CharacterTokenizer
from bench.seeding import torch_seeded

OPTIONS: dict[str, Any] = {
    "name": "mnist", "classes_per_task": 2, "epochs_per_task": 3, "replay_share": 0.5, "buffer": 4,
    "sampling": "balanced", "prompt": "the digit {}", "image_size": 28, "training_per_class": 9,
    "validation_per_class": 2, "test_per_class": 5, "data_seed": 0,
}  # fmt: skip


def build(data_dir: Path | None, **changes: Any) -> ContinualImages:
    return ContinualImages(**{"data_dir": data_dir, **OPTIONS, **changes})


def bands(images_N3SS: Tensor) -> list[int]:
    """The digit of each image, by the height of its band."""
    return [(int(row) - 3) // 2 for row in (images_N3SS[:, 0].mean(dim=2) > 0).int().argmax(dim=1)]


def test_no_task_s_images_come_before_it(digits: Path):
    data = build(digits)
    assert (data.sequence.tasks, data.sequence.epochs, data.training_size) == (5, 15, 18)
    seen: dict[int, set[int]] = {}
    for epoch in range(1, 16):
        new = data.training(epoch, 7)
        task = (epoch - 1) // 3
        assert set(new.label_N.tolist()) == {2 * task, 2 * task + 1} and len(new) == 18
        seen.setdefault(task, set()).update(new.row_N.tolist())
        assert set(new.row_N.tolist()) == seen[task]  # the same in every epoch of a task
    assert sum(map(len, seen.values())) == len(set().union(*seen.values())) == 90


@pytest.mark.parametrize(
    ("sampling", "share", "count"), [("balanced", 0.5, 4), ("balanced", 0.7, 6), ("reservoir", 0.5, 4)]
)
def test_a_batch_is_joined_by_earlier_classes_alone(digits: Path, sampling: str, share: float, count: int):
    data = build(digits, sampling=sampling, replay_share=share)
    training = set(torch.cat([data.training(3 * task + 1, 7).row_N for task in range(5)]).tolist())
    for epoch in range(1, 16):
        task, source = (epoch - 1) // 3, data.training(epoch, 7)
        for start in (0, 9):
            batch = source.take(torch.arange(start, start + 9))
            old = batch.label_N[9:]
            assert len(old) == (count if task else 0)  # ⌊.5 · 9⌋, ⌊.7 · 9⌋
            assert (batch.label_N[:9] // 2 == task).all() and (old // 2 < task).all()
            if sampling == "balanced" and task:
                counts = torch.bincount(old, minlength=2 * task)
                assert counts.max() - counts.min() <= 1
        if source.replay is not None:
            assert set(source.replay.kept_KM.flatten().tolist()) <= training
            assert source.replay.kept_KM.shape == ((2 * task, 4) if sampling == "balanced" else (1, min(40, 18 * task)))


def test_the_replay_of_a_batch_is_a_function_of_seed_epoch_and_batch(digits: Path):
    one, two = build(digits).training(7, 7), build(digits).training(7, 7)
    first, other = torch.arange(4), torch.arange(4, 8)
    for batch in (other, first):  # in whatever order batches are asked for
        assert torch.equal(one.take(batch).label_N, two.take(batch).label_N)
    later, of_other_seed = build(digits).training(8, 7), build(digits).training(7, 8)
    asked = ((one, first), (one, other), (later, first), (of_other_seed, first))
    replayed = [x[4:] for source, batch in asked if (x := source.take(batch).image_N3HW) is not None]
    assert not any(torch.equal(replayed[0], x) for x in replayed[1:])
    assert build(digits, replay_share=0.0).training(15, 7).replay is None


def test_splits_are_disjoint_and_balanced_and_labels_are_in_the_order_of_learning(digits: Path):
    data = build(digits)
    batches = [data.held_out("validation"), data.held_out("test"), *(data.training(3 * t + 1, 0) for t in range(5))]
    rows = torch.cat([source.row_N for source in batches])
    assert len(rows) == len(rows.unique()) == 160
    for source, count in zip(batches[:2], (2, 5), strict=True):
        assert torch.bincount(source.label_N).tolist() == [count] * 10
    batch = data.held_out("test").take(slice(None))
    assert batch.image_N3HW is not None
    order = [bands(batch.image_N3HW)[batch.label_N.tolist().index(label)] for label in range(10)]
    assert sorted(order) == list(range(10)) and order != list(range(10))
    assert [order[label] for label in batch.label_N.tolist()] == bands(batch.image_N3HW)
    assert batch.text_NL is not None
    texts = ["".join(CharacterTokenizer().alphabet[i - 1] for i in ids if i) for ids in batch.text_NL.tolist()]
    assert texts == [f"the digit {DIGITS[digit]}" for digit in order]
    assert build(digits).digest == data.digest != build(digits, data_seed=1).digest


def test_held_out_images_of_tasks_to_come_are_not_there(digits: Path):
    data = build(digits)
    for task in range(5):
        source = data.seen("test", task)
        assert len(source.text_CL) == 2 * (task + 1) and len(source) == 10 * (task + 1)
        assert int(source.label_N.max()) == 2 * task + 1


@pytest.mark.parametrize("network", ["small", "small_fusion"])
def test_the_text_of_an_image_s_own_label_is_never_an_input(digits: Path, network: str, request: pytest.FixtureRequest):
    """Another label, hence another text of it, changes neither the input nor the logits of an image."""
    workload = request.getfixturevalue(network).workload
    data = build(digits)
    with torch_seeded(0):
        model = workload.build_model(data.network_options).eval()
    for source in (data.seen("test", 2), data.training(1, 0)):
        assert isinstance(source, TaskSamples)
        other = replace(source, all_label_N=(source.all_label_N + 1) % 6)
        batch, relabelled = source.take(slice(0, 9)), other.take(slice(0, 9))
        assert not torch.equal(batch.label_N, relabelled.label_N)
        for inputs in ("inputs", "masks"):
            one, two = getattr(batch, inputs)(), getattr(relabelled, inputs)()
            assert all(torch.equal(one[name], two[name]) for name in one)
        assert torch.equal(model(batch.inputs(), batch.masks())["logits"],
                           model(relabelled.inputs(), relabelled.masks())["logits"])  # fmt: skip
    first, last = (data.seen("test", 2).take(slice(start, start + 5)) for start in (0, 25))
    assert first.label_N.max() < last.label_N.min() and torch.equal(first.inputs()["text"], last.inputs()["text"])


@pytest.mark.parametrize("network", ["small", "small_fusion"])
def test_logits_depend_on_the_image_and_on_the_prompts(digits: Path, network: str, request: pytest.FixtureRequest):
    workload = request.getfixturevalue(network).workload
    data = build(digits)
    with torch_seeded(0):
        model = workload.build_model(data.network_options).eval()
    batch = data.seen("test", 1).take(slice(0, 6))
    logits = model(batch.inputs(), batch.masks())["logits"]
    assert logits.shape == (6, 4) and logits.dtype == torch.float32
    inputs = batch.inputs()
    changed = {**inputs, "text": inputs["text"].roll(1, dims=0)}
    assert not torch.equal(model(changed, batch.masks())["logits"], logits)
    changed = {**inputs, "image": inputs["image"].flip(2)}
    assert not torch.equal(model(changed, batch.masks())["logits"], logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "letters"}, "name is 'letters'; allowed are fashion_mnist, cifar10, cifar100, mnist"),
        ({"classes_per_task": 3}, "classes_per_task is 3; allowed are divisors of the 10 classes"),
        ({"epochs_per_task": 0}, "epochs_per_task is 0; allowed is a count >= 1"),
        ({"replay_share": -0.1}, "replay_share is -0.1; allowed are 0, for no replay, to 10"),
        ({"buffer": 0}, "buffer is 0; allowed is a count >= 1 of each class"),
        ({"sampling": "ring"}, "sampling is 'ring'; allowed are balanced, reservoir"),
        ({"prompt": "a photo"}, "prompt is 'a photo'; allowed is a text with one {}"),
        ({"training_per_class": 10}, "mnist: training_per_class is 10; allowed are 1 to 9"),
        ({"test_per_class": None}, "mnist: training_per_class is 9; allowed are 1 to 0"),
        ({"modalities": ("text", "audio")}, "modalities are text, audio"),
        ({"data_dir": None}, "mnist: no data folder; pass --data-dir or set BENCH_DATA"),
    ],
)
def test_options_that_are_not_allowed_are_named(digits: Path, changes: dict[str, Any], message: str):
    with pytest.raises(ValueError) as error:
        build(**{"data_dir": digits, **changes})
    assert message in str(error.value)


def test_files_that_are_missing_or_do_not_go_together_are_named(digits: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"mnist: .*t10k-images-idx3-ubyte.gz is missing"):
        build(tmp_path)
    folder = tmp_path / "mnist"
    folder.mkdir()
    for path in (digits / "mnist").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    labels = folder / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:8] + bytes(np.full(160, 10, np.uint8)))
    with pytest.raises(DataError, match=r"mnist: .* has 160 images and 160 labels up to 10; expected"):
        build(tmp_path)
