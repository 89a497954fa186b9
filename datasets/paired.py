"""`paired`: samples whose text, image and audio share instance factors, so that retrieval can be learnt.

A sample has a class c and F factors z_f ~ N(0, 1), the same in every epoch. Modality m sees a noisy copy of its own,

    z_mf = sqrt(1 - noise) z_f + sqrt(noise) e_mf,   e_mf ~ N(0, 1) independent,

and renders u_mf = Phi(z_mf), uniform on (0, 1), in the order of the factors:

* text: the class's word four times, then twice the word of each factor's bin; each token is replaced by any id with
  probability `clutter`.
* image: hue; direction of a brightness ramp; frequency of a grating; size, column and row of a disc. The class is a
  smooth pattern of colour. Clutter: the grating's phase.
* audio: tilt of the spectrum; attack of the envelope; spacing of the harmonics (pitch); rate of the pulses (rhythm);
  decay of the harmonics; depth of the pulses. The class is a smooth pattern. Clutter: the pulses' phase.

Pixels have Gaussian noise of deviation `pixel_noise`. The noise of training samples is drawn anew every epoch. Two
modalities' copies of a factor correlate by 1 - noise, which bounds what any matcher can do: see `matcher_scores`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from bench.datasets import noise as stream
from bench.datasets.samples import (
    MODALITIES,
    SPLIT_KEYS,
    Dataset,
    HeldOut,
    PixelLevels,
    Samples,
    SampleSource,
    Split,
    require_modalities,
)
from bench.datasets.words import TokenWords, token_words

# K classes, F factors, L tokens, V words, H × W pixels, F × T spectrogram, N samples.
MAX_FACTORS = 6
CLASS_SLOTS, FACTOR_SLOTS = 4, 2  # tokens that name the class, and each factor
EMBLEM_WAVES = 4  # a class's pattern is made of this many lowest cosines along each axis
PIXEL_LEVELS = PixelLevels(mean=(0.5, 0.5, 0.5), deviation=(1 / 8, 1 / 8, 1 / 8))


class Draw(IntEnum):
    """What a key draws; the last part of every key of this recipe, after seed and split (and epoch)."""

    CLASS = 0
    FACTORS = 1
    COPY = 2
    REPLACE = 3
    PHASE = 4
    PIXELS = 5
    EMBLEM = 6


class Kind(IntEnum):
    """A modality in a key, and in a pair."""

    TEXT = 0
    IMAGE = 1
    AUDIO = 2


@dataclass(frozen=True, slots=True)
class _Noise:
    """Where a split's noise comes from: its seed, split and epoch (0 for held-out splits)."""

    seed: int
    split: Split
    epoch: int


class PairedData(Dataset):
    """The recipe above, resident on `device`; `data_seed` fixes classes, factors, patterns and the held-out noise."""

    def __init__(
        self,
        *,
        training: int = 2000,
        validation: int = 500,
        test: int = 500,
        classes: int = 20,
        factors: int = 4,
        noise: float = 0.04,
        clutter: float = 0.05,
        pixel_noise: float = 0.1,
        bins: int = 16,
        vocab_size: int = 1000,
        image_size: int = 64,
        audio_size: int = 64,
        data_seed: int = 0,
        modalities: Sequence[str] = MODALITIES,
        device: torch.device | str = "cpu",
    ) -> None:
        counts = {"training": training, "validation": validation, "test": test, "classes": classes, "bins": bins}
        counts |= {"image_size": image_size, "audio_size": audio_size}
        if small := {name: value for name, value in counts.items() if value < 1}:
            raise ValueError(f"PairedData: {small} is too small; counts and sizes start at 1")
        if not 1 <= factors <= MAX_FACTORS:
            raise ValueError(f"PairedData: factors is {factors}; allowed is 1 to {MAX_FACTORS}")
        if not (0 < noise < 1 and 0 <= clutter < 1 and pixel_noise >= 0):
            raise ValueError(f"PairedData: {noise=}, {clutter=}, {pixel_noise=}; allowed are 0 < noise < 1, "
                             "0 <= clutter < 1 and pixel_noise >= 0")  # fmt: skip
        if classes + factors * bins > vocab_size:
            raise ValueError(f"PairedData: {vocab_size=} is too small; {classes + factors * bins} words are needed")
        self._sizes: dict[Split, int] = {"training": training, "validation": validation, "test": test}
        self._classes, self._factors, self._bins, self._vocab_size = classes, factors, bins, vocab_size
        self._noise, self._clutter, self._pixel_noise = noise, clutter, pixel_noise
        self._image_size, self._audio_size = image_size, audio_size
        self._data_seed, self._device = data_seed, torch.device(device)
        self._modalities = require_modalities(modalities)
        self._image_emblem_KCHW = self._emblems(Kind.IMAGE, channels=3, size=image_size)
        self._audio_emblem_KCFT = self._emblems(Kind.AUDIO, channels=1, size=audio_size)
        self._truth = {split: self._draw_truth(split) for split in SPLIT_KEYS}
        self._held_out = {split: self._render(self._fixed_noise(split)) for split in ("validation", "test")}

    @property
    def training_size(self) -> int:
        return self._sizes["training"]

    def training(self, epoch: int, noise_seed: int) -> Samples:
        return self._render(_Noise(noise_seed, "training", epoch))

    def held_out(self, split: HeldOut) -> Samples:
        return self._held_out[split]

    def words(self, training: SampleSource) -> TokenWords | None:
        """A token is a word: its id in digits."""
        return token_words(training, self._vocab_size)

    @property
    def pixel_levels(self) -> PixelLevels:
        """Pixels have no bounds; black and white are put where 99 % of them lie in between, at -4 and 4."""
        return PIXEL_LEVELS

    def matcher_scores(self, split: HeldOut, first: str, second: str) -> Tensor:
        """Pointwise mutual information of item i of `first` and item j of `second`, [N, N] float64.

        Ranking by it is Bayes-optimal for a matcher that sees a text's tokens and the factors an image or a clip was
        drawn with; phases and pixel noise can only lower what is reached from the pixels.
        """
        a, b = Kind[first.upper()], Kind[second.upper()]
        if a is Kind.TEXT:
            return self._text_information(split, b)
        if b is Kind.TEXT:
            return self._text_information(split, a).T
        return self._factor_information(split, a, b)

    # ------------------------------------------------------------------ what a sample is

    def _fixed_noise(self, split: HeldOut) -> _Noise:
        return _Noise(self._data_seed, split, 0)

    def _keys(self, split: Split, *parts: int) -> Tensor:
        indices_N = torch.arange(self._sizes[split], device=self._device)
        return stream.sample_keys(*parts, indices=indices_N)

    def _noise_keys(self, noise: _Noise, kind: Kind, draw: Draw) -> Tensor:
        return self._keys(noise.split, noise.seed, SPLIT_KEYS[noise.split], noise.epoch, kind, draw)

    def _draw_truth(self, split: Split) -> tuple[Tensor, Tensor]:
        """Classes [N] and factors [N, F]."""
        label_N = stream.integers(self._keys(split, self._data_seed, SPLIT_KEYS[split], Draw.CLASS), 1, self._classes)
        z_NF = stream.normal(self._keys(split, self._data_seed, SPLIT_KEYS[split], Draw.FACTORS), self._factors)
        return label_N[:, 0], z_NF

    def _copy(self, noise: _Noise, kind: Kind) -> Tensor:
        """The factors as a modality sees them, [N, F]."""
        own_NF = stream.normal(self._noise_keys(noise, kind, Draw.COPY), self._factors)
        _, z_NF = self._truth[noise.split]
        return math.sqrt(1 - self._noise) * z_NF + math.sqrt(self._noise) * own_NF

    def _emblems(self, kind: Kind, *, channels: int, size: int) -> Tensor:
        """Each class's fixed smooth pattern of unit mean square, [K, channels, size, size]."""
        keys_K = stream.sample_keys(self._data_seed, kind, Draw.EMBLEM, indices=torch.arange(self._classes))
        weight = stream.normal(keys_K, channels, EMBLEM_WAVES, EMBLEM_WAVES)
        place = (torch.arange(size) + 0.5) / size
        wave = torch.cos(math.pi * torch.arange(EMBLEM_WAVES)[:, None] * place)  # [waves, size]
        # Two operands at a time: with three the order, hence the last bit, depends on packages installed.
        pattern = torch.einsum("kcby,bx->kcyx", torch.einsum("kcab,ay->kcby", weight, wave), wave)
        return (pattern / pattern.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()).to(self._device)

    # ------------------------------------------------------------------ rendering

    def _render(self, noise: _Noise) -> Samples:
        label_N, _ = self._truth[noise.split]
        return Samples(
            label_N=label_N,
            match_N=torch.arange(len(label_N), device=self._device),
            text_NL=self._text(noise) if "text" in self._modalities else None,
            image_N3HW=self._image(noise) if "image" in self._modalities else None,
            audio_N1FT=self._audio(noise) if "audio" in self._modalities else None,
        )

    def _text(self, noise: _Noise) -> Tensor:
        label_N, _ = self._truth[noise.split]
        bin_NF = (torch.special.ndtr(self._copy(noise, Kind.TEXT)) * self._bins).long().clamp_(max=self._bins - 1)
        factor_word_NF = self._factor_words()[:, 0] + bin_NF
        words_NL = torch.cat([label_N[:, None].repeat(1, CLASS_SLOTS),
                              factor_word_NF.repeat_interleave(FACTOR_SLOTS, dim=1)], dim=1)  # fmt: skip
        length = words_NL.shape[1]
        draw_N2L = stream.uniform(self._noise_keys(noise, Kind.TEXT, Draw.REPLACE), 2 * length)
        any_id_NL = (draw_N2L[:, length:] * self._vocab_size).long()
        return torch.where(draw_N2L[:, :length] < self._clutter, any_id_NL, words_NL)

    def _factor_words(self) -> Tensor:
        """The word of each factor's bins, [F, bins]; words 0 … K − 1 name the classes."""
        words = self._classes + torch.arange(self._factors * self._bins, device=self._device)
        return words.view(self._factors, self._bins)

    def _rendered(self, noise: _Noise, kind: Kind) -> list[Tensor]:
        """Six values in (0, 1) a sample, each [N, 1, 1]; those beyond the recipe's factors are 0.5."""
        u_NF = torch.special.ndtr(self._copy(noise, kind))
        fixed = u_NF.new_full((len(u_NF), MAX_FACTORS - self._factors), 0.5)
        return [u[:, None, None] for u in torch.cat([u_NF, fixed], dim=1).unbind(1)]

    def _phase(self, noise: _Noise, kind: Kind) -> Tensor:
        """An angle uniform on ± pi · clutter, [N, 1, 1]."""
        unit_N1 = stream.uniform(self._noise_keys(noise, kind, Draw.PHASE), 1)
        return (math.pi * self._clutter * (2 * unit_N1 - 1)).float()[:, :, None]

    def _noisy(self, clean: Tensor, noise: _Noise, kind: Kind) -> Tensor:
        return stream.add_normal_(clean, self._noise_keys(noise, kind, Draw.PIXELS), self._pixel_noise)

    def _image(self, noise: _Noise) -> Tensor:
        hue, direction, frequency, size, column, row = self._rendered(noise, Kind.IMAGE)
        label_N, _ = self._truth[noise.split]
        axis = torch.linspace(-1, 1, self._image_size, device=self._device)
        x_HW, y_HW = axis[None, :], axis[:, None]
        turn = 1.5 * math.pi * direction  # three quarters of the circle, so that its ends stay apart; the hue likewise
        ramp = x_HW * torch.cos(turn) + y_HW * torch.sin(turn)
        grating = torch.sin(math.pi * (1 + 2 * frequency) * x_HW + self._phase(noise, Kind.IMAGE))
        distance = (x_HW - column + 0.5) ** 2 + (y_HW - row + 0.5) ** 2
        disc = torch.sigmoid(10 * (0.1 + 0.8 * size - distance))
        thirds = torch.arange(3, device=self._device)[:, None, None] / 3
        colour = torch.cos(1.5 * math.pi * hue[:, None] - 2 * math.pi * thirds)
        clean = self._image_emblem_KCHW[label_N] + colour + (ramp + grating + disc)[:, None]
        return self._noisy(clean, noise, Kind.IMAGE)

    def _audio(self, noise: _Noise) -> Tensor:
        tilt, attack, pitch, rhythm, decay, depth = self._rendered(noise, Kind.AUDIO)
        label_N, _ = self._truth[noise.split]
        axis = torch.linspace(0, 1, self._audio_size, device=self._device)
        f_FT, t_FT = axis[:, None], axis[None, :]
        harmonics = torch.cos(2 * math.pi * (2 + 4 * pitch) * f_FT) * torch.exp(-2 * decay * f_FT)
        pulse = torch.sin(2 * math.pi * (1 + 3 * rhythm) * t_FT + self._phase(noise, Kind.AUDIO))
        envelope = 2 * torch.exp(-4 * (t_FT - attack) ** 2)
        slope = (4 * tilt - 2) * (f_FT - 0.5)
        clean = self._audio_emblem_KCFT[label_N] + (harmonics + (0.5 + depth) * pulse + envelope + slope)[:, None]
        return self._noisy(clean, noise, Kind.AUDIO)

    # ------------------------------------------------------------------ the best possible matcher

    def _factor_information(self, split: HeldOut, a: Kind, b: Kind) -> Tensor:
        """ln p(x, y) / (p(x) p(y)) of bivariate normal factors of correlation r, and of equal classes."""
        x_NF, y_NF = (self._copy(self._fixed_noise(split), kind).double() for kind in (a, b))
        label_N, _ = self._truth[split]
        r = 1 - self._noise
        x, y = x_NF[:, None, :], y_NF[None, :, :]
        information = (y**2 - (y - r * x) ** 2 / (1 - r**2) - math.log(1 - r**2)) / 2
        same = label_N[:, None] == label_N[None, :]
        return torch.where(same, information.sum(dim=2) + math.log(self._classes), -math.inf)

    def _text_information(self, split: HeldOut, other: Kind) -> Tensor:
        """ln P(tokens | factors and class of the other modality) / P(tokens); [N texts, N others]."""
        text_NL = self.held_out(split).text_NL
        assert text_NL is not None
        label_N, _ = self._truth[split]
        z_NF = self._copy(self._fixed_noise(split), other).double()
        class_words = torch.arange(self._classes, device=self._device)
        seen_NK = self._likelihood(text_NL[:, :CLASS_SLOTS], class_words)
        information = (seen_NK[:, label_N] / seen_NK.mean(dim=1, keepdim=True)).log()
        for f, words in enumerate(self._factor_words()):
            at = CLASS_SLOTS + f * FACTOR_SLOTS
            seen_NB = self._likelihood(text_NL[:, at : at + FACTOR_SLOTS], words)
            bin_NB = self._bin_probability(z_NF[:, f])
            information += (seen_NB @ bin_NB.T / seen_NB.mean(dim=1, keepdim=True)).log()
        return information

    def _bin_probability(self, z_N: Tensor) -> Tensor:
        """P(the text's bin | another modality's copy z of the factor), [N, bins]."""
        inner = torch.special.ndtri(torch.arange(1, self._bins, dtype=torch.float64) / self._bins)
        edges = torch.cat([inner.new_tensor([-math.inf]), inner, inner.new_tensor([math.inf])]).to(z_N.device)
        r = 1 - self._noise
        return torch.special.ndtr((edges - r * z_N[:, None]) / math.sqrt(1 - r**2)).diff(dim=1)

    def _likelihood(self, tokens_NS: Tensor, words_V: Tensor) -> Tensor:
        """P(the tokens in these slots | the word that stood there before clutter) for each of `words_V`; [N, V]."""
        hit_NSV = (tokens_NS[:, :, None] == words_V).double()
        return ((1 - self._clutter) * hit_NSV + self._clutter / self._vocab_size).prod(dim=1)
