"""The networks of the textbooks: layers and parameters of their papers, and their scaling to a budget."""

import pytest
import torch
from expecting import raises
from torch import nn

from nasforge import registry
from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError, ConfigError
from nasforge.core.trust import foreign, view
from nasforge.models.costs import count_flops, count_params
from nasforge.models.network import build
from nasforge.models.textbook import Textbook, reference_named, widest
from nasforge.models.textbook import build as build_textbook
from nasforge.models.textbook.alexnet import alexnet
from nasforge.models.textbook.googlenet import googlenet
from nasforge.models.textbook.lenet import lenet
from nasforge.models.textbook.resnet import resnet_v1
from nasforge.models.textbook.vgg import vgg

NAMES = [name for name in registry.names("reference") if name != "resnet"]


def meta(make, **settings):
    with torch.device("meta"):
        return make(**settings)


def params(network, name):
    return count_params(network.get_submodule(name))


def weights(module):
    return sum(p.numel() for p in module.parameters() if p.dim() > 1)


# --- as in the papers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "flops"),
    [
        ("alexnet_plain", 60_965_224, None),
        ("vgg_plain", 138_357_544, 15_470_264_320),
        ("resnet_v1", 11_689_512, 1_814_073_344),
        ("resnet_v1_50", 25_557_032, 4_089_184_256),
        ("resnet_v2_50", 25_549_352, 4_089_184_256),
        ("densenet", 7_978_856, 2_834_161_664),
        ("mobilenet_v1", 4_231_976, 568_740_352),
        ("mobilenet_v2", 3_504_872, 300_774_272),
    ],
)
def test_parameters_and_multiply_adds_for_imagenet(name, parameters, flops):
    network = meta(reference_named(name).make, width=1.0, in_channels=3, classes=1000, pixels=224)
    assert count_params(network) == parameters
    assert flops is None or count_flops(network, (3, 224, 224)) == flops


def test_lenet_in_its_usual_form():
    network = meta(lenet)
    assert [params(network, name) for name in ("c1", "c3", "c5", "f6", "classifier")] == [156, 2416, 48120, 10164, 850]
    assert count_params(network) == 61_706  # the paper: 60,000, with a part of C3's connections
    padded = meta(lenet, pixels=28)
    assert count_params(padded) == 61_706
    assert count_flops(padded, (1, 28, 28)) == count_flops(network, (1, 32, 32))


def test_layers_of_alexnet():
    network = meta(alexnet, plain=True)
    assert params(network, "stem.0.0") == 34_944
    assert params(network, "linear0") == 37_752_832
    assert params(network, "classifier") == 4_097_000
    assert count_params(network) == 62_378_344
    grouped = meta(alexnet, plain=True, groups=2)
    assert count_params(grouped) == 60_965_224
    assert [params(grouped, name) for name in ("stage0.0.0", "stage1.1.0", "stage1.2.0")] == [307_456, 663_936, 442_624]
    response = network.get_submodule("stem.1")
    assert (response.size, response.alpha / response.size, response.beta, response.k) == (5, 1e-4, 0.75, 2)


def test_layers_of_vgg_and_its_maps():
    network = meta(vgg, plain=True)
    assert params(network, "stage0") == 1_792 + 36_928
    assert params(network, "linear0") == 102_764_544
    stages = nn.Sequential(*[network.get_submodule(f"stage{i}") for i in range(5)])
    assert stages(torch.empty(1, 3, 224, 224, device="meta")).shape[1:] == (512, 7, 7)


def test_modules_of_googlenet_have_the_weights_of_table_1():
    network = meta(googlenet, plain=True)
    first = network.get_submodule("stage3.a").branches
    assert sum(weights(first[name]) for name in ("one", "three", "five")) == 157_184
    # the paper's column counts in units of 1,024; its other entries differ by up to 7 % from what its channels give
    for name, thousands in {"3.a": 159, "3.b": 380, "4.b": 437}.items():
        assert weights(network.get_submodule(f"stage{name}")) / 1024 == pytest.approx(thousands, abs=1)
    assert count_params(network) == 6_998_552


def test_resnet_v2_has_what_timm_has():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model("resnetv2_50")
    ours = meta(reference_named("resnet_v2_50").make, width=1.0, in_channels=3, classes=1000, pixels=224)
    shapes = [sorted(p.squeeze().shape for p in network.parameters()) for network in (ours, theirs)]
    assert shapes[0] == shapes[1]  # timm's classifier is a 1x1 convolution


# --- small images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != "lenet"])
@pytest.mark.parametrize(("pixels", "side"), [(28, 4), (32, 4), (64, 4), (224, 7)])
def test_the_stem_follows_the_resolution(name, pixels, side):
    """Reductions by 8 behind a stem of stride 1, 2 or 4: the same maps for 32 and 64 pixels."""
    network = meta(reference_named(name).make, width=0.1, in_channels=3, classes=10, pixels=pixels)
    maps = torch.empty(2, 3, pixels, pixels, device="meta")
    for layer in network.children():
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            break
        maps = layer(maps)
    side = 6 if "alexnet" in name and pixels == 224 else side
    assert maps.shape[2:] == (side, side)
    if pixels <= 40 and not name.startswith(("vgg", "alexnet")):
        stem = network.get_submodule("stem")
        assert stem(torch.empty(2, 3, pixels, pixels, device="meta")).shape[2:] == (pixels, pixels)
        assert max(max(m.kernel_size) for m in stem.modules() if isinstance(m, nn.Conv2d)) == 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 41, 50), (3, 96, 81)])
def test_every_size_works_and_images_need_not_be_square(name, shape):
    network = meta(reference_named(name).make, width=0.05, in_channels=shape[0], classes=3, pixels=min(shape[1:]))
    assert network(torch.empty(2, *shape, device="meta")).shape == (2, 3)


# --- scaled to a budget -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_scaled_to_the_nearest_budget_that_is_not_above(name):
    shape, budget = (3, 32, 32), 8e6
    reference = reference_named(name)
    label, space = reference(budget, shape=shape, classes=10)
    width = space.arguments["width"]
    assert label == f"{reference.title} x{width:g}"
    with torch.device("meta"):
        network = build(space, Architecture({}), in_channels=3, classes=10)
        wider = build_textbook(None, in_channels=3, classes=10, **{**space.arguments, "width": width + 0.001})
    assert count_flops(network, shape) <= budget < count_flops(wider, shape)


def test_bisection_reaches_every_limit():
    assert widest(lambda steps: steps**2, 10**6) == 1000
    assert widest(lambda steps: steps**2, 10**6 - 1) == 999
    assert widest(lambda steps: 7 + steps // 10, 7) == 9
    assert widest(lambda steps: 10**9, 5) == 1  # the narrowest, though it is above
    assert widest(lambda steps: steps, 10**9) == 64_000


def test_the_narrowest_network_comes_back_where_it_is_above_the_budget():
    label, space = reference_named("densenet")(1000, shape=(1, 28, 28), classes=10)
    assert label == "DenseNet-121 x0.001"
    with torch.device("meta"):
        assert count_flops(build(space, Architecture({}), in_channels=1, classes=10), (1, 28, 28)) > 1000
    with raises(BuildError, "range"):
        reference_named("vgg")(0, shape=(1, 28, 28), classes=10)


def test_a_trained_reference_loads_without_consent_and_names_no_foreign_code(tmp_path):
    _, space = reference_named("lenet")(1e5, shape=(1, 28, 28), classes=10)
    with foreign(tmp_path), view():
        build(space, Architecture({}), in_channels=1, classes=10)
        with pytest.raises(ConfigError):
            build_textbook(None, in_channels=1, classes=10, network="my_module:thing", width=1.0, pixels=28)
    with raises(BuildError, "unsupported", "network"):
        build_textbook(None, in_channels=1, classes=10, network="resnet", width=1.0, pixels=28)


def test_networks_of_timm_are_as_timm_makes_them():
    label, space = reference_named("timm:resnet18")(1e6, shape=(1, 28, 28), classes=10)
    assert label == "resnet18"
    with torch.device("meta"):
        network = build(space, Architecture({}), in_channels=1, classes=10)
        fixed = build(
            reference_named("timm:vit_tiny_patch16_224")(1e6, shape=(1, 28, 28), classes=10)[1],
            Architecture({}),
            in_channels=1,
            classes=10,
        )
    assert count_params(network) == count_params(meta(resnet_v1)) - 2 * 64 * 49 - 990 * 513
    assert fixed(torch.empty(1, 1, 28, 28, device="meta")).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "near"), [("vg", "'vgg'"), ("mobilenet", "mobilenet_v1"), ("timm:resnt18", "'resnet18'")]
)
def test_unknown_names_have_near_ones(name, near):
    with raises(ConfigError, "unknown", "reference", name, near):
        reference_named(name)


def test_all_are_textbooks():
    assert all(isinstance(reference_named(name), Textbook) and reference_named(name).name == name for name in NAMES)
