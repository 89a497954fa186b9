"""Probes of an optimizer on copies of a network's weights and gradients: matrices, host reads, the cost of a step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.contracts.reads import HostReads
from bench.contracts.subject import Subject
from bench.registry import PLUGIN_FAULTS
from bench.seeding import globally_seeded
from bench.spec import Need, Role, RoledParameter

COST_ROUNDS, COST_SECONDS = 7, 10.0
PROBE_STEPS = 3
# Cosine of a matrix's update and that of the same numbers as a vector, below which the algorithm sees a matrix.
SAME_DIRECTION = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A network's weights before the first step, and that step's gradients."""

    weights: list[Tensor]
    gradients: list[Tensor | None]


def _built(subject: Subject, parameters: Sequence[RoledParameter]) -> Optimizer:
    """The optimizer as a run would have it: the settings given, the entry's policy of groups."""
    return subject.ready(subject.spec.build(parameters, subject.hyperparameters))


def probe_matrices(
    subject: Subject, roled: Sequence[RoledParameter], start: Start
) -> dict[tuple[Role, torch.Size], bool]:
    """Whether a matrix of each role and shape gets another direction than its elements in a vector would."""
    found: dict[tuple[Role, torch.Size], bool] = {}
    for p, w, g in zip(roled, start.weights, start.gradients, strict=True):
        if w.ndim != 2 or g is None or (p.role, w.shape) in found:
            continue
        as_matrix = _displacement(subject, p, w, g)
        if as_matrix is None:
            continue
        as_vector = _displacement(subject, p, w.flatten(), g.flatten())
        found[p.role, w.shape] = as_vector is None or not _parallel(as_matrix, as_vector)
    return found


def _displacement(subject: Subject, like: RoledParameter, w: Tensor, g: Tensor) -> Tensor | None:
    """Where a few steps on one constant gradient lead; None where the optimizer does not take such a parameter."""
    parameter = nn.Parameter(w.clone())
    try:
        with globally_seeded(0):  # matrix and vector get the same draws
            optimizer = _built(subject, [RoledParameter(name=like.name, parameter=parameter, role=like.role)])
            for _ in range(PROBE_STEPS):
                subject.apply(optimizer, [parameter], [g.clone()])
    except PLUGIN_FAULTS:
        return None
    return (parameter.detach() - w).flatten()


def _parallel(x: Tensor, y: Tensor) -> bool:
    """Whether two displacements have one direction; two of zero have."""
    norms = torch.linalg.vector_norm(x) * torch.linalg.vector_norm(y)
    if norms == 0:
        return not x.any() and not y.any()
    return bool(x @ y / norms > SAME_DIRECTION)


def step_cost(
    subject: Subject, roled: Sequence[RoledParameter], start: Start
) -> tuple[int, float | None, float | None]:
    """Host reads of a step; its time as a ratio to fused AdamW's, medians of interleaved rounds; and milliseconds.

    No time is given for an optimizer that evaluates its closure itself: its step is not separable from the loss.
    """
    kept = [(p, w, g) for p, w, g in zip(roled, start.weights, start.gradients, strict=True) if g is not None]
    mine = [RoledParameter(name=p.name, parameter=nn.Parameter(w.clone()), role=p.role) for p, w, _ in kept]
    weights = [p.parameter for p in mine]
    twins = [nn.Parameter(w.clone()) for _, w, _ in kept]
    gradients = [g for *_, g in kept]
    for twin, g in zip(twins, gradients, strict=True):
        twin.grad = g.clone()
    optimizer, fused = _built(subject, mine), torch.optim.AdamW(twins, fused=True)
    subject.apply(optimizer, weights, gradients)
    with HostReads() as reads:
        subject.apply(optimizer, weights, gradients)
    if Need.CLOSURE in subject.spec.needs:
        return len(reads.found), None, None
    ours, theirs = [], []
    until = time.perf_counter() + COST_SECONDS
    while len(ours) < COST_ROUNDS and (len(ours) < 3 or time.perf_counter() < until):
        before = time.perf_counter()
        subject.apply(optimizer, weights, gradients)
        between = time.perf_counter()
        fused.step()
        ours.append(between - before)
        theirs.append(time.perf_counter() - between)
    middle = statistics.median(ours)
    return len(reads.found), middle / statistics.median(theirs), 1000 * middle
