"""`bench doctor`: every contract on one optimizer, and a short look at it on a real network.

As JSON, a report is this; numbers that are not finite are the strings "NaN", "Infinity" and "-Infinity":

    optimizer, hyperparameters     as in a record; contract_hyperparameters: where the contracts are checked
    contracts[]                    contract, statement, verdict (kept | broken | known_limit | not_applicable), detail
                                   (what was measured), limit (the reason of a known limit, or null)
    network                        null where the optimizer cannot be trained on it, else
      protocol, steps, rate        what the figures below were taken on
      losses[]                     of every step's first evaluation
      layers[]                     name, role, shape, gradient (whether there is one), gradient_norm (at the first
                                   step), matrix (whether treated as one; null: not probed), ratios (update norm /
                                   weight norm of every step), starts_at_zero
      state_bytes, parameters      bytes of tensors in the state; number of weights
      host_reads                   of one step
      cost, cost_milliseconds      of one step, as a ratio to fused AdamW and as such; null where not measured
      not_finite                   the first weight that is not finite and its step, or null
      observations[]               text, figures, warning: what the entry says of its own algorithm
    rates                          null likewise, else protocol, steps, given, limit, alike (see RateRange), and
      trials[]                     rate, first, last, failed_at (a step, or null)
    warnings[]                     sentences
    verdict, broken                one line; the number of broken contracts
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.contracts import CONTRACTS, Finding, Subject, Verdict, judge
from bench.doctor.network import Layer, Look, look_at
from bench.doctor.rates import RateRange, try_rates
from bench.errors import UsageError
from bench.optimizers.catalog import GROUPS
from bench.protocols import load_protocol
from bench.registry import PLUGIN_FAULTS, Selected, entry, select
from bench.spec import Role

# Where no protocol is given: full-size matrices for single steps, the small network where many steps are needed.
LOOK_PROTOCOL, RATE_PROTOCOL = "standard", "mini"
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that was found on one optimizer."""

    optimizer: str
    hyperparameters: Mapping[str, Any]
    contract_hyperparameters: Mapping[str, Any]
    contracts: tuple[Finding, ...]
    network: Look | None
    rates: RateRange | None
    warnings: tuple[str, ...]

    @property
    def broken(self) -> list[str]:
        """Names of the broken contracts."""
        return [f.contract for f in self.contracts if f.verdict is Verdict.BROKEN]

    @property
    def verdict(self) -> str:
        """One line."""
        counts = Counter(f.verdict for f in self.contracts)
        names = {Verdict.BROKEN: f" ({', '.join(self.broken)})"}
        parts = [
            f"{counts[verdict]} {verdict.value.replace('_', ' ')}{names.get(verdict, '')}"
            for verdict in Verdict
            if counts[verdict]
        ]
        warnings = f"{len(self.warnings)} warning{'s' * (len(self.warnings) != 1)}"
        return f"{self.optimizer}: {len(self.contracts)} contracts, {', '.join(parts)}; {warnings}"

    def as_json(self) -> str:
        """The structure above."""
        content = asdict(self) | {"verdict": self.verdict, "broken": len(self.broken)}
        for finding in content["contracts"]:
            finding["statement"] = CONTRACTS[finding["contract"]].statement
        return json.dumps(_strict(content), indent=2, allow_nan=False)


def _strict(value: Any) -> Any:
    """`value` as strict JSON."""
    if isinstance(value, Mapping):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def chosen(reference: str, overrides: Mapping[str, Any]) -> Selected:
    """The one optimizer behind `reference`; raises `UsageError` where it is none, several, or a setting is refused."""
    if reference in GROUPS or "," in reference or not reference.strip():
        raise UsageError(
            f"optimizer {reference!r}: doctor examines one; allowed are a name, module:Class, file.py:Class"
        )
    name = entry(reference).name
    return select([reference], {name: overrides} if overrides else {}, "default")[0]


def examine(
    reference: str,
    *,
    overrides: Mapping[str, Any],
    protocol: str | None = None,
    seed: int = 0,
    data_dir: Path | None = None,
    progress: Progress = lambda text: None,
) -> Report:
    """Contracts, then the network; raises `UsageError` where reference, settings or protocol are not allowed."""
    if seed < 0:
        raise UsageError(f"--seed {seed}: allowed is an integer >= 0")
    selected = chosen(reference, overrides)
    looked, tried = (load_protocol(protocol or name) for name in (LOOK_PROTOCOL, RATE_PROTOCOL))
    for each in {looked.hash: looked, tried.hash: tried}.values():
        each.workload.check(data_dir)
    subject = Subject.of(selected.spec, overrides)
    progress(f"{len(CONTRACTS)} contracts")
    contracts = check_contracts(subject)
    warnings: list[str] = []
    network, rates = None, None
    try:
        progress(f"single steps on the network of {looked.name}")
        network = look_at(selected, looked, seed, data_dir)
        progress(f"learning rates on {tried.name}")
        rates = try_rates(selected, tried, seed, data_dir)
    except PLUGIN_FAULTS as error:
        line = " ".join(str(error).split())[:300]
        warnings.append(f"cannot be trained on the network of {looked.name}: {type(error).__name__}: {line}")
    return Report(
        optimizer=selected.spec.name,
        hyperparameters=dict(selected.hyperparameters),
        contract_hyperparameters=subject.settings,
        contracts=tuple(contracts),
        network=network,
        rates=rates,
        warnings=(*warnings, *_network_warnings(network), *_rate_warnings(rates)),
    )


def check_contracts(subject: Subject) -> list[Finding]:
    """Every contract, on one thread: the tensors are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [judge(subject, contract) for contract in CONTRACTS.values()]
    finally:
        torch.set_num_threads(threads)


def _network_warnings(look: Look | None) -> list[str]:
    """What is wrong on the network, the gravest first."""
    if look is None:
        return []
    found = []
    if look.not_finite is not None:
        found.append(f"not finite at rate {look.rate:g}: {look.not_finite}")
    if exploding := look.exploding():
        worst = max(exploding, key=Layer.largest)
        found.append(f"the update is longer than the weights in {len(exploding)} of {len(look.moving())} tensors, "
                     f"up to {worst.largest():.3g} × in {worst.name}")  # fmt: skip
    if idle := look.idle():
        matrices = [layer for layer in idle if len(layer.shape) == 2]
        names = ", ".join(layer.name for layer in (matrices or idle)[:3])
        found.append(f"a zero update at every step, in spite of a gradient, in {len(idle)} tensors, "
                     f"{len(matrices)} of them matrices: "
                     f"{names}{', …' * (len(matrices or idle) > 3)}")  # fmt: skip
    for role, word in ((Role.EMBEDDING, "embeddings"), (Role.HEAD, "heads")):
        names = [layer.name for layer in look.layers if layer.matrix and layer.role == role]
        if names:
            found.append(f"{word} are among the matrices that get a matrix's update: {', '.join(names)}")
    return [*(o.text for o in look.observations if o.warning), *found]


def _rate_warnings(rates: RateRange | None) -> list[str]:
    """Whether the rate under test is among those that blow up."""
    if rates is None:
        return []
    bad = [trial for trial in rates.trials if trial.rate == rates.given and trial.blew_up(rates.limit)]
    return [f"the loss blows up on {rates.protocol} at the rate given, {rates.given:g}"] if bad else []
