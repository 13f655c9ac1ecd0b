import random

import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.errors import BuildError
from nasforge.core.space import SearchSpace
from nasforge.models.costs import count_flops, count_params
from nasforge.models.mobile import Resize
from nasforge.models.network import build
from nasforge.settings.experiment import load_space


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("mobile")


def first(key: str, domain):
    return domain.options[0] if hasattr(domain, "options") else domain.low


def made(space: SearchSpace, **values) -> nn.Module:
    """The network with these decisions, and the first option everywhere else."""
    chosen = {f"model.{key}": value for key, value in values.items()}
    point = space.fixed(chosen).decide(first)
    return build(space, point, in_channels=1, classes=10)


def test_resolution_is_a_decision_that_flops_follow(space):
    small, large = made(space, resolution=20), made(space, resolution=32)
    x = torch.rand(2, 1, 28, 28)
    assert small.resize(x).shape[-2:] == (20, 20)
    assert large.resize(x).shape[-2:] == (32, 32)
    assert count_params(small) == count_params(large)
    ratio = count_flops(large, (1, 28, 28)) / count_flops(small, (1, 28, 28))
    assert ratio == pytest.approx((32 / 20) ** 2, rel=0.02)


def test_images_of_the_right_size_pass_untouched():
    x = torch.rand(1, 3, 24, 24)
    assert Resize(24)(x) is x


def test_kernel_expansion_and_squeeze_excite_each_change_the_network(space):
    place = "stage0.layer0.block.inverted"
    plain = count_params(made(space))
    hidden = 16 * 3
    assert count_params(made(space, **{f"{place}.kernel": 5})) - plain == hidden * (25 - 9)
    assert count_params(made(space, **{f"{place}.expansion": 6})) > plain
    excited = made(space, **{f"{place}.squeeze_excite": True})
    assert count_params(excited) - plain == 2 * hidden * (hidden // 4) + hidden + hidden // 4


def test_layers_after_the_first_may_be_left_out(space):
    shallow, deep = made(space), made(space, **{"stage1.layer2.block": "inverted"})
    assert isinstance(shallow.stage1.layer2, nn.Identity)
    assert count_params(deep) > count_params(shallow)


def test_arguments_are_checked(space):
    point = space.sample(random.Random(0))
    wrong = SearchSpace(space.name, space.decisions, space.builder, {"strides": [5]})
    with raises(BuildError, "range", None, "mobile"):
        build(wrong, point, in_channels=1, classes=10)
