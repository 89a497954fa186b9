"""Fashion-MNIST and CIFAR in torchvision's files, made small: classes as prompts, each a text of the pool once."""

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets as torchvision_sets

from bench.datasets.labelled_images import LabelledImages, prepare
from bench.datasets.samples import DataError, ids_by_modality
from bench.datasets.tokenizers import CharacterTokenizer
from bench.metrics import embedding_scores


def write_idx(path: Path, magic: int, items: np.ndarray) -> None:
    path.write_bytes(struct.pack(f">{1 + items.ndim}I", magic, *items.shape) + items.tobytes())


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """60 training and 20 test images, whose class is the place in the file modulo ten."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        write_idx(raw / f"{part}-images-idx3-ubyte", 0x803, rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{part}-labels-idx1-ubyte", 0x801, (np.arange(count) % 10).astype(np.uint8))
    return tmp_path


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six batches of four images each, and torchvision told what they hash to."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)

    def write(name: str, content: dict[str, Any]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()

    def batch(name: str) -> list[str]:
        data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        return [name, write(name, {"data": data, "labels": [0, 1, 2, 0]})]

    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(torchvision_sets.CIFAR10, "train_list", [batch(f"data_batch_{i}") for i in range(1, 6)])
    monkeypatch.setattr(torchvision_sets.CIFAR10, "test_list", [batch("test_batch")])
    monkeypatch.setattr(torchvision_sets.CIFAR10, "meta", {**torchvision_sets.CIFAR10.meta, "md5": meta})
    return tmp_path


def build(data_dir: Path | None, **changes: Any) -> LabelledImages:
    return LabelledImages(**{"data_dir": data_dir, "name": "fashion_mnist", "validation": 20, **changes})


def test_training_validation_and_test_images_are_disjoint_and_fixed(fashion: Path):
    data = build(fashion)
    assert (data.training_size, len(data.held_out("validation")), len(data.held_out("test"))) == (40, 20, 20)
    one, two = (build(fashion).training(1, 0).take(slice(None)) for _ in range(2))
    torch.testing.assert_close(one.image_N3HW, two.image_N3HW, rtol=0, atol=0)
    assert one.image_N3HW is not None and one.image_N3HW.shape == (40, 3, 32, 32)
    rows = torch.cat([one.image_N3HW, data.held_out("validation").take(slice(None)).image_N3HW]).flatten(1)
    assert len(rows.unique(dim=0)) == 60
    assert not torch.equal(build(fashion, data_seed=1).training(1, 0).label_N, one.label_N)


def test_the_pool_of_texts_is_one_prompt_a_class(fashion: Path):
    data = build(fashion)
    pools = data.pools("test")
    ids = ids_by_modality(pools, "match")
    assert ids["text"].sort().values.tolist() == list(range(10)) and len(ids["image"]) == 20
    texts = {tuple(ids_L[mask_L].tolist()) for pool in pools if (batch := pool.take(slice(None))).text_NL is not None
             for ids_L, mask_L in zip(batch.text_NL, batch.text_mask_NL, strict=True)}  # fmt: skip
    assert tuple(CharacterTokenizer().encode("a photo of a ankle boot")) in texts
    assert tuple(CharacterTokenizer().encode("a photo of a t-shirttop")) in texts  # a slash is not in the alphabet
    # Embeddings that name the class find every image's prompt, and for every prompt one of its images.
    perfect = {name: torch.nn.functional.one_hot(own, 10).float() for name, own in ids.items()}
    scores = embedding_scores(perfect, ids)
    assert scores["i2t_r1"] == scores["t2i_r1"] == 100
    assert data.network_options == {"vocab_size": 34}


def test_limit_and_digest(fashion: Path):
    assert build(fashion, limit=7).training_size == 7 and len(build(fashion, limit=7).held_out("test")) == 7
    assert build(fashion).digest == build(fashion).digest != build(fashion, prompt="{}").digest


def test_colour_images_keep_their_channels(cifar: Path):
    data = LabelledImages(data_dir=cifar, name="cifar10", validation=5, image_size=32)
    assert data.training_size == 15
    image = data.held_out("test").take(slice(None)).image_N3HW
    assert image is not None and not torch.equal(image[:, 0], image[:, 1])


def test_grey_becomes_three_channels_and_another_size():
    pixels = np.full((2, 28, 28, 1), 200, np.uint8)
    image = prepare(pixels, 16)
    assert image.shape == (2, 3, 16, 16) and image.dtype == torch.uint8 and bool((image == 200).all())


def test_files_that_are_missing_or_not_the_published_ones_are_named(fashion: Path, cifar: Path):
    with pytest.raises(DataError, match=r"cifar100: .* holds no cifar-100-python; expected the files as torchvision"):
        build(fashion, name="cifar100")
    (fashion / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"fashion_mnist: .*raw is not complete or damaged \(Dataset not found"):
        build(fashion)
    batch = cifar / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(batch.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"cifar10: .* is not complete or damaged"):
        build(cifar, name="cifar10", validation=5)


def test_fashion_mnist_whose_files_do_not_go_together_is_refused(fashion: Path):
    raw = fashion / "FashionMNIST" / "raw"
    labels = np.arange(20, dtype=np.uint8) % 10
    spoiled = {
        r"test file has 20 images and 19 labels; expected a label an image": labels[:19],
        r"test file has a label 10; expected 0 to 9": np.where(labels == 3, 10, labels).astype(np.uint8),
    }
    for message, content in spoiled.items():
        write_idx(raw / "t10k-labels-idx1-ubyte", 0x801, content)
        with pytest.raises(DataError, match=f"^fashion_mnist: .*raw: the {message}"):
            build(fashion)
    for content in (b"", b"<html>404</html>", b"\0\0\x08\x01\0\0\0\x14", bytes(100)):
        (raw / "t10k-labels-idx1-ubyte").write_bytes(content)
        with pytest.raises(DataError, match=r"^fashion_mnist: .*raw (is not complete or damaged|.*labels; expected)"):
            build(fashion)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "mnist"}, "name is 'mnist'; allowed are fashion_mnist, cifar10, cifar100"),
        ({"prompt": "a photo"}, "prompt is 'a photo'; allowed is a text with one {}"),
        ({"validation": 59}, "validation is 59; allowed is 2 to 58"),
        ({"limit": 1}, "limit is 1; allowed is a count >= 2"),
        ({"image_size": 0}, "image_size is 0; allowed is a count >= 1"),
        ({"modalities": ("text", "audio")}, "modalities are text, audio; allowed are two or more of text, image"),
        ({"data_dir": None}, "no data folder; pass --data-dir or set BENCH_DATA"),
    ],
)
def test_options_that_are_not_allowed_are_named(fashion: Path, changes: dict[str, Any], message: str):
    with pytest.raises(ValueError) as error:
        build(**{"data_dir": fashion, **changes})
    assert message in str(error.value)


def test_prompts_in_words_become_the_tokens_that_they_were_and_levels_are_the_files(fashion: Path):
    data = build(fashion)
    training = data.training(1, 0)
    samples, words = training.take(slice(None)), data.words(training)
    assert words is not None and samples.image_N3HW is not None and samples.text_NL is not None
    found = words.of(torch.arange(40))
    assert {" ".join(each) for each in found} >= {"a photo of a dress", "a photo of a t-shirt/top"}
    assert words.count_N.tolist() == [len(each) for each in found]
    for i in (0, 7, 39):
        assert torch.equal(words.tokens(found[i])[0], samples.text_NL[i])
    level = samples.image_N3HW * torch.tensor(data.pixel_levels.deviation)[:, None, None]
    level += torch.tensor(data.pixel_levels.mean)[:, None, None]
    torch.testing.assert_close((level * 255).round() / 255, level, rtol=0, atol=1e-5)  # whole levels of eight bits
    assert -1e-5 < level.min() < 0.05 and 0.95 < level.max() < 1 + 1e-5
