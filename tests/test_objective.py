"""InfoNCE: known answers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.objective import info_nce, multi_positive_info_nce, pair_losses


def unit_vectors(cosines: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """a and b of unit length with a @ b.T = cosines: a is the identity, b's columns are the cosines and a rest."""
    cosine = torch.tensor(cosines, dtype=torch.float64)
    n = len(cosine)
    a = torch.cat([torch.eye(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)], dim=1)
    rest = torch.diag((1 - cosine.square().sum(dim=0)).sqrt())
    return a, torch.cat([cosine.T, rest], dim=1)


def test_two_by_two_identity():
    a, b = unit_vectors([[1, 0], [0, 1]])
    assert info_nce(a, b, 1.0).item() == pytest.approx(0.3132617, abs=1e-7)


def test_known_cosines():
    a, b = unit_vectors([[0.9, 0.1], [0.3, 0.8]])
    assert info_nce(a, b, 0.1).item() == pytest.approx(0.0026094766, abs=1e-10)


@pytest.mark.parametrize("batch", [2, 32])
def test_uniform_logits_give_ln_b(batch: int):
    same = torch.ones(batch, 4)
    assert info_nce(same, same, 0.07).item() == pytest.approx(math.log(batch))


@given(st.integers(1, 6), st.integers(1, 6))
def test_multi_positive_at_uniform_logits_is_ln_of_b_over_m(groups: int, m: int):
    same = torch.ones(groups * m, 3, dtype=torch.float64)
    match = torch.arange(groups).repeat_interleave(m)
    assert multi_positive_info_nce(same, same, 0.07, match).item() == pytest.approx(math.log(groups), abs=1e-12)


def test_multi_positive_with_single_positives_is_info_nce():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(9, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = info_nce(a, b, 0.07)
    torch.testing.assert_close(multi_positive_info_nce(a, b, 0.07, torch.arange(9)), expected, rtol=0, atol=1e-12)


def test_pairs_are_named_and_computed_in_float32():
    embeddings = {m: torch.ones(8, 4, dtype=torch.bfloat16) for m in ("text", "image", "audio")}
    losses = pair_losses(embeddings, torch.arange(8), temperature=0.07, multi_positive=False)
    assert set(losses) == {"image_text", "image_audio", "text_audio"}
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert sum(loss.item() for loss in losses.values()) == pytest.approx(3 * math.log(8), rel=1e-6)


def test_two_modalities_make_one_pair():
    embeddings = {"audio": torch.eye(4), "text": torch.eye(4)}
    assert set(pair_losses(embeddings, torch.arange(4), temperature=1, multi_positive=True)) == {"text_audio"}
