"""What retrieval on a dataset lies between: chance and the best possible matcher."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from bench.datasets.samples import Dataset, HeldOut, ids_by_modality
from bench.metrics import all_directions, chance, directions, scores_of_matcher


@lru_cache(maxsize=8)
def ceiling(dataset: Dataset, split: HeldOut, modalities: tuple[str, ...]) -> dict[str, float]:
    """Every metric of the best possible matcher; {} where the dataset knows none, and 100 % is not excluded."""
    ids_N = dataset.held_out(split).match_N
    scores = {pair: dataset.matcher_scores(split, *pair) for pair in directions(modalities).values()}
    known = {pair: score for pair, score in scores.items() if score is not None}
    if len(known) < len(scores):
        return {}
    return all_directions(lambda a, b: scores_of_matcher(known[a, b], ids_N), modalities)


@lru_cache(maxsize=8)
def chance_level(
    dataset: Dataset, split: HeldOut, modalities: tuple[str, ...], kind: Literal["match", "label"]
) -> dict[str, float]:
    """Every metric when all similarities are equal and items of equal match id, or label, belong together."""
    ids = ids_by_modality(dataset.pools(split), kind)
    return all_directions(lambda a, b: chance(ids[a], ids[b]), modalities)
