"""Sets without a reader: the spoken digits, and torchvision's sets of labelled images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.datasets import spoken_digit_files
from bench.datasets.labelled_images import SETS, LabelledImages, load
from bench.datasets.samples import DataError
from bench.datasets.selection import SPLITS
from bench.errors import UsageError
from bench.verification.files import Facts, verify_files
from bench.verification.findings import Files, SplitCounts, Verification
from bench.verification.histogram import spread_of
from bench.verification.request import Request
from bench.workloads import WORKLOADS

SPOKEN_DIGITS = "spoken_digits"
FIXED_SETS = (SPOKEN_DIGITS, *SETS)


def verify_fixed(request: Request) -> Verification:
    """Everything there is to say; these sets have one form, so no options."""
    options = {"--reader": request.reader, "--modalities": request.modalities, "--limit": request.limit,
               "--tokenizer": request.tokenizer}  # fmt: skip
    if given := [name for name, value in options.items() if value]:
        raise UsageError(f"{', '.join(given)}: {request.kind} is looked at as a whole; allowed are --no-decode, --json")
    found = Verification(kind=request.kind, title=WORKLOADS[request.kind].title, folder=str(request.folder))
    try:
        if request.kind == SPOKEN_DIGITS:
            return _spoken_digits(request, replace(found, modalities=("image", "audio")))
        return _labelled(request, replace(found, modalities=("image",)))
    except (ValueError, LookupError) as error:  # files that are whole, and too small or at odds
        line = " ".join(str(error).split())
        return replace(found, faults=(line if isinstance(error, DataError) else f"{request.kind}: {line}",))


def recording_facts(path: Path) -> Facts:
    """Raises `DataError` where the recording is not as FSDD has them."""
    seconds = len(spoken_digit_files.read_recording(path)) / spoken_digit_files.SAMPLE_RATE
    return Facts(form=f"WAV PCM_16, 1 channel(s) at {spoken_digit_files.SAMPLE_RATE} Hz", seconds=seconds)


def _spoken_digits(request: Request, found: Verification) -> Verification:
    files = spoken_digit_files.locate(request.folder)
    folder = files.recordings[0].path.parent
    places = {each.path.name: folder.name for each in files.recordings}
    clips = verify_files("clip", folder, places, recording_facts, request.console if request.decode else None)
    splits = [each.split for each in files.recordings]
    found = replace(
        found,
        clips=clips,
        speakers=len({each.speaker for each in files.recordings}),
        splits=tuple(SplitCounts(split=name, pairs=0, images=0, clips=splits.count(name)) for name in SPLITS),
        notes=("a study joins images and captions to the recordings by their digit",),
    )
    if not request.decode:
        return found
    try:
        images, _ = spoken_digit_files.read_mnist(files)
    except DataError as error:
        return replace(found, faults=(" ".join(str(error).split()),))
    return replace(found, images=_whole(images), digests={"contents": spoken_digit_files.digest(request.folder)})


def _labelled(request: Request, found: Verification) -> Verification:
    """Reads the set as a study does; torchvision compares every file with its published checksum."""
    images, _, classes = load(request.kind, request.folder, train=True)
    test, _, _ = load(request.kind, request.folder, train=False)
    options: dict[str, Any] = dict(WORKLOADS[request.kind].dataset_options)
    if (training := len(images) - options["validation"]) < 2:
        raise DataError(
            f"{request.kind}: has {len(images)} images for training and validation; protocol {request.kind} takes "
            f"{options['validation']} of them for validation alone"
        )
    counts = {"training": training, "validation": options["validation"], "test": len(test)}
    digest = LabelledImages(data_dir=request.folder, **options).digest if request.decode else None
    return replace(
        found,
        images=_whole(np.concatenate([images, test])),
        splits=tuple(SplitCounts(split=name, pairs=n, images=n, clips=0) for name, n in counts.items()),
        notes=(f"a caption for each of {len(classes)} classes",),
        digests={} if digest is None else {"contents": digest},
    )


def _whole(images: np.ndarray) -> Files:
    """Images [N, H, W, …] that lie in one file and were all read."""
    count, height, width = images.shape[:3]
    return Files(
        noun="image",
        files=count,
        missing=(),
        missing_folders=(),
        decoded=True,
        read=count,
        width=spread_of([width]),
        height=spread_of([height]),
    )
