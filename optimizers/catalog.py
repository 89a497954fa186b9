"""The registry of the built-in optimizers and of those from libraries, and its named groups."""

from __future__ import annotations

from bench.optimizers import (
    adafactor,
    adam,
    adamw,
    anderson_gda,
    custom_adam,
    custom_sgd,
    dmgd,
    gda2,
    lbfgs,
    m3,
    muon,
    nadam,
    radam,
    sgd,
    universal_anderson_gda,
    universal_muon,
    universal_muon_stable,
    zoo,
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
    "dmgd": dmgd.SPEC,
    "m3": m3.SPEC,
    "muon": muon.SPEC,
    "radam": radam.SPEC,
    "nadam": nadam.SPEC,
    "adafactor": adafactor.SPEC,
    "lbfgs": lbfgs.SPEC,
    **{spec.name: spec for spec in zoo.SPECS},
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

# What has been proposed since 2023 against AdamW, which is not among them: `--optimizers adamw,modern`.
MODERN = ("muon", "schedule_free_adamw", "soap", "lion", "prodigy", "sophia", "mars", "ademamix", "psgd_kron")

GROUPS: dict[str, tuple[str, ...]] = {
    "documents": DOCUMENTS,
    "all": DOCUMENTS,
    "builtin": tuple(name for name, spec in CATALOG.items() if spec.extra is None),
    "modern": MODERN,
    "zoo": tuple(name for name, spec in CATALOG.items() if spec.extra == "zoo"),
}
