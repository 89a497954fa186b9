"""The plain form of every optimizer here that has a fast one: its formula, tensor by tensor, in the formula's order.

They take the same settings as the fast forms, unchecked, and serve tests and benchmarks: they read values on the host
and keep no promise about speed. In float64 they are what a trajectory is compared with.
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from bench.optimizers.reference.custom_adam import PlainCustomAdam
from bench.optimizers.reference.gda2 import PlainGDA2
from bench.optimizers.reference.universal_anderson_gda import PlainUniversalAndersonGDA
from bench.optimizers.reference.universal_muon import PlainUniversalMuon
from bench.optimizers.reference.universal_muon_stable import PlainUniversalMuonStable

REFERENCES: dict[str, type[Optimizer]] = {
    "custom_adam": PlainCustomAdam,
    "gda2": PlainGDA2,
    "universal_muon_auto": PlainUniversalMuon,
    "universal_muon_preserve": PlainUniversalMuon,
    "universal_muon_stable": PlainUniversalMuonStable,
    "universal_anderson_gda": PlainUniversalAndersonGDA,
}

# Settings under which an entry is measured as well: those that trade precision for time.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    name: {"bfloat16 iterations": {"ns_dtype": "bfloat16"}}
    for name in ("universal_muon_auto", "universal_muon_preserve")
}
