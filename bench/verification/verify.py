"""`bench verify-data`'s sets by name, and the verification of one."""

from __future__ import annotations

from bench.datasets.catalog import KINDS
from bench.errors import UsageError
from bench.suggestions import unknown
from bench.verification.captioned import verify_captioned
from bench.verification.findings import Verification
from bench.verification.fixed_sets import FIXED_SETS, verify_fixed
from bench.verification.request import Request

VERIFIED = (*KINDS, *FIXED_SETS)


def verify(request: Request) -> Verification:
    """What the folder holds. Raises `UsageError` for a set that is not known or an option it does not take."""
    if request.kind not in VERIFIED:
        raise UsageError(unknown("kind", request.kind, VERIFIED))
    try:
        return verify_captioned(request) if request.kind in KINDS else verify_fixed(request)
    except ImportError as error:  # a missing libsndfile
        raise UsageError(f"{error}; --no-decode looks for the files alone") from error
