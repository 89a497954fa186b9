"""Dropout from one seeded stream: the masks of step t depend on (seed, t) and the order of the calls, on nothing else.

Sixteen random bits decide an element, four elements an integer draw, so a mask costs a fraction of one Bernoulli draw
an element. The probability is therefore a multiple of 2⁻¹⁶, and the scale 1/(1 − p) uses that multiple: E[output] =
input exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LANES = 4
LEVELS = 1 << 16


class DropoutStream:
    """The dropout masks of one run, in step order; `probability` in [0, 1)."""

    def __init__(self, probability: float, seed: int, device: torch.device | str = "cpu") -> None:
        if not 0 <= probability < 1:
            raise ValueError(f"DropoutStream: probability is {probability!r}; allowed is 0 <= probability < 1")
        dropped = round(probability * LEVELS)
        self._threshold = dropped - LEVELS // 2  # compared with signed 16-bit lanes
        self.scale = LEVELS / (LEVELS - dropped)
        self.active = dropped > 0
        self._seed = seed
        self._device = torch.device(device)
        self._generator = torch.Generator(self._device)

    def start_step(self, step: int) -> None:
        """Make the masks that follow those of `step`."""
        self._generator.manual_seed((self._seed + step * 0x9E3779B97F4A7C15) % (1 << 63))

    def place(self) -> Tensor:
        """Where among its masks the stream is."""
        return self._generator.get_state()

    def return_to(self, place: Tensor) -> None:
        """Make the masks that follow a `place` again."""
        self._generator.set_state(place)

    @property
    def step_seed(self) -> int:
        """What the step's masks are made from; for code that draws its own."""
        return self._generator.initial_seed()

    def __call__(self, x: Tensor) -> Tensor:
        """Zero elements of `x` and scale the rest."""
        return self._masked(x, x.shape) if self.active else x

    def channels(self, x_BCHW: Tensor) -> Tensor:
        """Zero whole channels of `x_BCHW` and scale the rest."""
        return self._masked(x_BCHW, (*x_BCHW.shape[:2], 1, 1)) if self.active else x_BCHW

    def _masked(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        count = torch.Size(shape).numel()
        words = torch.empty(-(-count // LANES), dtype=torch.int64, device=self._device)
        self.draw_(words)
        return x * self.factors(words.view(torch.int16)[:count], x.dtype).view(shape)

    def factors(self, lanes: Tensor, dtype: torch.dtype) -> Tensor:
        """What elements are multiplied with, by their 16 random bits: 0 below the threshold, else the scale.

        Integer arithmetic on 16-bit lanes: six times as fast as a comparison, whose booleans torch converts slowly.
        """
        below = self._threshold - 1
        return lanes.clamp(below, self._threshold).sub_(below).to(dtype).mul_(self.scale)

    def draw_(self, words: Tensor) -> None:
        """Fill int64 `words` with the stream's next random bits."""
        words.random_(-(1 << 63), None, generator=self._generator)


class ShareOfDropout:
    """The masks that a batch's rows `start` … `start + own` of `whole` get where the rest of it is elsewhere.

    The first axis of what is masked is those rows, or several batches one after the other (rows of all modalities).
    """

    def __init__(self, stream: DropoutStream, start: int, own: int, whole: int) -> None:
        self._stream, self._start, self._own, self._whole = stream, start, own, whole
        self.place, self.return_to = stream.place, stream.return_to

    @property
    def step_seed(self) -> int:
        """What these rows' masks of the step are made from; for code that draws its own."""
        return (self._stream.step_seed + (self._start + 1) * 0x9E3779B97F4A7C15) % (1 << 63)

    def __call__(self, x: Tensor) -> Tensor:
        """Zero elements of `x` and scale the rest."""
        return self._masked(x, x.shape)

    def channels(self, x_BCHW: Tensor) -> Tensor:
        """Zero whole channels of `x_BCHW` and scale the rest."""
        return self._masked(x_BCHW, (*x_BCHW.shape[:2], 1, 1))

    def _masked(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        if not self._stream.active:
            return x
        if shape[0] % self._own:
            raise ValueError(f"dropout on a tensor {list(x.shape)} of a part of a batch; its first axis has to be that "
                             f"of the {self._own} samples, or a multiple")  # fmt: skip
        batches = shape[0] // self._own
        count = batches * self._whole * torch.Size(shape[1:]).numel()
        words = torch.empty(-(-count // LANES), dtype=torch.int64, device=x.device)
        self._stream.draw_(words)
        rows = words.view(torch.int16)[:count].view(batches, self._whole, -1)
        own = rows[:, self._start : self._start + self._own]
        return x * self._stream.factors(own, x.dtype).reshape(tuple(shape))


class BankDropout:
    """The dropout masks of several runs at once, each from its own stream: those that it would get alone.

    All streams have one probability. Tensors have a leading axis of runs.
    """

    def __init__(self, streams: Sequence[DropoutStream]) -> None:
        self._streams = streams

    def start_step(self, step: int) -> None:
        """Make the masks that follow those of `step`."""
        for stream in self._streams:
            stream.start_step(step)

    def __call__(self, x: Tensor) -> Tensor:
        """Zero elements of `x` [K, …] and scale the rest."""
        return self._masked(x, x.shape)

    def channels(self, x_KBPC: Tensor) -> Tensor:
        """Zero whole channels of `x_KBPC` (places before channels) and scale the rest."""
        return self._masked(x_KBPC, (*x_KBPC.shape[:2], 1, x_KBPC.shape[3]))

    def _masked(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        if not self._streams[0].active:
            return x
        count = torch.Size(shape[1:]).numel()
        words = torch.empty(shape[0], -(-count // LANES), dtype=torch.int64, device=x.device)
        for stream, own in zip(self._streams, words, strict=True):
            stream.draw_(own)
        return x * self._streams[0].factors(words.view(torch.int16)[:, :count], x.dtype).view(tuple(shape))
