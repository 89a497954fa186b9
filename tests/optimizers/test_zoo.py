"""Entries from libraries: imported on first use, missing with one line, and trained as the library means it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bench.errors import UsageError
from bench.execution import execute
from bench.optimizers.catalog import CATALOG, GROUPS
from bench.plan import Run
from bench.protocols import PROTOCOLS, changed
from bench.record import Outcome
from bench.registry import entry, select
from bench.spec import Need, Role, RoledParameter

INSTALL = r"pip install 'optimizer-bench\[zoo\]'"


def test_the_catalog_and_the_listing_import_no_library():
    code = """
import sys, pathlib
import bench.optimizers.catalog, bench.registry, bench.listing
bench.listing.table("optimizers", bench.listing.optimizers(pathlib.Path("results")))
assert not {"pytorch_optimizer", "schedulefree"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("selected", ["soap", "zoo", "modern", "pytorch_optimizer:SOAP"])
def test_a_missing_package_is_one_line(selected: str, monkeypatch: pytest.MonkeyPatch):
    for package in ("pytorch_optimizer", "schedulefree"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"^optimizer .*(soap|schedule_free|SOAP).*; {INSTALL}$") as error:
        select([selected], {}, "default")
    assert "\n" not in str(error.value)


def test_a_package_that_a_package_needs_is_asked_for_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "opt_einsum", None)
    with pytest.raises(UsageError, match=f"optimizer psgd_kron: .*opt_einsum.*; {INSTALL}"):
        select(["psgd_kron"], {}, "default")


def test_classes_by_reference_have_the_ways_of_their_entries():
    pytest.importorskip("pytorch_optimizer")
    assert entry("pytorch_optimizer:SophiaH").needs == {Need.SECOND_ORDER}
    assert entry("pytorch_optimizer.optimizer.soap:SOAP").groups is CATALOG["soap"].groups
    assert entry("pytorch_optimizer:Kron").packages == ("opt_einsum",)
    assert entry("pytorch_optimizer:SGDP").needs == frozenset()
    with pytest.raises(UsageError, match=r"unknown class 'soap': did you mean 'SOAP'"):
        entry("pytorch_optimizer:soap")
    with pytest.raises(UsageError, match=r"unknown class 'Nope': did you mean .* and \d+ more$"):
        entry("pytorch_optimizer:Nope")


def test_an_infinite_default_stays_the_librarys():
    pytest.importorskip("pytorch_optimizer")
    (prodigy,) = select(["prodigy"], {}, "default")
    assert "growth_rate" not in prodigy.hyperparameters and prodigy.hyperparameters["d0"] == 1e-6
    with pytest.raises(UsageError, match="optimizer prodigy: d0 is inf; allowed are finite numbers"):
        select(["prodigy"], {"prodigy": {"d0": float("inf")}}, "default")
    (shampoo,) = select(["pytorch_optimizer:ScalableShampoo"], {}, "default")
    assert type(shampoo.hyperparameters["graft_type"]) is int


@pytest.mark.parametrize("name", ["soap", "psgd_kron"])
def test_embeddings_and_heads_get_no_matrix_preconditioner(name: str, need_packages):
    need_packages(CATALOG[name])
    matrix, embedding = (torch.nn.Parameter(torch.randn(4, 3)) for _ in range(2))
    roled = [
        RoledParameter(name="0", parameter=matrix, role=Role.HIDDEN_MATRIX),
        RoledParameter(name="1", parameter=embedding, role=Role.EMBEDDING),
    ]
    optimizer = CATALOG[name].build(roled, CATALOG[name].defaults)
    for _ in range(3):
        matrix.grad, embedding.grad = torch.randn(4, 3), torch.randn(4, 3)
        optimizer.step()
    assert [q.ndim for q in optimizer.state[matrix]["Q"]] == [2, 2]
    assert all(len(q) == 0 or q.ndim == 1 for q in optimizer.state[embedding]["Q"])


@pytest.mark.parametrize("name", GROUPS["zoo"] + ("radam", "nadam", "adafactor"))
def test_an_entry_lowers_the_loss_in_20_steps(name: str, need_packages):
    """On the mini network; every warning of a library is an error here."""
    need_packages(CATALOG[name])
    small = {"epochs": 2, "workload": {"dataset_options": {"training": 320, "test": 40}}}
    protocol = changed(PROTOCOLS["mini"], small, "test")
    (chosen,) = select([name], {}, "default")
    losses: list[float] = []
    run = Run(protocol=protocol, optimizer=name, reference=name, hyperparameters=dict(chosen.hyperparameters), seed=0)
    record = execute(run, device=torch.device("cpu"), on_epoch=lambda point: losses.append(point.loss))
    assert record.outcome is Outcome.OK, record.failure
    assert record.steps == 20
    assert losses[1] < losses[0]


def test_a_setting_that_a_library_refuses_in_its_own_way_is_one_line(need_packages):
    """pytorch_optimizer's exceptions are neither ValueError nor of any other common kind."""
    need_packages(CATALOG["lion"])
    with pytest.raises(UsageError, match=r"optimizer lion: beta1 must be .*; given betas=\[-0\.5, 0\.9\]"):
        select(["lion"], {"lion": {"betas": [-0.5, 0.9]}}, "default")
