"""`bench speed optimizers`: the step time of every entry on a network's real parameters, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.environment import environment, state_bytes
from bench.models.dropout import DropoutStream
from bench.objective import pair_losses
from bench.optimizers.reference.catalog import REFERENCES, VARIANTS
from bench.protocol import Protocol
from bench.registry import Selected
from bench.seeding import torch_seeded
from bench.spec import Need, OptimizerSpec, RoledParameter
from bench.speed.tables import measured_table
from bench.timing import Rounds, Timing, interleaved, memory_bandwidth
from bench.workload import roled_parameters

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Group

BASELINE = "fused AdamW"
WARMUP_STEPS = 8  # histories are full
UNTIMED = (Need.CLOSURE, Need.SECOND_ORDER)  # their step includes backward passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One form of one entry: `form` is "" for the entry as it runs, else a variant of it or "plain"."""

    optimizer: str
    form: str
    milliseconds: float
    low: float
    high: float
    times_baseline: float
    plain_over_this: float | None  # the plain form's time over this one's
    floor_share: float  # time that the bytes it must move take, over its time
    state_bytes_per_parameter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSpeeds:
    """What one measurement found."""

    protocol: str
    tensors: int
    parameters: int
    device: str
    processor: str
    threads: int
    bandwidth: float  # bytes a second
    rows: tuple[Row, ...]
    untimed: dict[str, str]
    rounds: int
    dropped: int
    foreign: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class _Candidate:
    """An optimizer over its own copies of weights and gradients: some libraries write to gradients."""

    optimizer: Optimizer
    moved_bytes: int  # weights, gradients and state read once, and what a step changes written once

    def step(self) -> None:
        self.optimizer.step()


def gradients_of(protocol: Protocol, data_dir: Path | None, device: torch.device) -> list[RoledParameter]:
    """The parameters of the protocol's network that get a gradient on a batch of its data, with that gradient."""
    workload = protocol.workload
    dataset = workload.build_dataset(data_dir, device)
    with torch_seeded(0):
        model = workload.build_model(dataset.network_options)
    model.to(device)
    roled = roled_parameters(model, workload.roles())
    batch = dataset.training(1, 0).take(torch.arange(protocol.batch_size, device=device))
    embeddings = model(batch.inputs(), batch.masks(), DropoutStream(model.dropout_probability, 0, device))
    losses = pair_losses(
        embeddings, batch.match_N, temperature=workload.temperature, multi_positive=workload.multi_positive
    )
    torch.stack(list(losses.values())).sum().backward()
    return [p for p in roled if p.parameter.grad is not None]


def _copy(roled: Sequence[RoledParameter]) -> list[RoledParameter]:
    """Parameters of their own with equal gradients of their own."""
    copies = []
    for p in roled:
        assert p.parameter.grad is not None
        parameter = nn.Parameter(p.parameter.detach().clone())
        parameter.grad = p.parameter.grad.clone()
        copies.append(RoledParameter(name=p.name, parameter=parameter, role=p.role))
    return copies


def _candidate(build: Callable[[Sequence[RoledParameter]], Optimizer], roled: Sequence[RoledParameter]) -> _Candidate:
    """An optimizer past its first steps, on a gradient that varies, and the bytes that a step of it moves."""
    parameters = _copy(roled)
    optimizer = build(parameters)
    for step in range(WARMUP_STEPS):
        _vary_gradients(parameters, roled, step)
        optimizer.step()
    before = {id(x): x.clone() for x in _kept(parameters, optimizer)}
    _vary_gradients(parameters, roled, WARMUP_STEPS)
    optimizer.step()
    kept = _kept(parameters, optimizer)
    written = sum(_written_bytes(before.get(id(x)), x) for x in kept)
    read = sum(_bytes(x) for x in kept) + sum(_bytes(p.parameter.grad) for p in parameters)
    return _Candidate(optimizer=optimizer, moved_bytes=read + written)


def _vary_gradients(parameters: Sequence[RoledParameter], roled: Sequence[RoledParameter], step: int) -> None:
    """Give the parameters the measured gradients, a tenth of noise added."""
    generator = torch.Generator(roled[0].parameter.device).manual_seed(step)
    for mine, given in zip(parameters, roled, strict=True):
        g = given.parameter.grad
        assert g is not None and mine.parameter.grad is not None
        noise = torch.randn(g.shape, generator=generator, device=g.device)
        mine.parameter.grad.copy_(g + 0.1 * g.std(correction=0) * noise)


def _kept(parameters: Sequence[RoledParameter], optimizer: Optimizer) -> list[Tensor]:
    """Weights and every tensor of the state."""
    return [x for p in parameters for x in (p.parameter.detach(), *_tensors(dict(optimizer.state[p.parameter])))]


def _written_bytes(before: Tensor | None, now: Tensor) -> int:
    """Bytes of a kept tensor that a step wrote: all of it if it is new or anything in it changed.

    Of a history [rows, ...] only the rows that changed.
    """
    if before is None or before.shape != now.shape or now.ndim == 0:
        return _bytes(now)
    changed = (before != now).flatten(1).any(1).float().mean() if now.ndim > 1 else (before != now).any()
    return round(_bytes(now) * float(changed))


def _tensors(value: Any) -> list[Tensor]:
    """Every tensor in nested dictionaries and sequences."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [x for each in value for x in _tensors(each)] if isinstance(value, list | tuple) else []


def _bytes(x: Tensor | None) -> int:
    return 0 if x is None else x.numel() * x.element_size()


def _forms(chosen: Selected) -> dict[str, Callable[[Sequence[RoledParameter]], Optimizer]]:
    """The entry as it runs, its variants, and its plain form."""
    spec, settings = chosen.spec, dict(chosen.hyperparameters)
    forms: dict[str, Callable[[Sequence[RoledParameter]], Optimizer]] = {"": lambda ps: _started(spec, ps, settings)}
    for form, changes in VARIANTS.get(spec.name, {}).items():
        forms[form] = lambda ps, changes=changes: _started(spec, ps, {**settings, **changes})
    if (plain := REFERENCES.get(spec.name)) is not None:
        forms["plain"] = lambda ps: plain(spec.groups(ps), **settings)
    return forms


def _started(spec: OptimizerSpec, parameters: Sequence[RoledParameter], settings: dict[str, Any]) -> Optimizer:
    optimizer: Any = spec.build(parameters, settings)
    if Need.TRAIN_EVAL_SWITCH in spec.needs:
        optimizer.train()
    return optimizer


def measure(
    selected: Sequence[Selected],
    protocol: Protocol,
    *,
    data_dir: Path | None,
    device: torch.device,
    rounds: int,
    on_round: Callable[[int], None] = lambda done: None,
) -> OptimizerSpeeds:
    """Time a step of every entry and form against fused AdamW, in interleaved rounds."""
    roled = gradients_of(protocol, data_dir, device)
    untimed = {c.spec.name: ", ".join(sorted(c.spec.needs & set(UNTIMED))) for c in selected
               if c.spec.needs & set(UNTIMED)}  # fmt: skip
    builds = {(BASELINE, ""): lambda ps: torch.optim.AdamW([p.parameter for p in ps], fused=True)} | {
        (c.spec.name, form): build for c in selected if c.spec.name not in untimed for form, build in _forms(c).items()
    }
    candidates = {key: _candidate(build, roled) for key, build in builds.items()}
    bandwidth = memory_bandwidth(device)
    calls = {" ".join(key): candidate.step for key, candidate in candidates.items()}
    found = interleaved(calls, rounds=rounds, device=device, on_round=on_round)
    size = sum(p.parameter.numel() for p in roled)
    return OptimizerSpeeds(
        protocol=protocol.name,
        tensors=len(roled),
        parameters=size,
        device=str(device),
        processor=environment(device).processor,
        threads=torch.get_num_threads(),
        bandwidth=bandwidth,
        rows=tuple(_row(key, candidate, found, bandwidth, size) for key, candidate in candidates.items()),
        untimed=untimed,
        rounds=found.kept or found.dropped,
        dropped=found.dropped if found.kept else 0,
        foreign=found.foreign,
    )


def _row(key: tuple[str, str], candidate: _Candidate, found: Rounds, bandwidth: float, size: int) -> Row:
    def of(other: tuple[str, str]) -> Timing | None:
        return found.timings.get(" ".join(other))

    own, plain, baseline = of(key), of((key[0], "plain")), of((BASELINE, ""))
    assert own is not None and baseline is not None
    return Row(
        optimizer=key[0],
        form=key[1],
        milliseconds=1e3 * own.median,
        low=1e3 * own.low,
        high=1e3 * own.high,
        times_baseline=own.median / baseline.median,
        plain_over_this=plain.median / own.median if plain is not None and key[1] != "plain" else None,
        floor_share=candidate.moved_bytes / bandwidth / own.median,
        state_bytes_per_parameter=state_bytes(candidate.optimizer) / size,
    )


def table(speeds: OptimizerSpeeds) -> Group:
    """The measurement for the terminal."""
    from rich.console import Group
    from rich.text import Text

    title = f"Step time on {speeds.tensors} tensors, {speeds.parameters:,} parameters ({speeds.protocol})"
    shown = measured_table(title, "optimizer", "ms", "quartiles", "× AdamW", "plain/this", "floor", "state")
    for row in speeds.rows:
        shown.add_row(
            row.optimizer if not row.form else f"  {row.form}",
            f"{row.milliseconds:.4g}",
            f"{row.low:.3g}–{row.high:.3g}",
            f"{row.times_baseline:.2f}",
            "" if row.plain_over_this is None else f"{row.plain_over_this:.2f}",
            f"{row.floor_share:.0%}",
            f"{row.state_bytes_per_parameter:.1f}",
        )
    return Group(shown, Text(legend(speeds), style="dim"))


def legend(speeds: OptimizerSpeeds) -> str:
    """What the columns mean and under what conditions they were measured."""
    load = "unknown" if speeds.foreign is None else f"{speeds.foreign:.2f} cores"
    lines = [
        "× AdamW: times fused AdamW; plain/this: the plain form's time over this one's; floor: the time that the bytes "
        "a step must move (weights, gradients, state) take at the measured "
        f"{speeds.bandwidth / 1e9:.0f} GB/s, over its time; state: bytes a weight.",
        f"Medians of {speeds.rounds} interleaved rounds ({speeds.dropped} dropped; foreign load {load}) on "
        f"{speeds.processor}, {speeds.device}, {speeds.threads} thread{'s' * (speeds.threads > 1)}.",
    ]
    lines += [f"Not timed: {name} (its step needs {need})." for name, need in speeds.untimed.items()]
    return "\n".join(lines)
