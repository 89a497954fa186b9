"""What an optimizer may ask of the training loop, each in real runs."""

from __future__ import annotations

import gc
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.checkpoint import Keeper
from bench.errors import UsageError
from bench.execution import execute
from bench.plan import Run
from bench.protocol import Protocol
from bench.protocols import changed
from bench.record import CurvePoint, Outcome, RunRecord
from bench.registry import entry, require_precision, select
from bench.trainer import Trainer

CPU = torch.device("cpu")
PLUGIN = """
import random, weakref
import numpy, torch
from bench.spec import Need, OptimizerSpec

LOG = []

class Mine(torch.optim.SGD):
    def __init__(self, params, lr=0.01):
        super().__init__(params, lr=lr)

{body}

SPEC = OptimizerSpec(
    name="mine", title="mine", constructor=Mine, defaults={{"lr": 0.01}}, reference="none",
    needs=frozenset({{{needs}}}),
)
"""

Write = Callable[..., str]


@pytest.fixture
def plugin(tmp_path: Path) -> Write:
    """Writes SGD with methods of its own and a need; returns its reference."""

    def write(body: str, *needs: str) -> str:
        path = tmp_path / "mine.py"
        indented = "\n".join("    " + line for line in body.strip().splitlines())
        # The folder's name makes it a module of its own: one of the same source would be found loaded.
        path.write_text(
            f"# {tmp_path.name}\n" + PLUGIN.format(body=indented, needs=", ".join(f"Need.{need}" for need in needs))
        )
        return f"{path}:SPEC"

    return write


def log_of(reference: str) -> list:
    """What the plugin wrote to its LOG."""
    constructor = entry(reference).constructor
    assert isinstance(constructor, type)
    return vars(sys.modules[constructor.__module__])["LOG"]


def run_of(protocol: Protocol, reference: str, **overrides) -> Run:
    spec = entry(reference)
    return Run(protocol=protocol, optimizer=spec.name, reference=reference, seed=0,
               hyperparameters={**spec.defaults, **overrides}, source_digest=spec.source_digest)  # fmt: skip


def train(protocol: Protocol, reference: str, **overrides) -> tuple[RunRecord, list[CurvePoint]]:
    curve: list[CurvePoint] = []
    return execute(run_of(protocol, reference, **overrides), device=CPU, on_epoch=curve.append), curve


def numbers(outcome: tuple[RunRecord, list[CurvePoint]]) -> list:
    record, curve = outcome
    assert record.outcome is Outcome.OK, record.failure
    return [record.metrics, record.validation_metrics, record.diagnostics] + [
        point.model_dump(exclude={"seconds", "peak_bytes"}) for point in curve
    ]


# ---------------------------------------------------------------------- no need


def test_without_needs_a_step_has_no_argument(tiny: Protocol, plugin: Write):
    body = """
def step(self, *arguments, **settings):
    assert not arguments and not settings
    return super().step()
"""
    assert numbers(train(tiny, plugin(body))) == numbers(train(tiny, "sgd", momentum=0.0))


# ---------------------------------------------------------------------- closure

SGD_WITH_CLOSURE = """
def step(self, closure):
    closures = [float(closure()) for _ in range({calls})]
    LOG.append(closures)
    with torch.no_grad():
        super().step()
"""


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_closure_meets_the_same_masks_and_counts_the_batch_once(tiny: Protocol, plugin: Write, precision: str):
    """SGD that evaluates three times at the same weights is SGD, its running statistics included; without clipping."""
    protocol = changed(tiny, {"precision": precision, "clip_norm": "none"}, "test")
    reference = plugin(SGD_WITH_CLOSURE.format(calls=3), "CLOSURE")
    assert numbers(train(protocol, reference)) == numbers(train(protocol, "sgd", momentum=0.0))
    log = log_of(reference)
    assert len(log) == 8
    assert all(len(set(losses)) == 1 for losses in log)


def test_the_first_evaluation_is_recorded(tiny: Protocol, plugin: Write):
    body = """
def step(self, closure):
    LOG.append(float(closure()))
    with torch.no_grad():
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1.01)
    assert float(closure()) != LOG[-1]
    with torch.no_grad():
        super().step()
"""
    reference = plugin(body, "CLOSURE")
    record, curve = train(tiny, reference)
    assert record.outcome is Outcome.OK, record.failure
    losses = log_of(reference)
    assert record.fingerprints is not None
    assert record.fingerprints.initial_loss == pytest.approx(losses[0], rel=1e-6)
    assert [point.loss for point in curve] == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 4], rel=1e-6)


def test_only_further_evaluations_are_the_steps_time(tiny: Protocol, plugin: Write):
    once, _ = train(tiny, plugin(SGD_WITH_CLOSURE.format(calls=1), "CLOSURE"))
    four, _ = train(tiny, plugin(SGD_WITH_CLOSURE.format(calls=4), "CLOSURE"))
    assert 0 < once.seconds.optimizer_step < four.seconds.optimizer_step < four.seconds.training


def test_a_closure_that_is_not_called_is_an_error(tiny: Protocol, plugin: Write):
    record, _ = train(tiny, plugin("def step(self, closure): pass", "CLOSURE"))
    assert record.outcome is Outcome.ERROR
    assert record.failure is not None and "declared to need a closure, but did not call it" in record.failure.reason


def test_lbfgs_lowers_the_loss(tiny: Protocol):
    record, curve = train(changed(tiny, {"epochs": 4}, "test"), "lbfgs", max_iter=5)
    assert record.outcome is Outcome.OK, record.failure
    assert curve[-1].loss < 0.9 * curve[0].loss


# ---------------------------------------------------------------------- loss value


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_a_loss_value_is_that_of_the_step_and_computed_once(tiny: Protocol, plugin: Write, precision: str):
    """Polyak's step length: the loss over the squared norm of the gradient, at most lr."""
    body = """
def step(self, closure):
    loss, gradients = closure(), [p.grad for p in self.param_groups[0]["params"] if p.grad is not None]
    assert closure() is loss and not loss.requires_grad
    LOG.append(float(loss))
    square = sum(g.square().sum() for g in gradients)
    with torch.no_grad():
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                p.sub_(p.grad * (loss / square).clamp(max=self.param_groups[0]["lr"]))
"""
    reference = plugin(body, "LOSS_VALUE")
    record, curve = train(changed(tiny, {"precision": precision, "epochs": 4}, "test"), reference, lr=0.5)
    assert record.outcome is Outcome.OK, record.failure
    assert curve[-1].loss < 0.9 * curve[0].loss
    losses = log_of(reference)
    assert len(losses) == record.steps - record.diagnostics.skipped_steps
    if precision == "float32":
        assert curve[0].loss == pytest.approx(sum(losses[:4]) / 4, rel=1e-6)


# ---------------------------------------------------------------------- second order

HUTCHINSON = """
@torch.no_grad()
def step(self):
    parameters = [p for p in self.param_groups[0]["params"] if p.grad is not None]
    signs = [torch.randint_like(p, 2) * 2 - 1 for p in parameters]
    products = torch.autograd.grad([p.grad for p in parameters], parameters, signs)
    assert any((h != 0).any() for h in products)
    LOG.append(weakref.ref(parameters[0].grad))
    assert [reference() is None for reference in LOG[:-1]] == [True] * (len(LOG) - 1)
    for p, h, s in zip(parameters, products, signs):
        p.sub_(self.param_groups[0]["lr"] * p.grad / (h * s).abs().clamp(min=1))
"""


def test_gradients_can_be_differentiated_and_do_not_outlive_their_step(tiny: Protocol, plugin: Write):
    """Without the collector of reference cycles: a gradient that holds its graph would stay."""
    reference = plugin(HUTCHINSON, "SECOND_ORDER")
    gc.disable()
    try:
        record, curve = train(changed(tiny, {"epochs": 4}, "test"), reference, lr=0.1)
    finally:
        gc.enable()
    assert record.outcome is Outcome.OK, record.failure
    assert len(log_of(reference)) == 16
    assert curve[-1].loss < curve[0].loss


def test_second_order_steps_have_the_gradients_of_ordinary_ones(tiny: Protocol, plugin: Write):
    body = "def step(self): return super().step()"
    ours, plain = train(tiny, plugin(body, "SECOND_ORDER")), train(tiny, "sgd", momentum=0.0)
    assert [p.loss for p in ours[1]] == pytest.approx([p.loss for p in plain[1]], rel=1e-4)
    assert [p.gradient_norm for p in ours[1]] == pytest.approx([p.gradient_norm for p in plain[1]], rel=1e-3)


def test_only_the_warning_of_the_cycle_is_silent(tiny: Protocol, plugin: Write):
    """Warnings are errors in this suite; the filter is back in place inside the step."""
    body = """
def step(self):
    import warnings
    warnings.warn("mine", UserWarning)
"""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record, _ = train(tiny, plugin(body, "SECOND_ORDER"))
    assert record.failure is not None and record.failure.reason == "UserWarning: mine"


def test_sophia_computes_its_hessian_in_the_step(tiny: Protocol):
    pytest.importorskip("pytorch_optimizer")
    run = run_of(changed(tiny, {"epochs": 4}, "test"), "sophia")
    trainer = Trainer(run, CPU)
    losses = [point.loss for point in trainer.epochs(Keeper())]
    assert losses[-1] < losses[0]
    moments = [state["hessian_moment"] for state in trainer.optimizer.state.values()]
    assert len(moments) > 50 and any((moment != 0).any() for moment in moments)
    assert all(p.grad is None for p in trainer.model.parameters())


# ---------------------------------------------------------------------- two sets of weights


def test_weights_are_switched_around_every_epoch(tiny: Protocol, plugin: Write):
    """Evaluation sees what eval() leaves: here weights that are all zero, which train() takes back."""
    body = """
def train(self):
    LOG.append("train")
    with torch.no_grad():
        for p, w in getattr(self, "kept", []):
            p.copy_(w)

def eval(self):
    LOG.append("eval")
    self.kept = [(p, p.detach().clone()) for p in self.param_groups[0]["params"]]
    with torch.no_grad():
        for p, _ in self.kept:
            p.zero_()

def step(self):
    LOG.append("step")
    return super().step()
"""
    reference = plugin(body, "TRAIN_EVAL_SWITCH")
    run = run_of(tiny, reference)
    trainer = Trainer(run, CPU)
    losses = []
    for point in trainer.epochs(Keeper()):
        losses.append(point.loss)
        assert all((p == 0).all() for p in trainer.model.parameters())
    assert log_of(reference) == ["train", *["step"] * 4, "eval"] * 2
    assert losses == [point.loss for point in train(tiny, "sgd", momentum=0.0)[1]]


def test_schedule_free_is_evaluated_at_its_averaged_weights(tiny: Protocol):
    pytest.importorskip("schedulefree")
    trainer = Trainer(run_of(changed(tiny, {"epochs": 3}, "test"), "schedule_free_adamw"), CPU)
    beta = 0.9
    losses = []
    for point in trainer.epochs(Keeper()):
        losses.append(point.loss)
        averaged = [p.detach().clone() for p in trainer.model.parameters()]
        assert trainer.optimizer.param_groups[0]["train_mode"] is False
        # What is trained is y = (1 - beta) z + beta x, with z in the state and x the average.
        trainer.optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
        for p, x in zip(trainer.model.parameters(), averaged, strict=True):
            if "z" in trainer.optimizer.state[p]:
                torch.testing.assert_close(p.detach(), x.lerp(trainer.optimizer.state[p]["z"], 1 - beta))
        trainer.optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue]
    assert losses[-1] < losses[0]


# ---------------------------------------------------------------------- randomness


def test_an_optimizer_that_draws_from_global_generators_is_repeatable(tiny: Protocol, plugin: Write):
    body = """
def step(self):
    noise = [torch.rand(()).item(), numpy.random.rand(), random.random()]
    with torch.no_grad():
        for p in self.param_groups[0]["params"]:
            p.add_(1e-4 * sum(noise))
    return super().step()
"""
    reference = plugin(body)
    random.seed(1)
    np.random.seed(1)
    first = numbers(train(tiny, reference))
    before = random.getstate(), np.random.get_state()[1].copy()
    random.random()
    np.random.rand()
    after = random.getstate(), np.random.get_state()[1].copy()
    assert numbers(train(tiny, reference)) == first
    assert random.getstate() == after[0] and (np.random.get_state()[1] == after[1]).all()
    assert before[0] != after[0]


def test_half_precision_is_refused_before_anything_runs(tiny: Protocol):
    (lbfgs,) = select(["lbfgs"], {}, "default")
    with pytest.raises(UsageError, match="optimizer lbfgs: precision is 'fp16'"):
        require_precision(lbfgs.spec, changed(tiny, {"precision": "fp16"}, "test").precision)
