"""A query's nearest items are those of its embedding; the picture is drawn; what cannot be asked is said in a line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kept_weights import CPU

from bench.datasets.paired import PairedData
from bench.datasets.samples import DataError
from bench.datasets.spoken_digits import like_mnist
from bench.demo import Query, ask
from bench.evaluation import data_of, embeddings
from bench.weights import read_weights

PNG = b"\x89PNG\r\n\x1a\n"


def test_an_item_of_the_test_split_finds_what_its_embedding_is_nearest_to(bench, study, tmp_path: Path):
    file = study.runs[0] / "best.pt"
    done = bench("demo", file, "--item", 7, "--by", "audio", "-k", 4, "--json")
    assert done.code == 0, done.err
    found, weights = json.loads(done.out), read_weights(file)
    own = {name: F.normalize(x, dim=1) for name, x in
           embeddings(weights, data_of(weights, None, CPU), "test", CPU).items()}  # fmt: skip
    assert list(found["matches"]) == ["text", "image"]
    for name, matches in found["matches"].items():
        cosines = own[name] @ own["audio"][7]
        order = np.argsort(-cosines.numpy(), kind="stable")
        assert [match["item"] for match in matches] == order[:4].tolist()
        assert [match["similarity"] for match in matches] == pytest.approx(cosines[order[:4]].tolist())
        assert [match["belongs"] for match in matches] == [item == 7 for item in order[:4]]
        assert found["places"][name] == order.tolist().index(7) + 1
    assert (tmp_path / "demo.png").read_bytes().startswith(PNG) and "drawn in demo.png" in done.err


def test_the_picture_has_the_same_bytes_again(bench, study, tmp_path: Path):
    for name in ("one.png", "other.png"):
        done = bench("demo", study.runs[0] / "best.pt", "--item", 0, "--output", name)
        assert done.code == 0 and max(map(len, done.out.splitlines())) <= 80
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    assert "image, item 0 of the test split" in done.out and "text, nearest of 24; the first that belongs" in done.out


@pytest.mark.parametrize(
    ("options", "said"),
    [((), "the query is none; allowed is one of"), (("--item", 1, "--text", "x"), "the query is --text, --item"),
     (("--item", 24), "allowed are 0 to 23"), (("--item", -1), "--item -1"),
     (("--text", "a dog"), "PairedData takes no text of your own ('a dog'); allowed is an item"),
     (("--image", "x.png"), "PairedData takes no image"), (("--text", "x", "--by", "text"), "--by text"),
     (("--item", 1, "--output", "x.jpg"), "--output x.jpg: allowed is a file name that ends in .png"),
     (("--item", 1, "--output", "no/x.png"), "no is no folder"), (("--item", 1, "-k", 0), "-k")],
)  # fmt: skip
def test_what_cannot_be_asked_is_said_in_a_line(bench, study, tmp_path: Path, options: tuple, said: str):
    done = bench("demo", study.runs[0] / "best.pt", *options)
    assert done.code == 2 and done.out == "" and said in done.err and done.err.count("\n") == 1
    assert not list(tmp_path.glob("*.png"))


class _OfOneModality(PairedData):
    """Texts are what others have too: items 0 and 5 share theirs."""

    def held_out(self, split):
        samples = super().held_out(split)
        if samples.text_NL is not None:
            samples.text_NL[5] = samples.text_NL[0]
        return samples

    def own_row(self, modality, source):
        if modality != "text":
            raise DataError(f"{source} is broken")
        text_NL = super().held_out("test").text_NL
        assert text_NL is not None
        return text_NL[int(source), None], None


def test_equal_texts_are_one_match_and_a_text_of_the_split_knows_what_belongs(study, monkeypatch: pytest.MonkeyPatch):
    weights = read_weights(study.runs[0] / "best.pt")
    options = weights.head.protocol.workload.dataset_options
    dataset = _OfOneModality(**options)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr("bench.demo.data_of", lambda *given: dataset)
    found = ask(weights, Query(modality="image", item=5), count=10, data_dir=None, device=CPU)
    shared = [match for match in found.matches["text"] if match.copies > 1]
    assert [(match.copies, match.belongs) for match in shared] in ([(2, True)], [])
    every = ask(weights, Query(modality="image", item=5), count=24, data_dir=None, device=CPU).matches["text"]
    assert len(every) == 23 and sum(match.copies for match in every) == 24
    assert [match.belongs for match in every if match.copies == 2] == [True]
    asked = ask(weights, Query(modality="text", source="5"), count=24, data_dir=None, device=CPU)
    assert {match.item for match in asked.matches["image"] if match.belongs} == {0, 5}
    assert all(match.caption for match in asked.matches["image"])


def test_tokens_without_a_tokenizer_are_shown_as_runs():
    data = PairedData(training=4, validation=4, test=4)
    text = torch.tensor([[7, 7, 7, 7, 20, 20, 3, 0]])
    assert data.captions(text, text != 0) == ["7×4 20×2 3"]


def test_pixels_are_what_the_data_says_of_its_levels():
    data = PairedData(training=4, validation=4, test=4)
    levels = data.pixel_levels
    assert levels is not None
    values = [(level - levels.mean[0]) / levels.deviation[0] for level in (0.0, 0.25, 1.0, 1.5)]
    shown = data.pixels(torch.tensor(values).repeat(1, 3, 1, 1))
    assert shown[0, 0, 0].tolist() == pytest.approx([0.0, 0.25, 1.0, 1.0])


def test_pixels_of_unknown_levels_are_stretched_to_0_and_1(monkeypatch: pytest.MonkeyPatch):
    data = PairedData(training=4, validation=4, test=4)
    monkeypatch.setattr(PairedData, "pixel_levels", None)
    shown = data.pixels(torch.tensor([-2.0, 0.0, 2.0]).repeat(1, 3, 1, 1))
    assert shown[0, 0, 0].tolist() == [0.0, 0.5, 1.0]
    assert data.pixels(torch.ones(1, 3, 2, 2)).abs().max() <= 1  # of one grey


def test_a_drawn_digit_is_made_like_mnists():
    """A bar in ink, 40 high and 12 wide, in a corner of a white page: light on dark, 20 × 6, in the middle."""
    page = torch.full((120, 90), 250.0)
    page[5:45, 70:82] = 10.0
    digit = like_mnist(page)
    expected = torch.zeros(28, 28)
    expected[4:24, 11:17] = 255
    assert torch.equal(digit, expected)
    assert torch.equal(like_mnist(digit), digit)  # a digit of MNIST's size is one already
    assert like_mnist(torch.full((50, 50), 255.0)).sum() == 0
