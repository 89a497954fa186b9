"""The registry of the built-in optimizers, and its named groups."""

from __future__ import annotations

from bench.optimizers import (
    adam,
    adamw,
    anderson_gda,
    custom_adam,
    custom_sgd,
    gda2,
    muon,
    sgd,
    universal_anderson_gda,
    universal_muon,
    universal_muon_stable,
)
from bench.spec import OptimizerSpec

CATALOG: dict[str, OptimizerSpec] = {
    "sgd": sgd.SPEC,
    "adam": adam.SPEC,
    "adamw": adamw.SPEC,
    "custom_adam": custom_adam.SPEC,
    "gda2": gda2.SPEC,
    "universal_muon_auto": universal_muon.SPEC_AUTO,
    "universal_muon_preserve": universal_muon.SPEC_PRESERVE,
    "universal_anderson_gda": universal_anderson_gda.SPEC,
    "universal_muon_stable": universal_muon_stable.SPEC,
    "custom_sgd": custom_sgd.SPEC,
    "anderson_gda": anderson_gda.SPEC,
    "muon": muon.SPEC,
}

# The eight of the documents' study, in the order of their table.
DOCUMENTS = (
    "sgd",
    "adam",
    "adamw",
    "custom_adam",
    "gda2",
    "universal_muon_auto",
    "universal_muon_preserve",
    "universal_anderson_gda",
)

GROUPS: dict[str, tuple[str, ...]] = {"documents": DOCUMENTS, "all": DOCUMENTS, "builtin": tuple(CATALOG)}
