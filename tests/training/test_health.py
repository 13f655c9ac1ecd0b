import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.recipe import Recipe
from nasforge.data import load_data
from nasforge.models.blocks.residual import ResidualBlock
from nasforge.settings.experiment import DataConfig
from nasforge.training.failures import TrainingFailed
from nasforge.training.health import Health, where_not_finite
from nasforge.training.hooks import Step
from nasforge.training.loop import train
from nasforge.training.scoring import Validation


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU()),
        nn.Sequential(ResidualBlock(4, 4), ResidualBlock(4, 4)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def looked_at(net, x):
    health = Health(net)
    health.before_step(Step(0, True, x, torch.zeros(len(x)), 0.1))
    with health.around_forward():
        out = net(x)
    out.square().sum().backward()
    health.after_backward()
    return health.metrics(1)


def test_figures_of_every_part():
    net, x = network(), torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        net[0][0].weight.abs_()
        net[0][0].weight[1].neg_()  # never fires on images that are nowhere negative
    health = looked_at(net, x)
    assert {key for key in health if "." not in key} == {"health/gradient_norm"}
    assert health["health/0.dead_relus"] == 0.25
    seen = net[0](x)
    assert health["health/0.activation"] == pytest.approx(seen.square().mean().sqrt().item(), rel=1e-5)
    norm = torch.cat([p.grad.flatten() for p in net[4].parameters()]).norm().item()
    assert health["health/4.gradient_norm"] == pytest.approx(norm, rel=1e-5)
    whole = torch.cat([p.grad.flatten() for p in net.parameters()]).norm().item()
    assert health["health/gradient_norm"] == pytest.approx(whole, rel=1e-5)
    assert "health/4.dead_relus" not in health
    assert not any(module._forward_hooks for module in net.modules())


def test_the_place_of_the_first_number_that_is_none():
    net, x = network(), torch.rand(2, 1, 8, 8)
    assert where_not_finite(net, x) == ""
    with torch.no_grad():
        net[1][1].last_norm.weight[0] = torch.inf
    assert where_not_finite(net, x) == "the weights of 1"
    net = network()
    with torch.no_grad():
        net[0][0].weight.fill_(3e38)
    assert where_not_finite(net, x) == "the output of 0"


def test_a_training_reports_it_and_is_no_other_for_it():
    data = load_data(DataConfig("digits", images=150, validation=0.2))

    def run(health):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU()), nn.Flatten(), nn.Linear(36, 10))
        recipe = Recipe(batch_size=32, learning_rate=0.05, health=health, clip_norm=1.0)
        return net, train(net, data.train, recipe, epochs=2, seed=0, validation=Validation(data.validation)).metrics

    (plain, bare), (watched, told) = run(False), run(True)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    assert set(told) - set(bare) == {
        *("health/gradient_norm", "health/0.gradient_norm", "health/2.gradient_norm"),
        *("health/0.activation", "health/2.activation", "health/0.dead_relus"),
    }


def test_divergence_says_where():
    data = load_data(DataConfig("digits", images=150, validation=0.2))
    net = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Flatten(), nn.Linear(36, 10))
    with raises(TrainingFailed, "failed", None, "epoch 1"):
        train(net, data.train, Recipe(batch_size=32, learning_rate=1e30, precision="fp32"), epochs=2, seed=0)
