import dataclasses
from random import Random

import pytest
import timm
import torch
from expecting import raises
from torch import nn

from nasforge.core.errors import ConfigError
from nasforge.core.recipe import Recipe
from nasforge.data import load_data
from nasforge.models.blocks.drop_path import DropPath
from nasforge.models.blocks.residual import PreActivationBlock, ResidualBlock
from nasforge.models.network import build
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.supernet.network import build_supernet
from nasforge.training.depth import freeze, layer_groups, layers_of, set_drop_path, set_dropout
from nasforge.training.loop import train
from nasforge.training.optimisation import optimizer_of, schedule_of
from nasforge.training.recalibration import recalibrate
from nasforge.training.scoring import Validation


def networks_of(name):
    """The space without its recipe, as a supernet takes it."""
    space = load_space(name)
    return dataclasses.replace(space, decisions=tuple(d for d in space.decisions if d.key.startswith("model.")))


def child(name="tiny", seed=0):
    space = load_space(name)
    torch.manual_seed(seed)
    return build(space, space.sample(Random(seed)), in_channels=1, classes=10)


def scales(network, decay=0.5):
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(p)]: group["lr_scale"] for group in layer_groups(network, decay) for p in group["params"]}


def test_stages_are_opened_and_the_head_is_last():
    net = child()
    assert list(layers_of(net)) == ["stem", *(f"stage{i}.layer{j}" for i in (0, 1) for j in (0, 1, 2))]
    rate_of = scales(net)
    assert rate_of["classifier.weight"] == rate_of["norm.weight"] == 1
    ordered = [rate_of[name] for name, _ in net.named_parameters()]
    assert ordered == sorted(ordered)
    assert set(rate_of) == {name for name, _ in net.named_parameters()}


@pytest.mark.parametrize("space", ["mobile", "nasbench201", "blocks"])
def test_every_sequential_space_has_an_order(space):
    rates = list(scales(child(space)).values())
    assert rates == sorted(rates)
    assert len(set(rates)) > 3


def test_a_timm_network_is_divided_as_timm_does_it():
    rate_of = scales(timm.create_model("resnet10t", num_classes=10, in_chans=1))
    assert rate_of["fc.weight"] == 1
    assert rate_of["layer4.0.conv1.weight"] > rate_of["layer1.0.conv1.weight"] > rate_of["conv1.0.weight"]


def test_a_supernet_has_its_children_s_order():
    space = networks_of("tiny")
    rate_of = scales(build_supernet(space, 1, 10))
    assert rate_of["network.classifier.weight"] == 1
    assert rate_of["network.stem.conv.weight"] == 0.5**7


def test_the_rates_keep_their_ratio_all_along_the_schedule():
    recipe = Recipe(layer_decay=0.5, learning_rate=0.8, warmup_epochs=1, optimizer="adamw", weight_decay=0.1)
    optimizer = optimizer_of(child(), recipe)
    schedule = schedule_of(optimizer, recipe, 4, 5)
    for step in (0, 7, 19):
        schedule.step_update(step)
        highest = max(group["lr"] for group in optimizer.param_groups)
        assert all(group["lr"] == pytest.approx(highest * group["lr_scale"]) for group in optimizer.param_groups)
    assert {group["weight_decay"] for group in optimizer.param_groups if group["params"][0].ndim > 1} == {0.1}
    assert {group["weight_decay"] for group in optimizer.param_groups if group["params"][0].ndim == 1} == {0.0}


@pytest.mark.parametrize("layer_decay", [0.5, 1.0])
def test_what_timm_spares_of_weight_decay_is_spared(layer_decay):
    net = timm.create_model("test_vit", num_classes=10)
    optimizer = optimizer_of(net, Recipe(layer_decay=layer_decay, weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[id(net.pos_embed)] == decay[id(net.cls_token)] == 0
    assert decay[id(net.head.weight)] == 0.1


def test_a_network_without_layer_order_is_refused():
    with raises(ConfigError, "unsupported", "train.layer_decay"):
        layer_groups(child("darts"), 0.5)
    with raises(ConfigError, "unsupported", "train.drop_path"):
        set_drop_path(child("darts"), 0.5)


@pytest.mark.parametrize("block", [ResidualBlock, PreActivationBlock])
def test_a_branch_is_left_out_for_some_images_and_the_mean_stays(block):
    net = block(4, 4).double()
    x = torch.randn(4000, 4, 2, 2, dtype=torch.float64)
    branch = net.branch(net.pre(x) if hasattr(net, "pre") else x)
    without = x.relu() if block is ResidualBlock else x
    net.drop_path.p = 0.25
    torch.manual_seed(0)
    out = net(x)
    left_out = torch.isclose(out, without).flatten(1).all(1)
    assert 0.22 < left_out.double().mean() < 0.28
    whole = x + branch / 0.75
    assert torch.allclose(out[~left_out], (whole.relu() if block is ResidualBlock else whole)[~left_out])
    assert torch.equal(net.eval()(x), net(x))


def test_at_zero_nothing_changes_and_nothing_is_drawn():
    x = torch.randn(3, 2)
    state = torch.get_rng_state()
    assert DropPath()(x) is x
    assert DropPath(0.5).eval()(x) is x
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(nn.Sequential(DropPath(0.3)).state_dict())


def test_probabilities_rise_with_depth_alike_in_a_supernet_and_its_children():
    space = networks_of("tiny")
    supernet = build_supernet(space, 1, 10)
    set_drop_path(supernet, 0.6)
    seen = set()
    for seed in range(6):
        point = space.sample(Random(seed))
        torch.manual_seed(seed)
        net = build(space, point, in_channels=1, classes=10)
        if not any(isinstance(module, DropPath) for module in net.modules()):
            continue
        set_drop_path(net, 0.6)
        supernet.activate(point)
        running = supernet._running[0] if supernet._running else supernet.network
        mixed = {}
        for name, module in running.named_modules():
            if isinstance(module, DropPath):
                mixed[name.split(".@")[0].removesuffix(".drop_path")] = module.p
        for name, module in net.named_modules():
            if isinstance(module, DropPath):
                seen.add(name)
                assert module.p == pytest.approx(mixed[name.removesuffix(".drop_path")])
                stage, layer = int(name[len("stage")]), int(name[len("stage0.layer")])
                assert module.p == pytest.approx(0.1 * (1 + 3 * stage + layer))
    assert seen


@pytest.mark.parametrize("average", [{}, {"swa_share": 0.5}, {"ema_decay": 0.5}])
def test_frozen_parts_keep_weights_and_statistics(average):
    data = load_data(DataConfig("digits", images=150, validation=0.2))
    net = child()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    recipe = Recipe(batch_size=40, learning_rate=0.1, frozen_stages=2, precision="fp32", **average)
    train(net, data.train, recipe, epochs=2, seed=0, validation=Validation(data.validation))
    changed = {
        key.partition(".")[0] for key, tensor in net.state_dict().items() if not torch.equal(tensor, before[key])
    }
    assert changed == {"stage1", "norm", "classifier"}


def test_batch_norm_without_weights_is_frozen_with_its_stage():
    data = load_data(DataConfig("digits", images=150, validation=0.2))
    stages = [nn.Sequential(nn.Conv2d(c, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU()) for c in (1, 4)]
    net = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    recipe = Recipe(batch_size=40, learning_rate=0.1, frozen_stages=1, precision="fp32")
    train(net, data.train, recipe, epochs=1, seed=0)
    recalibrate(net, data.train, recipe)
    changed = {key for key, tensor in net.state_dict().items() if not torch.equal(tensor, before[key])}
    assert {key.partition(".")[0] for key in changed} == {"1", "4"} and "1.1.running_mean" in changed


def test_a_parameter_of_the_network_itself_is_of_its_first_part():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    net.token = nn.Parameter(torch.zeros(3))
    freeze(net, 1)
    assert [name for name, parameter in net.named_parameters() if not parameter.requires_grad] == [
        "token",
        "0.weight",
        "0.bias",
    ]


def test_what_the_builder_has_frozen_stays_frozen():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    net[1].weight.requires_grad_(False)
    freeze(net, 1)
    assert [name for name, parameter in net.named_parameters() if parameter.requires_grad] == [
        "1.bias",
        "2.weight",
        "2.bias",
    ]


def test_a_transformer_whose_tokens_are_frozen_trains_in_training_mode():
    net = timm.create_model("test_vit", num_classes=10)
    frozen = freeze(net, 2)
    assert not net.cls_token.requires_grad and not net.blocks[0].norm1.weight.requires_grad
    assert net.blocks[0].norm1 in frozen and net not in frozen
    net.train()
    for module in frozen:
        module.eval()
    assert net.training and net.blocks[1].training and net.head_drop.training


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_dropout_reaches_timm_s_networks(name):
    net = timm.create_model(name, num_classes=10, in_chans=1)
    images = torch.randn(1, 1, 160, 160).expand(2, -1, -1, -1)
    for module in net.modules():
        module.training = not isinstance(module, nn.BatchNorm2d)
    assert torch.allclose(net(images)[0], net(images)[1], atol=1e-5)
    set_dropout(net, 0.5)
    assert not torch.allclose(net(images)[0], net(images)[1], atol=1e-5)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_timm_s_networks_drop_where_timm_lets_them(name):
    def places(network, kind, attribute):
        paths = {
            name: getattr(module, attribute) for name, module in network.named_modules() if isinstance(module, kind)
        }
        return {name: probability for name, probability in paths.items() if probability}

    net = timm.create_model(name, num_classes=10, in_chans=1)
    set_drop_path(net, 0.4)
    expected = places(timm.create_model(name, drop_path_rate=0.4), timm.layers.DropPath, "drop_prob")
    assert places(net, DropPath, "p") == expected != {}
    with torch.device("meta"):
        without = timm.create_model("vgg11")
    with raises(ConfigError, "unsupported", "train.drop_path"):
        set_drop_path(without, 0.4)


def test_timm_s_parts_are_its_stages_and_the_head_is_always_trained():
    net = timm.create_model("resnet10t", num_classes=10, in_chans=1)
    freeze(net, 3)
    learning = {name.partition(".")[0] for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert learning == {"layer3", "layer4", "fc"}
    with raises(ConfigError, "range", "train.frozen_stages", 9, 5):
        freeze(net, 9)
    with raises(ConfigError, "conflict", "train.frozen_stages"):
        Recipe(frozen_stages=1, init="he")
