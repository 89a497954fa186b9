"""A doctor's report in a terminal of 80 columns."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.contracts import Verdict
from bench.doctor.network import Layer, Look
from bench.doctor.rates import RateRange, Trial
from bench.doctor.report import Report
from bench.reporting.result_table import bytes_text

STYLES = {
    Verdict.KEPT: "green",
    Verdict.BROKEN: "bold red",
    Verdict.KNOWN_LIMIT: "yellow",
    Verdict.NOT_APPLICABLE: "dim",
}
NAMES_SHOWN = 3


def view(report: Report) -> Group:
    """Contracts, the network, rates, warnings, and the verdict in one line."""
    parts: list[RenderableType] = [
        Text(f"{report.optimizer}: {_settings(report.hyperparameters)}", style="bold"),
        _heading(f"Contracts, at {_settings(report.contract_hyperparameters)}"),
        _contracts(report),
    ]
    if report.network is not None:
        parts += _network(report.network)
    if report.rates is not None:
        parts += _rates(report.rates)
    parts.append(_heading("Warnings" if report.warnings else "No warnings"))
    parts += [_note(line) for line in report.warnings]
    parts += [Text(), Text(report.verdict, style="bold red" if report.broken else "bold green")]
    return Group(*parts)


def _settings(settings: Any) -> str:
    return ", ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
                     for key, value in settings.items())  # fmt: skip


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _grid() -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="underline")


def _note(line: str) -> Table:
    """A line behind a dot, its later lines under its first."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row("•", Text(line, overflow="fold"))
    return grid


def _contracts(report: Report) -> Table:
    table = _grid()
    table.add_column("contract", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("measured", overflow="fold")
    for finding in report.contracts:
        detail = finding.detail if finding.limit is None else f"{finding.limit} ({finding.detail})"
        verdict = Text(finding.verdict.value.replace("_", " "), style=STYLES[finding.verdict])
        table.add_row(finding.contract, verdict, Text(detail))
    return table


def _network(look: Look) -> Iterator[RenderableType]:
    """The figures of the watched steps."""
    fall = f"loss {look.losses[0]:.4g} to {look.losses[-1]:.4g}" if look.losses else "no loss"
    yield _heading(
        f"Network of {look.protocol}, {look.steps} steps at the constant rate {look.rate:g}, float32: {fall}"
    )
    yield _roles(look)
    yield _note("min, median, max over layers: update norm / weight norm at the layer's median finite step")
    if by_ratio := sorted(look.moving(), key=Layer.ratio):
        yield _note(f"update/weight smallest: {_extremes(by_ratio[:NAMES_SHOWN])}")
        yield _note(f"update/weight largest: {_extremes(by_ratio[: -NAMES_SHOWN - 1 : -1])}")
    yield _note(f"state: {bytes_text(look.state_bytes)}, {look.state_bytes / look.parameters:.3g} bytes a weight, "
                f"{look.parameters:,} weights")  # fmt: skip
    if look.cost is None:
        yield _note("step cost: not separable from the loss, which the optimizer evaluates itself")
    else:
        yield _note(f"step cost: {look.cost:.2f} × fused AdamW, {look.cost_milliseconds:.1f} ms")
    yield _note(f"host reads: {look.host_reads} a step")
    matrices = [layer for layer in look.layers if layer.matrix]
    roles = ", ".join(
        f"{sum(m.role == role for m in matrices)} {role}" for role in dict.fromkeys(m.role for m in matrices)
    )
    yield _note(
        f"updated as matrices: {len(matrices)} tensors ({roles})" if matrices else "no tensor is updated as a matrix"
    )
    for observation in look.observations:
        if not observation.warning:
            yield _note(observation.text)


def _roles(look: Look) -> Table:
    """A row a role."""
    table = _grid()
    headings = ("tensors", "weights", "gradient", "updated", "min", "median", "max")
    table.add_column("role", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for role in dict.fromkeys(layer.role for layer in look.layers):
        layers = [layer for layer in look.layers if layer.role == role]
        ratios = [x.ratio() for x in look.moving() if x.role == role]
        figures = (min(ratios), statistics.median(ratios), max(ratios)) if ratios else ()
        table.add_row(
            role,
            str(len(layers)),
            f"{sum(_size(x) for x in layers):,}",
            str(sum(x.gradient for x in layers)),
            str(sum(any(x.ratios) for x in layers)),
            *(f"{x:.2g}" for x in figures),
        )
    return table


def _size(layer: Layer) -> int:
    size = 1
    for length in layer.shape:
        size *= length
    return size


def _extremes(layers: Sequence[Layer]) -> str:
    return ", ".join(f"{layer.name} {layer.ratio():.2g}" for layer in layers)


def _rates(rates: RateRange) -> Iterator[RenderableType]:
    """A row a rate, then where the loss falls fastest and where it blows up."""
    yield _heading(f"Learning rates on {rates.protocol}, {rates.steps} steps each, constant, float32")
    table = _grid()
    for heading in ("rate", "first loss", "last five"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for trial in rates.trials:
        table.add_row(f"{trial.rate:g}", f"{trial.first:.4g}", f"{trial.last:.4g}", _remark(rates, trial))
    yield table
    best, worst = rates.best(), rates.blow_up()
    falls = "falls at no rate" if best is None else f"falls fastest at {best.rate:g}"
    blows = f"blows up nowhere up to {rates.trials[-1].rate:g}" if worst is None else f"blows up from {worst.rate:g} on"
    yield _note(f"the loss {falls}, and {blows}")


def _remark(rates: RateRange, trial: Trial) -> str:
    """What is to be said of one rate."""
    parts = ["given"] if trial.rate == rates.given else []
    if trial.failed_at is not None:
        parts.append(f"not finite at step {trial.failed_at}")
    elif trial.blew_up(rates.limit):
        parts.append(f"over {rates.limit:g} × the first")
    elif rates.collapsed(trial):
        parts.append("embeddings all alike")
    elif trial == rates.best():
        parts.append("falls fastest")
    return ", ".join(parts)
