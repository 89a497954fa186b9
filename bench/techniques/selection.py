"""`--technique queue`, `--technique mixup.alpha=0.4`: techniques by name, with options as JSON or plain text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bench.errors import UsageError
from bench.protocol import Protocol
from bench.protocols import changed
from bench.suggestions import unknown
from bench.techniques.options import Techniques


def with_techniques(base: Protocol, texts: Sequence[str]) -> Protocol:
    """`base` with the techniques of `texts` on: `NAME` as it is by default, `NAME.KEY=VALUE` with another option.

    Raises `UsageError` naming the technique, option or value that is not allowed.
    """
    for text in texts:
        name, options = _parsed(text)
        present = getattr(base.techniques, name)
        merged = {**(present.model_dump(mode="json") if present else {}), **options}
        base = changed(base, {"techniques": {name: merged}}, f"--technique {text}")
    return base


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    place, equals, value = text.partition("=")
    name, dot, key = place.partition(".")
    if name not in Techniques.model_fields:
        raise UsageError("--technique: " + unknown("technique", name, Techniques.model_fields))
    if bool(equals) != bool(dot) or (equals and not (key and value)):
        raise UsageError(f"--technique {text!r}: allowed is NAME or NAME.KEY=VALUE, as mixup.alpha=0.4")
    return name, {key: _value(value)} if key else {}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
