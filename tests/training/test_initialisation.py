import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.errors import ConfigError, RecipeError
from nasforge.core.recipe import Recipe
from nasforge.models.blocks.residual import ResidualBlock
from nasforge.training.initialisation import check_may_draw, initialise


def network():
    return nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(64, 32))


def test_he_and_xavier_have_their_variances_and_biases_begin_at_zero():
    for init, conv, linear in (("he", 2 / 144, 2 / 64), ("xavier", 2 / (144 + 576), 2 / 96)):
        net = network()
        initialise(net, Recipe(init=init), 0)
        assert net[0].weight.var().item() == pytest.approx(conv, rel=0.1)
        assert net[3].weight.var().item() == pytest.approx(linear, rel=0.15)
        assert not net[0].bias.any()
        assert not net[3].bias.any()
        assert net[1].weight.eq(1).all()


def test_orthogonal_rows():
    net = network()
    initialise(net, Recipe(init="orthogonal"), 0)
    rows = net[0].weight.flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(64), atol=1e-5)


def test_the_seed_decides_and_the_surrounding_generator_nothing():
    first, second, third = network(), network(), network()
    torch.manual_seed(1)
    initialise(first, Recipe(init="he"), 5)
    torch.manual_seed(2)
    initialise(second, Recipe(init="he"), 5)
    initialise(third, Recipe(init="he"), 6)
    assert torch.equal(first[0].weight, second[0].weight)
    assert not torch.equal(first[0].weight, third[0].weight)


def test_the_builders_own_stays_and_branches_begin_at_zero_where_asked_for():
    net = nn.Sequential(ResidualBlock(4, 4))
    before = net[0].branch[0].conv.weight.clone()
    initialise(net, Recipe(zero_init=True), 0)
    assert torch.equal(net[0].branch[0].conv.weight, before)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(net(x), x.relu())
    with raises(ConfigError, "unsupported", "train.zero_init"):
        initialise(network(), Recipe(zero_init=True), 0)


@pytest.mark.parametrize("recipe", [Recipe(init="he"), Recipe(zero_init=True)])
def test_pretrained_weights_are_not_overwritten(recipe):
    net = network()
    net.pretrained = True
    before = net[0].weight.clone()
    with raises(ConfigError, "conflict", "train.init"):
        initialise(net, recipe, 0)
    with raises(RecipeError, "conflict", "train.init"):
        check_may_draw(net, recipe)  # asked before the first trial too
    assert torch.equal(net[0].weight, before)
    initialise(net, Recipe(), 0)
