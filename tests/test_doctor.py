"""`bench doctor` as a user calls it: verdicts, figures, JSON, exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.cli import cli
from bench.contracts import CONTRACTS
from bench.errors import UsageError

GOOD = '''
import math
import torch

class Good(torch.optim.Optimizer):
    """Plain gradient descent."""

    def __init__(self, params, lr=0.01):
        if not 0 <= lr < math.inf:
            raise ValueError(f"lr is {lr!r}; allowed: finite numbers >= 0")
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    w.sub_(group["lr"] * w.grad)
        return loss

class Bad(Good):
    def __init__(self, params, lr=0.01):
        torch.optim.Optimizer.__init__(self, params, {"lr": lr})

class MatricesOnly(Good):
    def __init__(self, params, lr=0.01):
        super().__init__(params, lr)
        if any(w.ndim != 2 for group in self.param_groups for w in group["params"]):
            raise ValueError("matrices only")
'''


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "plugin.py"
    path.write_text(GOOD)
    return str(path)


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *arguments], catch_exceptions=False)


def words(text: str) -> str:
    """`text` without its line breaks and columns."""
    return " ".join(text.split())


def test_a_good_plugin_passes(plugin: str, tiny_toml: Path):
    result = doctor(f"{plugin}:Good", "-p", str(tiny_toml), "-O", "lr=0.02")
    assert result.exit_code == 0
    shown = words(result.stdout)
    assert "plugin.py:Good: lr=0.02" in shown
    assert "Network of tiny, 4 steps at the constant rate 0.02" in shown
    assert "Learning rates on tiny, 20 steps each" in shown
    assert re.search(r"0\.02 [\d.]+ [\d.]+ given", shown)
    assert "state: 0 B" in shown
    assert "no tensor is updated as a matrix" in shown
    assert re.search(r"plugin.py:Good: \d+ contracts, \d+ kept, 2 not applicable; 0 warnings$", shown)
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert f"{len(CONTRACTS)} contracts" in result.stderr


def test_json_is_complete_and_strict(plugin: str, tiny_toml: Path):
    result = doctor(f"{plugin}:Bad", "-p", str(tiny_toml), "--json", "--seed", "3")
    assert result.exit_code == 1

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    report = json.loads(result.stdout, parse_constant=refuse)
    assert list(report) == ["optimizer", "hyperparameters", "contract_hyperparameters", "contracts", "network", "rates",
                            "warnings", "verdict", "broken"]  # fmt: skip
    verdicts = {c["contract"]: c["verdict"] for c in report["contracts"]}
    assert list(verdicts) == list(CONTRACTS)
    assert [name for name, verdict in verdicts.items() if verdict == "broken"] == ["hyperparameters"]
    assert report["broken"] == 1
    assert verdicts["even_steps"] == "not_applicable"
    assert all(c["statement"] and c["detail"] for c in report["contracts"])
    network = report["network"]
    assert (network["protocol"], network["steps"], network["rate"]) == ("tiny", 4, 0.01)
    assert network["parameters"] == sum(_size(layer["shape"]) for layer in network["layers"])
    assert (network["state_bytes"], network["host_reads"], network["observations"]) == (0, 0, [])
    assert network["cost"] > 0
    assert {layer["role"] for layer in network["layers"]} >= {"embedding", "hidden_matrix", "head"}
    assert [trial["rate"] for trial in report["rates"]["trials"]] == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1])


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def test_matrices_are_found_by_their_updates_and_embeddings_among_them_named(tiny_toml: Path):
    """torch.optim.Adafactor factors every matrix's second moment; its vectors have an ordinary one."""
    result = doctor("torch.optim:Adafactor", "-p", str(tiny_toml), "--json")
    report = json.loads(result.stdout)
    matrices = {layer["name"] for layer in report["network"]["layers"] if layer["matrix"]}
    assert "text_encoder.embedding.weight" in matrices
    assert any(w.startswith("embeddings are among the matrices") for w in report["warnings"])
    plain = json.loads(doctor("adamw", "-p", str(tiny_toml), "--json").stdout)
    assert not any(layer["matrix"] for layer in plain["network"]["layers"])
    # Two moments in float32 for every weight with a gradient, and a step counter.
    assert 4 < plain["network"]["state_bytes"] / plain["network"]["parameters"] <= 8.1


@pytest.mark.slow
def test_losses_and_gradients_of_a_closure_optimizer_are_those_of_its_first_evaluation(tiny_toml: Path):
    """Which are those of any optimizer at the same weights and batch, but for clipping."""
    reports = [json.loads(doctor(name, "-p", str(tiny_toml), "--json").stdout) for name in ("lbfgs", "sgd")]
    lbfgs, sgd = (report["network"] for report in reports)
    assert lbfgs["losses"][0] == sgd["losses"][0]
    norms, others = ([layer["gradient_norm"] for layer in look["layers"]] for look in (lbfgs, sgd))
    scale = sum(norms) / sum(others)
    assert norms == pytest.approx([scale * norm for norm in others], rel=1e-4, abs=1e-6)
    assert {trial["first"] for report in reports for trial in report["rates"]["trials"]} == {sgd["losses"][0]}


def test_an_optimizer_that_cannot_train_the_network_is_said_to_be_so(plugin: str, tiny_toml: Path):
    result = doctor(f"{plugin}:MatricesOnly", "-p", str(tiny_toml), "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["network"] is None
    assert report["warnings"] == ["cannot be trained on the network of tiny: ValueError: matrices only"]
    assert {"contract": "every_shape", "verdict": "broken"}.items() <= report["contracts"][0].items()
    assert report["contracts"][0]["detail"] == "raises ValueError: matrices only"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["universal_muon_auto", "universal_muon_preserve"])
def test_the_documented_pathologies_are_shown_with_figures(name: str, monkeypatch: pytest.MonkeyPatch):
    """On the full network: the small one has no matrix of 128 rows."""
    monkeypatch.setattr("bench.doctor.report.try_rates", lambda *_: None)
    result = doctor(name, "--json")
    assert result.exit_code == 0  # documented, hence known limits
    report = json.loads(result.stdout)
    assert report["network"]["protocol"] == "standard"
    verdicts = {c["contract"]: c for c in report["contracts"]}
    assert verdicts["quadratic"]["verdict"] == "known_limit"
    assert verdicts["quadratic"]["limit"].startswith("as documented")
    (observation,) = report["network"]["observations"]
    figures = observation["figures"]
    assert observation["warning"]
    assert "converges where the largest eigenvalue of s²G is below 3" in observation["text"]
    # The mean eigenvalue is 1 and there are at most 256: a gradient of rank one has a largest one of 256.
    assert 3 < figures["eigenvalue_min"] <= figures["eigenvalue_median"] <= figures["eigenvalue_max"] <= 256 * 1.001
    assert figures["diverging"] == figures["matrices"] > 30
    warnings = "\n".join(report["warnings"])
    assert observation["text"] in warnings
    assert "embeddings are among the matrices that get a matrix's update: text_encoder.embedding.weight" in warnings
    if name == "universal_muon_auto":
        assert re.search(r"not finite at rate 0\.001: \S+ and \d+ more tensors after step \d", warnings)
        largest = re.search(r"the update is longer than the weights in .* up to (\S+) × in ", warnings)
        assert largest is not None
        assert float(largest[1]) > 1e3
    else:
        idle = re.search(r"a zero update at every step, .* in (\d+) tensors, (\d+) of them matrices", warnings)
        assert idle is not None
        assert int(idle[1]) == int(idle[2]) > 15
        assert figures["overflowing"] >= int(idle[2])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["adamm"], "unknown optimizer 'adamm': did you mean 'adam'?"),
        (["all"], "optimizer 'all': doctor examines one"),
        (["sgd,adam"], "optimizer 'sgd,adam': doctor examines one"),
        (["adam*"], "optimizer 'adam*'"),
        (["sgd", "-O", "lr"], "-O 'lr': allowed is KEY=VALUE, as lr=3e-4"),
        (["sgd", "-O", "speed=1"], "unknown hyper-parameter 'speed'"),
        (["sgd", "-O", "lr=-1"], "lr is -1; allowed is a finite number >= 0"),
        (["sgd", "-p", "minni"], "unknown protocol 'minni': did you mean 'mini'?"),
        (["sgd", "--seed", "-1"], "--seed -1: allowed is an integer >= 0"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(arguments: list[str], text: str):
    with pytest.raises(UsageError) as caught:
        doctor(*arguments)
    assert text in str(caught.value)


def test_bad_input_ends_in_exit_code_2(tmp_path: Path):
    done = subprocess.run([sys.executable, "-m", "bench", "doctor", "adamm"], cwd=tmp_path, capture_output=True,
                          text=True, timeout=120)  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
