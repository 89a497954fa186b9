"""The recipe of the documents' study, against a plain version of each formula, and its ceilings."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.datasets import documents, noise
from bench.datasets.documents import DocumentsData, expected_log_same_class
from bench.datasets.samples import HeldOut, Samples
from bench.metrics import scores_of_matcher

SMALL: dict[str, Any] = {"training": 60, "validation": 20, "test": 20, "image_size": 12, "audio_size": 9}


def tensors(samples: Samples) -> dict[str, Tensor]:
    found = {name: getattr(samples, name) for name in ("label_N", "match_N", "text_NL", "image_N3HW", "audio_N1FT")}
    assert samples.text_mask_NL is None
    return found


def assert_same(one: Samples, other: Samples) -> None:
    for name, value in tensors(one).items():
        torch.testing.assert_close(tensors(other)[name], value, rtol=0, atol=0)


def plain_image(c: int, size: int) -> np.ndarray:
    """The specification's line, a pixel at a time."""
    image = np.zeros((3, size, size))
    for channel in range(3):
        for row in range(size):
            for column in range(size):
                x, y = (2 * math.pi * (c + 1) * place / (size - 1) for place in (column, row))
                level = (0.8 if channel == c % 3 else 0.0) + 0.3 * math.sin(x) * math.cos(y)
                image[channel, row, column] = min(1.0, max(0.0, level))
    return image


def plain_audio(c: int, size: int) -> np.ndarray:
    f = 3 * (c + 1)
    audio = np.array([[0.5 * (math.sin(i * f / 10) + math.cos(j * f / 15)) for j in range(size)] for i in range(size)])
    return ((audio - audio.min()) / (audio.max() - audio.min()))[None]


@pytest.fixture(scope="module")
def standard() -> DocumentsData:
    return DocumentsData()


def test_sizes_shapes_and_types_of_the_optimizer_study(standard: DocumentsData):
    splits = {1000: standard.training(1, 0), 200: standard.held_out("validation")}
    for size, samples in splits.items():
        found = {name: (tuple(value.shape), value.dtype) for name, value in tensors(samples).items()}
        assert found == {
            "label_N": ((size,), torch.int64),
            "match_N": ((size,), torch.int64),
            "text_NL": ((size, 16), torch.int64),
            "image_N3HW": ((size, 3, 64, 64), torch.float32),
            "audio_N1FT": ((size, 1, 64, 64), torch.float32),
        }
        assert samples.match_N.tolist() == list(range(size))
    assert standard.training_size == 1000
    assert len(standard.held_out("test")) == 200


@pytest.mark.parametrize("size", [12, 13])
def test_without_noise_image_and_audio_are_the_formulas(size: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "NOISE_DEVIATION", 0.0)
    samples = tensors(DocumentsData(training=100, image_size=size, audio_size=size).training(1, 0))
    labels = samples["label_N"].tolist()
    assert set(labels) == set(range(10))
    for i, c in enumerate(labels):
        # float32 rounding of values up to 1
        np.testing.assert_allclose(samples["image_N3HW"][i].numpy(), plain_image(c, size), rtol=0, atol=1e-7)
        np.testing.assert_allclose(samples["audio_N1FT"][i].numpy(), plain_audio(c, size), rtol=0, atol=1e-7)


def test_without_replacement_a_text_is_its_class_prototype(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "REPLACED", 0.0)
    samples = tensors(DocumentsData(**SMALL).training(1, 0))
    for c in range(10):
        texts = samples["text_NL"][samples["label_N"] == c]
        assert len(texts.unique(dim=0)) == 1
        assert ((texts >= 10 * c) & (texts <= 10 * c + 9)).all()


def test_prototypes_are_drawn_with_replacement_and_by_the_data_seed():
    text = documents.text_prototypes(10, 16, data_seed=0)
    assert text.shape == (10, 16)
    assert all(len(row.unique()) < 16 for row in text)  # 16 draws of 10 ids
    assert len((text % 10).unique()) == 10
    assert not torch.equal(text, documents.text_prototypes(10, 16, data_seed=1))


def test_a_fifth_of_the_tokens_is_replaced_by_ids_of_the_whole_vocabulary(standard: DocumentsData):
    samples = tensors(standard.training(3, 0))
    prototypes = documents.text_prototypes(10, 16, data_seed=0)[samples["label_N"]]
    changed = samples["text_NL"] != prototypes
    # 16,000 tokens, of which 0.2 · 999/1000 change; five standard errors are 0.0158.
    assert abs(changed.double().mean().item() - 0.2 * 0.999) < 5 * math.sqrt(0.2 * 0.8 / 16_000)
    ids = samples["text_NL"][changed].double()
    assert ids.min() < 10
    assert ids.max() > 989
    assert abs(ids.mean().item() - 499.5) < 5 * 1000 / math.sqrt(12 * len(ids))
    assert changed.double().mean(0).min() > 0.1  # every position


def test_noise_is_normal_of_deviation_a_tenth_before_clipping(standard: DocumentsData):
    samples = tensors(standard.training(2, 0))
    for name, prototypes in (("image_N3HW", standard._image_C3HW), ("audio_N1FT", standard._audio_C1FT)):
        clean = prototypes[samples["label_N"]]
        added = (samples[name] - clean)[(clean > 0.45) & (clean < 0.55)].double()  # 4.3 deviations stay inside [0, 1]
        assert len(added) > 10_000
        assert abs(added.mean().item()) < 5 * 0.1 / math.sqrt(len(added))
        assert abs(added.std().item() - 0.1) < 5 * 0.1 / math.sqrt(2 * len(added))
        assert samples[name].min() == 0
        assert samples[name].max() == 1


def test_noise_is_added_to_the_clipped_image_and_clipped_again(standard: DocumentsData):
    samples = tensors(standard.training(2, 5))
    keys = noise.sample_keys(5, 0, 2, documents.Stream.IMAGE, indices=torch.arange(1000))[7:8]
    clean = torch.from_numpy(plain_image(int(samples["label_N"][7]), 64)).float()
    expected = (clean + 0.1 * noise.normal(keys, 3, 64, 64)[0]).clamp(0, 1)
    torch.testing.assert_close(samples["image_N3HW"][7], expected, rtol=0, atol=2e-7)  # float32 rounding


def test_modalities_have_noise_of_their_own():
    samples = tensors(DocumentsData(**{**SMALL, "audio_size": 12}).training(1, 0))
    data = DocumentsData(**{**SMALL, "audio_size": 12})
    image = (samples["image_N3HW"] - data._image_C3HW[samples["label_N"]])[:, 0].flatten()
    audio = (samples["audio_N1FT"] - data._audio_C1FT[samples["label_N"]])[:, 0].flatten()
    assert abs(np.corrcoef(image.numpy(), audio.numpy())[0, 1]) < 5 / math.sqrt(len(image))


def test_labels_are_uniform_and_differ_between_splits(standard: DocumentsData):
    labels = standard.training(1, 0).label_N
    counts = torch.bincount(labels, minlength=10)
    # Binomial(1000, 0.1): mean 100, deviation 9.5
    assert ((counts - 100).abs() < 48).all()
    assert not torch.equal(labels[:200], standard.held_out("validation").label_N)
    assert not torch.equal(standard.held_out("validation").label_N, standard.held_out("test").label_N)


def test_same_arguments_give_the_same_bits():
    one, other = DocumentsData(**SMALL), DocumentsData(**SMALL)
    other.training(9, 9)  # what was asked before does not matter
    assert_same(one.training(2, 5), other.training(2, 5))
    assert_same(one.held_out("validation"), other.held_out("validation"))
    assert_same(one.held_out("test"), other.held_out("test"))


def test_training_noise_changes_with_epoch_and_noise_seed_and_labels_do_not():
    data = DocumentsData(**SMALL)
    first = tensors(data.training(1, 0))
    for other in (tensors(data.training(2, 0)), tensors(data.training(1, 1))):
        torch.testing.assert_close(other["label_N"], first["label_N"], rtol=0, atol=0)
        assert not torch.equal(other["text_NL"], first["text_NL"])
        changed = (other["image_N3HW"] != first["image_N3HW"]).double().mean()
        assert changed > 0.5  # the rest is clipped to 0 or 1 both times
        assert (other["audio_N1FT"] != first["audio_N1FT"]).double().mean() > 0.5


def test_held_out_samples_are_fixed_and_made_once():
    data = DocumentsData(**SMALL)
    before = data.held_out("test")
    data.training(1, 3)
    assert data.held_out("test") is before


def test_no_sample_is_in_two_splits():
    data = DocumentsData(**SMALL)
    splits = [data.training(1, 0), data.held_out("validation"), data.held_out("test")]  # noise seed = data seed
    images = torch.cat([tensors(s)["image_N3HW"].flatten(1) for s in splits])
    assert len(images.unique(dim=0)) == 100


def test_data_seed_changes_everything():
    one, other = (tensors(DocumentsData(**SMALL, data_seed=seed).held_out("test")) for seed in (0, 1))
    for name in ("label_N", "text_NL", "image_N3HW", "audio_N1FT"):
        assert not torch.equal(one[name], other[name])


def test_a_sample_does_not_depend_on_how_many_there_are():
    few, many = DocumentsData(**SMALL), DocumentsData(**{**SMALL, "training": 90})
    assert_same(few.training(4, 1), many.training(4, 1).take(slice(60)))


def test_held_out_samples_first_asked_for_in_inference_mode_serve_in_training():
    data = DocumentsData(**SMALL)
    with torch.inference_mode():
        samples = data.held_out("test")
    assert samples.image_N3HW is not None
    assert not samples.image_N3HW.is_inference()


def ceiling_of(data: DocumentsData, split: HeldOut) -> dict[str, float]:
    """One direction's ceiling; the recipe treats all directions alike."""
    labels = data.held_out(split).label_N
    scores = data.matcher_scores(split, "image", "text")
    return scores_of_matcher(scores, torch.arange(len(labels)))


def test_ceiling_of_r1_is_the_number_of_classes_over_the_pool(standard: DocumentsData):
    assert ceiling_of(standard, "validation")["r1"] == pytest.approx(5.0, abs=1e-9)
    assert ceiling_of(standard, "test")["r1"] == pytest.approx(5.0, abs=1e-9)
    assert ceiling_of(DocumentsData(**{**SMALL, "test": 500}), "test")["r1"] == pytest.approx(2.0, abs=1e-9)


def test_ceiling_is_what_a_matcher_that_knows_the_class_reaches_on_average(standard: DocumentsData):
    labels = standard.held_out("test").label_N.numpy()
    ceiling = ceiling_of(standard, "test")
    rng = np.random.default_rng(0)
    rounds = []
    for _ in range(400):
        score = (labels[:, None] == labels[None, :]) + rng.random((200, 200)) / 2  # same class first, ties at random
        rank = 1 + (score > score.diagonal()[:, None]).sum(1)
        rounds.append([*(100 * (rank <= k).mean() for k in (1, 5, 10)), 100 * (1 / rank).mean()])
    mean, error = np.mean(rounds, 0), np.std(rounds, 0) / math.sqrt(400)
    assert (np.abs(mean - [ceiling[name] for name in ("r1", "r5", "r10", "mrr")]) < 5 * error).all()


def test_ceiling_of_a_class_with_fewer_samples_than_k():
    # One class, three samples: hit@1 1/3, hit@5 1, mean reciprocal rank (1 + 1/2 + 1/3)/3 = 11/18.
    ceiling = ceiling_of(DocumentsData(**{**SMALL, "classes": 1, "test": 3}), "test")
    assert [ceiling[name] for name in ("r1", "r5", "r10", "mrr")] == pytest.approx([100 / 3, 100, 100, 1100 / 18])


def test_best_loss_as_the_specification_has_it(standard: DocumentsData):
    loss = standard.best_pair_loss(32)
    assert round(loss, 4) == 1.3169
    assert round(3 * loss, 4) == 3.9507


def test_best_loss_of_small_batches():
    assert expected_log_same_class(1, 10) == 0
    assert expected_log_same_class(2, 10) == pytest.approx(math.log(2) / 10, rel=1e-12)
    # two others, each of the class with probability 1/2: 1/4 · 0 + 1/2 · ln 2 + 1/4 · ln 3
    assert expected_log_same_class(3, 2) == pytest.approx(math.log(2) / 2 + math.log(3) / 4, rel=1e-12)
    assert expected_log_same_class(32, 1) == math.log(32)
    # a large batch: ln of the mean, less half the relative variance 9/B
    assert expected_log_same_class(4096, 10) == pytest.approx(math.log(4096 / 10), abs=2e-3)


def test_best_loss_refuses_an_empty_batch():
    with pytest.raises(ValueError, match="batch_size=0 and classes=10 must be at least 1"):
        expected_log_same_class(0, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "{'classes': 0} is too small"),
        ({"test": 0, "tokens": -1}, "{'test': 0, 'tokens': -1} is too small"),
        ({"image_size": 1}, "{'image_size': 1} is too small"),
        ({"vocab_size": 99}, "vocab_size=99 is too small; 100 ids are needed"),
    ],
)
def test_impossible_sizes_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match="DocumentsData: ") as error:
        DocumentsData(**arguments)
    assert message in str(error.value)


def test_other_sizes_of_text_and_vocabulary():
    samples = DocumentsData(**SMALL, classes=3, tokens=5, vocab_size=30).training(1, 0)
    assert samples.text_NL is not None
    assert samples.text_NL.shape == (60, 5)
    assert samples.text_NL.max() < 30
    assert set(samples.label_N.tolist()) == {0, 1, 2}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_bits_are_the_same_on_a_cuda_device():
    here, there = DocumentsData(**SMALL), DocumentsData(**SMALL, device="cuda")
    assert_same(here.training(2, 5), there.training(2, 5).to("cpu"))
    assert_same(here.held_out("test"), there.held_out("test").to("cpu"))
