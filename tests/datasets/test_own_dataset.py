"""A user's own dataset, by reference."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bench.datasets.own_dataset import OwnDataset
from bench.datasets.samples import DataError, ids_by_modality

SIZES = {"training": 6, "validation": 3, "test": 4}


class Pairs(torch.utils.data.Dataset):
    """Texts of one to three tokens and images; `fault` spoils item 1 of the test split."""

    faults: ClassVar[dict[str, dict[str, Any]]] = {
        "no image": {"text": torch.tensor([1])},
        "two axes": {"text": torch.tensor([1]), "image": torch.zeros(4, 4)},
        "other size": {"text": torch.tensor([1]), "image": torch.zeros(3, 5, 4)},
        "nan": {"text": torch.tensor([1]), "image": torch.full((3, 4, 4), torch.nan)},
        "empty text": {"text": torch.tensor([0, 0]), "image": torch.zeros(3, 4, 4)},
        "negative": {"text": torch.tensor([-1]), "image": torch.zeros(3, 4, 4)},
        "lonely match": {"text": torch.tensor([1]), "image": torch.zeros(3, 4, 4), "match": 3},
    }

    def __init__(self, split: str, fault: str | None = None, matched: bool = False) -> None:
        self.split, self.fault, self.matched = split, fault, matched

    def __len__(self) -> int:
        return SIZES[self.split]

    def __getitem__(self, i: int) -> Any:
        if self.fault and self.split == "test" and i == 1:
            return [1, 2] if self.fault == "no dict" else self.faults[self.fault]
        item = {"text": torch.arange(1, 2 + i % 3), "image": torch.full((3, 4, 4), float(i))}
        return item | ({"match": i // 2} if self.matched else {})


def build(text_length: int = 77, **arguments: Any) -> OwnDataset:
    return OwnDataset(reference="test_own_dataset:Pairs", arguments=arguments, modalities=("text", "image"),
                      text_length=text_length)  # fmt: skip


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this file were a module of the user's."""
    module = type(sys)("test_own_dataset")
    module.__dict__["Pairs"] = Pairs
    monkeypatch.setitem(sys.modules, "test_own_dataset", module)


def test_items_become_samples_and_texts_are_padded():
    data = build()
    samples = data.held_out("test").take(slice(None))
    assert samples.text_NL is not None and samples.text_mask_NL is not None and samples.image_N3HW is not None
    assert samples.text_NL.tolist() == [[1, 0, 0], [1, 2, 0], [1, 2, 3], [1, 0, 0]]
    assert samples.text_mask_NL.sum(dim=1).tolist() == [1, 2, 3, 1]
    assert samples.image_N3HW[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert samples.match_N.tolist() == [0, 1, 2, 3]
    assert data.training_size == 6 and data.network_options == {"vocab_size": 4}
    assert build(text_length=2).network_options == {"vocab_size": 3}


def test_matches_and_the_digest_are_the_users():
    assert build(matched=True).held_out("test").match_N.tolist() == [0, 0, 1, 1]
    assert set(ids_by_modality(build().pools("test"), "match")) == {"text", "image"}
    assert build().digest == build().digest != build(matched=True).digest


SOURCE = """
import random
import numpy as np
import torch

class Drawn:
    def __init__(self, split):
        self.images = torch.rand(4, 3, 2, 2)

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return {"text": torch.tensor([random.randrange(1, 99), np.random.randint(1, 99)]), "image": self.images[i]}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with data.py in it, which is not on Python's path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", ".")])
    (tmp_path / "drawn_data.py").write_text(SOURCE)
    yield tmp_path
    sys.modules.pop("drawn_data", None)


@pytest.mark.parametrize("reference", ["drawn_data:Drawn", "drawn_data.py:Drawn", "{}/drawn_data.py:Drawn"])
def test_a_set_of_the_current_folder_or_a_file_draws_the_same_whatever_the_seed(here: Path, reference: str):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        data = OwnDataset(reference=reference.format(here), modalities=("text", "image"))
        found.append((data, torch.rand(3), np.random.rand(), random.random()))
    (one, *draws), (two, *others) = found
    assert one.digest == two.digest
    assert all(not np.array_equal(a, b) for a, b in zip(draws, others, strict=True))  # the run's own draws go on
    images = [one.held_out(split).take(slice(None)).image_N3HW for split in ("validation", "test")]
    assert not torch.equal(*images)  # the splits do not draw alike


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("drawn_data.py", "dataset 'drawn_data.py': allowed are module:Class and file.py:Class"),
        ("nowhere.py:Drawn", "dataset 'nowhere.py:Drawn': cannot read nowhere.py: No such file"),
        ("no_such_module:Drawn", "dataset 'no_such_module:Drawn': cannot import module 'no_such_module'"),
        ("drawn_data.py:Other", "dataset 'drawn_data.py:Other': its module has no class 'Other'"),
    ],
)
def test_a_reference_that_leads_nowhere_is_named(here: Path, reference: str, message: str):
    with pytest.raises(ValueError) as error:
        OwnDataset(reference=reference, modalities=("text", "image"))
    assert str(error.value).startswith(message)


def test_a_length_of_no_token_is_refused():
    with pytest.raises(ValueError, match="text_length is 0; allowed is a count >= 1"):
        build(text_length=0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no dict", "item 1: is list; expected a dict with text, image"),
        ("no image", "item 1: has no image; keys are text"),
        ("two axes", "item 1: image has the shape (4, 4); expected 3 axes, none empty"),
        ("other size", "item 1: image has the shape (3, 5, 4); item 0 has (3, 4, 4)"),
        ("nan", "item 1: image is not finite"),
        ("empty text", "item 1: its text has no token but padding (0)"),
        ("negative", "item 1: text has the id -1; allowed are ids >= 0"),
        ("lonely match", "item 0: has no match; other items have one"),
    ],
)
def test_a_fault_is_named_by_split_and_item(fault: str, message: str):
    with pytest.raises(DataError) as error:
        build(fault=fault)
    assert str(error.value) == f"test_own_dataset:Pairs, test, {message}"
