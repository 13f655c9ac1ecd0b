"""In a group of one process, where everything but the other process is real, and in a group of two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from expecting import raises
from torch import nn

from nasforge.core.errors import ConfigError
from nasforge.core.recipe import Recipe
from nasforge.data import load_data
from nasforge.models.network import build
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.training.data_parallel import check_batch, check_failure, checkpoint_of_process, data_parallel
from nasforge.training.loop import train


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def trained(together, **settings):
    split = load_data(DataConfig("digits", images=300)).train
    torch.manual_seed(0)
    space = load_space("tiny")
    smooth = space.point(
        {**space.default_point().values, "model.activation": "silu"}
    )  # a ReLU at 0 makes steps of bits
    network = build(space, smooth, in_channels=1, classes=10)
    recipe = Recipe(**{"batch_size": 32, "clip_norm": 1.0, "precision": "fp32", "crop_pixels": 1, **settings})
    if not together:
        return network, train(network, split, recipe, epochs=1, seed=1)
    with data_parallel(network):
        return network, train(network, split, recipe, epochs=1, seed=1)


def test_a_group_trains_what_one_process_trains(group):
    (alone, first), (network, second) = trained(False), trained(True)
    assert first.metrics["train/loss"] == pytest.approx(second.metrics["train/loss"], rel=1e-4)
    for (key, a), b in zip(alone.state_dict().items(), network.state_dict().values(), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-4, rtol=1e-3), key


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    """With a loss and inputs that belong to whole batches: mixup, weights of classes; and averaged weights."""
    settings = {"learning_rate": 0.02, "mixup": 0.2, "class_weights": "balanced", "ema_decay": 0.9}
    code = (
        "import sys, torch, torch.distributed as dist; sys.path.insert(0, sys.argv[2]); "
        "from test_data_parallel import trained; rank, place = int(sys.argv[1]), sys.argv[3]; "
        "dist.init_process_group('gloo', init_method=f'file://{place}/group', rank=rank, world_size=2); "
        f"network, _ = trained(True, **{settings!r}); torch.save(network.state_dict(), f'{{place}}/{{rank}}.pt'); "
        "dist.barrier()"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code]
    places = [str(Path(__file__).parent), str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank), *places], env=environment) for rank in (0, 1)]
    alone, _ = trained(False, **settings)
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for key, tensor in alone.state_dict().items():
        assert torch.equal(first[key], second[key]), key
        assert torch.allclose(tensor.float(), first[key].float(), atol=1e-4, rtol=1e-3), key


def test_statistics_and_gradients_of_a_normalisation_are_torchs(group):
    images = torch.randn(8, 3, 4, 4) * 3 + 1
    outcomes = []
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
        outcomes.append([inputs.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    for alone, whole in zip(*outcomes, strict=True):
        assert torch.allclose(alone, whole, atol=1e-6)


def test_afterwards_the_network_is_as_before(group, tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    keys = list(network.state_dict())
    with data_parallel(network):
        assert list(network.state_dict()) == keys
        assert network._forward_hooks and network.eval()(torch.rand(3, 4)).grad_fn.name() != "_GatherBackward"
    assert not network._forward_hooks and not network._forward_pre_hooks
    assert checkpoint_of_process(tmp_path / "checkpoint.pt", tmp_path) == tmp_path / "checkpoint.pt"


def test_a_batch_must_divide():
    check_batch(Recipe(batch_size=64), 4, 100)
    check_batch(Recipe(batch_size=64), 4, 60)
    with raises(ConfigError, "conflict", "train.batch_size", "batch_size", 50, 4):
        check_batch(Recipe(batch_size=50), 4, 100)
    with raises(ConfigError, "unsupported", "train.manifold_mixup", "manifold_mixup"):
        check_batch(Recipe(manifold_mixup=0.2), 2, 1000)
    with raises(ConfigError, "conflict", "train.batch_size", 99):  # one batch of all images
        check_batch(Recipe(batch_size=128), 2, 99)


def test_a_failure_of_all_processes_is_one(group):
    check_failure("diverged", dist.new_group(backend="gloo"))


@pytest.mark.slow
def test_a_failure_of_one_process_of_two_ends_without_waiting_for_the_backend(tmp_path):
    code = (
        "import sys, time, torch.distributed as dist; from nasforge.training.data_parallel import check_failure; "
        "rank, place = int(sys.argv[1]), sys.argv[2]; "
        "dist.init_process_group('gloo', init_method=f'file://{place}/group', rank=rank, world_size=2); "
        "watch = dist.new_group(backend='gloo'); "
        "time.sleep(6) if rank else check_failure('out of memory', watch, seconds=1)"
    )
    command, options = [sys.executable, "-c", code], {"stderr": subprocess.PIPE, "text": True}
    first, second = (subprocess.Popen([*command, str(rank), str(tmp_path)], **options) for rank in (0, 1))
    _, errors = first.communicate(timeout=200)
    assert first.returncode == 1 and "SearchError: one of 2 workers failed alone: out of memory" in errors
    second.communicate(timeout=200)
