import torch
from torch import nn

from nasforge.core.architecture import Architecture
from nasforge.models.costs import costs_of
from nasforge.models.ensemble import Ensemble, Mirrored, TenCrops, ensemble_space
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
    ensemble = costs_of(lambda: build(again, Architecture({}), in_channels=1, classes=10), shape)
    for key in ("cost/params", "cost/flops"):
        assert ensemble[key] == sum(c[key] for c in costs)


def test_ten_crops_are_the_corners_and_the_centre_and_their_mirror_images():
    seen = []

    class Watching(nn.Module):
        def forward(self, images):
            seen.append(images)
            return images.flatten(1)[:, :3]

    images = torch.arange(2 * 2 * 4 * 5, dtype=torch.float32).view(2, 2, 4, 5)
    answer = TenCrops(Watching(), 1, (-1.0, -2.0))(images)
    assert len(seen) == 10 and torch.equal(seen[0], images)
    assert all(torch.equal(view.flip(-1), mirrored) for view, mirrored in zip(seen[::2], seen[1::2], strict=True))
    corners = {(1, 1): seen[2], (1, -1): seen[4], (-1, 1): seen[6], (-1, -1): seen[8]}
    for (down, right), view in corners.items():
        first, last = slice(1, None), slice(None, -1)
        there = view[:, :, first if down > 0 else last, first if right > 0 else last]
        source = images[:, :, last if down > 0 else first, last if right > 0 else first]
        assert torch.equal(there, source)
        edge = view[:, :, 0 if down > 0 else -1]
        assert edge[:, 0].eq(-1).all() and edge[:, 1].eq(-2).all()
    mean = torch.stack([view.flatten(1)[:, :3].softmax(1) for view in seen]).mean(0)
    assert torch.allclose(answer.exp(), mean, atol=1e-6)
