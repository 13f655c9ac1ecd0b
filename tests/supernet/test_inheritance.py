"""Subnet and child are the same network: equal bits in outputs, gradients and statistics, in eval and train mode."""

import random

import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.errors import BuildError
from nasforge.core.space import SearchSpace
from nasforge.models.network import build
from nasforge.settings.experiment import load_space
from nasforge.supernet.inheritance import inherit, inherited
from nasforge.supernet.network import Supernet, build_supernet


def narrow(name: str) -> SearchSpace:
    full = load_space(name)
    return full.fixed({k: d.options[0] for k, d in full.domains.items() if k.endswith("width")})


def shaken(space: SearchSpace) -> Supernet:
    """A supernet in which no two tensors of a kind are equal, so that a wrong one is noticed."""
    torch.manual_seed(0)
    supernet = build_supernet(space, 1, 10)
    with torch.no_grad():
        for tensor in (*supernet.parameters(), *supernet.buffers()):
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.add_(torch.rand_like(tensor) / 4)
    return supernet


@pytest.mark.parametrize(("name", "size", "draws"), [("tiny", 8, 6), ("blocks", 14, 3), ("mobile", 12, 3)])
def test_supernet_equals_child_bit_for_bit(name, size, draws):
    space = narrow(name)
    supernet = shaken(space)
    x = torch.randn(4, 1, size, size)
    for seed in range(draws):
        point = space.sample(random.Random(seed))
        child = build(space, point, in_channels=1, classes=10)
        inherit(supernet.state_dict(), point, child)
        supernet.activate(point)
        for training in (True, False):
            supernet.train(training)
            child.train(training)
            supernet.zero_grad(set_to_none=True)
            child.zero_grad(set_to_none=True)
            ours, theirs = supernet(x), child(x)
            assert torch.equal(ours, theirs)
            ours.square().sum().backward()
            theirs.square().sum().backward()
            slopes = {key: p.grad for key, p in supernet.named_parameters() if p.grad is not None}
            slopes = inherited(slopes, point)
            for key, parameter in child.named_parameters():
                assert torch.equal(slopes[key], parameter.grad), key
        state = inherited(supernet.state_dict(), point)
        assert all(torch.equal(state[key], tensor) for key, tensor in child.state_dict().items())


@pytest.mark.parametrize(("name", "size", "draws"), [("tiny", 8, 4), ("blocks", 14, 3), ("mobile", 12, 3)])
def test_with_open_widths_subnet_and_child_are_equal_bit_for_bit(name, size, draws):
    """A narrower path is the leading slice of every tensor; gradients and statistics arrive there and nowhere else."""
    full = load_space(name)
    space = full.fixed({key: full.default_of(key) for key in full.domains if key.startswith("train.")})
    supernet = shaken(space)
    x = torch.randn(4, 1, size, size)
    for seed in range(draws):
        point = space.sample(random.Random(seed))
        child = build(space, point, in_channels=1, classes=10)
        inherit(supernet.state_dict(), point, child)
        supernet.activate(point)
        before = {key: tensor.clone() for key, tensor in supernet.state_dict().items()}
        for training in (True, False):
            supernet.train(training)
            child.train(training)
            supernet.zero_grad(set_to_none=True)
            child.zero_grad(set_to_none=True)
            ours, theirs = supernet(x), child(x)
            assert torch.equal(ours, theirs)
            ours.square().sum().backward()
            theirs.square().sum().backward()
            slopes = inherited({k: p.grad for k, p in supernet.named_parameters() if p.grad is not None}, point)
            for key, parameter in child.named_parameters():
                there = tuple(slice(n) for n in parameter.shape)
                assert torch.equal(slopes[key][there], parameter.grad), key
                outside = slopes[key].clone()
                outside[there] = 0
                assert not outside.any(), key
        after = inherited(supernet.state_dict(), point)
        for key, tensor in child.state_dict().items():
            there = tuple(slice(n) for n in tensor.shape)
            assert torch.equal(after[key][there], tensor), key
            kept = inherited(before, point)[key].clone()
            kept[there] = after[key][there]
            assert torch.equal(kept, after[key]), f"{key} changed outside its slice"


def test_weights_that_do_not_fit_are_named():
    space = narrow("tiny")
    point = space.sample(random.Random(0))
    child = build(space, point, in_channels=1, classes=10)
    state = build_supernet(space, 1, 10).state_dict()
    with raises(BuildError, "changed", None, "classifier.weight", 11, 12):
        inherit(state, point, build(space, point, in_channels=1, classes=11))
    del state["network.stem.conv.weight"]
    with raises(BuildError, "changed", None, "stem.conv.weight"):
        inherit(state, point, child)


def test_inherited_tensors_are_copied():
    space = narrow("tiny")
    point = space.sample(random.Random(0))
    supernet, child = build_supernet(space, 1, 10), build(space, point, in_channels=1, classes=10)
    inherit(supernet.state_dict(), point, child)
    before = supernet.network.classifier.weight.clone()
    nn.init.zeros_(child.classifier.weight)
    assert torch.equal(supernet.network.classifier.weight, before)
