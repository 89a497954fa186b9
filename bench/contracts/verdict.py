"""The records of the contract suite."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.contracts.subject import Subject


class Verdict(StrEnum):
    """What a check came to; only `broken` is a fault."""

    KEPT = "kept"
    BROKEN = "broken"
    KNOWN_LIMIT = "known_limit"
    NOT_APPLICABLE = "not_applicable"


class Broken(Exception):  # noqa: N818
    """The contract is broken; the message says by how much and where."""


class NotApplicable(Exception):
    """The contract says nothing about this optimizer; the message says why."""


# Returns what was measured; raises `Broken`, `NotApplicable`, or whatever the optimizer raises.
Check = Callable[["Subject"], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A promise in one sentence and the check of it."""

    name: str
    statement: str
    check: Check


@dataclass(frozen=True, slots=True)
class Limit:
    """Why an optimizer cannot keep a contract, and a regular expression for the details that this explains.

    Without one it explains every measured detail; an exception is explained by a pattern that names it only.
    """

    reason: str
    pattern: str = ""

    def covers(self, detail: str) -> bool:
        """Whether this is what was to be expected."""
        raised = re.match(r"raises (\w+)", detail)
        if raised and not re.search(rf"\b{raised[1]}\b", self.pattern):
            return False
        return re.search(self.pattern, detail) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A contract's verdict on one optimizer, with what was measured; `limit` is the reason of a known limit."""

    contract: str
    verdict: Verdict
    detail: str
    limit: str | None = None
