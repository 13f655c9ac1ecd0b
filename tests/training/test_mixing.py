import dataclasses
import statistics

import pytest
import timm
import torch
from expecting import raises
from torch import nn
from torch.nn.functional import cross_entropy

from nasforge.core.errors import ConfigError
from nasforge.core.recipe import Recipe
from nasforge.data import load_data
from nasforge.models.network import build
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.supernet.job import check_shared
from nasforge.training.hooks import Hook
from nasforge.training.loop import train
from nasforge.training.mixing import Unmixed, mixing_of


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Seen(nn.Module):
    """Keeps what it is given."""

    def forward(self, x):
        self.x = x.clone()
        return x


def network():
    return nn.Sequential(Seen(), Seen(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def images(count=8):
    return torch.rand(count, 3, 10, 14, generator=seeded(5))


def test_mixup_blends_neighbours_and_their_losses():
    net, x = network(), images()
    mix = mixing_of(net, Recipe(mixup=0.4))(x, seeded())
    logits, labels = mix.logits(net, x), torch.arange(8) % 3
    assert torch.allclose(net[0].x, mix.share * x + (1 - mix.share) * x.roll(1, 0))
    expected = mix.share * cross_entropy(logits, labels) + (1 - mix.share) * cross_entropy(logits, labels.roll(1))
    assert torch.equal(mix.loss(cross_entropy, logits, labels), expected)


def test_cutmix_takes_a_rectangle_and_counts_its_area():
    net, x = network(), images()
    for seed in range(20):
        mix = mixing_of(net, Recipe(cutmix=1.0))(x, seeded(seed))
        mix.logits(net, x)
        foreign = (net[0].x != x).all(1)
        assert (foreign == foreign[:1]).all()
        assert foreign[0].float().mean().item() == pytest.approx(1 - mix.share)
        assert torch.equal(net[0].x, torch.where(foreign[:, None], x.roll(1, 0), x))


def test_manifold_mixup_mixes_in_front_of_one_layer_and_leaves_no_hook():
    net, x, places = network(), images(), set()
    for seed in range(20):
        mix = mixing_of(net, Recipe(manifold_mixup=1.0))(x, seeded(seed))
        mix.logits(net, x)
        blend = mix.share * x + (1 - mix.share) * x.roll(1, 0)
        if mix.layer in (net[0], net[1]):
            assert torch.allclose(net[1].x, blend)
            assert torch.allclose(net[0].x, blend if mix.layer is net[0] else x)
        places.add(mix.layer)
    assert places == set(net)
    net(x)
    assert torch.equal(net[1].x, x)


def test_a_batch_takes_one_of_those_that_are_on():
    draw = mixing_of(network(), Recipe(mixup=0.2, cutmix=1.0))
    kinds = [draw(images(), seeded(seed)).kind for seed in range(60)]
    assert set(kinds) == {"mixup", "cutmix"}
    assert 15 < kinds.count("mixup") < 45
    generator = seeded()
    before = generator.get_state()
    assert isinstance(mixing_of(network(), Recipe())(torch.rand(2, 1, 8, 8), generator), Unmixed)
    assert torch.equal(generator.get_state(), before)


def test_the_generator_decides():
    draw = mixing_of(network(), Recipe(cutmix=1.0))
    assert draw(images(), seeded(1)) == draw(images(), seeded(1))
    assert draw(images(), seeded(1)) != draw(images(), seeded(2))


def test_what_cannot_be_mixed_inside_is_refused_by_name(monkeypatch):
    with raises(ConfigError, "unsupported", "train.manifold_mixup"):
        mixing_of(timm.create_model("resnet10t", num_classes=10, in_chans=1), Recipe(manifold_mixup=0.2))
    with monkeypatch.context() as patched, raises(ConfigError, "unsupported", "train.manifold_mixup"):
        patched.setattr(torch.distributed, "is_initialized", lambda: True)
        patched.setattr(torch.distributed, "get_world_size", lambda: 2)
        mixing_of(network(), Recipe(manifold_mixup=0.2))
    with raises(ConfigError, "unsupported", "train.manifold_mixup"):
        check_shared(Recipe(manifold_mixup=0.2))
    check_shared(Recipe(mixup=0.2, cutmix=1.0, drop_path=0.1, ema_decay=0.9))
    space = load_space("tiny")
    torch.manual_seed(0)
    net = build(space, space.default_point(), in_channels=1, classes=10)
    x = torch.rand(4, 1, 8, 8)
    draw = mixing_of(net, dataclasses.replace(Recipe(), manifold_mixup=0.2))
    assert draw(x, seeded()).logits(net, x).shape == (4, 10)


class Recorder(Hook):
    """A hook that keeps the inputs of every step."""

    name = "recorder"

    def __init__(self):
        self.inputs = []

    def before_step(self, step):
        self.inputs.append(step.inputs)


def test_alphas_learn_on_images_as_they_are():
    data = load_data(DataConfig("digits", images=150, validation=0.2))
    net = nn.Sequential(Seen(), nn.Flatten(), nn.Linear(64, 10))
    alphas, forwarded = Recorder(), []
    net[0].register_forward_hook(lambda layer, inputs, out: forwarded.append(out) if layer.training else None)
    train(net, data.train, Recipe(mixup=1.0, batch_size=40), epochs=1, seed=0, hooks=[alphas])
    assert len(alphas.inputs) == 3
    for plain, mixed in zip(alphas.inputs, forwarded, strict=True):
        assert not torch.allclose(plain, mixed)
        assert plain.unique().numel() < mixed.unique().numel()


def test_cutmix_cuts_the_area_that_it_draws():
    """Of a share that is uniform on 0..1 the edges are its root, less what the ends of the image cut off."""
    draw, x = mixing_of(nn.Identity(), Recipe(cutmix=1.0)), torch.zeros(1, 3, 100, 100)
    generator = torch.Generator().manual_seed(0)
    areas = [1 - draw(x, generator).share for _ in range(4000)]
    assert sum(areas) / 4000 == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.015)


def test_each_kind_of_mix_draws_from_its_own_distribution():
    """Beta(.05, .05) is nearly 0 or 1, Beta(50, 50) nearly a half."""
    draw, generator = mixing_of(network(), Recipe(mixup=0.05, manifold_mixup=50.0)), torch.Generator().manual_seed(0)
    mixes = [draw(images(), generator) for _ in range(200)]
    off = {
        kind: statistics.fmean(abs(m.share - 0.5) for m in mixes if m.kind == kind)
        for kind in ("mixup", "manifold_mixup")
    }
    assert off["mixup"] > 0.4 and off["manifold_mixup"] < 0.1
