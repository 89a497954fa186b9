"""What techniques that change batches, or their order, need of a protocol's data; looked at before anything runs."""

from __future__ import annotations

from bench.datasets.samples import Dataset, SampleSource, Words
from bench.errors import UsageError
from bench.protocol import Protocol
from bench.techniques.image_augmentation import has_colour
from bench.techniques.options import SemanticGroups, Techniques, TextAugmentation

NEEDS = {"image_augmentation": "image", "mixup": "image", "text_augmentation": "text", "curriculum": "text",
         "spec_augment": "audio"}  # fmt: skip


def changed_modalities(techniques: Techniques) -> set[str]:
    """Those whose inputs are not the same in every epoch."""
    return {NEEDS[name] for name in techniques.on if name in NEEDS and name != "curriculum"}


def require_data(protocol: Protocol, dataset: Dataset) -> None:
    """Raise `UsageError` in one line where a technique of the protocol finds nothing in the data that it could change.

    Also where the data's own options do the same already.
    """
    techniques, modalities = protocol.techniques, protocol.workload.modalities
    for name in techniques.on:
        needed = NEEDS.get(name)
        if needed is not None and needed not in modalities:
            raise _fault(protocol, name, f"needs {needed}, the workload has {', '.join(modalities)}")
    if idle := next((name for name, nothing in _idle(techniques).items() if nothing), None):
        raise _fault(protocol, idle, "changes nothing with these options; allowed are some that do")
    _require_once(protocol, dataset)
    images = techniques.image_augmentation
    if images is not None and has_colour(images) and dataset.pixel_levels is None:
        raise _fault(protocol, "image_augmentation", "changes colours, and what black and white are in the data's "
                     "images is not known; allowed are jitter = 0 with grey = 0, or data that says so")  # fmt: skip
    if {"text_augmentation", "curriculum", "semantic_groups"} & set(techniques.on):
        _require_captions(protocol, dataset, dataset.training(1, 0))


def _idle(techniques: Techniques) -> dict[str, bool]:
    """By augmentation, whether its options leave everything as it is."""
    images, texts, masks = techniques.image_augmentation, techniques.text_augmentation, techniques.spec_augment
    return {
        "image_augmentation": images is not None
        and images.smallest_crop == 1 and not (images.flip or images.jitter or images.grey),
        "text_augmentation": texts is not None and not (texts.captions and texts.words),
        "spec_augment": masks is not None
        and not (masks.time_masks * masks.time_width or masks.frequency_masks * masks.frequency_width),
    }  # fmt: skip


def _require_once(protocol: Protocol, dataset: Dataset) -> None:
    """Nothing is augmented twice: what is left of an augmentation of colours alone may come on top of crops."""
    for name, option in dataset.augments.items():
        images = protocol.techniques.image_augmentation
        colour_alone = name == "image_augmentation" and images and images.smallest_crop == 1 and not images.flip
        if name in protocol.techniques.on and not colour_alone:
            allowed = ", or smallest_crop = 1 with flip = false" if name == "image_augmentation" else ""
            raise _fault(protocol, name, f"the workload has {option} already; allowed is one of the two{allowed}")


def _require_captions(protocol: Protocol, dataset: Dataset, training: SampleSource) -> None:
    techniques = protocol.techniques
    if techniques.semantic_groups is not None:
        _require_groups(protocol, techniques.semantic_groups, training)
    for name, options in (("text_augmentation", techniques.text_augmentation), ("curriculum", techniques.curriculum)):
        if options is None:
            continue
        words = dataset.words(training)
        if words is None:
            raise _fault(protocol, name, "the words of the data's captions are not known; allowed are data with words")
        count_N = words.count_N
        fewest, most = int(count_N.min()), int(count_N.max())
        if isinstance(options, TextAugmentation):
            _require_changes(protocol, options, words, most)
        elif fewest == most:
            raise _fault(protocol, name, f"every caption has {most} words; allowed are captions of different lengths")


def _require_changes(protocol: Protocol, options: TextAugmentation, words: Words, most: int) -> None:
    if most <= options.longest_kept:
        raise _fault(protocol, "text_augmentation", f"no caption has more than {most} words, and up to "
                     f"{options.longest_kept} stay as they are; allowed is a smaller longest_kept")  # fmt: skip
    for word, others in options.synonyms.items():
        for other in (word, *others):
            try:
                words.tokens(other.split())
            except ValueError as error:
                raise _fault(protocol, "text_augmentation", f"synonyms: {error}") from None


def _require_groups(protocol: Protocol, options: SemanticGroups, training: SampleSource) -> None:
    techniques = protocol.techniques
    several = techniques.multi_positive
    by_match = protocol.workload.multi_positive if several is None else bool({"match", "label"} & set(several.equal))
    if not (by_match or techniques.supervised):
        raise _fault(protocol, "semantic_groups", "a batch holds samples of one match id, and the loss has one "
                     "positive a sample; allowed is multi_positive by match or label, or supervised")  # fmt: skip
    if options.size > protocol.batch_size:
        raise _fault(protocol, "semantic_groups", f"size is {options.size}; allowed is at most the batch's, "
                     f"{protocol.batch_size}")  # fmt: skip
    most = int(training.match_N.unique(return_counts=True)[1].max())
    if most < options.size:
        raise _fault(protocol, "semantic_groups", f"size is {options.size} and no match id has more than {most} "
                     "training samples; allowed are data with such groups")  # fmt: skip


def _fault(protocol: Protocol, name: str, text: str) -> UsageError:
    return UsageError(f"protocol {protocol.name!r}: technique {name}: {text}")
