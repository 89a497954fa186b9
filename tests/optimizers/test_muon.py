"""Muon with AdamW: the bits of the two run apart, and one optimizer's manners."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from bench.optimizers.muon import SPEC, Muon, muon_groups
from bench.spec import Role, RoledParameter

MATRICES, OTHERS = [(6, 9), (9, 6), (5, 5)], [(), (7,), (4, 3), (2, 3, 2, 2)]


def parameters_of(shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def set_gradients(*lists, seed):
    """The same random gradients to every list."""
    for parameters in lists:
        generator = torch.Generator().manual_seed(seed)
        for w in parameters:
            w.grad = torch.randn(w.shape, generator=generator)


def two_groups(matrices, others):
    return [{"params": matrices, "algorithm": "muon"}, {"params": others, "algorithm": "adamw"}]


def test_muon_has_the_bits_of_the_two_optimizers_run_apart():
    matrices, others = parameters_of(MATRICES, 1), parameters_of(OTHERS, 2)
    twins = parameters_of(MATRICES, 1), parameters_of(OTHERS, 2)
    ours = Muon(two_groups(matrices, others), lr=0.01, momentum=0.9, betas=(0.8, 0.99), ns_steps=4)
    muon = torch.optim.Muon(
        twins[0], lr=0.01, weight_decay=0.1, momentum=0.9, ns_steps=4, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(twins[1], lr=0.01, betas=(0.8, 0.99), weight_decay=0.01)
    for step in range(30):
        set_gradients([*matrices, *others], [*twins[0], *twins[1]], seed=step)
        for optimizer in (ours, muon, adamw):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 / (1 + step)
            optimizer.step()
        for a, b in zip([*matrices, *others], [*twins[0], *twins[1]], strict=True):
            assert torch.equal(a, b)


def test_hidden_matrices_go_to_muon_and_the_rest_to_adamw():
    roles = [Role.EMBEDDING, Role.HIDDEN_MATRIX, Role.HIDDEN_MATRIX, Role.NORM, Role.HEAD, Role.HIDDEN_MATRIX]
    shapes = [(4, 3), (3, 5), (2, 2, 2), (3,), (3, 2), (5, 3)]
    parameters = parameters_of(shapes, 3)
    roled = [
        RoledParameter(name=str(i), parameter=w, role=role)
        for i, (w, role) in enumerate(zip(parameters, roles, strict=True))
    ]
    groups = muon_groups(roled)
    assert [group["algorithm"] for group in groups] == ["muon", "adamw"]
    assert [id(w) for w in groups[0]["params"]] == [id(parameters[i]) for i in (1, 5)]
    assert [id(w) for w in groups[1]["params"]] == [id(parameters[i]) for i in (0, 2, 3, 4)]
    assert [group["algorithm"] for group in muon_groups(roled[:1])] == ["adamw"]
    assert [group["algorithm"] for group in muon_groups(roled[1:2])] == ["muon"]
    optimizer = SPEC.build(roled, SPEC.defaults)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.01]


def test_a_group_without_algorithm_is_adamws():
    ours, theirs = parameters_of(OTHERS, 4), parameters_of(OTHERS, 4)
    optimizers = Muon(ours), torch.optim.AdamW(theirs)
    for step in range(5):
        set_gradients(ours, theirs, seed=step)
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_state_and_groups_are_the_outer_ones_after_every_replacement():
    matrices, others = parameters_of(MATRICES, 5), parameters_of(OTHERS, 6)
    optimizer = Muon(two_groups(matrices, others))
    set_gradients([*matrices, *others], seed=0)
    optimizer.step()
    assert set(optimizer.state[matrices[0]]) == {"momentum_buffer"}
    assert set(optimizer.state[others[0]]) == {"step", "exp_avg", "exp_avg_sq"}
    copies = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    size = len(pickle.dumps(optimizer))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert len(pickle.dumps(optimizer)) <= 1.05 * size  # the state replaced by loading is not carried along
    for each in (optimizer, *copies):
        each.param_groups[0]["lr"], each.param_groups[1]["lr"] = 0.0, 0.5
        before = [[w.detach().clone() for w in group["params"]] for group in each.param_groups]
        for group in each.param_groups:
            set_gradients(group["params"], seed=1)
        each.step()
        moved = [
            any(not torch.equal(w, old) for w, old in zip(group["params"], olds, strict=True))
            for group, olds in zip(each.param_groups, before, strict=True)
        ]
        assert moved == [False, True]
        steps = [each.state[w]["step"].item() for w in each.param_groups[1]["params"]]
        assert steps == [2.0] * len(OTHERS)


def test_a_group_is_refused_whole():
    optimizer = Muon(two_groups(parameters_of(MATRICES, 7), parameters_of(OTHERS, 8)))
    with pytest.raises(ValueError, match=r"Muon: a parameter of a muon group has shape \(7,\); allowed: matrices"):
        optimizer.add_param_group({"params": parameters_of([(2, 2), (7,)], 9), "algorithm": "muon"})
    with pytest.raises(ValueError, match=r"Muon: algorithm is 'lion'; allowed: one of \['muon', 'adamw'\]"):
        optimizer.add_param_group({"params": parameters_of([(2, 2)], 9), "algorithm": "lion"})
    assert len(optimizer.param_groups) == 2
