"""What is known of single entries: the settings that reach their inner branches, and the contracts they cannot keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contracts.verdict import Limit

# By the entry's name: small matrices take the matrix code too, a chunk ends, a small system is solved.
INNER_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "gda2": {"reg": 1e-6, "history_size": 3},
    "universal_muon_auto": {"ortho_threshold": 4},
    "universal_muon_preserve": {"ortho_threshold": 4},
    "universal_muon_stable": {"ortho_threshold": 4},
    "universal_anderson_gda": {"anderson_reg": 1e-6},
    "anderson_gda": {"beta": 0.3},
    "m3": {"chunk": 3},
}

# What the contract of hyper-parameters finds where nothing but NaN and infinity passes.
_BOUNDS = r"^accepts \d+ of \d+ bad values: \w+=(nan|inf)(, \w+=(nan|inf))*"
_READS_NUMBERS = r"\(_local_scalar_dense\)$"
_RAISES_ATTRIBUTE = r"^raises AttributeError: '\w+' object has no attribute '\w+'$"

_COUNTER = Limit(
    "reads its step counter on the host; torch.optim keeps it on the CPU, so no device is waited for", _READS_NUMBERS
)
_TORCH_BOUNDS = Limit(
    "torch.optim compares with lower bounds only, or not at all: infinity and NaN pass", f"{_BOUNDS}$"
)
_LIBRARY_BOUNDS = Limit(
    "the library compares with lower bounds only, or not at all: NaN and infinity pass; its errors are no ValueError",
    rf"{_BOUNDS}; \d+ of \d+ refusals are no ValueError naming the value: lr=-1\.0: NegativeLRError: ",
)
_FUSED_LAYOUT = Limit(
    "our choice of torch's fused CPU kernel, which reads gradients as if they lay in memory as the parameter does; "
    "autograd's backward() always lays them out so",
    "^largest difference",
)
_HALF = Limit("eps, 1e-8 or little more, is added in the weights' dtype: in float16 it is lost", r"in torch\.float16")
_DIVERGES = Limit(
    "as documented: orthogonalisation diverges and the step is far too long; see the network's figures", "^falls from "
)
_OVERFLOWS = Limit(
    "as documented: orthogonalisation overflows and the update is zero; see the network's figures", "^falls from "
)
_NO_COPY = Limit(
    "torch.optim.Optimizer copies groups and state only; the library keeps settings beside them", _RAISES_ATTRIBUTE
)
_LBFGS_NO_COPY = Limit("torch.optim.LBFGS keeps its parameters in an attribute that is not copied", _RAISES_ATTRIBUTE)
_CAST = Limit(
    "part of the state is float32 whatever the weights; load_state_dict casts it to their dtype",
    r"torch\.float64|raises RuntimeError: expected scalar type Double but found Float",
)
_OBJECTS = Limit("the state holds objects, which torch.load refuses unless told to trust the file", "UnpicklingError")
_SUMS = "as published: sums without decay, whose factors are no memories"
_WORKSPACE = Limit("the library uses gradients as workspace; a loop that reads them after step() sees other values")
_EXPANDED_WORKSPACE = Limit(
    "the library uses gradients as workspace, which an expanded one cannot be",
    "raises RuntimeError: unsupported operation: more than one element of the written-to tensor refers to a single",
)
_ONE_GROUP = Limit(
    "torch.optim.LBFGS takes one group",
    "raises (ValueError: LBFGS doesn't support per-parameter options|AssertionError: Expected exactly one param_group)",
)
_ONE_ESTIMATE = Limit("as published: one estimate of the distance over all groups", "^largest difference")
_MEMORY_ORDER = Limit("random probes are drawn in the order of memory, and so differ with the layout")
_GLOBAL_DRAWS = Limit("draws from global generators; a run seeds them for the optimizer alone")
_OWN_RATE = Limit(
    "the library steps vectors at lr_1d, not at their group's lr; a schedule scales it as it does lr, "
    "and in a sweep of rates it stays 3e-3",
    r"in tensor 6 of shape \[7\]; 1 of 8 tensors differ$",
)

_PYTORCH_OPTIMIZER = (
    "soap", "shampoo", "lion", "prodigy", "sophia", "mars", "ademamix", "lamb", "adan", "psgd_kron",
)  # fmt: skip
_NO_EPS_IN_HALF = ("muon", "nadam", "schedule_free_adamw", "soap", "shampoo", "mars", "ademamix", "lamb", "adan")

# By (entry's name, contract); classes that are no entry by library:Class. A class given by reference has the limits of
# the entries made of it. What a limit's pattern does not cover is broken all the same. A test fails where an entry
# keeps what stands here as a limit.
KNOWN_LIMITS: Mapping[tuple[str, str], Limit] = {
    **{(name, "zero_gradients"): _HALF for name in (*_NO_EPS_IN_HALF, "torch:Adam", "torch:AdamW")},
    ("sgd", "hyperparameters"): _TORCH_BOUNDS,
    ("adam", "hyperparameters"): _TORCH_BOUNDS,
    ("adam", "layout"): _FUSED_LAYOUT,
    ("adamw", "hyperparameters"): _TORCH_BOUNDS,
    ("adamw", "layout"): _FUSED_LAYOUT,
    ("torch:Adam", "host_reads"): _COUNTER,
    ("torch:AdamW", "host_reads"): _COUNTER,
    ("radam", "host_reads"): _COUNTER,
    ("radam", "hyperparameters"): _TORCH_BOUNDS,
    ("radam", "even_steps"): Limit("as published: plain momentum until the second moment's variance is known"),
    ("nadam", "host_reads"): _COUNTER,
    ("nadam", "hyperparameters"): _TORCH_BOUNDS,
    ("nadam", "even_steps"): Limit("as published: the momentum follows a schedule that begins near half of b1"),
    ("nadam", "resume"): _CAST,
    ("nadam", "state_bits"): _CAST,
    ("adafactor", "empty_parameter"): Limit(
        "torch.optim.Adafactor divides by the number of elements", "raises ZeroDivisionError"
    ),
    ("adafactor", "host_reads"): Limit(
        "torch.optim.Adafactor takes its step length, from norms, to the host", _READS_NUMBERS
    ),
    ("adafactor", "hyperparameters"): _TORCH_BOUNDS,
    ("lbfgs", "layout"): Limit(
        "torch.optim.LBFGS flattens gradients by a view", "raises RuntimeError: view size is not compatible"
    ),
    ("lbfgs", "host_reads"): Limit("a line search decides on values of the loss", _READS_NUMBERS),
    ("lbfgs", "empty_parameter"): Limit(
        "torch.optim.LBFGS takes the largest of all gradients' elements, and so needs one",
        r"raises RuntimeError: max\(\)",
    ),
    ("lbfgs", "gradients_come_and_go"): Limit(
        "one direction over all parameters: its history moves those without gradient",
        "in the parameter without gradient",
    ),
    ("lbfgs", "no_gradients_at_all"): Limit("torch.optim.LBFGS counts evaluations in its state", "^1 of 6 parameters"),
    ("lbfgs", "zero_gradients"): Limit(
        "torch.optim.LBFGS multiplies by numbers of the host, which float16 cannot hold",
        "raises RuntimeError: value cannot be converted to type c10::Half without overflow",
    ),
    ("lbfgs", "huge_gradients"): Limit(
        "torch.optim.LBFGS's line search raises where a loss is not finite",
        "raises IndexError: list index out of range",
    ),
    ("lbfgs", "empty_group"): _ONE_GROUP,
    ("lbfgs", "rates_of_groups"): _ONE_GROUP,
    ("lbfgs", "added_group"): _ONE_GROUP,
    ("lbfgs", "hyperparameters"): _TORCH_BOUNDS,
    ("lbfgs", "deep_copy"): _LBFGS_NO_COPY,
    ("lbfgs", "pickle"): _LBFGS_NO_COPY,
    ("muon", "host_reads"): Limit(f"its AdamW is torch.optim's, which {_COUNTER.reason}", _READS_NUMBERS),
    ("m3", "hyperparameters"): Limit(_SUMS, r"^accepts 1 of \d+ bad values: betas=\(0\.9, 1\.5, 0\.9\)$"),
    ("m3", "even_steps"): Limit(_SUMS, "^steps 1, 2 and 30 are "),
    ("m3", "quadratic"): Limit(f"{_SUMS}; steps become shorter as the squared gradients add up", "^falls from "),
    ("universal_muon_auto", "quadratic"): _DIVERGES,
    ("universal_muon_auto", "logistic_regression"): _DIVERGES,
    ("universal_muon_auto", "small_network"): _DIVERGES,
    ("universal_muon_preserve", "quadratic"): _OVERFLOWS,
    ("universal_muon_preserve", "logistic_regression"): _OVERFLOWS,
    **{(name, "hyperparameters"): _LIBRARY_BOUNDS for name in _PYTORCH_OPTIMIZER},
    **{(name, contract): _NO_COPY for name in _PYTORCH_OPTIMIZER for contract in ("deep_copy", "pickle")},
    ("schedule_free_adamw", "hyperparameters"): Limit("the library checks no hyper-parameter", "^accepts "),
    ("schedule_free_adamw", "gradients_untouched"): _WORKSPACE,
    ("schedule_free_adamw", "layout"): _EXPANDED_WORKSPACE,
    ("schedule_free_adamw", "even_steps"): Limit(
        "as published: gradients are taken between the iterate and its average"
    ),
    ("soap", "huge_gradients"): Limit(
        "the library's eigendecomposition raises where the preconditioner is not finite",
        "raises _LinAlgError: linalg.eigh: The algorithm failed to converge",
    ),
    ("soap", "host_reads"): Limit(
        "an eigendecomposition checks on the host whether it has converged", r"\(_linalg_eigh\)$"
    ),
    ("soap", "even_steps"): Limit("the first step only begins the preconditioner", "^steps 1, 2 and 30 are 0, "),
    ("shampoo", "resume"): _OBJECTS,
    ("shampoo", "resume_in_float64"): _OBJECTS,
    ("shampoo", "state_bits"): _OBJECTS,
    ("shampoo", "even_steps"): Limit("a sum of steps as long as AdaGrad's, which shorten as squared gradients add up"),
    ("prodigy", "zero_gradients"): Limit(
        "the library computes in the weights' dtype: in float16 its first estimate of the distance, 1e-6, is lost",
        r"in torch\.float16",
    ),
    ("prodigy", "host_reads"): Limit(
        "its estimate of the distance to the solution is a number on the host", _READS_NUMBERS
    ),
    ("prodigy", "rates_of_groups"): _ONE_ESTIMATE,
    ("prodigy", "added_group"): _ONE_ESTIMATE,
    ("prodigy", "even_steps"): Limit(
        "as published: the estimate of the distance begins small and grows, and so do steps"
    ),
    ("sophia", "layout"): _MEMORY_ORDER,
    ("sophia", "own_randomness"): _GLOBAL_DRAWS,
    ("mars", "rates_of_groups"): _OWN_RATE,
    ("mars", "added_group"): _OWN_RATE,
    ("ademamix", "gradients_untouched"): _WORKSPACE,
    ("ademamix", "layout"): _EXPANDED_WORKSPACE,
    ("lamb", "even_steps"): Limit("the library divides lr by 1 - b1^t, which the trust ratio already makes up for"),
    ("adan", "maximize"): Limit("the library begins its memory of the last gradient without maximize's sign"),
    ("psgd_kron", "empty_parameter"): Limit(
        "the library reshapes to [-1, 0]", "raises RuntimeError: cannot reshape tensor of 0 elements"
    ),
    ("psgd_kron", "layout"): _MEMORY_ORDER,
    ("psgd_kron", "own_randomness"): _GLOBAL_DRAWS,
    ("psgd_kron", "host_reads"): Limit(
        "whether to update the preconditioner is drawn, and its balance measured, on the host", _READS_NUMBERS
    ),
    ("psgd_kron", "resume"): _CAST,
    ("psgd_kron", "resume_in_float64"): _CAST,
    ("psgd_kron", "state_bits"): _CAST,
}
