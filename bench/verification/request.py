"""What is to be verified, and how closely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.datasets.samples import Modality


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`modalities` are all that the set offers where none is named; `limit` is of images or clips a split.

    `reader` and `tokenizer` are options as protocols have them; without it, the tokenizer is that of the set's own
    protocol. Progress goes to `console`.
    """

    kind: str
    folder: Path
    console: Console
    modalities: tuple[Modality, ...] = ()
    reader: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    decode: bool = True
