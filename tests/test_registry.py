"""What --optimizers and -O select, and any class by reference."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.errors import UsageError
from bench.optimizers.catalog import CATALOG
from bench.protocol import Protocol
from bench.protocols import changed
from bench.registry import entry, matrix_warnings, require_precision, select
from bench.runner import prepare
from bench.spec import Need, Role, RoledParameter, by_matrix_role, one_group, resolve
from bench.workloads import WORKLOADS

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
    assert len(names("all")) == 8 and len(names("builtin")) == 18
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
    files = {"data_dir", "digests"} if workload.model_reads_files else set()
    for reference, options, given in (
        (workload.dataset, workload.dataset_options, {"device", "data_dir", "modalities"}),
        (workload.model, workload.model_options, files),
    ):
        accepted = set(inspect.signature(resolve(reference)).parameters) - given
        assert set(options) == accepted


def roled(*roles: Role) -> list[RoledParameter]:
    return [
        RoledParameter(name=f"{i}.{role}", parameter=torch.nn.Parameter(torch.zeros(2, 3)), role=role)
        for i, role in enumerate(roles)
    ]


def test_hidden_matrices_of_two_dimensions_are_a_group_of_their_own():
    parameters = roled(Role.HEAD, Role.HIDDEN_MATRIX, Role.NORM, Role.HIDDEN_MATRIX, Role.HIDDEN_MATRIX)
    parameters[4].parameter.data = torch.zeros(2, 3, 4)
    policy = by_matrix_role(matrix={"a": 1}, other={"a": 2, "b": 3})
    first, second = policy(parameters)
    assert {key: value for key, value in first.items() if key != "params"} == {"a": 1}
    assert {key: value for key, value in second.items() if key != "params"} == {"a": 2, "b": 3}
    assert [id(w) for w in first["params"]] == [id(parameters[i].parameter) for i in (1, 3)]
    assert [id(w) for w in second["params"]] == [id(parameters[i].parameter) for i in (0, 2, 4)]
    assert [group["a"] for group in policy(parameters[:1])] == [2]
    assert [group["a"] for group in policy(parameters[1:2])] == [1]


def test_a_matrix_optimizer_that_is_given_embeddings_and_heads_is_warned_of():
    spec = replace(CATALOG["custom_sgd"], name="mine", matrix_algorithm=True, groups=one_group)
    parameters = roled(Role.EMBEDDING, Role.HIDDEN_MATRIX, Role.NORM, Role.HEAD)
    (line,) = matrix_warnings(spec, parameters)
    assert line == (
        "mine is an algorithm for hidden matrices and is also given 2 embeddings or heads: 0.embedding, 3.head"
    )
    assert matrix_warnings(replace(spec, matrix_algorithm=False), parameters) == []
    assert matrix_warnings(replace(spec, groups=by_matrix_role(matrix={}, other={"lr": 1})), parameters) == []
    # Apart, but under the same settings.
    assert matrix_warnings(replace(spec, groups=by_matrix_role(matrix={}, other={})), parameters) == [line]
    assert len(matrix_warnings(spec, parameters[:1])) == 1
    assert matrix_warnings(spec, roled(Role.HIDDEN_MATRIX, Role.CONVOLUTION)) == []


def test_the_plan_of_a_study_holds_the_warnings(tiny: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(CATALOG, "muon", replace(CATALOG["muon"], groups=one_group))
    plan = prepare("adamw,muon,m3", protocol=tiny, results=tmp_path)
    (line,) = plan.warnings
    assert line.startswith("muon is an algorithm for hidden matrices and is also given 8 embeddings or heads: ")
    assert "text_encoder.embedding.weight" in line and "decoders.audio.8.weight" in line


@pytest.mark.parametrize("need", [Need.CLOSURE, Need.SECOND_ORDER])
def test_scaled_gradients_are_refused_where_they_cannot_work(tiny: Protocol, tmp_path: Path, need: Need):
    spec = replace(CATALOG["sgd"], needs=frozenset({need}))
    require_precision(spec, "float32")
    with pytest.raises(UsageError, match=f"optimizer sgd: precision is 'fp16'.* {need}; allowed are"):
        require_precision(spec, "fp16")
    half = changed(tiny, {"precision": "fp16"}, "test")
    with pytest.raises(UsageError, match="optimizer lbfgs: precision is 'fp16'"):
        prepare("lbfgs", protocol=half, results=tmp_path)
    assert prepare("adamw", protocol=half, results=tmp_path).runs
    assert not any(tmp_path.iterdir())


def test_a_class_of_a_catalog_entry_has_the_entrys_ways():
    assert entry("torch.optim:LBFGS").needs == {Need.CLOSURE}
    muon = entry("bench.optimizers.muon:Muon")
    assert muon.groups is CATALOG["muon"].groups and muon.matrix_algorithm
    assert entry("torch.optim:Rprop").groups is one_group


def test_an_unknown_class_is_guessed_and_the_list_is_short():
    with pytest.raises(UsageError) as error:
        entry("torch.optim:adamw")
    assert str(error.value).startswith("optimizer 'torch.optim:adamw': unknown class 'adamw': did you mean 'AdamW'?")
    assert len(str(error.value)) < 300


NO_RATE = """
import torch
class Mine(torch.optim.Optimizer):
    def __init__(self, params, **settings):
        super().__init__(params, {"rate": 1.0})
"""


def test_settings_that_a_class_swallows_are_refused(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text(NO_RATE)
    with pytest.raises(UsageError, match=r"optimizer mine.py:Mine: its parameter groups have no lr"):
        select([f"{path}:Mine"], {}, "default")
    path.write_text(NO_RATE.replace('"rate": 1.0', '"lr": 1.0').replace("params, **", "params, lr=1.0, **"))
    with pytest.raises(UsageError, match=r"optimizer mine.py:Mine: unknown hyper-parameter 'momentun'"):
        select([f"{path}:Mine"], {"mine.py:Mine": {"momentun": 0.9}}, "default")


def test_settings_of_a_protocol_are_of_optimizers_that_there_are(tiny: Protocol, tmp_path: Path, write_plugin):
    ours = changed(tiny, {"settings": {"sgd": {"nesterov": True}, "mine.py:Mine": {"lr": 0.5}}}, "test")
    plugin = write_plugin("pass")
    chosen = select(["adamw", plugin], {}, "default", ours.settings)
    assert [each.hyperparameters["lr"] for each in chosen] == [0.001, 0.5]
    with pytest.raises(UsageError, match=r"protocol's settings: unknown optimizer 'mine\.py:Mine': allowed are"):
        prepare("sgd", protocol=ours, results=tmp_path / "results")
    typo = changed(tiny, {"settings": {"sgdd": {"nesterov": True}}}, "test")
    with pytest.raises(UsageError, match=r"protocol's settings: unknown optimizer 'sgdd': did you mean 'sgd'\?"):
        prepare("sgd", protocol=typo, results=tmp_path / "results")
    assert not (tmp_path / "results").exists()
