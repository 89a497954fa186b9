"""What is known of single entries: the settings that reach their inner branches, and the contracts they cannot keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# By the entry's name: small matrices take the matrix code too, and a small system is solved, not regularised away.
INNER_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "gda2": {"reg": 1e-6, "history_size": 3},
    "universal_muon_auto": {"ortho_threshold": 4},
    "universal_muon_preserve": {"ortho_threshold": 4},
    "universal_muon_stable": {"ortho_threshold": 4},
    "universal_anderson_gda": {"anderson_reg": 1e-6},
    "anderson_gda": {"beta": 0.3},
}

_COUNTER = "reads its step counter on the host; torch.optim keeps it on the CPU, so no device is waited for"
_TORCH_BOUNDS = "torch.optim compares with the lower bound only: infinity passes, and in SGD NaN does"
_LIBRARY_BOUNDS = "the library compares with the lower bound only: NaN and infinity pass"
_UNCHECKED = "the library checks no hyper-parameter"
_FUSED_LAYOUT = "torch's fused CPU kernel takes a gradient to lie in memory as its parameter does: autograd's do"
_DIVERGES = "as documented: orthogonalisation diverges and the step is far too long; see the network's figures"
_OVERFLOWS = "as documented: orthogonalisation overflows and the update is zero; see the network's figures"
_NO_COPY = "torch.optim.Optimizer copies groups and state only; the library keeps settings beside them"
_CAST = "part of the state is float32 whatever the weights; load_state_dict casts it to their dtype"
_OBJECTS = "the state holds objects, which torch.load refuses unless told to trust the file"
_SUMS = "as published: sums without decay, whose factors are no memories"
_WORKSPACE = "the library uses gradients as workspace; a loop that reads them after step() sees other values"
_ONE_GROUP = "torch.optim.LBFGS takes one group"
_MEMORY_ORDER = "random probes are drawn in the order of memory, and so differ with the layout"
_GLOBAL_DRAWS = "draws from global generators; a run seeds them for the optimizer alone"

_PYTORCH_OPTIMIZER = (
    "soap", "shampoo", "lion", "prodigy", "sophia", "mars", "ademamix", "lamb", "adan", "psgd_kron",
)  # fmt: skip

# By (entry's name, contract); classes that are no entry by library:Class. A class given by reference has the limits of
# the entries made of it. A test fails where an entry keeps what stands here as a limit.
KNOWN_LIMITS: Mapping[tuple[str, str], str] = {
    ("sgd", "hyperparameters"): _TORCH_BOUNDS,
    ("adam", "hyperparameters"): _TORCH_BOUNDS,
    ("adam", "layout"): _FUSED_LAYOUT,
    ("adamw", "hyperparameters"): _TORCH_BOUNDS,
    ("adamw", "layout"): _FUSED_LAYOUT,
    ("torch:Adam", "host_reads"): _COUNTER,
    ("torch:AdamW", "host_reads"): _COUNTER,
    ("radam", "host_reads"): _COUNTER,
    ("radam", "hyperparameters"): _TORCH_BOUNDS,
    ("radam", "even_steps"): "as published: plain momentum until the second moment's variance is known",
    ("nadam", "host_reads"): _COUNTER,
    ("nadam", "hyperparameters"): _TORCH_BOUNDS,
    ("nadam", "even_steps"): "as published: the momentum follows a schedule that begins near half of b1",
    ("nadam", "resume"): _CAST,
    ("nadam", "state_bits"): _CAST,
    ("adafactor", "empty_parameter"): "torch.optim.Adafactor divides by the number of elements",
    ("adafactor", "host_reads"): "torch.optim.Adafactor takes its step length, from norms, to the host",
    ("adafactor", "hyperparameters"): _TORCH_BOUNDS,
    ("lbfgs", "layout"): "torch.optim.LBFGS flattens gradients by a view",
    ("lbfgs", "host_reads"): "a line search decides on values of the loss",
    ("lbfgs", "gradients_come_and_go"): "one direction over all parameters: its history moves those without gradient",
    ("lbfgs", "no_gradients_at_all"): "torch.optim.LBFGS counts evaluations in its state",
    ("lbfgs", "huge_gradients"): "torch.optim.LBFGS's line search raises where a loss is not finite",
    ("lbfgs", "empty_group"): _ONE_GROUP,
    ("lbfgs", "rates_of_groups"): _ONE_GROUP,
    ("lbfgs", "added_group"): _ONE_GROUP,
    ("lbfgs", "hyperparameters"): _TORCH_BOUNDS,
    ("lbfgs", "deep_copy"): "torch.optim.LBFGS keeps its parameters in an attribute that is not copied",
    ("lbfgs", "pickle"): "torch.optim.LBFGS keeps its parameters in an attribute that is not copied",
    ("muon", "host_reads"): f"its AdamW is torch.optim's, which {_COUNTER}",
    ("m3", "hyperparameters"): _SUMS,
    ("m3", "even_steps"): _SUMS,
    ("m3", "quadratic"): f"{_SUMS}; steps become shorter as the squared gradients add up",
    ("universal_muon_auto", "quadratic"): _DIVERGES,
    ("universal_muon_auto", "logistic_regression"): _DIVERGES,
    ("universal_muon_auto", "small_network"): _DIVERGES,
    ("universal_muon_preserve", "quadratic"): _OVERFLOWS,
    ("universal_muon_preserve", "logistic_regression"): _OVERFLOWS,
    **{(name, "hyperparameters"): _LIBRARY_BOUNDS for name in _PYTORCH_OPTIMIZER},
    **{(name, contract): _NO_COPY for name in _PYTORCH_OPTIMIZER for contract in ("deep_copy", "pickle")},
    ("schedule_free_adamw", "hyperparameters"): _UNCHECKED,
    ("schedule_free_adamw", "gradients_untouched"): _WORKSPACE,
    ("schedule_free_adamw", "even_steps"): "as published: gradients are taken between the iterate and its average",
    ("soap", "huge_gradients"): "the library's eigendecomposition raises where the preconditioner is not finite",
    ("soap", "even_steps"): "the first step only begins the preconditioner",
    ("shampoo", "resume"): _OBJECTS,
    ("shampoo", "state_bits"): _OBJECTS,
    ("shampoo", "even_steps"): "a sum of steps as long as AdaGrad's, which shorten as squared gradients add up",
    ("prodigy", "host_reads"): "its estimate of the distance to the solution is a number on the host",
    ("prodigy", "rates_of_groups"): "as published: one estimate of the distance over all groups",
    ("prodigy", "added_group"): "as published: one estimate of the distance over all groups",
    ("prodigy", "even_steps"): "as published: the estimate of the distance begins small and grows, and so do steps",
    ("sophia", "layout"): _MEMORY_ORDER,
    ("sophia", "own_randomness"): _GLOBAL_DRAWS,
    ("mars", "rates_of_groups"): "the library gives vectors a rate of their own, lr_1d, which is not the group's lr",
    ("mars", "added_group"): "the library gives vectors a rate of their own, lr_1d, which is not the group's lr",
    ("ademamix", "gradients_untouched"): _WORKSPACE,
    ("lamb", "even_steps"): "the library divides lr by 1 - b1^t, which the trust ratio already makes up for",
    ("adan", "maximize"): "the library begins its memory of the last gradient without maximize's sign",
    ("psgd_kron", "empty_parameter"): "the library reshapes to [-1, 0]",
    ("psgd_kron", "layout"): _MEMORY_ORDER,
    ("psgd_kron", "own_randomness"): _GLOBAL_DRAWS,
    ("psgd_kron", "host_reads"): "whether to update the preconditioner is drawn, and its balance measured, on the host",
    ("psgd_kron", "resume"): _CAST,
    ("psgd_kron", "state_bits"): _CAST,
}
