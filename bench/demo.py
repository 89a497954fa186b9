"""A query to a stored network: what of the other modalities of the test split it takes to be nearest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from bench.datasets.samples import DataError, Dataset, Modality, Samples, SampleSource, ids_by_modality
from bench.errors import UsageError
from bench.evaluation import as_in_the_run, data_of, embeddings, names, network_of
from bench.metrics import NonFiniteEmbeddingError, unit_rows
from bench.models.multimodal_memory import NO_DROPOUT
from bench.step import autocast
from bench.weights import Weights

FIELDS: Mapping[str, str] = {"text": "text_NL", "image": "image_N3HW", "audio": "audio_N1FT"}
PLAIN = ("item", "similarity", "belongs", "copies", "caption")  # of a match, what is no picture
NEAR: tuple[Modality, ...] = ("image", "audio", "text")  # which modality of an item asks, where it is not said


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is asked with: a user's own text or file (`source`), or item `item` of the test split, by one modality."""

    modality: Modality
    source: str | None = None
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Thing:
    """An item as people see it: a text, or an image [H, W, 3] between 0 and 1, or a spectrogram [F, T]."""

    modality: Modality
    text: str | None = None
    picture: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """An item of a modality's pool, the cosine of its embedding with the query's, and whether the two belong together.

    `belongs` is None where nobody knows. Equal texts are one match, `copies` of them; `caption` is a text of the test
    split that belongs to the item.
    """

    item: int
    similarity: float
    belongs: bool | None
    copies: int
    caption: str | None
    thing: Thing


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The nearest items of every other modality, the nearest first, and how many of each there were to choose from.

    `places` says where the first item that belongs to the query stands, from 1; of a modality whose belonging nobody
    knows there is none.
    """

    name: str
    weights: Weights
    query: Query
    asked: Thing
    matches: dict[Modality, list[Match]]
    pools: dict[str, int]
    places: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The answer as plain data, without pictures."""
        head = self.weights.head
        return {
            "weights": str(self.weights.path), "protocol": {"name": head.protocol.name, "hash": head.protocol.hash},
            "query": {**asdict(self.query), "shown": self.asked.text}, "pools": self.pools,
            "places": self.places,
            "matches": {name: [{key: getattr(each, key) for key in PLAIN} for each in found]
                        for name, found in self.matches.items()},
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Pool:
    """The test split's items of one modality."""

    modality: Modality
    source: SampleSource
    match_N: Tensor
    embedding_ND: Tensor

    def ordered(self, embedding_D: Tensor) -> tuple[Tensor, list[int]]:
        """Every item's similarity [N] to an embedding, and the items, the nearest first."""
        similarity_N = self.embedding_ND @ embedding_D
        return similarity_N, similarity_N.argsort(descending=True, stable=True).tolist()

    def rows(self, indices: list[int]) -> Samples:
        """Some of the items."""
        return self.source.take(torch.tensor(indices, device=self.match_N.device))


def ask(weights: Weights, query: Query, *, count: int, data_dir: Path | None, device: torch.device) -> Answer:
    """The `count` nearest items of every other modality.

    Raises `UsageError` where the query is not allowed, or cannot be read.
    """
    dataset = data_of(weights, data_dir, device)
    _require(query, weights)
    try:
        pools = dict(_pools(weights, dataset, device))
        embedding_D, ids, asked = _asked(query, weights, dataset, pools, device)
    except NonFiniteEmbeddingError as error:
        raise UsageError(f"{weights.path}: {error}; the run had diverged") from None
    others = [pool for name, pool in pools.items() if name != query.modality]
    return Answer(
        name=names([weights])[0], weights=weights, query=query, asked=asked,
        matches={pool.modality: _nearest(pool, embedding_D, ids, count, dataset, pools.get("text")) for pool in others},
        pools={pool.modality: len(pool.match_N) for pool in others},
        places={pool.modality: place for pool in others if (place := _first_place(pool, embedding_D, ids)) is not None},
    )  # fmt: skip


def _require(query: Query, weights: Weights) -> None:
    modalities = weights.head.protocol.workload.modalities
    if query.modality not in modalities:
        raise UsageError(f"--{query.modality}: {weights.head.protocol.workload.name} has no {query.modality}; allowed "
                         f"are {', '.join(modalities)}")  # fmt: skip


def _pools(weights: Weights, dataset: Dataset, device: torch.device) -> Iterator[tuple[str, _Pool]]:
    """The test split's items with their embeddings, at length 1, by modality."""
    found = embeddings(weights, dataset, "test", device)
    sources = {name: pool for pool in dataset.pools("test") for name in pool.take(slice(0, 1)).inputs()}
    ids = ids_by_modality(dataset.pools("test"), "match")
    for name in get_args(Modality):
        if name in found:
            yield name, _Pool(name, sources[name], ids[name], unit_rows(name, found[name]))


def _asked(
    query: Query, weights: Weights, dataset: Dataset, pools: Mapping[str, _Pool], device: torch.device
) -> tuple[Tensor, Tensor | None, Thing]:
    """The query's embedding [D], the match ids that belong to it where they are known, and what it looks like."""
    pool = pools[query.modality]
    if query.item is not None:
        if not 0 <= query.item < len(pool.match_N):
            raise UsageError(f"--item {query.item}: the test split has {len(pool.match_N)} items of modality "
                             f"{query.modality}; allowed are 0 to {len(pool.match_N) - 1}")  # fmt: skip
        (thing,) = things(dataset, query.modality, pool.rows([query.item]))
        return pool.embedding_ND[query.item], pool.match_N[query.item : query.item + 1], thing
    assert query.source is not None
    try:
        row, mask = dataset.own_row(query.modality, query.source)
    except (DataError, ImportError) as error:
        raise UsageError(f"--{query.modality}: {error}") from None
    row, mask = row.to(device), None if mask is None else mask.to(device)
    with as_in_the_run(weights), torch.inference_mode(), autocast(weights.head.protocol, device):
        masks = {} if mask is None else {query.modality: mask}
        found = network_of(weights, dataset, device)({query.modality: row}, masks, NO_DROPOUT)[query.modality]
    (thing,) = _shown(dataset, query.modality, row, mask)
    return unit_rows("query", found)[0], _ids_of_text(pool, row) if query.modality == "text" else None, thing


def _ids_of_text(pool: _Pool, row: Tensor) -> Tensor | None:
    """The match ids of the test split's texts that are the query to the letter; None where none is."""
    text_NL = pool.source.take(slice(0, len(pool.match_N))).text_NL
    if text_NL is None or text_NL.shape[1] != row.shape[1]:
        return None
    same_N = (text_NL == row).all(dim=1)
    return pool.match_N[same_N] if bool(same_N.any()) else None


def _nearest(
    pool: _Pool, embedding_D: Tensor, ids: Tensor | None, count: int, dataset: Dataset, texts: _Pool | None
) -> list[Match]:
    """The `count` nearest items of a pool; of equal texts the first stands for all."""
    similarity_N, order = pool.ordered(embedding_D)
    groups = _texts_once(pool, order, count) if pool.modality == "text" else [[item] for item in order[:count]]
    firsts = [items[0] for items in groups]
    shown = things(dataset, pool.modality, pool.rows(firsts))
    captions = _captions(pool, firsts, dataset, texts)
    return [
        Match(
            item=item, similarity=similarity_N[item].item(), copies=len(items), caption=caption, thing=thing,
            belongs=None if ids is None else bool(torch.isin(pool.match_N[items], ids).any()),
        )
        for items, item, thing, caption in zip(groups, firsts, shown, captions, strict=True)
    ]  # fmt: skip


def _first_place(pool: _Pool, embedding_D: Tensor, ids: Tensor | None) -> int | None:
    """Where the first item that belongs stands, from 1; None where that is not known, or none belongs."""
    if ids is None:
        return None
    belongs_N = torch.isin(pool.match_N, ids)[pool.ordered(embedding_D)[1]]
    return int(belongs_N.nonzero()[0]) + 1 if bool(belongs_N.any()) else None


def _texts_once(pool: _Pool, order: list[int], count: int) -> list[list[int]]:
    """The first `count` different texts of some items in their order, each with all items that have it."""
    text_NL = pool.rows(order).text_NL
    assert text_NL is not None
    groups: dict[bytes, list[int]] = {}
    for item, ids in zip(order, text_NL.cpu().numpy(), strict=True):
        if (key := ids.tobytes()) in groups or len(groups) < count:
            groups.setdefault(key, []).append(item)
    return list(groups.values())


def _captions(pool: _Pool, items: list[int], dataset: Dataset, texts: _Pool | None) -> list[str | None]:
    """A text of the split that belongs to each item; None where the workload has none."""
    if texts is None or pool.modality == "text":
        return [None] * len(items)
    places = [(texts.match_N == pool.match_N[item]).nonzero() for item in items]
    rows = [int(place[0]) if len(place) else None for place in places]
    known = [thing.text for thing in things(dataset, "text", texts.rows([row for row in rows if row is not None]))]
    remaining = iter(known)
    return [None if row is None else next(remaining) for row in rows]


def things(dataset: Dataset, modality: Modality, samples: Samples) -> list[Thing]:
    """One modality of some samples as people see it."""
    row = getattr(samples, FIELDS[modality])
    return _shown(dataset, modality, row, samples.masks().get(modality))


def _shown(dataset: Dataset, modality: Modality, rows: Tensor, mask: Tensor | None) -> list[Thing]:
    if modality == "text":
        return [Thing("text", text=text) for text in dataset.captions(rows, mask)]
    if modality == "image":
        return [Thing("image", picture=image.permute(1, 2, 0).cpu()) for image in dataset.pixels(rows)]
    return [Thing("audio", picture=_sounding(spectrum[0]).cpu()) for spectrum in rows]


def _sounding(spectrum_FT: Tensor) -> Tensor:
    """A spectrogram without the padding behind the clip, which is 0."""
    frames = spectrum_FT.any(dim=0).nonzero()
    return spectrum_FT[:, : int(frames[-1]) + 1] if len(frames) else spectrum_FT
