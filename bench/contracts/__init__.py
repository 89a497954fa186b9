"""What every optimizer keeps, whatever its formula: one suite, for the tests and for `bench doctor`."""

from bench.contracts.entries import INNER_SETTINGS, KNOWN_LIMITS
from bench.contracts.registry import CONTRACTS, judge
from bench.contracts.subject import Subject
from bench.contracts.verdict import Broken, Contract, Finding, Limit, NotApplicable, Verdict

__all__ = [
    "CONTRACTS",
    "INNER_SETTINGS",
    "KNOWN_LIMITS",
    "Broken",
    "Contract",
    "Finding",
    "Limit",
    "NotApplicable",
    "Subject",
    "Verdict",
    "judge",
]
