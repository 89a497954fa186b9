"""Text as any file of a report can hold it."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control signs but tab and newline
    "\u200e\u200f\u2028-\u202e\u2066-\u2069"  # what turns the direction of the text around it
    "\ud800-\udfff\ufffe\uffff]"  # halves of surrogate pairs, and what is no sign at all
)


def printable(text: str) -> str:
    """`text` with � for every sign that is not shown, cannot be encoded, or reorders its surroundings."""
    return text if text.isprintable() else _UNPRINTABLE.sub("\ufffd", text)
