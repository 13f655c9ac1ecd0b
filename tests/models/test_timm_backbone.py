import pytest
import torch

from nasforge.core.errors import BuildError
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.costs import costs_of
from nasforge.models.network import build


def space(*names: str, backbones: object = None) -> SearchSpace:
    arguments = {"backbones": list(names) if backbones is None else backbones}
    return SearchSpace("timm", (Decision("model.backbone", Choice(names or ("x",))),), "timm_backbone", arguments)


def test_backbones_by_name():
    made = space("resnet10t", "mobilenetv3_small_050")
    for name in ("resnet10t", "mobilenetv3_small_050"):
        point = made.point({"model.backbone": name})
        network = build(made, point, in_channels=1, classes=7).eval()
        assert network.default_cfg["architecture"] == name
        assert network(torch.rand(1, 1, 32, 32)).shape == (1, 7)


def test_costs_on_the_meta_device():
    made = space("resnet10t")
    costs = costs_of(lambda: build(made, made.default_point(), in_channels=3, classes=10), (3, 32, 32), 8)
    assert costs["cost/params"] > 4e6 and costs["cost/flops"] > 1e6


def test_unknown_name_says_the_nearest():
    made = space("resnet18", backbones=["resnet18", "reznet50", "resnet5"])
    with pytest.raises(BuildError, match=r"no network 'reznet50'"):
        build(made, made.default_point(), in_channels=3, classes=10)
    made = space("resnet18", backbones=["resnet5"])
    with pytest.raises(BuildError, match=r"did you mean .*resnet50"):
        build(made, made.default_point(), in_channels=3, classes=10)


def test_a_decision_beyond_the_list():
    made = space("resnet18", "resnet34", backbones=["resnet18"])
    with pytest.raises(BuildError, match="no option 'resnet34'"):
        build(made, made.point({"model.backbone": "resnet34"}), in_channels=3, classes=10)


def test_backbones_must_be_a_list():
    made = space("resnet18", backbones="resnet18")
    with pytest.raises(BuildError, match="must be a list of timm names"):
        build(made, made.default_point(), in_channels=3, classes=10)
