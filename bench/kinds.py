"""The kinds of workloads, by the name that a workload has of its own."""

from __future__ import annotations

from collections.abc import Mapping

from bench.continual.kind import Continual
from bench.kind import Kind
from bench.retrieval import Retrieval
from bench.workload import WorkloadKind

KINDS: Mapping[WorkloadKind, Kind] = {"retrieval": Retrieval(), "continual": Continual()}
