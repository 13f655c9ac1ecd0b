import torch
from torch import nn

from nasforge.core.architecture import Architecture
from nasforge.models.costs import costs_of
from nasforge.models.ensemble import Ensemble, Mirrored, ensemble_space
from nasforge.models.network import build
from nasforge.settings.experiment import load_space

SPACE = load_space("tiny")


def two_points():
    small = SPACE.default_point()
    return small, SPACE.point({**small.values, "model.stage0.width": 16})


def test_probabilities_are_averaged():
    members = [nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(3)]
    images = torch.randn(5, 1, 2, 2)
    mean = torch.stack([member(images).softmax(1) for member in members]).mean(0)
    assert torch.allclose(Ensemble(members)(images).exp(), mean, atol=1e-6)


def test_an_image_and_its_mirror_get_the_same_answer():
    network = Mirrored(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    images = torch.randn(5, 1, 2, 2)
    assert torch.allclose(network(images), network(images.flip(-1)), atol=1e-6)
    assert not torch.allclose(network.network(images), network.network(images.flip(-1)))


def test_its_space_builds_it_and_costs_are_the_sums():
    points = two_points()
    space = ensemble_space([(SPACE, point) for point in points])
    again = type(space).from_json(space.to_json())
    whole = build(again, Architecture({}), in_channels=1, classes=10)
    assert whole.eval()(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    shape = (1, 8, 8)
    costs = [costs_of(lambda p=p: build(SPACE, p, in_channels=1, classes=10), shape) for p in points]
    found = costs_of(lambda: build(again, Architecture({}), in_channels=1, classes=10), shape)
    for key in ("cost/params", "cost/flops"):
        assert found[key] == sum(c[key] for c in costs)
