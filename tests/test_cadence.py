"""The update cadence: when levels fire and with what, the plain optimizer as a special case, and runs that resume."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.cadence import Level, by_level
from bench.cadenced import CadencedOptimizer
from bench.checkpoint import Checkpoints, Keeper, StoppedError
from bench.errors import UsageError
from bench.execution import execute
from bench.plan import Run
from bench.protocol import Protocol
from bench.protocols import PROTOCOLS, changed, load_protocol
from bench.record import Outcome, RunRecord
from bench.registry import entry
from bench.runner import prepare
from bench.spec import Role, RoledParameter
from bench.trainer import Trainer

CPU = torch.device("cpu")
NAMES = ("fast", "middle", "slow")
SLOTS = r"slots$"
LEVELS = [
    {"name": "fast", "pattern": rf"^(?!.*(fusion|{SLOTS}))"},
    {"name": "middle", "pattern": r"fusion", "chunk": 2, "lr_scale": 0.5},
    {"name": "slow", "pattern": SLOTS, "chunk": 3, "lr_scale": 0.25, "reduction": "sum", "flush_at_end": True},
]


def scalars(count: int, dtype: torch.dtype = torch.float64) -> list[RoledParameter]:
    return [RoledParameter(name=name, parameter=nn.Parameter(torch.zeros((), dtype=dtype)), role=Role.BIAS)
            for name in NAMES[:count]]  # fmt: skip


def levels_of(chunks: Sequence[int], **options) -> list[Level]:
    return [Level(name=name, pattern=name, chunk=chunk, **options) for name, chunk in zip(NAMES, chunks, strict=False)]


def at_rate_one(parameters: list[RoledParameter], levels: list[Level], clip: float | None = None) -> CadencedOptimizer:
    settings = {"lr": 1.0, "momentum": 0.0}
    return CadencedOptimizer(levels, parameters, lambda own: entry("sgd").build(own, settings), clip)


def tick(optimizer: CadencedOptimizer, parameters: list[RoledParameter], *gradients: float) -> None:
    for p, g in zip(parameters, gradients, strict=True):
        p.parameter.grad = torch.full_like(p.parameter, g)
    optimizer.step()


def values(parameters: list[RoledParameter]) -> list[float]:
    return [p.parameter.item() for p in parameters]


def test_a_thousand_ticks_fire_1000_62_and_3_times():
    parameters = scalars(3)
    optimizer = at_rate_one(parameters, levels_of((1, 16, 256)))
    for _ in range(1000):
        tick(optimizer, parameters, 1, 1, 1)
    assert optimizer.figures == {"firings_fast": 1000, "firings_middle": 62, "firings_slow": 3}


@pytest.mark.parametrize(("reduction", "moved"), [("sum", -136), ("mean", -8.5)])
def test_first_firing_uses_every_gradient_of_its_chunk(reduction: str, moved: float):
    """g_t = t, chunk 16: 1 + … + 16 = 136, a mean of 8.5; -16 would mean that each tick cleared all levels."""
    parameters = scalars(2)
    optimizer = at_rate_one(parameters, levels_of((1, 16), reduction=reduction))
    for t in range(1, 17):
        assert parameters[1].parameter.item() == 0
        tick(optimizer, parameters, t, t)
    assert values(parameters) == [-136, moved]


@pytest.mark.parametrize(("reduction", "moved"), [("sum", [-256, -256, -256]), ("mean", [-256, -16, -1])])
def test_256_equal_gradients(reduction: str, moved: list[float]):
    parameters = scalars(3)
    optimizer = at_rate_one(parameters, levels_of((1, 16, 256), reduction=reduction))
    for _ in range(256):
        tick(optimizer, parameters, 1, 1, 1)
    assert values(parameters) == moved


def test_a_firing_clears_only_its_own_accumulator_and_takes_the_rate_of_its_tick():
    """Rates 1, 2, 3, 4 at ticks 1 to 4, halved for the slow level: chunks (1 + 2)·2/2, then (3 + 4)·4/2."""
    parameters = scalars(2)
    slow = Level(name="middle", pattern="middle", chunk=2, lr_scale=0.5, reduction="sum")
    optimizer = at_rate_one(parameters, [*levels_of((1,)), slow])
    base = [group["lr"] for group in optimizer.param_groups]
    for t in range(1, 5):
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * t
        tick(optimizer, parameters, t, t)
    assert values(parameters) == [-(1 + 4 + 9 + 16), -(3 + 14)]


def test_gradients_are_clipped_once_when_they_are_used():
    """Levels of one chunk together: (3, 4) becomes (0.6, 0.8). The slow level apart: its sum of 10 becomes 1."""
    parameters = scalars(3)
    optimizer = at_rate_one(parameters, levels_of((1, 1, 2), reduction="sum"), clip=1.0)
    tick(optimizer, parameters, 3, 4, 5)
    assert values(parameters) == pytest.approx([-0.6, -0.8, 0])
    tick(optimizer, parameters, 0.3, 0.4, 5)
    assert values(parameters) == pytest.approx([-0.9, -1.2, -1])


def test_a_tick_that_is_not_finite_is_skipped_for_all_levels_and_counted():
    """Of five ticks the third counts for nothing: chunks of 2 hold ticks 1, 2 and 4, 5."""
    parameters = scalars(2)
    optimizer = at_rate_one(parameters, levels_of((1, 2), reduction="sum"))
    for gradients in ((1, 1), (2, 2), (float("nan"), 4), (8, 8), (16, 16)):
        tick(optimizer, parameters, *gradients)
    assert values(parameters) == [-27, -27]
    assert (optimizer.tick, optimizer.skipped) == (4, 1)


@pytest.mark.parametrize(("reduction", "moved"), [("sum", -15), ("mean", -(3 + 4.5))])
def test_the_flush_at_the_end_uses_the_partial_chunk(reduction: str, moved: float):
    """Five ticks g_t = t in chunks of 3: (1 + 2 + 3), then 4 + 5, whose mean is over two ticks: 2 + 4.5."""
    parameters = scalars(2)
    flushed = Level(name="middle", pattern="middle", chunk=3, reduction=reduction, flush_at_end=True)
    optimizer = at_rate_one(parameters, [*levels_of((1,)), flushed])
    for t in range(1, 6):
        tick(optimizer, parameters, t, t)
    optimizer.flush()
    assert values(parameters)[1] == (moved if reduction == "sum" else -(2 + 4.5))
    assert optimizer.figures == {"firings_fast": 5, "firings_middle": 2}


def test_half_precision_gathers_in_float32():
    """1 + 2⁻¹⁰ + 2⁻¹⁰ needs more digits than bfloat16 has while it is summed: 1 + 2⁻⁹ is lost in it, 1.0078 is not."""
    parameters = scalars(1, torch.bfloat16)
    optimizer = at_rate_one(parameters, levels_of((9,), reduction="sum"))
    for g in (1, *[2**-10] * 8):
        tick(optimizer, parameters, g)
    assert parameters[0].parameter.item() == -(1 + 2**-7)


@given(chunks=st.lists(st.integers(1, 9), min_size=1, max_size=3), cut=st.integers(0, 30))
@settings(max_examples=30, deadline=None)
def test_a_state_taken_at_any_tick_goes_on_with_the_same_bits(chunks: list[int], cut: int):
    def ticks(optimizer: CadencedOptimizer, parameters: list[RoledParameter], numbers: range) -> None:
        for t in numbers:
            tick(optimizer, parameters, *(((t * 37 + i * 11) % 19 - 9) / 7 for i in range(len(chunks))))

    def fresh() -> tuple[list[RoledParameter], CadencedOptimizer]:
        parameters = scalars(len(chunks), torch.float32)
        adam = {"lr": 0.1, "betas": [0.9, 0.99]}
        levels = levels_of(chunks)
        return parameters, CadencedOptimizer(levels, parameters, lambda own: entry("adam").build(own, adam), 1.0)

    whole, optimizer = fresh()
    ticks(optimizer, whole, range(30))
    first, optimizer = fresh()
    ticks(optimizer, first, range(cut))
    second, other = fresh()
    other.load_state_dict(optimizer.state_dict())
    for p, q in zip(second, first, strict=True):
        p.parameter.data.copy_(q.parameter.data)
    ticks(other, second, range(cut, 30))
    assert values(second) == values(whole)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("fast", "middle"), "parameter 'slow' is in level none; allowed is exactly one of fast (fast), middle (mid"),
        (("fast", "middle|fast", "slow"), "parameter 'fast' is in level fast and middle; allowed is exactly one of"),
        (("fast|middle|slow", "queer"), "level 'middle' has no parameter: its pattern 'queer' is in no name"),
    ],
)  # fmt: skip
def test_a_pattern_that_does_not_divide_the_parameters_is_named(patterns: Sequence[str], message: str):
    levels = [Level(name=name, pattern=pattern) for name, pattern in zip(NAMES, patterns, strict=False)]
    with pytest.raises(UsageError) as error:
        by_level(levels, scalars(3))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cadence", "message"),
    [
        ('[{ name = "a", pattern = ".", chunk = 0 }]', "cadence.0.chunk is 0: Input should be greater than or equal"),
        ('[{ name = "a", pattern = "(" }]', "no regular expression"),
        ('[{ name = "A b", pattern = "." }]', "cadence.0.name is 'A b': String should match pattern"),
        ('[{ name = "a", pattern = "." }, { name = "a", pattern = "x" }]', "two levels are called 'a'"),
        ("[]", 'no levels; allowed are one or more, or "none"'),
        ('[{ name = "a", pattern = ".", reduction = "max" }]', "Input should be 'sum' or 'mean'"),
    ],
)
def test_a_bad_cadence_is_one_line(tmp_path: Path, cadence: str, message: str):
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "mini"\ncadence = {cadence}\n')
    with pytest.raises(UsageError) as error:
        load_protocol(str(path))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_cadence_is_hashed_and_its_absence_is_not():
    mini = PROTOCOLS["mini"]
    assert mini.hash == "5629038cb352" and "cadence" not in mini.canonical_json()
    slower = changed(mini, {"cadence": [{"name": "all", "pattern": "", "chunk": 2}]}, "test")
    assert slower.hash not in (mini.hash, changed(slower, {"cadence": [{"name": "all", "pattern": ""}]}, "test").hash)
    assert Protocol.model_validate_json(slower.model_dump_json()) == slower
    assert changed(slower, {"cadence": "none"}, "test") == mini


@pytest.mark.parametrize("name", ["lbfgs", "sophia", "schedule_free_adamw"])
def test_an_entry_without_a_plain_step_is_refused_before_anything_runs(tiny: Protocol, tmp_path: Path, name: str):
    for package in entry(name).packages:
        pytest.importorskip(package)
    with pytest.raises(UsageError, match=f"{name}: the protocol has a cadence, which does not go with the need"):
        prepare(name, protocol=changed(tiny, {"cadence": LEVELS}, "test"), results=tmp_path)


def test_a_level_without_parameters_is_refused_before_anything_runs(tiny: Protocol, tmp_path: Path):
    strange = changed(tiny, {"cadence": [{"name": "all", "pattern": ""}, {"name": "odd", "pattern": "cms"}]}, "test")
    with pytest.raises(UsageError, match="cadence: level 'odd' has no parameter"):
        prepare("sgd", protocol=strange, results=tmp_path)


def run_of(protocol: Protocol, name: str) -> Run:
    return Run(protocol=protocol, optimizer=name, reference=name, hyperparameters=dict(entry(name).defaults), seed=3)


def final_weights(protocol: Protocol, name: str) -> dict[str, Tensor]:
    trainer = Trainer(run_of(changed(protocol, {"epochs": 1}, "test"), name), CPU)
    for _ in trainer.epochs(Keeper()):
        pass
    return trainer.model.state_dict()


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon", "custom_adam"])
def test_chunk_one_everywhere_is_the_plain_optimizer(tiny: Protocol, name: str):
    """Through the trainer, clipping included, with as many instances as levels."""
    every_tick = [{"name": level["name"], "pattern": level["pattern"]} for level in LEVELS]
    plain, cadenced = final_weights(tiny, name), final_weights(changed(tiny, {"cadence": every_tick}, "test"), name)
    assert all(torch.equal(plain[key], cadenced[key]) for key in plain)


@pytest.mark.parametrize("name", ["gda2", "universal_anderson_gda"])
def test_one_level_is_the_plain_optimizer(tiny: Protocol, name: str):
    """Also of entries whose step looks at all parameters together."""
    one = changed(tiny, {"cadence": [{"name": "all", "pattern": ""}]}, "test")
    plain, cadenced = final_weights(tiny, name), final_weights(one, name)
    assert all(torch.equal(plain[key], cadenced[key]) for key in plain)


def test_a_run_counts_firings_and_watches_only_what_moves(tiny: Protocol):
    """Eight ticks: chunks of 2 fire 4 times, chunks of 3 twice and once more with the last two."""
    trainer = Trainer(run_of(changed(tiny, {"cadence": LEVELS}, "test"), "sgd"), CPU)
    for _ in trainer.epochs(Keeper()):
        pass
    assert trainer.figures == {"firings_fast": 8, "firings_middle": 4, "firings_slow": 3}
    found = trainer.updates.diagnostics(0)  # of the ticks 1 and 5, which only the fast level uses
    assert not any("fusion" in name or name.endswith("slots") for name in (*found.zero_update, *found.without_gradient))
    assert Trainer(run_of(tiny, "sgd"), CPU).figures == {}


def test_levels_have_rate_multipliers_and_figures_in_the_record(tiny: Protocol):
    """Fusion, all of it in the middle level, at a tenth of the rate."""
    slower = changed(tiny, {"cadence": LEVELS, "epochs": 1, "rate_multipliers": {"fusion": 0.1}}, "test")
    trainer = Trainer(run_of(slower, "sgd"), CPU)
    rate = entry("sgd").defaults["lr"]
    assert trainer.base_rates == [rate, rate * 0.5, rate * 0.25] and trainer.rate_factors == [(1.0,), (0.1,), (1.0,)]
    record = execute(run_of(slower, "sgd"), device=CPU)
    assert record.figures == {"firings_fast": 4, "firings_middle": 2, "firings_slow": 2}


def test_stages_do_not_go_with_a_cadence(tiny: Protocol, tmp_path: Path):
    stages = {"stages": {"stages": [{"epochs": 1, "freeze": ["fusion"]}, {"epochs": 1}]}}
    both = changed(tiny, {"cadence": LEVELS, "techniques": stages}, "test")
    with pytest.raises(UsageError, match="has a cadence and stages"):
        prepare("sgd", protocol=both, results=tmp_path)


TIMES = {"seconds", "memory", "environment", "finished", "command", "curve_sha256", "device_use"}


def in_pieces(run: Run, folder: Path, steps: int) -> tuple[RunRecord, int]:
    """The record of a run that is stopped wherever it can be, and how often it was."""
    for stops in range(20):  # more than it has steps: a state that is of no use would begin anew for ever
        asked = iter([False, True])
        keeper = Keeper(Checkpoints(folder), steps=steps, stopping=lambda a=asked: next(a, True))
        try:
            return execute(run, device=CPU, keeper=keeper), stops
        except StoppedError:
            continue
    raise AssertionError("the run does not go on from its state")


@pytest.mark.parametrize(("name", "precision"), [("adamw", "float32"), ("sgd", "fp16")])
def test_a_run_stopped_in_mid_chunk_goes_on_with_the_same_bits(
    tiny: Protocol, tmp_path: Path, name: str, precision: str
):
    """Stopped after every step: chunks of 2 and 3 are cut everywhere."""
    run = run_of(changed(tiny, {"cadence": LEVELS, "precision": precision}, "test"), name)
    record, stops = in_pieces(run, tmp_path, steps=1)
    assert record.outcome is Outcome.OK and stops > 4
    assert record.model_dump(exclude=TIMES) == execute(run, device=CPU).model_dump(exclude=TIMES)


def test_an_overflowing_loss_scale_is_skipped_by_all_levels(tiny: Protocol):
    """The scaler starts at 2¹⁶ and its first steps overflow in fp16: skipped ticks are counted and no level gathers."""
    trainer = Trainer(run_of(changed(tiny, {"cadence": LEVELS, "precision": "fp16"}, "test"), "sgd"), CPU)
    trainer.train(1)
    assert trainer.cadence is not None
    taken, skipped = trainer.cadence.tick, trainer.skipped_steps
    assert taken + skipped == 1
    gathered = trainer.cadence.state_dict()["levels"][2]["gathered"]
    assert any(total is not None for total in gathered) == bool(taken)


def test_what_an_entry_keeps_on_itself_goes_on(tiny: Protocol, tmp_path: Path, write_plugin: Callable[[str], str]):
    """A count on each level's object, which decides the length of its steps."""
    reference = write_plugin("self.count = getattr(self, 'count', 0) + 1; p.sub_(p.grad, alpha=.1 / self.count)")
    spec = entry(reference)
    run = Run(protocol=changed(tiny, {"cadence": LEVELS}, "test"), optimizer=spec.name, reference=reference,
              hyperparameters=dict(spec.defaults), seed=3, source_digest=spec.source_digest)  # fmt: skip
    record, _ = in_pieces(run, tmp_path, steps=1)
    assert record.outcome is Outcome.OK
    assert record.model_dump(exclude=TIMES) == execute(run, device=CPU).model_dump(exclude=TIMES)


def test_after_a_flush_the_next_mean_is_over_its_own_ticks():
    """10 ticks, flushed; 6 more to the firing at tick 16: their mean gradient is 1, so w moves by −1 again."""
    level = Level(name="all", pattern=".", chunk=16, reduction="mean", flush_at_end=True)
    p = nn.Parameter(torch.zeros(1))
    roled = [RoledParameter(name="w", parameter=p, role=Role.BIAS)]

    def fresh() -> CadencedOptimizer:
        return CadencedOptimizer([level], roled, lambda own: torch.optim.SGD([x.parameter for x in own], lr=1.0), None)

    def ticks(optimizer: CadencedOptimizer, count: int) -> None:
        for _ in range(count):
            p.grad = torch.ones(1)
            optimizer.step()

    first, second = fresh(), fresh()
    ticks(first, 10)
    first.flush()
    assert p.item() == -1
    second.load_state_dict(first.state_dict())
    ticks(second, 6)
    assert p.item() == -2
