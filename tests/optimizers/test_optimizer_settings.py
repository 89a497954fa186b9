"""What every own optimizer refuses: bad hyper-parameters, by name and value, and parameters it cannot update."""

from __future__ import annotations

import pytest
import torch

from bench.optimizers.catalog import CATALOG

OWN = sorted(name for name, spec in CATALOG.items() if getattr(spec.constructor, "__module__", "").startswith("bench."))


def parameter():
    return [torch.nn.Parameter(torch.zeros(3))]


REFUSED = {
    "custom_adam": [("betas", (0.9,)), ("betas", (0.9, 1.0)), ("betas", 0.9)],
    "gda2": [
        ("betas", (-0.1, 0.9)),
        ("history_size", -1),
        ("history_size", 2.5),
        ("reg", -1e-3),
        ("nu", float("nan")),
        ("tau", float("inf")),
        ("interval", 0),
        ("cos_shift", 1.5),
        ("w_clip", (2.0, 1.0)),
        ("w_clip", (0.1, float("inf"))),
        ("w_clip", 3.0),
    ],
    "universal_muon_auto": [
        ("betas", (0.9, float("nan"))),
        ("ortho_mode", "sometimes"),
        ("ortho_threshold", -1),
        ("ns_iters", 1.5),
        ("scale_mode", "wide"),
    ],
    "universal_muon_preserve": [("ortho_mode", None)],
    "universal_muon_stable": [("betas", (0.9, 2.0)), ("ortho_threshold", "128"), ("ns_iters", -1)],
    "universal_anderson_gda": [
        ("betas", [0.9, 0.99, 0.999]),
        ("anderson_m", -1),
        ("anderson_m", True),
        ("anderson_reg", -1.0),
        ("trust_region", float("nan")),
        ("use_weighting", 1),
    ],
    "dmgd": [("beta", 1.0), ("mlp_lr", -1.0), ("signed_sqrt", 1), ("seed", -1), ("seed", 0.5)],
    "m3": [
        ("betas", (0.9, 0.999)),
        ("betas", (0.9, -0.1, 0.9)),
        ("alpha", -1.0),
        ("ns_steps", 2.5),
        ("chunk", 0),
        ("orthogonalise", 1),
    ],
    "custom_sgd": [("momentum", 1.0), ("momentum", -0.1)],
    "anderson_gda": [("beta", -1.0), ("anderson_m", 1.5), ("eps", -1e-8)],
    "muon": [
        ("momentum", 1.0),
        ("nesterov", 1),
        ("ns_steps", -1),
        ("adjust_lr_fn", "none"),
        ("betas", (0.9, 1.0)),
        ("adamw_weight_decay", -0.1),
    ],
}
ANY_BAD_NUMBER = [-1.0, float("nan"), float("inf"), None, "0.1", True, torch.tensor(0.1)]
CASES = [(name, "lr", value) for name in OWN for value in ANY_BAD_NUMBER]
CASES += [(name, "weight_decay", -0.5) for name in OWN if name not in ("anderson_gda", "dmgd", "m3")]
CASES += [(name, "eps", float("nan")) for name in OWN if name not in ("custom_sgd", "dmgd")]
CASES += [(name, hyperparameter, value) for name, cases in REFUSED.items() for hyperparameter, value in cases]


@pytest.mark.parametrize(("name", "hyperparameter", "value"), CASES, ids=str)
def test_a_bad_hyperparameter_is_refused_by_name_and_value(name, hyperparameter, value):
    def assert_refused(call):
        with pytest.raises(ValueError, match="; allowed: ") as caught:
            call()
        assert f"{hyperparameter} is {value!r}; allowed: " in str(caught.value)

    settings = {**CATALOG[name].defaults, hyperparameter: value}
    assert_refused(lambda: CATALOG[name].load()(parameter(), **settings))
    if hyperparameter == "adamw_weight_decay":
        return
    optimizer = CATALOG[name].load()(parameter(), **CATALOG[name].defaults)
    assert_refused(lambda: optimizer.add_param_group({"params": parameter(), hyperparameter: value}))
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_torch_refuses_a_negative_rate_by_value(name):
    with pytest.raises(ValueError, match=r"-1\.0"):
        CATALOG[name].load()(parameter(), lr=-1.0)


@pytest.mark.parametrize("name", OWN)
def test_complex_parameters_are_refused(name):
    with pytest.raises(ValueError, match=r"dtype is torch\.complex64; allowed: real floating-point dtypes"):
        CATALOG[name].load()([torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))])


@pytest.mark.parametrize("name", sorted(set(OWN) - {"muon"}))  # torch.optim raises for its own two
def test_sparse_gradients_are_refused(name):
    (w,) = parameter()
    w.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="found a sparse gradient; only dense gradients are allowed"):
        CATALOG[name].load()([w]).step()
