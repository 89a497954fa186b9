"""Every contract on every entry of the catalog, and what the contracts leave to say."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch

from bench.contracts import CONTRACTS, KNOWN_LIMITS, Limit, Subject, Verdict, judge
from bench.contracts.subject import parameters_of, tensors_in
from bench.optimizers.catalog import CATALOG
from bench.optimizers.m3 import M3
from bench.optimizers.universal_muon import UniversalMuon
from bench.spec import OptimizerSpec

OWN_VECTORS = {
    # Vectors of the parameters' size: moments, then the history.
    "custom_adam": 2,
    "universal_muon_auto": 2,
    "universal_muon_preserve": 2,
    "universal_muon_stable": 2,
    "gda2": 2 + 2 + 2 * 3,
    "universal_anderson_gda": 2 + 2 + 3,
    "anderson_gda": 1 + 3,
    "custom_sgd": 1,
}


def require_packages(spec: OptimizerSpec) -> None:
    """Skip where the entry's library is not installed."""
    named = [] if not isinstance(spec.constructor, str) else [spec.constructor.partition(":")[0]]
    for package in (*named, *spec.packages):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("name", CATALOG)
def test_contract(name, contract):
    """Kept, or not applicable; a known limit is one still."""
    require_packages(CATALOG[name])
    finding = judge(Subject.of(CATALOG[name]), CONTRACTS[contract])
    if (name, contract) in KNOWN_LIMITS:
        assert finding.verdict is Verdict.KNOWN_LIMIT, f"no longer a limit: {finding.detail}"
    else:
        assert finding.verdict in (Verdict.KEPT, Verdict.NOT_APPLICABLE), finding.detail
    assert finding.detail


def test_known_limits_name_entries_and_contracts():
    for name, contract in KNOWN_LIMITS:
        assert contract in CONTRACTS
        assert name in CATALOG or name.count(":") == 1


@pytest.mark.parametrize("contract", ["every_shape", "quadratic"])
def test_a_limit_hides_no_other_exception(contract):
    """`quadratic` is a limit of this entry, by slow descent; whatever it raises breaks the contract, in one line."""

    class Raises(UniversalMuon):
        def step(self, closure=None):
            raise KeyError("two\nlines")

    finding = judge(Subject.of(replace(CATALOG["universal_muon_auto"], constructor=Raises)), CONTRACTS[contract])
    assert finding.verdict is Verdict.BROKEN
    assert finding.detail == "raises KeyError: 'two\\nlines'"
    assert finding.limit is None


def test_a_limit_hides_no_other_fault():
    """M3's limit is that its factors may be over 1, not that nothing is checked."""

    class Unchecked(M3):
        def _check_group(self, group):
            pass

    finding = judge(Subject.of(replace(CATALOG["m3"], constructor=Unchecked)), CONTRACTS["hyperparameters"])
    assert finding.verdict is Verdict.BROKEN
    assert "lr=-1.0" in finding.detail


@pytest.mark.parametrize(
    ("pattern", "detail", "covered"),
    [
        ("", "largest difference 2", True),
        ("", "raises KeyError: 'x'", False),
        ("raises", "raises KeyError: 'x'", False),
        ("KeyError", "raises KeyError: 'x'", True),
        ("KeyError: 'y'", "raises KeyError: 'x'", False),
        ("MyKeyError", "raises KeyError: 'x'", False),
        ("^falls", "largest difference 2", False),
    ],
)
def test_a_pattern_says_what_a_limit_covers(pattern, detail, covered):
    assert Limit("reason", pattern).covers(detail) is covered


def test_the_limits_of_own_entries_say_what_they_cover():
    own = [name for name, spec in CATALOG.items() if getattr(spec.constructor, "__module__", "").startswith("bench.")]
    assert {"m3", "muon", "universal_muon_auto"} <= set(own)
    assert [key for key, limit in KNOWN_LIMITS.items() if key[0] in own and not limit.pattern] == []


def test_a_class_given_by_reference_has_the_limits_of_its_entry():
    spec = OptimizerSpec(name="torch.optim:NAdam", title="", constructor=torch.optim.NAdam, defaults={"lr": 1e-3},
                         reference="")  # fmt: skip
    assert judge(Subject.of(spec), CONTRACTS["even_steps"]).verdict is Verdict.KNOWN_LIMIT


@pytest.mark.parametrize("name", OWN_VECTORS)
def test_the_state_is_as_large_as_the_formula_says(name):
    parameters = parameters_of(((50,), (6, 40), (5, 7, 20)))
    subject = Subject.of(CATALOG[name])
    optimizer = subject.build(parameters)
    subject.run(optimizer, parameters, range(6))
    for w in parameters:
        kept = [x.numel() for x in tensors_in(optimizer.state[w]) if x.numel() and x.numel() % w.numel() == 0]
        assert sum(kept) == OWN_VECTORS[name] * w.numel()
