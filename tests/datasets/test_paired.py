"""The paired recipe: determinism, what its modalities share, and the ceiling of the best possible matcher."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from bench.bounds import ceiling
from bench.datasets.paired import Kind, PairedData
from bench.datasets.samples import Samples
from bench.metrics import scores_of_matcher

SMALL: dict[str, Any] = {"training": 60, "validation": 40, "test": 50, "image_size": 16, "audio_size": 16}
MODALITIES = ("text", "image", "audio")


def fields(samples: Samples) -> list[Tensor]:
    assert samples.text_NL is not None and samples.image_N3HW is not None and samples.audio_N1FT is not None
    return [samples.label_N, samples.match_N, samples.text_NL, samples.image_N3HW, samples.audio_N1FT]


def r1(data: PairedData, first: str, second: str) -> float:
    scores = data.matcher_scores("test", first, second)
    return scores_of_matcher(scores, torch.arange(len(scores)))["r1"]


def test_shapes_and_types():
    label, match, text, image, audio = fields(PairedData(**SMALL).held_out("test"))
    assert (label.shape, match.tolist()) == ((50,), list(range(50)))
    assert (text.shape, text.dtype) == ((50, 4 + 2 * 4), torch.int64)
    assert (image.shape, image.dtype) == ((50, 3, 16, 16), torch.float32)
    assert (audio.shape, audio.dtype) == ((50, 1, 16, 16), torch.float32)


def test_same_arguments_give_the_same_bits():
    one, two = PairedData(**SMALL), PairedData(**SMALL)
    for a, b in ((one.training(3, 7), two.training(3, 7)), (one.held_out("test"), two.held_out("test"))):
        for x, y in zip(fields(a), fields(b), strict=True):
            assert torch.equal(x, y)


def test_a_sample_does_not_depend_on_how_many_there_are():
    few, many = PairedData(**SMALL), PairedData(**SMALL | {"training": 90, "test": 70})
    for x, y in zip(fields(few.training(1, 5)), fields(many.training(1, 5)), strict=True):
        torch.testing.assert_close(x, y[:60], rtol=0, atol=0)


def test_training_noise_is_new_every_epoch_and_seed_but_classes_stay():
    data = PairedData(**SMALL)
    first, second, third = (fields(data.training(*arguments)) for arguments in ((1, 5), (2, 5), (1, 6)))
    assert torch.equal(first[0], second[0]) and torch.equal(first[0], third[0])
    for x, y, z in zip(first[2:], second[2:], third[2:], strict=True):
        assert not torch.equal(x, y) and not torch.equal(x, z) and not torch.equal(y, z)


def test_splits_and_data_seeds_are_disjoint():
    data = PairedData(**SMALL)
    images = [data.training(1, 0).image_N3HW, data.held_out("validation").image_N3HW, data.held_out("test").image_N3HW,
              PairedData(**SMALL, data_seed=1).held_out("test").image_N3HW]  # fmt: skip
    distinct = torch.cat([x.flatten(1) for x in images if x is not None]).unique(dim=0)
    assert len(distinct) == 60 + 40 + 50 + 50


def test_tokens_name_class_and_bins_but_for_clutter():
    data = PairedData(**SMALL | {"test": 3000}, clutter=0.3)
    label, _, text, *_ = fields(data.held_out("test"))
    kept = (text[:, :4] == label[:, None]).double().mean().item()
    expected = 0.7 + 0.3 / 1000
    assert abs(kept - expected) < 5 * math.sqrt(0.21 / 12_000)
    clean = fields(PairedData(**SMALL, clutter=0.0).held_out("test"))[2]
    for f in range(4):
        words = clean[:, 4 + 2 * f : 6 + 2 * f]
        assert torch.equal(words[:, 0], words[:, 1])
        assert ((words >= 20 + 16 * f) & (words < 20 + 16 * (f + 1))).all()


def test_copies_of_a_factor_correlate_by_one_minus_noise():
    data = PairedData(**SMALL | {"test": 4000}, noise=0.3)
    a, b = (data._copy(data._fixed_noise("test"), kind)[:, 0].double().numpy() for kind in (Kind.IMAGE, Kind.AUDIO))
    assert abs(np.corrcoef(a, b)[0, 1] - 0.7) < 5 * (1 - 0.49) / math.sqrt(4000)
    assert scipy.stats.kstest(a, "norm").pvalue > 1e-4


def test_image_audio_information_is_the_ratio_of_normal_densities():
    data = PairedData(**SMALL, noise=0.2, classes=3, factors=2)
    scores = data.matcher_scores("test", "image", "audio")
    noise = data._fixed_noise("test")
    x, y = data._copy(noise, Kind.IMAGE).double().numpy(), data._copy(noise, Kind.AUDIO).double().numpy()
    label = data.held_out("test").label_N
    joint = scipy.stats.multivariate_normal(cov=[[1, 0.8], [0.8, 1]])
    for i, j in ((0, 0), (3, 7), (10, 2), (20, 41)):
        if label[i] != label[j]:
            assert scores[i, j] == -math.inf
            continue
        ratio = sum(
            joint.logpdf([x[i, f], y[j, f]]) - scipy.stats.norm.logpdf([x[i, f], y[j, f]]).sum() for f in (0, 1)
        )
        assert scores[i, j].item() == pytest.approx(ratio + math.log(3))


def test_text_information_is_the_likelihood_ratio_found_by_simulation():
    """One factor, two bins, one class: P(tokens | z) by drawing the text's copy of the factor a million times."""
    data = PairedData(**SMALL, noise=0.3, classes=1, factors=1, bins=2, clutter=0.2, vocab_size=5)
    scores = data.matcher_scores("test", "text", "image")
    text, z = data.held_out("test").text_NL, data._copy(data._fixed_noise("test"), Kind.IMAGE)[:, 0].double()
    assert text is not None
    rng = np.random.default_rng(0)
    for i, j in ((0, 0), (1, 5), (2, 9)):
        upper = (0.7 * z[j].item() + math.sqrt(1 - 0.49) * rng.standard_normal(1_000_000) > 0).mean()
        words = np.array([1, 2])  # of the two bins; word 0 names the class
        seen = np.prod(0.8 * (text[i, 4:].numpy()[:, None] == words) + 0.2 / 5, axis=0)
        expected = math.log((seen * [1 - upper, upper]).sum() / seen.mean())
        assert scores[i, j].item() == pytest.approx(expected, abs=5e-3)


def test_scores_of_the_two_directions_are_transposed():
    data = PairedData(**SMALL)
    for a, b in (("text", "image"), ("text", "audio"), ("image", "audio")):
        forth, back = data.matcher_scores("test", a, b), data.matcher_scores("test", b, a)
        torch.testing.assert_close(forth, back.T, rtol=1e-9, atol=1e-9)


def test_no_plain_matcher_beats_the_ceiling():
    """Nearest neighbour by distance knows the same factors and is not better than the ranking by information."""
    data = PairedData(**SMALL | {"test": 600}, noise=0.15, classes=1, factors=3)
    noise = data._fixed_noise("test")
    x, y = (data._copy(noise, kind).double() for kind in (Kind.IMAGE, Kind.AUDIO))
    nearest = scores_of_matcher(-torch.cdist(x, y), torch.arange(600))["r1"]
    assert r1(data, "image", "audio") >= nearest


def test_ceiling_falls_with_noise_from_perfect_to_the_class_alone():
    rates = [r1(PairedData(**SMALL | {"test": 200}, noise=n), "image", "audio") for n in (1e-6, 0.1, 0.9999)]
    assert rates[0] == 100
    assert rates[0] > rates[1] > rates[2]
    assert 4 < rates[2] < 20  # 20 classes in a pool of 200: 10 % by the class alone


def test_ceiling_of_the_standard_recipe_leaves_room():
    table = ceiling(PairedData(image_size=8, audio_size=8), "test", MODALITIES)
    assert 85 < table["avg_r1"] < 97


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": 0}, "factors is 0; allowed is 1 to 6"),
        ({"factors": 7}, "factors is 7"),
        ({"noise": 0.0}, "noise=0.0"),
        ({"noise": 1.0}, "noise=1.0"),
        ({"clutter": 1.0}, "clutter=1.0"),
        ({"test": 0}, "'test': 0"),
        ({"vocab_size": 50}, "vocab_size=50 is too small; 84 words are needed"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str):
    with pytest.raises(ValueError) as error:
        PairedData(**SMALL | options)
    assert message in str(error.value)
