"""Every block of the catalogue: shapes, odd channels, initialisation, the meta device; then what is special to each."""

import inspect
import math

import pytest
import torch
from expecting import raises
from torch import nn

from nasforge import registry
from nasforge.core.errors import BuildError, ConfigError
from nasforge.models.blocks.catalogue import ACTIVATIONS, KERNELS, BlockOptions
from nasforge.models.blocks.conv import conv, groups_for, zero_init_last_norms
from nasforge.models.blocks.identity import IdentityBlock
from nasforge.models.blocks.inception import FactorisedInceptionBlock, InceptionBlock, split
from nasforge.models.blocks.inverted import InvertedBlock
from nasforge.models.blocks.plain import NetworkInNetworkBlock, PairBlock
from nasforge.models.blocks.residual import BottleneckBlock, PreActivationBlock, ResidualBlock, ResNeXtBlock
from nasforge.models.blocks.separable import SeparableBlock
from nasforge.models.blocks.squeeze_excite import SqueezeExcite

OPTIONS = BlockOptions()


def make(name: str, *shape: int, activation=nn.ReLU) -> nn.Module:
    option = OPTIONS[name]
    return option.make(*shape, activation=activation, **dict.fromkeys(option.searched, 2))


def params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(("channels_in", "channels_out", "stride"), [(6, 6, 1), (5, 7, 2), (3, 11, 1), (1, 1, 2)])
def test_shapes_with_any_channels_and_odd_sizes(name, channels_in, channels_out, stride):
    if name == "identity" and (channels_in != channels_out or stride != 1):
        with raises(BuildError, "unsupported", None, "identity"):
            make(name, channels_in, channels_out, stride)
        return
    block = make(name, channels_in, channels_out, stride)
    out = block(torch.randn(2, channels_in, 9, 8))
    assert out.shape == (2, channels_out, math.ceil(9 / stride), math.ceil(8 / stride))
    if name != "identity":
        out.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("name", OPTIONS)
def test_builds_and_runs_on_the_meta_device(name):
    with torch.device("meta"):
        block = make(name, 8, 8, 1)
        out = block(torch.empty(2, 8, 7, 7))
    assert out.device.type == "meta"
    assert out.shape == (2, 8, 7, 7)
    assert all(t.device.type == "meta" for t in block.state_dict().values())


@pytest.mark.parametrize("name", OPTIONS)
def test_convolutions_have_no_bias_outside_squeeze_excite(name):
    block = make(name, 8, 8, 1)
    excited = {
        id(layer) for se in block.modules() if isinstance(se, SqueezeExcite) for layer in (se.squeeze, se.excite)
    }
    assert bool(excited) == name.endswith("_se")
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d) and id(layer) not in excited:
            assert layer.bias is None


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "identity"])
def test_uses_the_activation_it_is_given(name):
    block = make(name, 8, 8, 1, activation=nn.Hardswish)
    assert any(isinstance(layer, nn.Hardswish) for layer in block.modules())
    assert not any(isinstance(layer, (nn.ReLU, nn.ReLU6)) for layer in block.modules())


@pytest.mark.parametrize("name", registry.names("block"))
def test_names_its_paper(name):
    block = registry.get("block", name)
    if block is not IdentityBlock:
        assert "https://arxiv.org/abs/" in inspect.getdoc(block)


def test_catalogue_follows_the_signatures():
    assert {f"separable_{k}" for k in KERNELS} | {f"inverted_{k}_se" for k in KERNELS} <= set(OPTIONS)
    assert "residual" in OPTIONS and "residual_3" not in OPTIONS and "identity_se" not in OPTIONS
    assert set(OPTIONS["bottleneck_se"].searched) == {"reduction"}
    assert set(OPTIONS["inverted_5"].searched) == {"expansion"}
    assert OPTIONS["residual"].searched == {}


class Mine(nn.Conv2d):
    def __init__(self, in_channels, out_channels, stride=1, *, kernel=3, activation=nn.ReLU):
        super().__init__(in_channels, out_channels, kernel, stride)


def test_own_block_gives_options_like_ours():
    options = BlockOptions({"mine": f"{__name__}:Mine"})
    assert set(options) - set(OPTIONS) == {f"mine_{k}" for k in KERNELS}
    assert options["mine_5"].make(2, 3).kernel_size == (5, 5)


def test_a_registered_block_is_imported_when_one_of_its_options_is_asked_for(monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN["block"], "broken", "no_such_module:Block")
    options = BlockOptions()
    assert "separable_3" in options and "separable_4" not in options and 3 not in options
    with raises(ConfigError, "failed", None, "no_such_module"):
        options["broken_3"]


def test_a_users_block_is_imported_at_once():
    """So that consent to it is asked for before anything is built."""
    with raises(ConfigError, "missing", None, "no_such_module"):
        BlockOptions({"broken": "no_such_module:Block"})


def test_he_initialisation_counts_the_inputs_of_one_group():
    torch.manual_seed(0)
    assert conv(64, 256, 3).weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.03)
    assert conv(512, 512, 3, groups=512).weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.05)


def test_groups_divide_the_channels():
    assert [groups_for(c, 8) for c in (1, 7, 12, 13, 16, 27)] == [1, 7, 6, 1, 8, 3]


@pytest.mark.parametrize("block", [ResidualBlock, BottleneckBlock, ResNeXtBlock])
def test_zero_init_makes_a_residual_block_its_shortcut(block):
    made = block(8, 8).eval()
    x = torch.randn(2, 8, 5, 5)
    assert not torch.allclose(made(x), x.relu())
    assert zero_init_last_norms(made) == 1
    assert torch.equal(made(x), x.relu())


def test_zero_init_of_an_inverted_block_only_where_it_has_a_shortcut():
    same, other = InvertedBlock(8, 8, expansion=2).eval(), InvertedBlock(8, 12, expansion=2)
    assert zero_init_last_norms(same) == 1
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(same(x), x)
    assert zero_init_last_norms(other) == 0


def test_last_norm_is_one_parameter_not_two():
    block = ResidualBlock(4, 4)
    assert len(block.state_dict()) == len(set(block.state_dict())) == 12  # two convolutions, two norms of five tensors
    assert block.last_norm is block.branch[1].get_submodule("norm")


def test_residual_block_is_the_basic_block_of_resnet():
    assert params(ResidualBlock(64, 64)) == 2 * (64 * 64 * 9 + 2 * 64)  # torchvision BasicBlock(64, 64)
    assert params(ResidualBlock(64, 128, 2)) == 64 * 128 * 9 + 128 * 128 * 9 + 64 * 128 + 3 * 2 * 128
    negative = ResidualBlock(3, 3)(torch.randn(4, 3, 5, 5))
    assert (negative >= 0).all()


def test_preactivation_leaves_the_sum_alone_and_activates_first():
    block = PreActivationBlock(4, 4).eval()
    x = torch.randn(2, 4, 6, 6)
    assert (block(x) < 0).any()
    for layer in block.branch.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    assert torch.equal(block(x), x)  # a clean identity path


def test_bottleneck_is_that_of_resnet_50():
    block = BottleneckBlock(256, 256, reduction=4)
    assert sum(c.weight.numel() for c in block.modules() if isinstance(c, nn.Conv2d)) == 69_632  # 256-64-64-256
    assert params(BottleneckBlock(256, 256, reduction=8)) < params(block)


def test_resnext_is_32x4d():
    grouped = ResNeXtBlock(256, 256, cardinality=32).branch[1].get_submodule("conv")
    assert grouped.weight.shape == (128, 4, 3, 3)


def test_inception_is_module_3a():
    branches = InceptionBlock(192, 256, reduction=2)[0].branches
    weights = {name: sum(p.numel() for p in b.parameters() if p.dim() == 4) for name, b in branches.items()}
    assert weights["one"] + weights["three"] + weights["five"] == 157_184  # 387,072 without the 1x1 bottlenecks
    assert weights["pool"] == 192 * 32
    assert split(256) == [64, 128, 32, 32]
    assert [sum(split(n)) for n in range(1, 40)] == list(range(1, 40))


def test_factorised_inception_has_no_square_kernel():
    kernels = {c.kernel_size for c in FactorisedInceptionBlock(16, 32).modules() if isinstance(c, nn.Conv2d)}
    assert kernels == {(1, 1), (1, 3), (3, 1)}


def test_separable_is_depthwise_then_pointwise():
    depthwise, pointwise = (layer.get_submodule("conv") for layer in SeparableBlock(192, 256, kernel=5))
    assert depthwise.weight.shape == (192, 1, 5, 5)
    assert pointwise.weight.shape == (256, 192, 1, 1)


def test_inverted_has_a_linear_bottleneck():
    block = InvertedBlock(16, 24, 2, expansion=6)
    shapes = [tuple(c.weight.shape) for c in block.modules() if isinstance(c, nn.Conv2d)]
    assert shapes == [(96, 16, 1, 1), (96, 1, 3, 3), (24, 96, 1, 1)]
    assert isinstance(list(block.branch[-1].children())[-1], nn.BatchNorm2d)
    assert sum(isinstance(m, nn.ReLU6) for m in block.modules()) == 2
    assert len([c for c in InvertedBlock(16, 16, expansion=1).modules() if isinstance(c, nn.Conv2d)]) == 2


def test_pair_and_network_in_network_kernels():
    assert [c.kernel_size for c in PairBlock(4, 8, 2).modules() if isinstance(c, nn.Conv2d)] == [(3, 3)] * 2
    one_by_one = NetworkInNetworkBlock(4, 8, 2)
    assert [c.kernel_size for c in one_by_one.modules() if isinstance(c, nn.Conv2d)] == [(1, 1)] * 2


def test_squeeze_excite_weighs_channels_by_the_whole_picture():
    se = SqueezeExcite(8)
    x = torch.randn(2, 8, 5, 5)
    weight = se(x) / x
    assert torch.allclose(weight, weight[..., :1, :1].expand_as(weight), atol=1e-4)
    assert ((weight > 0) & (weight < 1)).all()
    assert not torch.allclose(weight[0], weight[1])


def test_activations_are_modules():
    for activation in ACTIVATIONS.values():
        assert activation()(torch.randn(3)).shape == (3,)


@pytest.mark.parametrize("name", ["residual_se", "separable", "separable_3"])
def test_a_block_with_the_name_of_another_one_is_refused(name):
    with raises(BuildError, "duplicate", "blocks", name):
        BlockOptions({name: "nasforge.models.blocks.plain:PairBlock"})


def test_the_projection_of_a_preactivated_block_takes_the_preactivated_input():
    torch.manual_seed(0)
    block, x = PreActivationBlock(4, 8, 2).eval(), torch.randn(2, 4, 6, 6)
    ready = block.pre(x)
    assert torch.allclose(block(x), block.projection(ready) + block.branch(ready))
    assert not torch.allclose(block.projection(ready), block.projection(x))


def test_squeeze_and_excitation_by_hand():
    torch.manual_seed(0)
    layer, x = SqueezeExcite(8), torch.randn(2, 8, 5, 5)
    hidden = torch.relu(x.mean((2, 3)) @ layer.squeeze.weight[:, :, 0, 0].T)
    gates = torch.sigmoid(hidden @ layer.excite.weight[:, :, 0, 0].T)
    assert torch.allclose(layer(x), x * gates[:, :, None, None], atol=1e-6)
    assert (x.mean((2, 3)) @ layer.squeeze.weight[:, :, 0, 0].T < 0).any()
