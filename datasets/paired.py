"""`paired`: samples whose text, image and audio share instance factors, so that retrieval can be learnt.

A sample has a class c and F factors z_f ~ N(0, 1). Modality m sees its own noisy copy

    z_mf = ρ z_f + √(1 − ρ²) ε_mf,   ρ² = 1 − noise,   ε ~ N(0, 1) independent,

and renders u_mf = Φ(z_mf), uniform on (0, 1):

* text: each factor's bin as a word, each class word, in fixed slots; each token replaced with probability `clutter`.
* image: hue, grating frequency, blob column, blob row, blob size, grating contrast; the class is the grating's
  orientation; the grating's phase is clutter.
* audio: harmonic spacing (pitch), pulse rate (rhythm), harmonic decay, attack of the envelope, pulse depth, tilt; the
  class is the pattern of present harmonics; the pulses' phase is clutter.

Every pixel has Gaussian noise of standard deviation `pixel_noise`. The best possible matcher knows every modality's
z_m (of the text, its tokens) and scores a pair by its pointwise mutual information; see `matcher_scores`.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from bench.datasets import noise
from bench.datasets.samples import Dataset, HeldOut, Samples

SPLITS = {"training": 0, "validation": 1, "test": 2}
CLASS, FACTORS, TEXT, IMAGE, AUDIO = range(5)  # what a key is for
COPY, REPLACE, PHASE, PIXELS = range(4)  # and which of its draws
MAX_FACTORS = 6
import os

EMBLEM_WAVES=4
CLASS_AMP=float(os.environ.get('CA','1'))
CLASS_WORDS = int(os.environ.get('CW','6'))  # slots that name the class
FACTOR_WORDS = 2  # slots that name each factor


class PairedData(Dataset):
    """The recipe above; `noise` in [0, 1), `clutter` in [0, 1), 1 to 6 `factors`."""

    def __init__(
        self,
        *,
        training: int = 2000,
        validation: int = 500,
        test: int = 500,
        classes: int = 10,
        factors: int = 4,
        noise: float = 0.05,
        clutter: float = 0.1,
        pixel_noise: float = 0.1,
        bins: int = 16,
        vocab_size: int = 1000,
        image_size: int = 64,
        audio_size: int = 64,
        data_seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 1 <= factors <= MAX_FACTORS:
            raise ValueError(f"PairedData: factors is {factors}; allowed is 1 to {MAX_FACTORS}")
        if classes + factors * bins > vocab_size:
            raise ValueError(f"PairedData: vocab_size is {vocab_size}; {classes + factors * bins} words are needed")
        self._sizes = {"training": training, "validation": validation, "test": test}
        self._classes, self._factors, self._bins, self._vocab_size = classes, factors, bins, vocab_size
        self._correlation = 1 - noise  # between two modalities' copies of a factor: ρ²
        self._clutter, self._pixel_noise = clutter, pixel_noise
        self._image_size, self._audio_size = image_size, audio_size
        self._emblem_cache={}
        self._data_seed, self._device = data_seed, torch.device(device)

    @property
    def training_size(self) -> int:
        return self._sizes["training"]

    def training(self, epoch: int, noise_seed: int) -> Samples:
        return self._render("training", epoch, noise_seed)

    def held_out(self, split: HeldOut) -> Samples:
        return self._held_out[split]

    @cached_property
    def _held_out(self) -> dict[str, Samples]:
        return {split: self._render(split, 0, self._data_seed) for split in ("validation", "test")}

    def _keys(self, split: str, purpose: int, *parts: int) -> Tensor:
        indices = torch.arange(self._sizes[split], device=self._device)
        return noise.sample_keys(
            parts[0] if parts else self._data_seed, SPLITS[split], purpose, *parts[1:], indices=indices
        )

    def _truth(self, split: str) -> tuple[Tensor, Tensor]:
        """Classes [N] and factors [N, F], the same in every epoch."""
        label_N = noise.integers(self._keys(split, CLASS), 1, self._classes)[:, 0]
        return label_N, noise.normal(self._keys(split, FACTORS), self._factors)

    def _copy(self, split: str, modality: int, epoch: int, noise_seed: int) -> Tensor:
        """The factors as `modality` sees them, [N, F]."""
        _, z_NF = self._truth(split)
        own_NF = noise.normal(self._keys(split, modality, noise_seed, COPY, epoch), self._factors)
        return math.sqrt(self._correlation) * z_NF + math.sqrt(1 - self._correlation) * own_NF

    def _render(self, split: str, epoch: int, noise_seed: int) -> Samples:
        label_N, _ = self._truth(split)
        return Samples(
            label_N=label_N,
            match_N=torch.arange(len(label_N), device=self._device),
            text_NL=self._text(split, label_N, epoch, noise_seed),
            image_N3HW=self._image(split, label_N, epoch, noise_seed),
            audio_N1FT=self._audio(split, label_N, epoch, noise_seed),
        )

    def _words(self, label_N: Tensor, bin_NF: Tensor) -> Tensor:
        """Token ids without clutter: the class words, then each factor's words; [N, L]."""
        first_F = self._classes + torch.arange(self._factors, device=self._device) * self._bins
        return torch.cat([
            label_N[:, None].expand(-1, CLASS_WORDS), (first_F + bin_NF).repeat_interleave(FACTOR_WORDS, dim=1)
        ], dim=1)  # fmt: skip

    def _text(self, split: str, label_N: Tensor, epoch: int, noise_seed: int) -> Tensor:
        u_NF = torch.special.ndtr(self._copy(split, TEXT, epoch, noise_seed))
        words_NL = self._words(label_N, (u_NF * self._bins).long().clamp_(max=self._bins - 1))
        length = words_NL.shape[1]
        draw_NL = noise.uniform(self._keys(split, TEXT, noise_seed, REPLACE, epoch), 2 * length)
        other_NL = (draw_NL[:, length:] * self._vocab_size).long()
        return torch.where(draw_NL[:, :length] < self._clutter, other_NL, words_NL)

    def _rendered_factors(self, split: str, modality: int, epoch: int, noise_seed: int) -> list[Tensor]:
        """Six factors in (0, 1) as [N, 1, 1]; those beyond F are 0.5."""
        u_NF = torch.special.ndtr(self._copy(split, modality, epoch, noise_seed))
        fixed = torch.full((len(u_NF), MAX_FACTORS - self._factors), 0.5, device=self._device)
        return [u[:, None, None] for u in torch.cat([u_NF, fixed], dim=1).unbind(1)]

    def _phase(self, split: str, modality: int, epoch: int, noise_seed: int) -> Tensor:
        keys = self._keys(split, modality, noise_seed, PHASE, epoch)
        return (math.pi * self._clutter * (2 * noise.uniform(keys, 1) - 1)).float()[:, :, None]

    def _noisy(self, clean_NCHW: Tensor, split: str, modality: int, epoch: int, noise_seed: int) -> Tensor:
        keys = self._keys(split, modality, noise_seed, PIXELS, epoch)
        return clean_NCHW.add_(noise.normal(keys, *clean_NCHW.shape[1:]), alpha=self._pixel_noise)

    def _emblems(self, modality: int, channels: int, size: int) -> Tensor:
        """Each class's fixed smooth pattern, a sum of the lowest cosines, of unit mean square; [K, channels, size, size]."""
        if modality in self._emblem_cache: return self._emblem_cache[modality]
        keys_K = noise.sample_keys(self._data_seed, modality, indices=torch.arange(self._classes, device=self._device))
        weight = noise.normal(keys_K, channels, EMBLEM_WAVES, EMBLEM_WAVES)
        position = (torch.arange(size, device=self._device) + 0.5) / size
        basis = torch.cos(math.pi * torch.arange(EMBLEM_WAVES, device=self._device)[:, None] * position)
        pattern = torch.einsum("kcab,ay,bx->kcyx", weight, basis, basis)
        self._emblem_cache[modality]= pattern / pattern.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return self._emblem_cache[modality]

    def _image(self, split: str, label_N: Tensor, epoch: int, noise_seed: int) -> Tensor:
        hue, direction, frequency, size, column, row = self._rendered_factors(split, IMAGE, epoch, noise_seed)
        axis = torch.linspace(-1, 1, self._image_size, device=self._device)
        x_HW, y_HW = axis[None, :], axis[:, None]
        turn = 1.5 * math.pi * direction  # three quarters of the circle: its ends stay apart
        ramp = x_HW * torch.cos(turn) + y_HW * torch.sin(turn)
        phase = self._phase(split, IMAGE, epoch, noise_seed)
        grating = torch.sin(math.pi * (1 + 2 * frequency) * x_HW + phase)
        distance = (x_HW - column + 0.5) ** 2 + (y_HW - row + 0.5) ** 2
        disc = torch.sigmoid((0.1 + 0.8 * size - distance) * 10)
        thirds = torch.arange(3, device=self._device)[:, None, None] / 3
        colour = torch.cos(1.5 * math.pi * hue[:, None] - 2 * math.pi * thirds)
        return self._noisy(CLASS_AMP*self._emblems(IMAGE, 3, self._image_size)[label_N] + colour + (ramp + grating + disc)[:, None], split, IMAGE, epoch, noise_seed)

    def _audio(self, split: str, label_N: Tensor, epoch: int, noise_seed: int) -> Tensor:
        tilt, attack, pitch, rhythm, decay, depth = self._rendered_factors(split, AUDIO, epoch, noise_seed)
        axis = torch.linspace(0, 1, self._audio_size, device=self._device)
        f_FT, t_FT = axis[:, None], axis[None, :]
        harmonic = f_FT * (2 + 4 * pitch)  # number of the harmonic at this frequency
        phase = self._phase(split, AUDIO, epoch, noise_seed)
        pulses = (0.5 + depth) * torch.sin(2 * math.pi * (1 + 3 * rhythm) * t_FT + phase)
        lines = torch.cos(2 * math.pi * harmonic) * torch.exp(-2 * decay * f_FT)
        envelope = torch.exp(-4 * (t_FT - attack) ** 2)
        spectrogram = lines + pulses + 2 * envelope + (4 * tilt - 2) * (f_FT - 0.5)
        spectrogram = spectrogram + CLASS_AMP * self._emblems(AUDIO, 1, self._audio_size)[label_N, 0]
        return self._noisy(spectrogram[:, None], split, AUDIO, epoch, noise_seed)

    def matcher_scores(self, split: HeldOut, first: str, second: str) -> Tensor:
        """Pointwise mutual information of item i of `first` and item j of `second`, [N, N] float64.

        Ranking by it is Bayes-optimal for a matcher that reads the factors an image or a clip was drawn with; pixel
        noise and clutter phases can only lower what is reached from pixels.
        """
        if "text" not in (first, second):
            return self._pixel_scores(split, first, second)
        other = second if first == "text" else first
        scores = self._text_scores(split, {"image": IMAGE, "audio": AUDIO}[other])
        return scores if first == "text" else scores.T

    def _pixel_scores(self, split: HeldOut, first: str, second: str) -> Tensor:
        """Bivariate normal factors of correlation ρ², and equal classes."""
        codes = {"image": IMAGE, "audio": AUDIO}
        a_NF, b_NF = (self._copy(split, codes[m], 0, self._data_seed).double() for m in (first, second))
        r, label_N = self._correlation, self._truth(split)[0]
        a, b = a_NF[:, None, :], b_NF[None, :, :]
        information = b**2 / 2 - (b - r * a) ** 2 / (2 * (1 - r**2)) - math.log(1 - r**2) / 2
        same = label_N[:, None] == label_N[None, :]
        return torch.where(same, information.sum(dim=2) + math.log(self._classes), -math.inf)

    def _text_scores(self, split: HeldOut, modality: int) -> Tensor:
        """Tokens against the factors and class of the other modality; [N texts, N others]."""
        text_NL, label_N = self.held_out(split).text_NL, self._truth(split)[0]
        assert text_NL is not None
        z_NF, r = self._copy(split, modality, 0, self._data_seed).double(), self._correlation
        inner = torch.special.ndtri(torch.arange(1, self._bins, device=self._device, dtype=torch.float64) / self._bins)
        infinite = inner.new_tensor([math.inf])
        edges = torch.cat([-infinite, inner, infinite])
        classes = torch.arange(self._classes, device=self._device)
        seen_NK = self._token_likelihood(text_NL[:, :CLASS_WORDS], classes)
        scores_NN = (seen_NK[:, label_N] / seen_NK.mean(dim=1, keepdim=True)).log()
        for f in range(self._factors):
            below = torch.special.ndtr((edges - r * z_NF[:, f, None]) / math.sqrt(1 - r**2))
            bin_NB = below.diff(dim=1)  # P(text's bin | the other's factor)
            at = CLASS_WORDS + f * FACTOR_WORDS
            words = self._classes + f * self._bins + torch.arange(self._bins, device=self._device)
            seen_NB = self._token_likelihood(text_NL[:, at : at + FACTOR_WORDS], words)
            scores_NN += (seen_NB @ bin_NB.T / seen_NB.mean(dim=1, keepdim=True)).log()
        return scores_NN

    def _token_likelihood(self, tokens_NW: Tensor, words_V: Tensor) -> Tensor:
        """P(the tokens of the slots | the slots' true word) for each of `words_V`; [N, V] float64."""
        hit = (tokens_NW[:, :, None] == words_V).double()
        return ((1 - self._clutter) * hit + self._clutter / self._vocab_size).prod(dim=1)


Modality = Literal["text", "image", "audio"]
