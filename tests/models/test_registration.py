"""Layers and tensors that a network uses and does not save are named before anything is trained."""

import dataclasses

import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.models import network as models
from nasforge.models.costs import costs_of
from nasforge.models.network import fresh_and_whole
from nasforge.settings.experiment import load_space


class Forgetful(nn.Module):
    """Keeps a layer where PyTorch does not see it, in one of several ways."""

    def __init__(self, how):
        super().__init__()
        self.how, self.first, self.last = how, nn.Conv2d(1, 4, 3), nn.Linear(4, 3)
        layer = nn.Conv2d(4, 4, 1)
        self.kept = {
            "list": [layer],
            "dict": {"a": (nn.Sequential(layer),)},
            "frozen": [layer.requires_grad_(how != "frozen")],
            "statistics": [nn.BatchNorm2d(4, affine=False)],
            "closure": [],
            "within": [],
            "parameter": [nn.Parameter(torch.ones(4, 1, 1))],
            "registered": [self.first, nn.ReLU()],
        }[how]
        self.closure = (lambda x: layer(x)) if how == "closure" else None

    def forward(self, x):
        x = self.first(x)
        if self.how == "parameter":
            x = x * self.kept[0]
        elif self.how == "dict":
            x = self.kept["a"][0](x)
        elif self.how == "closure":
            x = self.closure(x)
        elif self.how == "within":
            x = nn.Conv2d(4, 4, 1, device=x.device)(x)
        else:
            x = self.kept[-1](x)
        return self.last(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("list", "layer 'kept[0]' (Conv2d)"),
        ("dict", "layer 'kept['a'][0]' (Sequential)"),
        ("frozen", "layer 'kept[0]' (Conv2d)"),
        ("statistics", "layer 'kept[0]' (BatchNorm2d)"),
        ("closure", "layer that its modules do not keep (Conv2d)"),
        ("within", "layer that its modules do not keep (Conv2d)"),
        ("parameter", "parameter 'kept[0]' of shape (4, 1, 1)"),
    ],
)
def test_a_layer_outside_state_dict_is_named(how, name):
    with raises(BuildError, "unsupported", None, name, "nn.ModuleList"):
        costs_of(lambda: nn.Sequential(Forgetful(how))[0], (1, 8, 8))


def test_a_second_reference_to_a_registered_layer_is_no_fault():
    assert costs_of(lambda: Forgetful("registered"), (1, 8, 8))["cost/params"] == 55


class Random(nn.Module):
    """Multiplies by numbers that it draws when it is made."""

    def __init__(self, how):
        super().__init__()
        self.how, self.layer = how, nn.Linear(64, 3)
        numbers = torch.randn(64)
        if how == "attribute":
            self.numbers = [numbers]
        elif how == "closure":
            self.scaled = lambda x: x * numbers
        else:
            self.register_buffer("numbers", numbers, persistent=how == "saved")

    def forward(self, x):
        x = x.flatten(1)
        if self.how == "noise":
            return self.layer(x) + torch.randn(len(x), 3)
        if self.how == "closure":
            return self.layer(self.scaled(x))
        return self.layer(x * (self.numbers[0] if self.how == "attribute" else self.numbers))


def build_random(pick, *, in_channels, classes):
    return pick("how", {how: (lambda how=how: Random(how)) for how in HOWS})


HOWS = ("attribute", "closure", "unsaved", "saved", "noise")
SPACE = SearchSpace("random", (Decision("model.how", Choice(HOWS)),), builder=f"{__name__}:build_random")


@pytest.mark.parametrize(
    ("how", "name"),
    [("attribute", "'numbers[0]'"), ("unsaved", "'numbers'"), ("closure", "outside of its modules")],
)
def test_random_numbers_outside_state_dict_are_named(how, name):
    with raises(BuildError, "unsupported", None, f"tensor {name}", "register_buffer"):
        fresh_and_whole(SPACE, Architecture({"model.how": how}), 0, shape=(1, 8, 8), classes=3)


@pytest.mark.parametrize("how", ["saved", "noise"])
def test_saved_random_numbers_and_noise_pass_and_change_no_stream(how):
    before = torch.get_rng_state()
    network = fresh_and_whole(SPACE, Architecture({"model.how": how}), 0, shape=(1, 8, 8), classes=3)
    assert network.training
    assert torch.equal(torch.get_rng_state(), before)
    fresh_and_whole(SPACE, Architecture({"model.how": how}), 0, shape=(1, 9, 9), classes=3)  # not run: no such images


class Foreign(nn.Identity):
    """A block of a user."""

    def __init__(self, in_channels, out_channels, stride, activation):
        super().__init__()


@pytest.mark.parametrize("space", ["tiny", "mobile", "nasbench201", "darts"])
def test_networks_of_our_modules_are_built_once(space, monkeypatch):
    monkeypatch.setattr(models, "check_state", lambda *networks: pytest.fail("built twice"))
    known = load_space(space)
    network = fresh_and_whole(known, known.default_point(), 0, shape=(3, 32, 32), classes=3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        again = models.build(known, known.default_point(), in_channels=3, classes=3)
    assert all(map(torch.equal, network.state_dict().values(), again.state_dict().values()))


def test_a_block_of_a_user_in_our_network_is_checked(monkeypatch):
    tiny, checked = load_space("tiny"), []
    monkeypatch.setattr(models, "check_state", lambda *networks: checked.append(networks))
    blocks = {"foreign": f"{__name__}:Foreign"}
    space = dataclasses.replace(tiny, arguments={**tiny.arguments, "blocks": blocks})
    values = {**tiny.default_point().model, "stage0.layer1.block": "foreign"}
    point = Architecture({f"model.{key}": value for key, value in values.items()})
    fresh_and_whole(space, point, 0, shape=(1, 8, 8), classes=3)
    assert len(checked) == 1


def hooked(in_channels, out_channels, stride, activation):
    layer, scale = nn.Identity(), torch.rand(out_channels, 1, 1)
    layer.register_forward_hook(lambda module, inputs, output: output * scale)
    return layer


def test_a_block_of_a_user_made_of_torchs_modules_is_checked():
    tiny = load_space("tiny")
    space = dataclasses.replace(tiny, arguments={**tiny.arguments, "blocks": {"hooked": f"{__name__}:hooked"}})
    values = {**tiny.default_point().model, "stage0.layer1.block": "hooked"}
    point = Architecture({f"model.{key}": value for key, value in values.items()})
    with raises(BuildError, "unsupported", None, "outside of its modules", "register_buffer"):
        fresh_and_whole(space, point, 0, shape=(1, 8, 8), classes=3)
