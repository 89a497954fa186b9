"""Samples and the defaults of a dataset."""

import torch

from bench.datasets.samples import SPLIT_KEYS, DataError, Dataset, HeldOut, Samples

SAMPLES = Samples(label_N=torch.tensor([5, 6, 7]), match_N=torch.arange(3), image_N3HW=torch.rand(3, 3, 2, 2))


class Fixed(Dataset):
    """The least a dataset must say."""

    @property
    def training_size(self) -> int:
        return len(SAMPLES)

    def training(self, epoch: int, noise_seed: int) -> Samples:
        return SAMPLES

    def held_out(self, split: HeldOut) -> Samples:
        return SAMPLES


def test_take_by_index_and_by_slice_leaves_absent_modalities_absent():
    for taken in (SAMPLES.take(torch.tensor([2, 1])), SAMPLES.take(torch.tensor([0, 2, 1])).take(slice(1, None))):
        assert taken.label_N.tolist() == [7, 6]
        assert taken.match_N.tolist() == [2, 1]
        assert taken.image_N3HW is not None
        assert SAMPLES.image_N3HW is not None
        torch.testing.assert_close(taken.image_N3HW, SAMPLES.image_N3HW[[2, 1]], rtol=0, atol=0)
        assert taken.text_NL is None
        assert taken.text_mask_NL is None
        assert taken.audio_N1FT is None
        assert len(taken) == 2


def test_to_moves_every_tensor():
    moved = SAMPLES.to("meta")
    assert moved.label_N.device.type == "meta"
    assert moved.image_N3HW is not None
    assert moved.image_N3HW.device.type == "meta"
    assert moved.audio_N1FT is None


def test_dataset_declares_no_ceiling_no_best_loss_and_no_digest_of_itself():
    assert Fixed().matcher_scores("test", "image", "text") is None
    assert Fixed().best_pair_loss(32) is None
    assert Fixed().digest is None


def test_split_keys_are_fixed():
    assert SPLIT_KEYS == {"training": 0, "validation": 1, "test": 2}


def test_data_error_is_a_value_error():
    assert issubclass(DataError, ValueError)
