"""A user's own text, image or clip becomes the row that the same text, file or clip of the set has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made_flickr8k import make_flickr8k
from torchvision.io import write_png

from bench.datasets.captioned import CaptionedData
from bench.datasets.samples import DataError
from bench.datasets.spoken_digits import SpokenDigits
from bench.datasets.tokenizers import CharacterTokenizer, train_byte_pairs

AUDIO: dict[str, Any] = {"frames": 64, "mels": 24, "hop": 320, "n_fft": 512}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_flickr8k(tmp_path_factory.mktemp("data") / "flickr8k", (4, 2, 2)).parent


@pytest.mark.parametrize("tokenizer", [{"kind": "character"}, {"kind": "bpe", "vocab_size": 300}])
def test_what_a_captioned_set_holds_is_encoded_as_it_holds_it(made: Path, tokenizer: dict):
    image = {"size": 32, "augment": "crop_flip"}
    data = CaptionedData(data_dir=made, kind="flickr8k", tokenizer=tokenizer, image=image, audio=AUDIO, text_length=60)
    lines = [line.split("\t") for line in (made / "flickr8k" / "Flickr8k.token.txt").read_text().splitlines()]
    name, caption = lines[-5][0].partition("#")[0], lines[-5][1]
    held = data.held_out("test").take(slice(5, 6))
    ids, mask = data.own_row("text", caption)
    assert torch.equal(ids, held.text_NL) and torch.equal(mask, held.text_mask_NL)
    assert data.captions(ids, mask) == [caption]
    image, nothing = data.own_row("image", str(made / "flickr8k" / "Flicker8k_Dataset" / name))
    assert nothing is None and image.shape == held.image_N3HW.shape
    assert data.pixels(image).min() >= 0 and data.pixels(image).max() <= 1
    clip = made / "flickr8k/flickr_audio/wavs" / f"{name.removesuffix('.jpg')}_0.wav"
    spectrum, frames = data.own_row("audio", str(clip))
    torch.testing.assert_close(spectrum, held.audio_N1FT, rtol=0, atol=2e-3)  # kept in float16
    assert torch.equal(frames, held.audio_mask_NT)


@pytest.mark.parametrize(
    ("modality", "source", "said"),
    [("image", "gone.png", "gone.png cannot be read"), ("audio", "gone.wav", "gone.wav"), ("text", "§§", "text '§§'")],
)
def test_what_cannot_be_read_is_named(made: Path, modality: Any, source: str, said: str):
    data = CaptionedData(data_dir=made, kind="flickr8k", tokenizer={"kind": "character"}, audio=AUDIO,
                         image={"size": 32, "augment": "none"})  # fmt: skip
    with pytest.raises(DataError, match=said):
        data.own_row(modality, source)


def test_digits_of_ones_own_are_made_like_the_sets(small_digits_dir: Path, tmp_path: Path):
    data = SpokenDigits(data_dir=small_digits_dir, training=8, validation=4, test=4)
    test = data.held_out("test")
    ids, mask = data.own_row("text", "The digit zero")
    row = data.captions(test.text_NL, test.text_mask_NL).index("the digit zero")
    assert torch.equal(ids[0], test.text_NL[row]) and torch.equal(mask[0], test.text_mask_NL[row])
    grey = (data.pixels(test.image_N3HW)[row][:, 2:-2, 2:-2] * 255).round().byte()  # without the padding to 32
    write_png(grey, str(tmp_path / "digit.png"))
    image, _ = data.own_row("image", str(tmp_path / "digit.png"))
    torch.testing.assert_close(image[0], test.image_N3HW[row], rtol=0, atol=1e-5)
    recording = next((small_digits_dir / "fsdd" / "recordings").glob("0_*_0.wav"))
    spectrum, _ = data.own_row("audio", str(recording))
    assert test.audio_N1FT is not None
    clips = [clip for clip in test.audio_N1FT if torch.allclose(clip, spectrum[0], rtol=0, atol=1e-3)]
    assert spectrum.shape == (1, 1, 32, 64) and len(clips) >= 1


def test_ids_are_decoded_to_their_text():
    texts = ["a red bar on green", "a red circle on a red ground"] * 3
    for tokenizer in (CharacterTokenizer(), train_byte_pairs(texts, 280)):
        for text in texts:
            assert tokenizer.decode([*tokenizer.encode(text), tokenizer.pad_id]) == text
