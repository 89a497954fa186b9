"""What --optimizers and -O select, and any class by reference."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.registry import entry, select
from bench.spec import resolve
from bench.workload import WORKLOADS

PICKY = """
import torch
class Mine(torch.optim.SGD):
    def __init__(self, params, lr=1.0):
        assert lr < 0.5, 'too high'
"""


def names(*patterns: str) -> list[str]:
    return [chosen.spec.name for chosen in select(patterns, {}, "default")]


def test_names_groups_globs_and_commas_select_each_once_in_order():
    assert names("adamw,sgd", "adam*") == ["adamw", "sgd", "adam"]
    assert len(names("all")) == 8 and len(names("builtin")) == 12
    assert names("universal_muon_*") == ["universal_muon_auto", "universal_muon_preserve", "universal_muon_stable"]


def test_settings_are_complete_and_documents_differ():
    (default,) = select(["adamw"], {}, "default")
    assert default.hyperparameters["weight_decay"] == 0.01
    assert default.hyperparameters["betas"] == [0.9, 0.999]
    (documents,) = select(["adamw"], {"adamw": {"lr": 0.5}}, "documents")
    assert (documents.hyperparameters["weight_decay"], documents.hyperparameters["lr"]) == (1e-4, 0.5)
    (muon,) = select(["muon"], {}, "default")
    assert muon.hyperparameters["momentum"] == 0.95


def test_any_class_on_the_path_is_an_entry():
    spec = entry("torch.optim:RAdam")
    assert (spec.name, spec.defaults["lr"]) == ("torch.optim:RAdam", 0.001)
    assert spec.source_digest is not None


def test_module_of_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_plugin: Callable[[str], str]
):
    Path(write_plugin("pass").rpartition(":")[0]).rename(tmp_path / "module_of_mine.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert entry("module_of_mine:Mine").title == "Mine"
    del sys.modules["module_of_mine"]


def test_file_entry_is_named_without_its_folder_and_knows_its_source(write_plugin: Callable[[str], str]):
    first = entry(write_plugin("pass"))
    assert first.name == "mine.py:Mine"
    assert entry(write_plugin("p.add_(0)")).source_digest != first.source_digest


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def broken(:", "fails at import: SyntaxError"),
        ("1 / 0", "fails at import: ZeroDivisionError"),
        ("import no_such_thing", "fails at import: ModuleNotFoundError"),
        ("Mine = 3", "Mine is a int and no optimizer"),
        ("Other = None", "unknown class 'Mine'"),
        (PICKY, "optimizer mine.py:Mine: too high"),
    ],
)  # fmt: skip
def test_broken_plugins_are_one_line(tmp_path: Path, source: str, message: str):
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(UsageError) as error:
        select([f"{path}:Mine"], {}, "default")
    assert message in str(error.value)


@pytest.mark.parametrize("reference", [":X", ".foo:X", "x:", "a b:C", "torch.optim:lr_scheduler"])
def test_odd_references_are_refused(reference: str):
    with pytest.raises(UsageError):
        entry(reference)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, None, "1", -1])
def test_odd_rates_are_refused(value: object):
    with pytest.raises(UsageError, match="optimizer sgd: lr is"):
        select(["sgd"], {"sgd": {"lr": value}}, "default")


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=list(WORKLOADS))
def test_workloads_leave_no_option_to_a_default(workload):
    """A default that is not written out would change results behind the protocol's hash."""
    for reference, options, given in (
        (workload.dataset, workload.dataset_options, {"device", "data_dir"}),
        (workload.model, workload.model_options, set()),
    ):
        accepted = set(inspect.signature(resolve(reference)).parameters) - given
        assert set(options) == accepted
