"""Gradients against two-sided differences: wrong ones are named, right ones with kinks pass."""

import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.errors import BuildError
from nasforge.core.recipe import Recipe
from nasforge.training import gradients
from nasforge.training.gradients import check_gradients, merged

SHAPE = (3, 8, 8)


class _Wrong(torch.autograd.Function):
    """ReLU whose backward pass is off by a tenth of a percent."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 1.001 * gradient * (x > 0)


class WrongReLU(nn.Module):
    def forward(self, x):
        return _Wrong.apply(x)


def network(*middle):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(8, 8, 3), *middle),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def test_a_right_network_agrees_and_stays_as_it_is():
    right = network(nn.ReLU())
    before = {key: value.clone() for key, value in right.state_dict().items()}
    outcome = check_gradients(right, SHAPE, classes=5)
    assert outcome.agrees and outcome.unchecked == ()
    assert outcome.modules == ("0", "1", "2", "3", "4.0", "4.1", "5", "6", "7", "8")
    assert outcome.largest_error < gradients.TOLERANCE
    assert all(
        torch.equal(value, before[key]) and value.dtype == before[key].dtype
        for key, value in right.state_dict().items()
    )
    assert right.training and right[5].p == 0.5


def test_the_first_module_with_a_wrong_backward_is_named():
    outcome = check_gradients(network(WrongReLU(), WrongReLU()), SHAPE, classes=5)
    wrong = outcome.disagreement
    assert (wrong.module, wrong.layer, wrong.tensor) == ("4.1", "WrongReLU", "input 0")
    assert wrong.gradient == pytest.approx(1.001 * wrong.difference, rel=1e-6)
    assert outcome.modules == ("0", "1", "2", "3", "4.0")
    assert "'4.1' (WrongReLU)" in str(wrong) and not outcome.agrees


def test_the_innermost_module_is_named_not_the_block_around_it():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.bad = nn.ReLU(), WrongReLU()

        def forward(self, x):
            return x + self.bad(self.first(x))

    assert check_gradients(network(Block()), SHAPE, classes=5).disagreement.module == "4.1.bad"


def test_a_wrong_gradient_of_a_parameter_is_named():
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return x * weight

        @staticmethod
        def backward(ctx, gradient):
            x, weight = ctx.saved_tensors
            return gradient * weight, (gradient * x).sum() / 2

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return Scaled.apply(x, self.weight)

    wrong = check_gradients(network(Scale()), SHAPE, classes=5).disagreement
    assert (wrong.module, wrong.tensor) == ("4.1", "weight")
    assert wrong.difference == pytest.approx(2 * wrong.gradient, rel=1e-6)


def test_a_lost_gradient_is_wrong_too():
    class Lost(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return x * self.weight.detach() + 0 * self.weight

    assert check_gradients(network(Lost()), SHAPE, classes=5).disagreement.tensor == "weight"


def test_weight_decay_that_misses_a_weight_is_wrong(monkeypatch):
    """The step of the optimizer must follow loss and decay together."""
    made = gradients.optimizer_of

    def without_decay(network, recipe):
        optimizer = made(network, recipe)
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        return optimizer

    recipe = Recipe(weight_decay=5e-4)
    assert check_gradients(network(), SHAPE, classes=5, recipe=recipe).agrees
    monkeypatch.setattr(gradients, "optimizer_of", without_decay)
    wrong = check_gradients(network(), SHAPE, classes=5, recipe=recipe).disagreement
    assert (wrong.module, wrong.tensor) == ("0", "weight (of loss and weight decay)")


def test_kinks_are_no_mistakes():
    """Thousands of ReLUs and maxima that begin exactly on their kinks: zero weights, equal inputs, equal images."""
    kinked = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.ReLU6(),
        nn.MaxPool2d(2),
        nn.Hardswish(),
        nn.Conv2d(64, 64, 1),
        nn.ReLU(),
    )
    for parameter in kinked.parameters():
        nn.init.zeros_(parameter)
    outcome = check_gradients(kinked, (3, 16, 16))
    assert outcome.agrees and outcome.unchecked == ()
    value, _ = gradients._difference(lambda h: torch.tensor([abs(0.3e-5 + h)], dtype=torch.float64), 1.0)
    assert value == pytest.approx(1.0)  # |x| right of its kink: taken across it the difference would be .3


def test_what_is_nowhere_smooth_is_reported_not_called_wrong():
    class Rough(nn.Module):
        def forward(self, x):
            return x + (x * 1e12).sin()

    outcome = check_gradients(network(Rough()), SHAPE)
    assert outcome.agrees
    assert outcome.unchecked[0].startswith("4.1 (Rough)") and "not smooth" in outcome.unchecked[0]


def test_a_module_with_a_type_of_its_own_is_reported():
    class Half(nn.Module):
        def forward(self, x):
            return x.float()

    class Back(nn.Module):
        def forward(self, x):
            return x.double()

    outcome = check_gradients(network(Half(), Back()), SHAPE)
    assert outcome.unchecked[0].startswith("4.1 (Half): it computes in a type of its own")


def test_a_network_that_cannot_run_in_float64():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = (torch.ones(6, 6),)

        def forward(self, x):
            return x[..., :6, :6] @ self.table[0][:2, :2]

    with raises(BuildError, "unsupported", None, "register_buffer"):
        check_gradients(network(Table()), SHAPE)


def test_merged():
    checks = [check_gradients(network(*middle), SHAPE) for middle in ((), (WrongReLU(),))]
    whole = merged(checks)
    assert whole.disagreement is checks[1].disagreement
    assert len(whole.modules) == len(checks[0].modules) + len(checks[1].modules)
