"""In a group of one process, where everything but the other processes is real; tests/finalists has a group of two."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from nasforge.config import DataConfig, load_space
from nasforge.core.errors import ConfigError
from nasforge.data import load_data
from nasforge.models.network import build
from nasforge.training.data_parallel import check_batch, data_parallel, own_checkpoint
from nasforge.training.loop import train
from nasforge.training.recipe import Recipe


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def trained(together):
    part = load_data(DataConfig("digits", images=300)).train
    torch.manual_seed(0)
    space = load_space("tiny")
    network = build(space, space.default_point(), in_channels=1, classes=10)
    recipe = Recipe(batch_size=32, clip_norm=1.0, precision="fp32", crop_pixels=1)
    if not together:
        return network, train(network, part, recipe, epochs=1, seed=1)
    with data_parallel(network):
        return network, train(network, part, recipe, epochs=1, seed=1)


def test_a_group_trains_what_one_process_trains(group):
    (alone, first), (network, second) = trained(False), trained(True)
    assert first.metrics["train/loss"] == pytest.approx(second.metrics["train/loss"], rel=1e-4)
    for (key, a), b in zip(alone.state_dict().items(), network.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=2e-3, rtol=1e-3), key


def test_statistics_and_gradients_of_a_normalisation_are_torchs(group):
    images = torch.randn(8, 3, 4, 4) * 3 + 1
    found = []
    for together in (False, True):
        torch.manual_seed(1)
        layer = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 5))
        inputs = images.clone().requires_grad_()
        if together:
            with data_parallel(layer):
                layer(inputs).square().mean().backward()
        else:
            layer(inputs).square().mean().backward()
        norm = layer[0]
        found.append([inputs.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    for alone, whole in zip(*found, strict=True):
        assert torch.allclose(alone, whole, atol=1e-6)


def test_afterwards_the_network_is_as_before(group, tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    keys = list(network.state_dict())
    with data_parallel(network):
        assert list(network.state_dict()) == keys
        assert network._forward_hooks and network.eval()(torch.rand(3, 4)).grad_fn.name() != "_GatherBackward"
    assert not network._forward_hooks and not network._forward_pre_hooks
    assert own_checkpoint(tmp_path / "checkpoint.pt", tmp_path) == tmp_path / "checkpoint.pt"


def test_a_batch_must_divide():
    check_batch(Recipe(batch_size=64), 4)
    with pytest.raises(ConfigError, match="batch_size 50 cannot be divided among 4 workers"):
        check_batch(Recipe(batch_size=50), 4)
    with pytest.raises(ConfigError, match="manifold_mixup mixes a batch inside the network"):
        check_batch(Recipe(manifold_mixup=0.2), 2)
