"""Batches that arrive changed: images, captions, spectrograms, mixtures; in training alone, and drawn by the seed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_flickr8k import make_flickr8k
from scipy.stats import beta, kstest
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from bench.checkpoint import Checkpoints, Keeper, StoppedError
from bench.datasets import noise
from bench.datasets.audio import spec_augment
from bench.datasets.captioned import CaptionedData
from bench.datasets.own_dataset import OwnDataset
from bench.datasets.samples import SPLIT_KEYS, Dataset, PixelLevels, Samples
from bench.datasets.tokenizers import CharacterTokenizer
from bench.errors import UsageError
from bench.execution import execute
from bench.plan import Run
from bench.protocol import Protocol
from bench.protocols import PROTOCOLS, changed
from bench.record import Outcome, RunRecord
from bench.registry import entry
from bench.runner import prepare
from bench.techniques import image_augmentation
from bench.techniques.augmentation import Augmented, augmented, masked_spectrograms
from bench.techniques.draws import TECHNIQUES, Draw
from bench.techniques.draws import keys as draw_keys
from bench.techniques.image_augmentation import (
    BRIGHTNESS,
    CONTRAST,
    LUMA,
    ORDERS,
    ImageDraws,
    changed_images,
    draw_images,
)
from bench.techniques.mixing import cut_mixed, mixed_batch
from bench.techniques.options import ImageAugmentation, MixUp, SpecAugment, Techniques, TextAugmentation
from bench.techniques.text_augmentation import changed_words
from bench.together import Member, Together
from bench.trainer import Trainer

CPU = torch.device("cpu")
LEVELS = PixelLevels(mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.3, 0.25))
TIMES = {"seconds", "memory", "environment", "finished", "command", "curve_sha256", "device_use"}
IMAGE: dict[str, Any] = {"size": 32, "augment": "none"}
AUDIO: dict[str, Any] = {"frames": 64, "mels": 24, "hop": 320, "n_fft": 512}


def keys(count: int, seed: int = 0) -> Tensor:
    return noise.sample_keys(seed, indices=torch.arange(count))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_flickr8k(tmp_path_factory.mktemp("data") / "flickr8k", (6, 3, 3)).parent


def flickr(made: Path, **changes: Any) -> CaptionedData:
    options = {"data_dir": made, "kind": "flickr8k", "image": IMAGE, "audio": AUDIO, "text_length": 40}
    return CaptionedData(**{**options, **changes})


def present(x: Tensor | None) -> Tensor:
    assert x is not None
    return x


# ---- images


def by_torchvision(image: Tensor, box: list[int], draws: ImageDraws, i: int) -> Tensor:
    """One image, one operation after the other."""
    mean, deviation = list(LEVELS.mean), list(LEVELS.deviation)
    top, left, height, width = box
    image = vision.resized_crop(image, top, left, height, width, list(image.shape[-2:]), antialias=True)
    image = vision.horizontal_flip(image) if draws.mirrored_N[i] else image
    level = vision.normalize(image, [-m / d for m, d in zip(mean, deviation, strict=True)], [1 / d for d in deviation])
    for operation in draws.order_N3[i].tolist():
        factor = float(draws.factor_N3[i, operation])
        if operation == BRIGHTNESS:
            level = vision.adjust_brightness(level, factor)
        elif operation == CONTRAST:
            level = vision.adjust_contrast(level, factor)
        else:
            level = vision.adjust_saturation(level, factor)
    level = vision.rgb_to_grayscale(level, num_output_channels=3) if draws.grey_N[i] else level
    return vision.normalize(level, mean, deviation)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 33)])
def test_images_are_what_torchvision_makes_of_them_one_by_one(height: int, width: int):
    """Float64, 1e-6: torchvision's resizing counts in other steps, and its factors are float32's."""
    level_N3HW = noise.uniform(keys(60), 3 * height * width).view(60, 3, height, width)
    images = (level_N3HW - torch.tensor(LEVELS.mean)[:, None, None]) / torch.tensor(LEVELS.deviation)[:, None, None]
    options = ImageAugmentation(grey=0.3)
    draws = draw_images(keys(60, 1), height, width, options)
    found = changed_images(images, draws, options, LEVELS)
    for i, (image, box) in enumerate(zip(images, draws.box_N4.tolist(), strict=True)):
        torch.testing.assert_close(found[i], by_torchvision(image, box, draws, i), rtol=0, atol=1e-6)
    assert {tuple(order) for order in draws.order_N3.tolist()} == set(ORDERS)


def test_draws_are_as_often_as_the_options_say():
    """4,000 images; five standard deviations of a share or a mean are allowed."""
    count, options = 4000, ImageAugmentation()
    draws = draw_images(keys(count), 64, 64, options)
    _, _, h, w = draws.box_N4.double().unbind(1)
    area, ratio = h * w / 64**2, w / h
    assert 0.68 < area.min() < 0.72 and 0.97 < area.max() <= 1
    assert 0.72 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.39
    assert abs(draws.mirrored_N.double().mean() - 0.5) < 5 * 0.5 / count**0.5
    assert abs(draws.grey_N.double().mean() - 0.1) < 5 * 0.3 / count**0.5
    assert 0.7 <= draws.factor_N3.min() < 0.71 and 1.29 < draws.factor_N3.max() <= 1.3
    assert (draws.factor_N3.mean(dim=0) - 1).abs().max() < 5 * 0.6 / (12 * count) ** 0.5
    orders = torch.tensor([ORDERS.index(tuple(order)) for order in draws.order_N3.tolist()]).bincount() / count
    assert (orders - 1 / 6).abs().max() < 5 * (5 / 36 / count) ** 0.5


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 1), st.integers(0, 2**62))
def test_a_part_lies_inside_of_any_image(height: int, width: int, smallest: float, seed: int):
    box = draw_images(keys(16, seed), height, width, ImageAugmentation(smallest_crop=smallest)).box_N4
    top, left, h, w = box.unbind(1)
    assert int(top.min()) >= 0 and int(left.min()) >= 0 and int(h.min()) >= 1 and int(w.min()) >= 1
    assert bool((top + h <= height).all()) and bool((left + w <= width).all())


def test_an_image_is_changed_alike_in_any_batch(monkeypatch: pytest.MonkeyPatch):
    """To the last bits of sums, which are made of other parts; and however many are changed at once."""
    images, options = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(0)), ImageAugmentation()
    whole = changed_images(images, draw_images(keys(9), 16, 16, options), options, PixelLevels())
    order = torch.tensor([7, 2, 2, 5])
    some = changed_images(images[order], draw_images(keys(9)[order], 16, 16, options), options, PixelLevels())
    torch.testing.assert_close(some, whole[order], rtol=0, atol=1e-6)
    monkeypatch.setattr(image_augmentation, "CACHED_VALUES", 1)
    alone = changed_images(images, draw_images(keys(9), 16, 16, options), options, PixelLevels())
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-6)
    assert not torch.allclose(whole, images, atol=0.1)


def test_an_augmentation_of_nothing_is_nothing():
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    options = ImageAugmentation(smallest_crop=1, flip=False, jitter=0, grey=0)
    assert torch.equal(changed_images(images, draw_images(keys(5), 16, 16, options), options, None), images)
    grey = ImageAugmentation(smallest_crop=1, flip=False, jitter=0, grey=1)
    found = changed_images(images, draw_images(keys(5), 16, 16, grey), grey, PixelLevels())
    expected = torch.einsum("nchw,c->nhw", images, torch.tensor(LUMA))[:, None].expand_as(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_colours_of_every_set_lie_between_its_black_and_white(made: Path):
    """All of them; of `paired`, whose pixels have no bounds, 98 %."""
    sets: dict[str, Dataset] = {
        name: PROTOCOLS[name].workload.build_dataset(None, CPU) for name in ("documents", "mini")
    }
    sets["flickr8k"] = flickr(made)
    for name, data in sets.items():
        levels, images = data.pixel_levels, present(data.training(1, 0).take(slice(0, 100)).image_N3HW)
        assert levels is not None
        level = images * torch.tensor(levels.deviation)[:, None, None] + torch.tensor(levels.mean)[:, None, None]
        inside = ((level >= -1e-5) & (level <= 1 + 1e-5)).double().mean()
        assert inside == 1 if name != "mini" else 0.98 < inside < 1, name
        assert level.std() > 0.05


# ---- captions

PALE = TextAugmentation(synonyms={"red": ("crimson", "ruby"), "car": ("motor car",)})
NO, YES = 0.99, 0.0  # draws that let a word be, and that do not


@pytest.mark.parametrize(
    ("text", "draws", "expected"),
    [
        ("a red car stops", [NO] + 4 * [YES, YES, YES], "a red car stops"),  # not this caption: 0.99 is not under 0.3
        ("a red car", [YES] + 3 * [YES, YES, YES], "a red car"),  # three words stay
        ("a red car stops", [YES, YES, 0.49, NO] + 3 * [NO, NO, NO], "red car stops"),  # the first half deletes
        ("a red car stops", [YES, NO, NO, NO, YES, 0.5, 0.0] + 2 * [NO, NO, NO], "a crimson car stops"),
        ("a red car stops", [YES, NO, NO, NO, YES, 0.5, 0.5] + 2 * [NO, NO, NO], "a ruby car stops"),  # ⌊0.5 · 2⌋ = 1
        ("a Red car stops", [YES, 0.09, 0.9, NO, 0.09, 0.9, 0.0, 0.1, NO, NO, NO, NO, NO], "a crimson car stops"),
        ("a red car stops", [YES] + 4 * [YES, YES, YES], "a red car stops"),  # nothing would be left of it
        ("one red car stops", [YES] + 2 * [NO, NO, NO] + [YES, NO, YES] + [NO, NO, NO], "one red motor car stops"),
    ],
)
def test_words_are_deleted_and_replaced_as_worked_by_hand(text: str, draws: list[float], expected: str):
    assert " ".join(changed_words(text.split(), draws, PALE)) == expected


def test_captions_are_changed_as_often_as_the_options_say():
    """6,000 captions of ten words: 30 % are looked at, of which 1 − 0.9¹⁰ = 65 % change; half of the words go."""
    words, table = [f"w{i}" for i in range(10)], {f"w{i}": (f"s{i}",) for i in range(10)}
    draws = noise.uniform(keys(6000), 31).tolist()
    found = [changed_words(words, own, TextAugmentation(synonyms=table)) for own in draws]
    assert abs(sum(each != words for each in found) / 6000 - 0.3 * (1 - 0.9**10)) < 0.03
    deleted, replaced = sum(10 - len(each) for each in found), sum(w[0] == "s" for each in found for w in each)
    assert abs(deleted / 60000 - 0.015) < 0.004 and abs(replaced / 60000 - 0.015) < 0.004
    plain = [changed_words(words, own, TextAugmentation()) for own in draws]  # without a table only the first half
    assert sum(10 - len(each) for each in plain) == deleted
    assert {w for each in plain for w in each} == set(words)


@settings(deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=3), max_size=8), st.integers(0, 2**62), st.floats(0, 1))
def test_changed_captions_keep_the_order_of_their_words(words: list[str], seed: int, share: float):
    options = TextAugmentation(captions=1, words=share)
    found = changed_words(words, noise.uniform(keys(1, seed), 1 + 3 * len(words))[0].tolist(), options)
    rest = iter(words)
    assert all(word in rest for word in found)  # a subsequence
    assert bool(found) == bool(words) and (len(words) > 3 or found == words)


@pytest.mark.parametrize("tokenizer", [{"kind": "character"}, {"kind": "bpe", "vocab_size": 300}])
@pytest.mark.parametrize("captions", ["all", "one"])
def test_changed_captions_become_tokens_anew(made: Path, tokenizer: dict[str, Any], captions: str):
    """Whatever the samples of an epoch are; a fresh tokenizer of the same captions gives the ids that came."""
    data = flickr(made, tokenizer=tokenizer, captions=captions, modalities=("text", "image"))
    options = TextAugmentation(captions=1, words=0.5, synonyms={"is": ("stays",)})
    source = data.training(2, 7)
    samples = augmented(source, data, Techniques(text_augmentation=options), 7, 2)
    before, after = source.take(slice(None)), samples.take(slice(None))
    ids_NL, mask_NL = present(after.text_NL), present(after.text_mask_NL)
    assert not torch.equal(present(before.text_NL), ids_NL)
    assert torch.equal(present(before.image_N3HW), present(after.image_N3HW))
    words, everything = data.words(source), torch.arange(len(source))
    assert words is not None
    draws = noise.uniform(draw_keys(7, Draw.TEXT, 2, everything), 40).tolist()
    for ids, mask, own, drawn in zip(ids_NL, mask_NL, words.of(everything), draws, strict=True):
        text = changed_words(own, drawn, options)
        assert all(torch.equal(*each) for each in zip((ids, mask), words.tokens(text), strict=True))
        if tokenizer["kind"] == "character":
            assert torch.equal(ids, CharacterTokenizer().encode_batch([" ".join(text)], 40)[0][0])
    some = torch.tensor([4, 1, 3])
    assert torch.equal(present(samples.take(some).text_NL), ids_NL[some])


def test_where_no_text_is_kept_a_token_is_a_word(tiny: Protocol):
    """Ids that stay keep their order; what a caption has lost is padding at its end."""
    data = tiny.workload.build_dataset(None, CPU)
    source = data.training(1, 0)
    options = TextAugmentation(captions=1, words=0.3, synonyms={str(i): ("7",) for i in range(20)})
    after = augmented(source, data, Techniques(text_augmentation=options), 0, 1).take(slice(None))
    lost = 0
    rows = zip(
        present(source.take(slice(None)).text_NL), present(after.text_NL), present(after.text_mask_NL), strict=True
    )
    for before, ids, mask in rows:
        real = ids[mask].tolist()
        lost += len(ids) - len(real)
        assert not ids[~mask].any() and not mask[len(real) :].any()
        left = iter(before.tolist())
        assert all(any(old == new or (old < 20 and new == 7) for old in left) for new in real)
    assert lost > 20


# ---- spectrograms


def test_masks_are_those_of_the_datasets_own_option():
    """The same code draws them; here the widths are shares, and the value is the clip's mean."""
    spectra = torch.rand(20, 1, 40, 100, generator=torch.Generator().manual_seed(0)) + 1
    options = SpecAugment(time_masks=2, time_width=0.2, frequency_masks=1, frequency_width=0.25)
    found = masked_spectrograms(spectra, None, keys(20), options)
    frames = torch.full((20,), 100)
    zeroed = spec_augment(spectra, frames, keys(20), time_masks=2, time_width=20, frequency_masks=1, frequency_width=10)
    assert torch.equal(found == spectra, zeroed != 0) and bool((zeroed == 0).any())
    mean = spectra.mean(dim=(1, 2, 3), keepdim=True).expand_as(spectra)
    torch.testing.assert_close(found[zeroed == 0], mean[zeroed == 0])


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(0, 1), st.integers(0, 2**62))
def test_a_clip_is_masked_within_its_own_frames(lengths: list[int], share: float, seed: int):
    """Padding stays; a time mask is no wider than its share of the real frames, and the mean is theirs."""
    mask = torch.arange(30) < torch.tensor(lengths)[:, None]
    spectra = torch.where(mask[:, None, None, :], torch.arange(240.0).view(1, 1, 8, 30) + 1, -5.0)
    options = SpecAugment(time_masks=1, time_width=share, frequency_masks=0, frequency_width=0)
    found = masked_spectrograms(spectra, mask, keys(len(lengths), seed), options)
    for own, new, length in zip(spectra, found, lengths, strict=True):
        assert torch.equal(new[..., length:], own[..., length:])
        columns = (new != own).any(dim=(0, 1)).nonzero().flatten().tolist()
        assert len(columns) <= length * share + 1e-9
        if columns:  # a run, but for values that are the mean
            assert columns[-1] - columns[0] < length * share + 1e-9
            torch.testing.assert_close(new[0, :, columns[0]], own[..., :length].mean().expand(8))


# ---- mixtures


def images_of(count: int, size: int = 8) -> Samples:
    ids = torch.arange(count)
    pixels = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return Samples(label_N=ids, match_N=ids, image_N3HW=pixels)


def test_mixup_is_the_sum_that_it_says():
    batch, options = images_of(6), MixUp()
    found, mixed = mixed_batch(batch, options, seed=1, step=3)
    assert mixed is not None and 0 < mixed.share < 1
    assert sorted(mixed.partner_B.tolist()) == list(range(6))
    own, other = present(batch.image_N3HW), present(batch.image_N3HW)[mixed.partner_B]
    torch.testing.assert_close(present(found.image_N3HW), mixed.share * own + (1 - mixed.share) * other)
    assert torch.equal(found.match_N, batch.match_N) and found.text_NL is None
    again, same = mixed_batch(batch, options, seed=1, step=3)
    assert same is not None and same.share == mixed.share
    assert torch.equal(present(again.image_N3HW), present(found.image_N3HW))
    assert mixed_batch(batch, None, seed=1, step=3) == (batch, None)


def test_shares_are_betas_and_partners_are_anybodys():
    batch = images_of(4, size=1)
    found = [mixed for step in range(800) if (mixed := mixed_batch(batch, MixUp(), seed=0, step=step)[1]) is not None]
    assert kstest([mixed.share for mixed in found], beta(0.2, 0.2).cdf).pvalue > 0.01
    pairs = torch.zeros(4, 4)
    for mixed in found:
        pairs[torch.arange(4), mixed.partner_B] += 1
    assert (pairs / 800 - 0.25).abs().max() < 5 * (3 / 16 / 800) ** 0.5


@settings(deadline=None)
@given(st.integers(0, 2**62), st.integers(0, 1000), st.floats(0.1, 5), st.integers(2, 12))
def test_cutmix_says_the_area_that_it_left(seed: int, step: int, alpha: float, size: int):
    """Every pixel is one's own or the partner's at the same place, and the share counts those that are own."""
    batch = images_of(5, size)
    found, mixed = mixed_batch(batch, MixUp(alpha=alpha, mode="cutmix"), seed, step)
    assert mixed is not None
    new, own = present(found.image_N3HW), present(batch.image_N3HW)
    kept = new == own
    assert torch.equal(new[~kept], own[mixed.partner_B][~kept])
    for i in (mixed.partner_B != torch.arange(5)).nonzero().flatten().tolist():
        assert float(kept[i].double().mean()) == pytest.approx(mixed.share, abs=1e-12)


def test_a_box_of_two_by_three_leaves_ten_sixteenths():
    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    mixed, share = cut_mixed(images, torch.tensor([1, 0]), slice(0, 2), slice(1, 4))
    assert share == 10 / 16
    assert mixed[0, 0].tolist() == [[0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert torch.equal(mixed[1], 1 - mixed[0])


# ---- runs


def with_techniques(protocol: Protocol, **techniques: dict[str, Any]) -> Protocol:
    return changed(protocol, {"techniques": techniques}, "test")


def run_of(protocol: Protocol, optimizer: str = "adamw", seed: int = 3) -> Run:
    spec = entry(optimizer)
    return Run(protocol=protocol, optimizer=spec.name, reference=optimizer, hyperparameters=dict(spec.defaults),
               seed=seed, source_digest=spec.source_digest)  # fmt: skip


def content(record: RunRecord) -> dict[str, Any]:
    return record.model_dump(exclude=TIMES)


CHANGED: dict[str, dict[str, Any]] = {
    "image_augmentation": {}, "text_augmentation": {"captions": 1.0, "words": 0.3}, "spec_augment": {"time_width": 0.3},
}  # fmt: skip


def in_pieces(run: Run, folder: Path) -> tuple[RunRecord, int]:
    """The record of a run that is stopped at each step after its first, and how often it was."""
    stops = 0
    while True:
        asked = iter([False, True])
        keeper = Keeper(Checkpoints(folder), steps=1, stopping=lambda a=asked: next(a, True))
        try:
            return execute(run, device=CPU, keeper=keeper), stops
        except StoppedError:
            stops += 1


@pytest.mark.parametrize(
    ("techniques", "optimizer"), [(CHANGED, "sgd"), (CHANGED | {"mixup": {}}, "schedule_free_adamw")]
)
def test_a_run_that_is_stopped_within_an_epoch_goes_on_with_the_same_bits(
    tiny: Protocol, tmp_path: Path, techniques: dict[str, dict[str, Any]], optimizer: str
):
    """Also of an optimizer that looks at an epoch's batches once more, for their statistics."""
    one_epoch = changed(tiny, {"epochs": 1}, "test")
    run = run_of(with_techniques(one_epoch, **techniques), optimizer)
    record, stops = in_pieces(run, tmp_path)
    assert record.outcome is Outcome.OK and stops == 2  # after the second and the third of four steps
    whole = execute(run, device=CPU)
    assert content(record) == content(whole)
    assert whole.loss != execute(run_of(one_epoch, optimizer), device=CPU).loss


def test_every_optimizer_of_a_block_gets_the_same_batches(tiny: Protocol, monkeypatch: pytest.MonkeyPatch):
    """A digest of every batch that a step is taken on, by optimizer; another seed gives others."""
    protocol = with_techniques(changed(tiny, {"epochs": 1}, "test"), mixup={}, **CHANGED)
    seen: list[list[float]] = []
    whole_step = Trainer._train_step

    def noted(trainer: Trainer, batch: Samples, *, watched: bool) -> Any:
        mixed, _ = mixed_batch(batch, protocol.techniques.mixup, trainer._noise_seed, trainer.step)
        seen[-1] += [float(x.double().sum()) for x in mixed.inputs().values()]
        return whole_step(trainer, batch, watched=watched)

    monkeypatch.setattr(Trainer, "_train_step", noted)
    for optimizer, seed in (("sgd", 0), ("muon", 0), ("sgd", 1)):
        seen.append([])
        assert execute(run_of(protocol, optimizer, seed), device=CPU).outcome is Outcome.OK
    assert len(seen[0]) == 4 * 3 and seen[0] == seen[1] != seen[2]


def test_a_run_gets_the_same_bits_beside_others(tiny: Protocol):
    protocol = with_techniques(tiny, **CHANGED)
    runs = [run_of(protocol, "adamw", 0), run_of(protocol, "sgd", 1), run_of(protocol, "gda2", 0)]

    def beside(chosen: list[Run]) -> list[dict[str, Any]]:
        records: dict[int, RunRecord] = {}

        def job(i: int, member: Member) -> None:
            records[i] = execute(chosen[i], device=CPU, member=member)

        Together().run([lambda member, i=i: job(i, member) for i in range(len(chosen))])
        return [content(records[i]) for i in range(len(chosen))]

    assert beside(runs) == [beside([run])[0] for run in runs]


def test_held_out_splits_and_plain_runs_know_nothing_of_it(tiny: Protocol):
    trainer, plain = Trainer(run_of(with_techniques(tiny, mixup={}, **CHANGED)), CPU), Trainer(run_of(tiny), CPU)
    for split in ("validation", "test"):
        found, expected = trainer.embeddings(split), plain.embeddings(split)
        assert all(torch.equal(found[name], x) for name, x in expected.items())
    source = plain.dataset.training(1, 0)
    assert augmented(source, plain.dataset, Techniques(mixup=MixUp()), 0, 1) is source
    assert TECHNIQUES not in SPLIT_KEYS.values()


def test_samples_are_changed_by_epoch_and_sample(tiny: Protocol):
    data = tiny.workload.build_dataset(None, CPU)
    options = Techniques(image_augmentation=ImageAugmentation(), spec_augment=SpecAugment())
    source = data.training(1, 0)
    of_epoch = [augmented(source, data, options, 0, epoch) for epoch in (1, 1, 2)]
    assert isinstance(of_epoch[0], Augmented) and len(of_epoch[0]) == 32
    one, again, later = (samples.take(slice(None)).inputs() for samples in of_epoch)
    some = of_epoch[0].take(torch.tensor([9, 30])).inputs()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert torch.equal(one["text"], later["text"]) and not torch.equal(one["audio"], later["audio"])
    torch.testing.assert_close(some["image"], one["image"][[9, 30]], rtol=0, atol=1e-6)
    assert torch.equal(some["audio"], one["audio"][[9, 30]])
    assert torch.equal(of_epoch[0].match_N, source.match_N) and torch.equal(of_epoch[0].label_N, source.label_N)


# ---- what does not go


class Pictures(torch.utils.data.Dataset):
    """Images whose colours nobody has explained, and captions of three tokens."""

    def __init__(self, split: str) -> None:
        del split

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"image": torch.rand(3, 16, 16), "text": torch.tensor([1, 2, 3])}


def test_a_set_of_ones_own_says_what_black_and_white_are():
    build: Callable[..., OwnDataset] = lambda **given: OwnDataset(  # noqa: E731
        reference=f"{__file__}:Pictures", modalities=("text", "image"), **given
    )
    assert build().pixel_levels is None
    assert build(pixel_mean=[0.5, 0.5, 0.5], pixel_deviation=[1, 1, 1]).pixel_levels == PixelLevels(
        mean=(0.5, 0.5, 0.5)
    )
    for wrong in ({"pixel_mean": [0, 0, 0]}, {"pixel_mean": [0, 0, 0], "pixel_deviation": [1, 0, 1]}):
        with pytest.raises(ValueError, match="allowed are three numbers each, deviations above 0, or neither"):
            build(**wrong)


TWO = {"workload": {"modalities": ["text", "audio"]}}
OWN = {"workload": {"dataset": "bench.datasets.own_dataset:OwnDataset", "modalities": ["text", "image"],
                    "dataset_options": {"reference": f"{__file__}:Pictures"}}}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "techniques", "message"),
    [
        (TWO, ["image_augmentation"], "technique image_augmentation: needs image, the workload has text, audio"),
        (TWO, ["mixup"], "technique mixup: needs image, the workload has text, audio"),
        (OWN, ["spec_augment"], "technique spec_augment: needs audio, the workload has text, image"),
        ({"workload": {"modalities": ["image", "audio"]}}, ["curriculum"], "technique curriculum: needs text"),
        (OWN, ["image_augmentation"], "what black and white are in the data's images is not known"),
        (OWN, ["text_augmentation"], "no caption has more than 3 words, and up to 3 stay as they are"),
        ({}, ["curriculum"], "every caption has 12 words; allowed are captions of different lengths"),
        ({}, ['text_augmentation.synonyms={"3": ["x"]}'], "'x' is no word; words are the tokens' ids, 0 to 999"),
        ({}, ['text_augmentation.synonyms={"Red": ["x"]}'], "allowed are a word in lower case and texts for it"),
        ({}, ["semantic_groups"], "the loss has one positive a sample; allowed is multi_positive"),
        ({}, ["semantic_groups", "multi_positive"], "size is 2 and no match id has more than 1 training samples"),
        ({}, ["semantic_groups.size=9", "multi_positive"], "size is 9; allowed is at most the batch's, 8"),
    ],
)  # fmt: skip
def test_what_does_not_go_is_said_in_one_line_before_anything_runs(
    tiny: Protocol, tmp_path: Path, changes: dict[str, Any], techniques: list[str], message: str
):
    protocol = changed(tiny, changes, "test")
    if "dataset" in changes.get("workload", {}):
        protocol = changed(protocol, {"primary_metric": "i2t_r1", "batch_size": 4}, "test")
    elif changes:
        first, second = (name[0] for name in changes["workload"]["modalities"])
        protocol = changed(protocol, {"primary_metric": f"{first}2{second}_r1"}, "test")
    with pytest.raises(UsageError) as caught:
        prepare("sgd", protocol=protocol, techniques=techniques, results=tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_nothing_is_augmented_twice_without_a_word(made: Path, tmp_path: Path):
    masks = {"time_masks": 1, "time_width": 8, "frequency_masks": 0, "frequency_width": 0}
    own = {"image": {"size": 32, "augment": "crop_flip"}, "audio": AUDIO | {"spec_augment": masks}}
    base = changed(PROTOCOLS["flickr8k_mini"], {"batch_size": 6, "workload": {
        "dataset_options": own, "model_options": {"image_size": 32}}}, "test")  # fmt: skip
    given: dict[str, Any] = {"protocol": base, "results": tmp_path, "data_dir": made}
    for technique, message in (
        ("image_augmentation", 'the workload has image.augment = "crop_flip" already; allowed is one of the two, or'),
        ("spec_augment", "the workload has audio.spec_augment of 1 \\+ 0 masks already; allowed is one of the two"),
    ):
        with pytest.raises(UsageError, match=message):
            prepare("sgd", techniques=[technique], **given)
    colours = ["image_augmentation.smallest_crop=1", "image_augmentation.flip=false"]
    assert prepare("sgd", techniques=colours, **given).runs
    off = {"dataset_options": {"image": {"augment": "none"}, "audio": {"spec_augment": {"time_masks": 0}}}}
    given["protocol"] = changed(base, {"workload": off}, "test")
    assert prepare("sgd", techniques=["image_augmentation", "spec_augment"], **given).runs


def test_real_captions_images_and_clips_are_trained_on(made: Path, tmp_path: Path):
    """One epoch of a made-up Flickr8k with everything on, stopped at each step."""
    unmasked = {"spec_augment": {"time_masks": 0, "frequency_masks": 0}}
    small = changed(PROTOCOLS["flickr8k_mini"], {"batch_size": 6, "epochs": 1, "workload": {
        "dataset_options": {"image": {"augment": "none"}, "audio": unmasked, "captions": "all"},
        "model_options": {"text_embed_dim": 16, "latent_dim": 16, "num_heads": 2, "memory_size": 16,
                          "audio_channels": [4, 4, 8, 8]}}}, "test")  # fmt: skip
    techniques = ["image_augmentation", "text_augmentation", "spec_augment", "curriculum"]
    run = prepare("adamw", seeds=1, protocol=small, results=tmp_path, data_dir=made, techniques=techniques).runs[0]
    record = execute(run, device=CPU, data_dir=made)
    keeper = Keeper(Checkpoints(tmp_path), steps=2, stopping=iter([False, True]).__next__)
    with pytest.raises(StoppedError):
        execute(run, device=CPU, data_dir=made, keeper=keeper)
    again = execute(run, device=CPU, data_dir=made, keeper=Keeper(Checkpoints(tmp_path), steps=2))
    assert record.outcome is Outcome.OK and content(again) == content(record)
    plain = run.model_copy(update={"protocol": small})
    assert execute(plain, device=CPU, data_dir=made).loss != record.loss
