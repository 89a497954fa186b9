"""`bench speed step`: a network's passes against their straightforward form, and the parts of a step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.datasets.samples import Samples
from bench.models.dropout import BankDropout, DropoutStream
from bench.models.multimodal_memory import Dropout, MultiModalMemoryNetwork, NoDropout
from bench.models.multimodal_memory_bank import NetworkBank
from bench.objective import bank_pair_losses, pair_losses
from bench.protocol import Protocol
from bench.speed.machine import NAMES, Conditions, conditions
from bench.speed.parts import time_by_part
from bench.speed.shortened import shortened
from bench.speed.straightforward import losses_of, network_of
from bench.speed.tables import measured_table
from bench.speed.traffic import moved_bytes
from bench.timing import Rounds, interleaved

if TYPE_CHECKING:
    from rich.console import Group

SHORT = {"float32": "f32", "bfloat16": "bf16"}
BANKS = (4, 8)  # runs at once
PART_STEPS, PART_EPOCHS = 64, 2  # the built-in studies keep their length; those of large sets are cut
STRAIGHTFORWARD, OURS, WITHOUT_DROPOUT = "straightforward", "ours", "ours without dropout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Forward and backward passes of one form; times, operations and bytes are those of one run's step."""

    name: str
    dtype: str
    milliseconds: float
    low: float
    high: float
    times_faster: float  # than the straightforward form in the same dtype
    times_faster_than_float32: float  # than the straightforward form in float32
    operations: int  # of matrix products and convolutions
    moved: int  # bytes that the operators read and write
    gemm_share: float  # the rate of these operations over that of a large matrix product in the same dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpeeds:
    """What one measurement found; `parts` are seconds of a run's step."""

    protocol: str
    batch_size: int
    forms: tuple[Form, ...]
    dropout_share: dict[str, float]  # by dtype, of our form's time
    parts: dict[str, float]
    part_runs: int  # at once
    conditions: Conditions

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    call: Callable[[], object]
    runs: int = 1


def measure(
    protocol: Protocol,
    *,
    data_dir: Path | None,
    device: torch.device,
    rounds: int,
    on_round: Callable[[int], None] = lambda done: None,
) -> StepSpeeds:
    """Time every form in interleaved rounds, then the parts of real runs.

    Raises `UsageError` where the protocol's network is none of the harness' own.
    """
    dataset = protocol.workload.build_dataset(data_dir, device)
    network = network_of(protocol, dict(dataset.network_options)).to(device)
    batch = dataset.training(1, 0).take(torch.arange(protocol.batch_size, device=device))
    candidates = _candidates(protocol, network, batch, device)
    costs = {key: _cost(candidate) for key, candidate in candidates.items()}
    calls = {" ".join(key): candidate.call for key, candidate in candidates.items()}
    found = interleaved(calls, rounds=rounds, device=device, on_round=on_round)
    here = conditions(device, found)
    parts, runs = time_by_part(shortened(protocol, PART_STEPS, PART_EPOCHS), data_dir, device)
    forms = tuple(_form(key, candidates, costs[key], found, here) for key in candidates if key[0] != WITHOUT_DROPOUT)
    return StepSpeeds(
        protocol=protocol.name, batch_size=protocol.batch_size, forms=forms, dropout_share=_dropout_shares(found),
        parts=parts, part_runs=runs, conditions=here,
    )  # fmt: skip


def _candidates(
    protocol: Protocol, network: MultiModalMemoryNetwork, batch: Samples, device: torch.device
) -> dict[tuple[str, str], _Candidate]:
    """Every form by name and dtype: gradients of one batch each time, at weights that stay."""
    stream = DropoutStream(network.dropout_probability, 0, device)
    network.train()
    found = {}
    for dtype, name in NAMES.items():
        for form, dropout in ((OURS, stream), (WITHOUT_DROPOUT, NoDropout())):
            loss = partial(_loss, protocol, network, batch, dropout, dtype)
            found[form, name] = _Candidate(call=partial(_gradients, network, loss))
        plain = partial(losses_of, network, batch, protocol, dtype)
        found[STRAIGHTFORWARD, name] = _Candidate(call=partial(_gradients, network, plain))
        found |= {(f"bank of {K}", name): _bank(protocol, network, batch, K, dtype) for K in BANKS}
    return dict(sorted(found.items(), key=lambda item: (item[0][1] != "float32", item[0][0] != STRAIGHTFORWARD)))


def _loss(
    protocol: Protocol, network: MultiModalMemoryNetwork, batch: Samples, dropout: Dropout, dtype: torch.dtype
) -> Tensor:
    if isinstance(dropout, DropoutStream):
        dropout.start_step(0)
    with torch.autocast(batch.match_N.device.type, dtype, enabled=dtype != torch.float32):
        embeddings = network(batch.inputs(), batch.masks(), dropout)
    workload = protocol.workload
    losses = pair_losses(
        embeddings, batch.match_N, temperature=workload.temperature, multi_positive=workload.multi_positive
    )
    return torch.stack(list(losses.values())).sum()


def _gradients(network: MultiModalMemoryNetwork, loss: Callable[[], Tensor]) -> None:
    for parameter in network.parameters():
        parameter.grad = None
    loss().backward()


def _bank(
    protocol: Protocol, network: MultiModalMemoryNetwork, batch: Samples, runs: int, dtype: torch.dtype
) -> _Candidate:
    """The same of several runs at once."""
    bank = NetworkBank([copy.deepcopy(network) for _ in range(runs)])
    dropout = BankDropout([DropoutStream(network.dropout_probability, k, batch.match_N.device) for k in range(runs)])
    weights = list(bank.weights.values())
    inputs, masks = ({name: x.expand(runs, *x.shape).contiguous() for name, x in each.items()}
                     for each in (batch.inputs(), batch.masks()))  # fmt: skip
    match, workload = batch.match_N.expand(runs, -1), protocol.workload

    def call() -> None:
        dropout.start_step(0)
        with torch.autocast(match.device.type, dtype, enabled=dtype != torch.float32):
            embeddings = bank.forward(inputs, masks, dropout, training=True)
        losses = bank_pair_losses(
            embeddings, match, temperature=workload.temperature, multi_positive=workload.multi_positive
        )
        torch.autograd.grad(torch.stack(list(losses.values())).sum(), weights, allow_unused=True)

    return _Candidate(call=call, runs=runs)


def _cost(candidate: _Candidate) -> tuple[int, int]:
    """Operations and moved bytes of a run's step."""
    with FlopCounterMode(display=False) as counter:
        candidate.call()
    return counter.get_total_flops() // candidate.runs, moved_bytes(candidate.call) // candidate.runs


def _form(
    key: tuple[str, str],
    candidates: dict[tuple[str, str], _Candidate],
    cost: tuple[int, int],
    found: Rounds,
    here: Conditions,
) -> Form:
    name, dtype = key
    own, runs = found.timings[" ".join(key)], candidates[key].runs
    seconds, (operations, moved) = own.median / runs, cost
    return Form(
        name=name, dtype=dtype, milliseconds=1e3 * seconds, low=1e3 * own.low / runs, high=1e3 * own.high / runs,
        times_faster=found.timings[f"{STRAIGHTFORWARD} {dtype}"].median / seconds,
        times_faster_than_float32=found.timings[f"{STRAIGHTFORWARD} float32"].median / seconds,
        operations=operations, moved=moved, gemm_share=operations / seconds / here.gemm[dtype],
    )  # fmt: skip


def _dropout_shares(found: Rounds) -> dict[str, float]:
    times = {key: timing.median for key, timing in found.timings.items()}
    return {name: 1 - times[f"{WITHOUT_DROPOUT} {name}"] / times[f"{OURS} {name}"] for name in NAMES.values()}


def table(speeds: StepSpeeds) -> Group:
    """The measurement for the terminal."""
    from rich.console import Group
    from rich.text import Text

    forms = measured_table(f"Forward and backward, {speeds.protocol}, batch {speeds.batch_size}", "form", "ms",
                           "quartiles", "× same", "× f32", "GFLOP", "GEMM", "GB")  # fmt: skip
    for form in speeds.forms:
        forms.add_row(
            f"{form.name}, {SHORT[form.dtype]}", f"{form.milliseconds:.4g}", f"{form.low:.3g}–{form.high:.3g}",
            f"{form.times_faster:.2f}", f"{form.times_faster_than_float32:.2f}", f"{form.operations / 1e9:.3g}",
            f"{form.gemm_share:.0%}", f"{form.moved / 1e9:.3g}",
        )  # fmt: skip
    whole = sum(speeds.parts.values())
    parts = measured_table(f"A step of AdamW's runs, {speeds.part_runs} at once", "part", "ms a run", "share")
    for part, seconds in speeds.parts.items():
        parts.add_row(part, f"{1e3 * seconds:.3g}", f"{seconds / whole:.1%}")
    return Group(forms, Text(), parts, Text(legend(speeds), style="dim"))


def legend(speeds: StepSpeeds) -> str:
    """What the columns mean and under what conditions they were measured."""
    dropout = ", ".join(f"{name} {share:.0%}" for name, share in speeds.dropout_share.items())
    return "\n".join([
        "× same: the straightforward form's time in the same dtype over this one's; × f32: the straightforward form's "
        "in float32; GFLOP: of matrix products and convolutions; GEMM: their rate over that of a large matrix "
        "product in the dtype; GB: what the operators read and write. Of banks, a run's share.",
        f"Dropout's share of our form: {dropout}. Parts: data is taking batches and fresh noise, harness all that is "
        "none of the others, evaluation what each epoch's end costs a step.",
        str(speeds.conditions),
    ])  # fmt: skip
