"""Stored weights looked at again: each file's metrics on its workload, and those of all together as an ensemble."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.bounds import ceiling, chance_level
from bench.datasets.samples import Dataset, HeldOut, ids_by_modality
from bench.embeddings import embeddings_alone, embeddings_together
from bench.errors import BadRecordError, UsageError
from bench.metrics import NonFiniteEmbeddingError, ensemble_scores
from bench.models.multimodal_memory_bank import NetworkBank
from bench.plan import settings_key
from bench.protocol import Protocol
from bench.ranking import recall_grain
from bench.seeding import torch_seeded
from bench.statistics.pairs import paired_t
from bench.step import autocast
from bench.study_changes import protocol_changes
from bench.test_time import TestTimeEffect, test_time_effect
from bench.trainer import resident_dataset, with_frozen_results
from bench.weights import Weights
from bench.worker import prepare_process
from bench.workloads import WORKLOADS

if TYPE_CHECKING:
    from bench.workload import Network, Workload

OWN_CODE = frozenset(text for own in WORKLOADS.values() for text in (own.dataset, own.model))
REFERENCE = re.compile(r"[\w./\\~ -]+:[A-Za-z_]\w*")
DATA_KEYS = ("workload.dataset", "workload.reads_files", "workload.modalities")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One file's metrics, or the ensemble's; `class_metrics` where any item of the query's class counts as found."""

    name: str
    epoch: int | None
    metrics: dict[str, float]
    class_metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The mean over files of what test-time training adds to the metric, with its 95 % t-interval."""

    files: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The files' rows, then that of the ensemble where there are several; what the metrics lie between.

    `test_time` is each file's effect of test-time training where it was asked for, `over_seeds` all of them together.
    """

    protocol: Protocol
    split: HeldOut
    rows: tuple[Row, ...]
    files: tuple[Path, ...]
    pools: dict[str, int]
    chance: dict[str, float]
    class_chance: dict[str, float]
    ceiling: dict[str, float]
    test_time: tuple[TestTimeEffect, ...] = ()
    over_seeds: Difference | None = None

    def to_json(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "protocol": {"name": self.protocol.name, "hash": self.protocol.hash}, "split": self.split,
            "rows": [asdict(row) for row in self.rows], "files": [str(path) for path in self.files],
            "pools": self.pools, "chance": self.chance, "class_chance": self.class_chance, "ceiling": self.ceiling,
            "test_time": [asdict(effect) for effect in self.test_time],
            "over_seeds": None if self.over_seeds is None else asdict(self.over_seeds),
        }  # fmt: skip


def evaluate(files: Sequence[Weights], *, split: HeldOut, data_dir: Path | None, device: torch.device) -> Evaluated:
    """The metrics of each file's network and of all together, ranked by the mean of their similarities.

    Raises `UsageError` where the files' data differ, or are not there as they were.
    """
    require_equal_data(files)
    first = files[0].head.protocol
    dataset = data_of(files[0], data_dir, device)
    found = [embeddings(weights, dataset, split, device) for weights in files]
    ids, labels = (ids_by_modality(dataset.pools(split), kind) for kind in ("match", "label"))
    members = [[own] for own in found] + ([found] if len(found) > 1 else [])
    try:
        metrics = [(ensemble_scores(each, ids), ensemble_scores(each, labels)) for each in members]
    except NonFiniteEmbeddingError as error:
        raise UsageError(f"{', '.join(str(each.path) for each in files)}: {error}; the run had diverged") from None
    modalities = first.workload.modalities
    titles = [(name, weights.head.epoch) for name, weights in zip(names(files), files, strict=True)]
    titles += [(f"ensemble of {len(files)}", None)] if len(files) > 1 else []
    return Evaluated(
        protocol=first, split=split, files=tuple(weights.path for weights in files),
        rows=tuple(Row(name=name, epoch=epoch, metrics=own, class_metrics=by_class)
                   for (name, epoch), (own, by_class) in zip(titles, metrics, strict=True)),
        pools={name: len(own) for name, own in ids.items()},
        chance=chance_level(dataset, split, modalities, "match"),
        class_chance=chance_level(dataset, split, modalities, "label"),
        ceiling=ceiling(dataset, split, modalities),
    )  # fmt: skip


def with_test_time(
    found: Evaluated, files: Sequence[Weights], *, data_dir: Path | None, device: torch.device
) -> Evaluated:
    """The same with the effects of test-time training; raises `UsageError` where a network cannot adapt."""
    metric, effects = found.protocol.primary_metric, []
    for weights in files:
        dataset = data_of(weights, data_dir, device)
        with as_in_the_run(weights):
            network = network_of(weights, dataset, device)
            precision = partial(autocast, weights.head.protocol, device)
            batch = weights.head.protocol.batch_size  # as many as it was trained on at once
            effects.append(test_time_effect(network, dataset, found.split, precision, metric=metric, batch=batch))
    together = None
    heads = [weights.head for weights in files]
    alike = {(head.optimizer, settings_key(head.hyperparameters), head.kind) for head in heads}
    if len(alike) == 1 and len({head.seed for head in heads}) == len(heads) > 1:  # else they are no sample of anything
        on, off = [each.on for each in effects], [each.off for each in effects]
        over = paired_t(on, off, grain=recall_grain(found.protocol))
        together = Difference(
            files=len(effects), mean=float(over.difference), low=float(over.low), high=float(over.high)
        )
    return replace(found, test_time=tuple(effects), over_seeds=together)


def names(files: Sequence[Weights]) -> list[str]:
    """A short name for each: optimizer, seed and which weights; with its number where two would be called alike."""
    short = [f"{each.head.optimizer} seed {each.head.seed} {each.head.kind}" for each in files]
    return [f"{name} #{i}" if short.count(name) > 1 else name for i, name in enumerate(short, 1)]


def embeddings(weights: Weights, dataset: Dataset, split: HeldOut, device: torch.device) -> dict[str, Tensor]:
    """Embeddings [N, D] of the split's items by modality, to the last bit those of the run on the same kind of machine.

    Items come pool by pool, in order.
    """
    head = weights.head
    with as_in_the_run(weights):
        network = network_of(weights, dataset, device)
        if not head.shared_passes:
            seen = with_frozen_results(dataset, network, head.protocol, device)
            return embeddings_alone(network, seen, split, head.protocol, device)
        bank = NetworkBank([network])  # pyright: ignore[reportArgumentType]  # runs share passes by no other
        bank.gather()
        return embeddings_together(bank, 1, dataset, split, head.protocol, device)[0]


@contextmanager
def as_in_the_run(weights: Weights) -> Iterator[None]:
    """As many threads as the run had: with others, sums round otherwise."""
    before = torch.get_num_threads()
    prepare_process(weights.head.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def network_of(weights: Weights, dataset: Dataset, device: torch.device) -> Network:
    """The network with the stored weights, in evaluation mode.

    Raises `BadRecordError` where they are not those of its protocol's network.
    """
    with torch_seeded(0):
        network = weights.head.protocol.workload.build_model(dataset.network_options)
    try:
        network.load_state_dict(weights.network)
    except RuntimeError as error:
        raise BadRecordError(f"{weights.path}: network: {' '.join(str(error).split())}") from None
    network.eval()
    return network.to(device)


def data_of(weights: Weights, data_dir: Path | None, device: torch.device) -> Dataset:
    """The data of the weights' workload.

    Raises `UsageError` where its files are missing, or not those of the run.
    """
    head = weights.head
    dataset = resident_dataset(head.protocol.workload.model_dump_json(), data_dir, str(device))
    if dataset.digest != head.data_digest:
        now, then = (digest and digest[:12] for digest in (dataset.digest, head.data_digest))
        raise UsageError(f"{weights.path}: the files of {head.protocol.workload.name} are not those of the run: their "
                         f"SHA-256 is {now}, the run's {then}")  # fmt: skip
    return dataset


def require_equal_data(files: Sequence[Weights]) -> None:
    """Raise `UsageError` where two files are not of the same data: their similarities have no mean."""
    first = files[0]
    for other in files[1:]:
        changes = [change for change in protocol_changes(first.head.protocol, other.head.protocol)
                   if change.what.startswith(DATA_KEYS)]  # fmt: skip
        if changes or first.head.data_digest != other.head.data_digest:
            what = str(changes[0]).removeprefix("workload.") if changes else "the files' SHA-256"
            raise UsageError(f"{other.path}: its data are not those of {first.path} ({what}); allowed in an ensemble "
                             "are weights of the same data")  # fmt: skip


def require_retrieval(files: Sequence[Weights]) -> None:
    """Raise `UsageError` where a file is of a workload that retrieves nothing."""
    for weights in files:
        if (kind := weights.head.protocol.workload.kind) != "retrieval":
            raise UsageError(f"{weights.path}: its workload is of kind {kind!r}; allowed is 'retrieval'")


def require_own_code(files: Sequence[Weights], given: Protocol | None) -> None:
    """Raise `UsageError` where a file names code that is not bench's own and that the user has not named too.

    A stored file never says what is imported: `given` is the protocol that the user has named, of the same workload.
    """
    for weights in files:
        workload = weights.head.protocol.workload
        named = [workload.dataset, workload.model]
        named += [*_references(workload.dataset_options), *_references(workload.model_options)]
        foreign = [text for text in named if text not in OWN_CODE]
        if foreign and (given is None or _content(given.workload) != _content(workload)):
            raise UsageError(f"{weights.path}: names code outside bench, {foreign[0]!r}; allowed with --protocol and "
                             "the run's protocol file, which names it too")  # fmt: skip


def _content(workload: Workload) -> Mapping[str, Any]:
    return workload.model_dump(exclude={"name", "title"})


def _references(value: Any, key: str = "") -> Iterator[str]:
    """Every text within options that may name code: by its form, or by its key."""
    if isinstance(value, str):
        if key == "reference" or REFERENCE.fullmatch(value):
            yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _references(each, name)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _references(each, key)
