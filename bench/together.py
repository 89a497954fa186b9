"""Several runs at once in one process: their forward and backward passes are one, everything else is each its own.

A small network is bound by how many operators a step takes, not by their size, so K runs in one pass take little longer
than one. Every run goes its own way in a thread of its own, of which one works at a time; where it needs losses and
gradients, or embeddings, it waits until all others do, and a bank of the networks gives them to all. A run that ends
leaves the bank. What a run gets does not depend on which others are beside it, nor on how many (see `tests/test_bank`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bench.bank import Bank
from bench.checkpoint import StoppedError
from bench.datasets.samples import Dataset, HeldOut, Samples, SampleSource
from bench.seeding import GlobalGenerators
from bench.step import Evaluation

if TYPE_CHECKING:
    from bench.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run waits for: losses and gradients of a batch, or the embeddings of a split."""

    trainer: Trainer
    batch: Samples | None = None
    split: HeldOut | None = None


@dataclass(frozen=True, slots=True)
class _Made:
    """The samples of an epoch, and each run's share of the seconds that they took."""

    dataset: Dataset
    epoch: int
    samples: SampleSource
    share: float


class Member:
    """One of the runs, and the only way from its thread to the others."""

    def __init__(self, together: Together) -> None:
        self._together = together
        self.go = threading.Event()
        self.wanted: Wanted | None = None
        self.given: tuple[Any, float] = (None, 0.0)
        self.generators = GlobalGenerators()
        self.ended = False

    def evaluation(self, trainer: Trainer, batch: Samples) -> tuple[Evaluation, float]:
        """Losses and gradients of a batch, and by how many seconds the time just spent was not the run's own."""
        return self._ask(Wanted(trainer, batch=batch))

    def embeddings(self, trainer: Trainer, split: HeldOut) -> tuple[dict[str, Tensor], float]:
        """The embeddings of a split, and the same."""
        return self._ask(Wanted(trainer, split=split))

    def training(self, dataset: Dataset, epoch: int, noise_seed: int) -> tuple[SampleSource, float]:
        """The training samples of an epoch, made once for all runs of one noise seed, and the same."""
        before = time.perf_counter()
        samples, share = self._together.training(self, dataset, epoch, noise_seed)
        return samples, time.perf_counter() - before - share

    def _ask(self, wanted: Wanted) -> tuple[Any, float]:
        before = time.perf_counter()
        self.wanted = wanted
        self._together.hand_back(self)
        given, share = self.given
        if isinstance(given, BaseException):
            raise given
        return given, time.perf_counter() - before - share


class Together:
    """Carries out jobs of one protocol at once; each is told its place among them."""

    def __init__(self) -> None:
        self._back = threading.Event()
        self._bank: Bank | None = None
        self._noise_seeds: dict[Member, int] = {}
        self._made: dict[int, _Made] = {}  # by noise seed

    def run(self, jobs: Sequence[Callable[[Member], None]]) -> None:
        """Carry out the jobs; raises what a job raises, once the others have ended, which are told to stop then."""
        members = [Member(self) for _ in jobs]
        faults: list[BaseException] = []

        def work(member: Member, job: Callable[[Member], None]) -> None:
            member.go.wait()
            member.go.clear()
            member.generators.restore()
            try:
                job(member)
            except BaseException as error:  # told by the thread that asked for the jobs
                faults.append(error)
            member.ended = True
            self._back.set()

        threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in zip(members, jobs, strict=True)]
        for thread in threads:
            thread.start()
        own = GlobalGenerators()
        while alive := [member for member in members if not member.ended]:
            for member in alive:
                self._let(member)
            alive = [member for member in members if not member.ended]
            if faults:
                for member in alive:
                    member.given = StoppedError(), 0.0
            else:
                self._give(alive)
        own.restore()
        if faults:
            raise faults[0]

    def training(self, member: Member, dataset: Dataset, epoch: int, noise_seed: int) -> tuple[SampleSource, float]:
        """The samples of an epoch, and the seconds of making them that are the member's share."""
        self._noise_seeds[member] = noise_seed
        made = self._made.get(noise_seed)
        if made is None or made.epoch != epoch or made.dataset is not dataset:
            before = time.perf_counter()
            samples = dataset.training(epoch, noise_seed)
            sharing = sum(seed == noise_seed and not each.ended for each, seed in self._noise_seeds.items())
            made = _Made(dataset, epoch, samples, (time.perf_counter() - before) / sharing)
            self._made[noise_seed] = made
        return made.samples, made.share

    def hand_back(self, member: Member) -> None:
        """End a member's turn, and wait for the next; called by its own thread."""
        member.generators = GlobalGenerators()
        self._back.set()
        member.go.wait()
        member.go.clear()
        member.generators.restore()

    def _let(self, member: Member) -> None:
        """A member's turn: until it waits for something, or has ended."""
        self._back.clear()
        member.go.set()
        self._back.wait()

    def _give(self, members: Sequence[Member]) -> None:
        """What the members wait for, to all whose needs are alike at once."""
        kinds: dict[object, list[Member]] = {}
        for member in members:
            assert member.wanted is not None
            batch = member.wanted.batch
            kinds.setdefault(member.wanted.split if batch is None else len(batch), []).append(member)
        for alike in kinds.values():
            before = time.perf_counter()
            wanted = [member.wanted for member in alike if member.wanted is not None]
            try:
                given: Sequence[Any] = self._computed(wanted)
            except Exception as error:  # every run that was to have it ends with it
                given = [error] * len(alike)
            share = (time.perf_counter() - before) / len(alike)
            for member, own in zip(alike, given, strict=True):
                member.given = own, share

    def _computed(self, wanted: Sequence[Wanted]) -> Sequence[Any]:
        trainers = [each.trainer for each in wanted]
        if self._bank is None or self._bank.trainers != trainers:
            self._bank = Bank(trainers)
        first = wanted[0]
        if first.split is not None:
            return self._bank.embeddings(first.split)
        return self._bank.evaluations([each.batch for each in wanted if each.batch is not None])
