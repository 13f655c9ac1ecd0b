"""Our blocks pass the suite for blocks, and the suite names what is wrong with others."""

import pytest
import torch
from torch import nn

from nasforge import registry
from nasforge.models.blocks.catalogue import ACTIVATIONS
from nasforge.models.blocks.conv import ConvNorm
from nasforge.testing.blocks import CHECKS
from nasforge.training.gradients import check_gradients


@pytest.mark.parametrize("name", registry.names("block"))
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_our_blocks_conform(name, check):
    if name == "identity":
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("nasforge.testing.blocks.SHAPES", ((8, 8, 1), (8, 12, 2)))
            check(registry.get("block", name))
    else:
        check(registry.get("block", name))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_gradients_of_all_activations(name):
    assert check_gradients(nn.Sequential(nn.Conv2d(2, 6, 1), ACTIVATIONS[name]()), (2, 6, 6)).agrees


class WrongShape(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1, *, activation=nn.ReLU):
        super().__init__()
        self.layer = ConvNorm(in_channels, out_channels, 3, activation=activation)

    def forward(self, x):
        return self.layer(x)


class NotSaved(WrongShape):
    def __init__(self, in_channels, out_channels, stride=1, *, activation=nn.ReLU):
        super().__init__(in_channels, out_channels, stride, activation=activation)
        self.noise = (torch.rand(1, out_channels, 1, 1),)

    def forward(self, x):
        return self.layer(x) + self.noise[0]


class Unequal(WrongShape):
    def forward(self, x):
        return self.layer(x) + x.mean()


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class WrongBackward(WrongShape):
    def forward(self, x):
        return Backward.apply(self.layer(x))


@pytest.mark.parametrize(
    ("block", "check", "error"),
    [
        (WrongShape, "check_shapes", AssertionError),
        (NotSaved, "check_saved_state", Exception),
        (Unequal, "check_evaluation", AssertionError),
        (WrongBackward, "check_gradients_agree", AssertionError),
    ],
)
def test_faults_are_found(block, check, error):
    (chosen,) = [one for one in CHECKS if one.__name__ == check]
    with pytest.raises(error):
        chosen(block)
