import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.errors import BuildError, ConfigError
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.models.network import build, resolve_builder

HERE = "test_network_builders"


def space(builder: str, **arguments) -> SearchSpace:
    return SearchSpace("s", (Decision("model.width", Choice((4, 8))),), builder, arguments)


@pytest.fixture(autouse=True)
def builders(monkeypatch):
    import sys
    import types

    module = types.ModuleType(HERE)

    def good(pick, *, in_channels, classes, bias=True):
        return nn.Linear(in_channels, classes, bias=bias) if pick.width("width") == 4 else nn.Identity()

    def lazy(pick, *, in_channels, classes):
        return nn.Sequential(nn.LazyLinear(pick.width("width")), nn.LazyLinear(classes))

    def forgetful(pick, *, in_channels, classes):
        return nn.Identity()

    def broken(pick, *, in_channels, classes):
        pick.width("width")
        return nn.Conv2d(in_channels, 7, 3, groups=5)

    def nothing(pick, *, in_channels, classes):
        return pick.width("width")

    for function in (good, lazy, forgetful, broken, nothing):
        setattr(module, function.__name__, function)
    module.number = 3
    monkeypatch.setitem(sys.modules, HERE, module)


def test_builds_with_the_spaces_arguments():
    made = space(f"{HERE}:good", bias=False)
    network = build(made, made.point({"model.width": 4}), in_channels=3, classes=5)
    assert network(torch.zeros(2, 3)).shape == (2, 5)
    assert network.bias is None


@pytest.mark.parametrize(
    ("builder", "arguments", "expected"),
    [
        ("forgetful", {}, ("invalid", "model.width")),
        ("broken", {}, ("failed", "builder", f"{HERE}:broken", "in_channels=3", "groups")),
        ("good", {"bais": True}, ("failed", "builder", "bais")),
        ("lazy", {}, ("unsupported", "builder", "0.weight")),
        ("nothing", {}, ("type", "builder", 4)),
    ],
)
def test_faults_of_a_builder_are_one_error(builder, arguments, expected):
    made = space(f"{HERE}:{builder}", **arguments)
    with raises(BuildError, *expected):
        build(made, made.default_point(), in_channels=3, classes=5)


def test_builder_that_is_not_there():
    with raises(ConfigError, "unknown", "builder", "staged"):
        resolve_builder(space("staggered"))
    with raises(BuildError, "type", "builder"):
        resolve_builder(space(f"{HERE}:number"))
