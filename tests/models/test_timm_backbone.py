import dataclasses

import pytest
import timm
import torch
from expecting import raises
from safetensors.torch import save_file

from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError, ConfigError
from nasforge.core.ladder import Rung
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.core.trial import Measure
from nasforge.data import load_data
from nasforge.evaluators.training import Training
from nasforge.exporters.best import describe
from nasforge.exporters.network_folder import load, save_network
from nasforge.models.costs import costs_of
from nasforge.models.ensemble import ensemble_space
from nasforge.models.network import build
from nasforge.models.timm_backbone import backbone_space
from nasforge.settings.experiment import DataConfig
from nasforge.settings.spec import SearchSpec


def space(*names: str, backbones: object = None) -> SearchSpace:
    arguments = {"backbones": list(names) if backbones is None else backbones}
    return SearchSpace("timm", (Decision("model.backbone", Choice(names or ("x",))),), "timm_backbone", arguments)


def test_a_network_for_one_size_of_images_is_told_the_resolution():
    made = space("vit_tiny_patch16_224")

    def network():
        return build(made, made.default_point(), in_channels=1, classes=3)

    with raises(BuildError, "failed", None, 224, "--resolution"):
        costs_of(network, (1, 8, 8))
    evaluator = Training(SearchSpec(made, DataConfig("digits"), [Rung(1)]))
    with raises(ConfigError, "failed", None, "--resolution", 224):
        evaluator.preflight(Measure(made.default_point()))


def test_backbones_by_name():
    made = space("resnet10t", "mobilenetv3_small_050")
    for name in ("resnet10t", "mobilenetv3_small_050"):
        point = made.point({"model.backbone": name})
        network = build(made, point, in_channels=1, classes=7).eval()
        assert network.default_cfg["architecture"] == name
        assert network(torch.rand(1, 1, 32, 32)).shape == (1, 7)


def test_it_resizes_its_input_where_it_is_told_to():
    made = dataclasses.replace(space("test_resnet"), arguments={"backbones": ["test_resnet"], "resolution": 64})
    network = build(made, made.default_point(), in_channels=3, classes=2).eval()
    plain = build(space("test_resnet"), made.default_point(), in_channels=3, classes=2).eval()
    plain.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 32, 32)
    larger = torch.nn.functional.interpolate(images, size=64, mode="bilinear")
    assert torch.equal(network(images), plain(larger))
    flops = [
        costs_of(lambda s=s: build(s, s.default_point(), in_channels=3, classes=2), (3, 32, 32))["cost/flops"]
        for s in (made, space("test_resnet"))
    ]
    assert flops[0] > 3 * flops[1]
    wrong = dataclasses.replace(made, arguments={"backbones": ["test_resnet"], "resolution": "64"})
    with raises(BuildError, "type", "builder.resolution (0.images as they are)", 64):
        build(wrong, made.default_point(), in_channels=3, classes=2)


def test_costs_on_the_meta_device():
    made = space("resnet10t")
    costs = costs_of(lambda: build(made, made.default_point(), in_channels=3, classes=10), (3, 32, 32), 8)
    assert costs["cost/params"] > 4e6 and costs["cost/flops"] > 1e6


def test_unknown_name_says_the_nearest():
    made = space("resnet18", backbones=["resnet18", "reznet50", "resnet5"])
    with raises(BuildError, "unknown", "backbones", "reznet50"):
        build(made, made.default_point(), in_channels=3, classes=10)
    made = space("resnet18", backbones=["resnet5"])
    with raises(BuildError, "unknown", "backbones"):
        build(made, made.default_point(), in_channels=3, classes=10)


def test_a_decision_beyond_the_list():
    made = space("resnet18", "resnet34", backbones=["resnet18"])
    with raises(BuildError, "unknown", "model.backbone", "resnet34"):
        build(made, made.point({"model.backbone": "resnet34"}), in_channels=3, classes=10)


def test_backbones_must_be_a_list():
    made = space("resnet18", backbones="resnet18")
    with raises(BuildError, "type", "backbones"):
        build(made, made.default_point(), in_channels=3, classes=10)


def test_local_weights_of_other_channels_and_classes(tmp_path):
    file = tmp_path / "weights.safetensors"
    trained = timm.create_model("resnet10t", num_classes=5)
    save_file(trained.state_dict(), file)
    made = space("resnet10t")
    made = dataclasses.replace(made, arguments={**made.arguments, "weights": str(file)})
    network = build(made, made.default_point(), in_channels=1, classes=7)
    assert torch.equal(network.layer1[0].conv1.weight, trained.layer1[0].conv1.weight)
    assert torch.allclose(network.conv1[0].weight, trained.conv1[0].weight.sum(1, keepdim=True))
    assert network.fc.weight.shape[0] == 7
    assert (
        network.pretrained and not build(space("resnet10t"), made.default_point(), in_channels=1, classes=7).pretrained
    )
    with torch.device("meta"):  # where a recipe is tried on it before the first trial
        assert build(made, made.default_point(), in_channels=1, classes=7).pretrained
    assert costs_of(lambda: build(made, made.default_point(), in_channels=3, classes=10), (3, 32, 32), 8)


@pytest.mark.parametrize(
    ("of_file", "asked", "new"),
    [((3, 10), (3, 10), ()), ((3, 10), (3, 1000), ("fc.weight", "fc.bias")), ((1, 10), (3, 10), ("conv1.0.weight",))],
)
def test_what_a_file_has_for_these_channels_and_classes_is_kept(tmp_path, of_file, asked, new):
    file = tmp_path / "weights.safetensors"
    trained = timm.create_model("test_resnet", in_chans=of_file[0], num_classes=of_file[1]).state_dict()
    save_file(trained, file)
    made = space("test_resnet")
    made = dataclasses.replace(made, arguments={**made.arguments, "weights": str(file)})
    state = build(made, made.default_point(), in_channels=asked[0], classes=asked[1]).state_dict()
    assert {key for key in state if not torch.equal(state[key], trained[key])} == {*new}


def test_a_checkpoint_of_torch_gives_the_same_network(tmp_path):
    state = timm.create_model("test_resnet", num_classes=5).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    built = []
    for name in ("weights.safetensors", "weights.pth"):
        made = backbone_space("test_resnet", tmp_path / name)
        torch.manual_seed(0)
        built.append(build(made, made.default_point(), in_channels=1, classes=7).state_dict())
    assert all(torch.equal(built[0][key], tensor) for key, tensor in built[1].items())


def test_weights_that_cannot_be(tmp_path):
    def refused(expected, *names, weights):
        made = space(*names)
        made = dataclasses.replace(made, arguments={**made.arguments, "weights": str(weights)})
        with raises(BuildError, *expected):
            build(made, made.default_point(), in_channels=3, classes=10)

    other = tmp_path / "other.safetensors"
    save_file(timm.create_model("resnet18", num_classes=5).state_dict(), other)
    refused(("failed", "backbones", "resnet10t"), "resnet10t", weights=other)
    refused(("missing", "weights", tmp_path / "none"), "resnet10t", weights=tmp_path / "none")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"stem.weight": torch.zeros(2)}, foreign)
    refused(("changed", "weights", "resnet10t", "conv1"), "resnet10t", weights=foreign)
    refused(("conflict", "weights", 2), "resnet10t", "resnet18", weights=other)
    for name in ("damaged.safetensors", "damaged.pth"):
        (tmp_path / name).write_bytes(b"nothing")
        refused(("unreadable", "weights", name), "resnet10t", weights=tmp_path / name)


def test_a_trained_network_loads_where_the_file_it_began_with_is_not(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=5).state_dict(), file)
    made = space("test_resnet")
    made = dataclasses.replace(made, arguments={**made.arguments, "weights": str(file)})
    network = build(made, made.default_point(), in_channels=1, classes=10)
    data = load_data(DataConfig("digits", images=100, resolution=32))
    save_network(tmp_path / "kept", network, describe(made, made.default_point(), data, {}, {}))
    ensemble = ensemble_space([(made, made.default_point())] * 2)
    file.unlink()
    kept = load(tmp_path / "kept")
    assert torch.equal(kept.body.layer1[0].conv1.weight, network.layer1[0].conv1.weight)
    assert build(ensemble, Architecture({}), in_channels=1, classes=10)
