"""The contracts by name, and the judgement of one optimizer under one of them."""

from __future__ import annotations

import contextlib
import sys
import warnings

from bench.contracts import constructor, gradients, groups, learning, numerics, state
from bench.contracts.entries import KNOWN_LIMITS
from bench.contracts.subject import Subject
from bench.contracts.verdict import Broken, Contract, Finding, Limit, NotApplicable, Verdict
from bench.optimizers.catalog import CATALOG
from bench.registry import PLUGIN_FAULTS
from bench.seeding import globally_seeded
from bench.spec import OptimizerSpec

CONTRACTS: dict[str, Contract] = {
    contract.name: contract
    for contract in (
        *numerics.CONTRACTS,
        *gradients.CONTRACTS,
        *state.CONTRACTS,
        *groups.CONTRACTS,
        *constructor.CONTRACTS,
        *learning.CONTRACTS,
    )
}


def known_limit(subject: Subject, contract: str) -> Limit | None:
    """Why this optimizer cannot keep `contract`; a class given by reference has the limits of its entries."""
    spec = subject.spec
    names = [spec.name]
    if spec.name not in CATALOG:
        names = [_library_class(spec), *(n for n, s in CATALOG.items() if _library_class(s) == _library_class(spec))]
    return next((KNOWN_LIMITS[name, contract] for name in names if (name, contract) in KNOWN_LIMITS), None)


def _library_class(spec: OptimizerSpec) -> str:
    """`torch:SGD`: the top package and the class."""
    if isinstance(spec.constructor, str):
        module, _, name = spec.constructor.partition(":")
    else:
        module, name = spec.constructor.__module__, getattr(spec.constructor, "__name__", "")
    return f"{module.partition('.')[0]}:{name}"


def judge(subject: Subject, contract: Contract) -> Finding:
    """The verdict; whatever the optimizer raises breaks the contract, and its warnings and prints are kept apart."""
    try:
        with globally_seeded(0), warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            return Finding(contract=contract.name, verdict=Verdict.KEPT, detail=contract.check(subject))
    except NotApplicable as reason:
        return Finding(contract=contract.name, verdict=Verdict.NOT_APPLICABLE, detail=str(reason))
    except Broken as measured:
        detail = str(measured)
    except PLUGIN_FAULTS as error:  # whatever it raises is the finding
        detail = f"raises {type(error).__name__}: {' '.join(str(error).split())}"[:300]
    limit = known_limit(subject, contract.name)
    if limit is None or not limit.covers(detail):
        return Finding(contract=contract.name, verdict=Verdict.BROKEN, detail=detail)
    return Finding(contract=contract.name, verdict=Verdict.KNOWN_LIMIT, detail=detail, limit=limit.reason)
