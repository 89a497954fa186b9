"""A user's own dataset, by reference."""

from typing import Any, ClassVar

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
    import sys

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
