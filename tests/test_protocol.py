"""Protocols: hash, user files, changes and their errors."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.protocol import Protocol
from bench.protocols import PROTOCOLS, changed, limited, load_protocol
from bench.schedule import Schedule, ScheduleOptions, learning_rate_factor

MINI = PROTOCOLS["mini"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


def test_hash_covers_what_changes_a_result_and_nothing_else():
    assert changed(MINI, {"epochs": 21}, "x").hash != MINI.hash
    assert changed(MINI, {"workload": {"model_options": {"dropout": 0.2}}}, "x").hash != MINI.hash
    assert changed(MINI, {"workload": {"revision": 99}}, "x").hash != MINI.hash
    assert changed(MINI, {"name": "other", "title": "t", "seeds": 9, "rates": "documents"}, "x").hash == MINI.hash
    assert changed(MINI, {"workload": {"name": "other", "title": "t"}}, "x").hash == MINI.hash


def test_built_in_protocols_differ_and_survive_json():
    assert len({p.hash for p in PROTOCOLS.values()}) == len(PROTOCOLS)
    for protocol in PROTOCOLS.values():
        assert Protocol.model_validate_json(protocol.model_dump_json()) == protocol


def test_user_file_extends_a_built_in_protocol(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "mini"\nepochs = 3\n[workload.model_options]\nlatent_dim = 32\n')
    protocol = load_protocol(str(path))
    assert (protocol.name, protocol.epochs, protocol.batch_size) == ("mine", 3, MINI.batch_size)
    assert protocol.workload.model_options["latent_dim"] == 32
    assert protocol.workload.model_options["num_heads"] == 4


def test_user_file_may_name_a_workload(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('workload = "spoken_digits"\n')
    assert load_protocol(str(path)).workload.reads_files


def test_named_workload_replaces_the_base_whole(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "mini"\nworkload = "documents"\nclip_norm = "none"')
    protocol = load_protocol(str(path))
    assert protocol.workload == PROTOCOLS["documents"].workload
    assert protocol.clip_norm is None
    assert Protocol.model_validate_json(protocol.model_dump_json()) == protocol


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip_norm = inf", "clip_norm is inf"),
        ("diverged_loss_factor = nan", "diverged_loss_factor is nan"),
        ('extends = ["mini"]', "unknown protocol"),
        ("epochs = ", "is not readable TOML"),
        ("epochs = 0", "epochs is 0: Input should be greater than or equal to 1"),
        ('epochs = "3"', "epochs is '3': Input should be a valid integer"),
        ("epoch = 3", "epoch is 3: Extra inputs are not permitted; keys are name, title, workload, epochs"),
        ('extends = "minni"', "unknown protocol 'minni': did you mean 'mini'?"),
        ('workload = "pared"', "unknown workload 'pared': did you mean 'paired'?"),
        ("clip_norm = -1.0", "clip_norm is -1.0"),
        ('precision = "int8"', "precision is 'int8': Input should be 'float32', 'bf16' or 'fp16'"),
        ("title = 2020-01-01", "not JSON serializable"),
        ("\x00", "is not readable TOML"),
    ],
)
def test_bad_user_file_is_one_line_with_file_key_and_value(tmp_path: Path, text: str, message: str):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        load_protocol(str(path))
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_unknown_names_and_missing_files(tmp_path: Path):
    with pytest.raises(UsageError, match="unknown protocol 'standart': did you mean 'standard'\\?"):
        load_protocol("standart")
    with pytest.raises(UsageError, match="does not exist"):
        load_protocol(str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match="not readable TOML"):
        (tmp_path / "latin.toml").write_bytes(b'title = "\xe9"')
        load_protocol(str(tmp_path / "latin.toml"))


def test_constant_schedule_with_warmup():
    factors = [learning_rate_factor("constant", step, 10, 4) for step in range(10)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_cosine_schedule_falls_to_zero_after_the_last_step():
    factors = [learning_rate_factor("cosine", step, 8) for step in range(9)]
    assert factors[0] == 1
    assert factors[4] == pytest.approx(0.5)
    assert factors[8] == pytest.approx(0, abs=1e-12)
    assert factors == sorted(factors, reverse=True)
    assert learning_rate_factor("cosine", 2, 10, 2) == 1


def test_one_cycle_is_torchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=50, pct_start=0.1, div_factor=25, final_div_factor=1e4
    )
    for step in range(50):
        assert learning_rate_factor("one_cycle", step, 50) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        if step < 49:
            theirs.step()


def test_linear_and_stable_schedules_fall_to_the_final_factor():
    final = ScheduleOptions(final=0.1)
    linear = [learning_rate_factor("linear", step, 6, 2, final) for step in range(7)]
    assert linear == pytest.approx([0.5, 1.0, 1.0, 0.775, 0.55, 0.325, 0.1])
    late = ScheduleOptions(decay=0.4)
    stable = [learning_rate_factor("warmup_stable_decay", step, 10, 2, late) for step in range(11)]
    assert stable == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
    assert learning_rate_factor("cosine", 8, 8, 0, final) == pytest.approx(0.1)


@given(st.sampled_from(SCHEDULES), st.integers(1, 60), st.floats(0, 0.9), st.floats(0, 1), st.floats(0.01, 1))
def test_every_factor_is_between_zero_and_one(schedule: Schedule, total: int, warmup: float, final, decay):
    options, rise = ScheduleOptions(final=final, decay=decay), round(warmup * total)
    for step in range(total):
        assert -1e-12 <= learning_rate_factor(schedule, step, total, rise, options) <= 1 + 1e-12


def test_one_cycle_has_no_second_rise(tmp_path: Path):
    with pytest.raises(UsageError, match=r"warmup is 0\.1 and schedule one_cycle rises itself; allowed with it is 0"):
        changed(PROTOCOLS["mini"], {"schedule": "one_cycle"}, "test")
    cycle = changed(PROTOCOLS["mini"], {"schedule": "one_cycle", "warmup": 0.0}, "test")
    other = changed(cycle, {"schedule_options": {"rise": 0.3}}, "test")
    assert len({PROTOCOLS["mini"].hash, cycle.hash, other.hash}) == 3


@pytest.mark.parametrize("options", [{"noise": float("inf")}, {"noise": float("nan")}, {"noise": [1.0, float("inf")]}])
def test_options_that_cannot_be_hashed_are_named(options: dict):
    with pytest.raises(UsageError, match=r"workload.dataset_options .*noise is .*; allowed are finite numbers"):
        changed(PROTOCOLS["mini"], {"workload": {"dataset_options": options}}, "test")


def test_another_dataset_or_model_starts_without_options(tmp_path: Path):
    path = tmp_path / "own.toml"
    path.write_text('extends = "digits"\n[workload]\ndataset = "my:Data"\ndataset_options = { size = 3 }\n')
    found, base = load_protocol(str(path)).workload, PROTOCOLS["digits"].workload
    assert (found.dataset, found.dataset_options, found.reads_files) == ("my:Data", {"size": 3}, False)
    assert (found.name, found.title) == ("my:Data", "own data")
    assert found.model_options == base.model_options
    path.write_text('extends = "digits"\n[workload]\nmodel = "my:Net"\n[workload.model_options]\nwidth = 4\n')
    found = load_protocol(str(path)).workload
    assert (found.model, found.model_options) == ("my:Net", {"width": 4})
    assert (found.dataset_options, found.reads_files) == (base.dataset_options, True)
    path.write_text(f'extends = "digits"\n[workload]\nname = "x"\nreads_files = true\ndataset = "my:Data"\n'
                    f'model = "{base.model}"')  # fmt: skip
    found = load_protocol(str(path)).workload
    assert (found.name, found.reads_files, found.dataset_options) == ("x", True, {})
    assert found.model_options == base.model_options


LIMITED = [protocol for protocol in PROTOCOLS.values() if "limit" in protocol.workload.dataset_options]


@pytest.mark.parametrize("protocol", LIMITED, ids=[protocol.name for protocol in LIMITED])
def test_a_limit_leaves_at_least_one_batch(protocol: Protocol):
    for limit, batch_size in ((100, min(protocol.batch_size, 100)), (2, 2), (10_000, protocol.batch_size)):
        found = limited(protocol, limit)
        assert (found.workload.dataset_options["limit"], found.batch_size) == (limit, batch_size)
        assert found.hash != protocol.hash
    assert limited(protocol, 1).workload.dataset_options["limit"] == 1  # the data refuses it, and says why


def test_every_set_that_has_a_limit_is_among_them():
    assert {"coco", "cifar10", "manifest", "flickr8k", "conceptual_captions"} <= {each.name for each in LIMITED}
    with pytest.raises(UsageError, match="protocol 'mini' has no limit; allowed with flickr8k, "):
        limited(MINI, 10)
