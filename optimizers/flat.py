"""The state of many parameters in a few long vectors, so that a step is a few passes over them.

Parameters of one age (number of steps taken) and shape lie one behind the other. A *block* is a stretch of one shape,
seen as [rows, columns]: several whole tensors, or a part of one that is large. A *range* is a run of blocks of one age
that fits into the cache, and the unit of the elementwise work: operations that follow each other on one range find it
there, which saves most of the traffic that a pass over everything would cost. On a GPU a range has no limit.

Every parameter's own state holds views of the vectors, so that `state_dict`, copies and resuming see an ordinary
optimizer; vectors are laid out anew, from those views, when another set of parameters has gradients.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

RANGE_ELEMENTS = 2**19  # measured on CPUs with 1 to 2 MB of cache a core: half and double cost 10 % more
LONG_ROW = 2**15  # from here on one matrix-vector product after another is as fast as a batch of them


def wide(x: Tensor) -> Tensor:
    """`x` in the dtype of inner products and solves: float32, or float64 where `x` is float64. No copy if it is so."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


@dataclass(frozen=True, slots=True)
class Block:
    """Elements start … stop of a range as [rows, columns]; row i belongs to tensor first + i of the layout."""

    start: int
    stop: int
    first: int
    rows: int

    def of(self, x: Tensor) -> Tensor:
        """The block of a range's vectors [q, n] tensor by tensor: [rows, q, columns]."""
        return x[:, self.start : self.stop].unflatten(1, (self.rows, -1)).transpose(0, 1)

    def tensors(self, x: Tensor) -> Tensor:
        """The entries of x [tensors, ...] for the block's rows."""
        return x[self.first : self.first + self.rows]


def add_products_(sums: Tensor, xs: Tensor, y: Tensor) -> None:
    """Add the inner products of a block's vectors, xs [rows, q, columns] with y [rows, 1, columns], to sums [rows, q].

    Products are taken in the dtype of the sums.
    """
    xs, y = xs.to(sums.dtype), y.to(sums.dtype)
    if y.shape[2] < LONG_ROW:
        sums.unsqueeze(2).baddbmm_(xs, y.transpose(1, 2))
    else:
        for own, some, other in zip(sums, xs, y, strict=True):
            own.addmv_(some, other[0])


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements low … high of tensor `index` of the layout; `whole` where that is all of it."""

    index: int
    low: int
    high: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Range:
    """A run of blocks of one age, and the pieces of tensors that lie in it."""

    start: int
    stop: int
    age: int
    blocks: tuple[Block, ...]
    pieces: tuple[Piece, ...]

    def of(self, x: Tensor) -> Tensor:
        """The range of a vector [..., n]."""
        return x[..., self.start : self.stop]


@dataclass(frozen=True, slots=True)
class Stack:
    """All tensors of one age and shape: elements start … stop, tensors first … first + count of the layout."""

    shape: torch.Size
    start: int
    stop: int
    first: int
    count: int
    age: int

    def of(self, x: Tensor) -> Tensor:
        """The stack's part of a vector [n] as [count, *shape]."""
        return x[self.start : self.stop].view((self.count, *self.shape))

    def parts(self, limit: int) -> Iterator[slice]:
        """Slices of the stack's tensors with about `limit` elements: temporaries of that size stay in the cache."""
        count = max(1, limit // max(1, self.shape.numel()))
        for first in range(0, self.count, count):
            yield slice(first, first + count)


def stacks_of(tensors: Sequence[Tensor], ages: Sequence[int]) -> list[Stack]:
    """The stacks of tensors that are ordered by age and shape."""
    stacks, start, first = [], 0, 0
    for (age, shape), members in itertools.groupby(zip(ages, (w.shape for w in tensors), strict=True)):
        count = len(list(members))
        stop = start + count * shape.numel()
        stacks.append(Stack(shape, start, stop, first, count, age))
        start, first = stop, first + count
    return stacks


def parts_of(stack: Stack, tensors: Sequence[Tensor], limit: int) -> Iterator[list[Piece]]:
    """A stack in parts of whole tensors or of a piece of one; of at most `limit` elements where tensors can be cut."""
    columns = stack.shape.numel()
    rows = max(1, limit // max(1, columns))
    for first in range(stack.first, stack.first + stack.count, rows):
        last = min(first + rows, stack.first + stack.count)
        width = limit if columns > limit and tensors[first].is_contiguous() else columns
        for low in range(0, columns, max(1, width)):
            high = min(low + width, columns)
            yield [Piece(i, low, high, whole=high - low == columns) for i in range(first, last)]


def ranges_of(stacks: Sequence[Stack], tensors: Sequence[Tensor], limit: int) -> Iterator[Range]:
    """The ranges of a layout: neighbouring parts of one age, together of at most `limit` elements, or a single part."""
    start = 0
    for age, members in itertools.groupby(stacks, lambda stack: stack.age):
        parts: list[list[Piece]] = []
        size = 0
        for part in itertools.chain.from_iterable(parts_of(stack, tensors, limit) for stack in members):
            length = sum(p.high - p.low for p in part)
            if parts and size + length > limit:
                yield _range(start, age, parts)
                start, parts, size = start + size, [], 0
            parts.append(part)
            size += length
        if size:
            yield _range(start, age, parts)
            start += size


def _range(start: int, age: int, parts: Sequence[list[Piece]]) -> Range:
    blocks = tuple(_blocks(parts))
    return Range(start, start + blocks[-1].stop, age, blocks, tuple(itertools.chain.from_iterable(parts)))


def _blocks(parts: Sequence[list[Piece]]) -> Iterator[Block]:
    """The blocks of a range's parts."""
    start = 0
    for part in parts:
        stop = start + sum(p.high - p.low for p in part)
        yield Block(start, stop, part[0].index, len(part))
        start = stop


class FlatState:
    """The vectors of some parameters of one dtype and device, and their layout.

    `vectors[name]` is [*lead, n] for the leads given, zero at a parameter's first gradient; `products[name]` is
    [tensors, *shape] in the dtype of inner products. `tensors` are the parameters in the layout's order.
    """

    WORKSPACE: ClassVar[tuple[str, ...]] = ("_scratch", "work", "more_work", "plan")  # of no meaning after a step

    def __init__(
        self,
        parameters: Sequence[Tensor],
        state: Mapping[Tensor, dict[str, Any]],
        *,
        vectors: Mapping[str, tuple[int, ...]],
        products: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._given = list(parameters)
        ages = [state[w].get("step", 0) for w in parameters]
        order = sorted(range(len(parameters)), key=lambda i: (ages[i], tuple(parameters[i].shape), i))
        self.tensors = [parameters[i] for i in order]
        self._states = [state[w] for w in self.tensors]
        self.stacks = stacks_of(self.tensors, [ages[i] for i in order])
        self._ages = [ages[i] for i in order]
        self._steps = 0
        like, n = self.tensors[0], self.stacks[-1].stop
        self.limit = RANGE_ELEMENTS if like.device.type == "cpu" else max(1, n)
        self.ranges = list(ranges_of(self.stacks, self.tensors, self.limit))
        self._scratch: list[Tensor] = []
        self.plan: Any = None  # what an optimizer prepares once for a layout
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        self.vectors = {name: like.new_zeros(*lead, n) for name, lead in vectors.items()}
        self.products = {name: like.new_zeros(len(order), *shape, dtype=wide) for name, shape in products.items()}
        self._views = list(self._take_in())
        self._kept = [(tuple(views), tuple(views.values())) for views in self._views]
        self._places = [(w.data_ptr(), w.stride()) for w in self.tensors]
        self._weights = {
            r.start: [_piece(w, p) for p in r.pieces for w in (self.tensors[p.index],)] for r in self.ranges
        }

    def _take_in(self) -> Iterator[dict[str, Tensor]]:
        """Views of each tensor's part, which replace what its state held, and take its content where shapes agree."""
        start = 0
        for index, (w, state) in enumerate(zip(self.tensors, self._states, strict=True)):
            stop = start + w.numel()
            views = {name: x[..., start:stop].view((*x.shape[:-1], *w.shape)) for name, x in self.vectors.items()}
            views |= {name: x[index] for name, x in self.products.items()}
            for name, view in views.items():
                if name in state and state[name].shape == view.shape:
                    view.copy_(state[name])
            state.setdefault("step", 0)
            state.update(views)
            yield views
            start = stop

    def is_of(self, parameters: Sequence[Tensor], state: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether these are the parameters, in this order, and their state still is the one laid out here."""
        same = len(parameters) == len(self._given) and all(map(operator.is_, parameters, self._given))
        return same and all(
            state[w] is known
            and known["step"] == age + self._steps
            and w.data_ptr() == place
            and w.stride() == strides
            and all(map(operator.is_, map(known.get, names), own))
            for w, known, age, (names, own), (place, strides) in zip(
                self.tensors, self._states, self._ages, self._kept, self._places, strict=True
            )
        )

    def release(self, parameters: Sequence[Tensor]) -> None:
        """Give the tensors that are not among `parameters` memory of their own, so that this state's can be freed."""
        staying = set(parameters)
        for w, state, views in zip(self.tensors, self._states, self._views, strict=True):
            if w not in staying:
                state.update({name: view.clone() for name, view in views.items() if state.get(name) is view})

    @cached_property
    def work(self) -> Tensor:
        """A vector [n] for the values of one step."""
        return self.tensors[0].new_empty(self.stacks[-1].stop)

    @cached_property
    def more_work(self) -> Tensor:
        """Another one."""
        return torch.empty_like(self.work)

    def advance(self) -> None:
        """Count a step of every parameter."""
        self._steps += 1
        for state in self._states:
            state["step"] += 1

    def t(self, part: Range | Stack) -> int:
        """The number of this step, 1, 2, …, for a part's parameters."""
        return part.age + self._steps

    def ages(self) -> Iterator[tuple[slice, int]]:
        """The positions of the tensors of every age, and the number of their step."""
        for _, members in itertools.groupby(self.stacks, lambda stack: stack.age):
            stacks = list(members)
            yield slice(stacks[0].first, stacks[-1].first + stacks[-1].count), self.t(stacks[0])

    def scratch(self, r: Range, count: int) -> list[Tensor]:
        """`count` vectors of the range's length with any content; every call hands out the same memory."""
        while len(self._scratch) < count:
            self._scratch.append(self.tensors[0].new_empty(max(each.stop - each.start for each in self.ranges)))
        return [x[: r.stop - r.start] for x in self._scratch[:count]]

    def gradient(self, r: Range, out: Tensor) -> Tensor:
        """The gradients of a range, contiguous, copied to `out` where they do not lie in one piece."""
        parts = [_flat_piece(self.tensors[p.index].grad, p).contiguous() for p in r.pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts, out=out)

    def weights(self, r: Range) -> list[Tensor]:
        """The pieces of the parameters that lie in a range; writing to them writes to the parameters."""
        return self._weights[r.start]

    def cut(self, r: Range, x: Tensor) -> list[Tensor]:
        """A vector of a range's length in views of the shapes of `weights`."""
        weights = self._weights[r.start]
        parts = x.split_with_sizes([w.numel() for w in weights])
        return [part if w.ndim == 1 else part.view(w.shape) for part, w in zip(parts, weights, strict=True)]


def _flat_piece(x: Tensor | None, piece: Piece) -> Tensor:
    """A piece of a tensor as a vector: a view where its strides allow one, which may be strided itself."""
    assert x is not None
    flat = x.detach().reshape(-1)
    return flat if piece.whole else flat[piece.low : piece.high]


def _piece(w: Tensor, piece: Piece) -> Tensor:
    """A view of a piece of a parameter: a vector, or the parameter as it is where it is not contiguous."""
    return _flat_piece(w, piece) if w.is_contiguous() else w.detach()
