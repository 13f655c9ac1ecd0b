import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError
from nasforge.models.blocks.catalogue import ACTIVATIONS, BlockOptions
from nasforge.models.blocks.identity import IdentityBlock
from nasforge.models.blocks.residual import BottleneckBlock, ResidualBlock
from nasforge.models.pick import Fixed
from nasforge.models.staged import build


def point(stages=2, layers=2, width=8, **changes) -> Architecture:
    values: dict = {"model.activation": "relu"}
    for i in range(stages):
        values[f"model.stage{i}.width"] = width * 2**i
        for j in range(layers):
            values[f"model.stage{i}.layer{j}.block"] = "residual"
    return Architecture(values | {f"model.{key}": value for key, value in changes.items()})


def made(architecture: Architecture, **arguments) -> nn.Sequential:
    pick = Fixed(architecture)
    network = build(pick, **{"in_channels": 1, "classes": 10, "strides": [1, 2], "layers": 2} | arguments)
    pick.finish()
    return network


def test_shapes_of_every_stage():
    network = made(point(), in_channels=3, classes=7)
    x = torch.randn(2, 3, 15, 15)
    sizes = {}
    for name, part in network.named_children():
        x = part(x)
        sizes[name] = tuple(x.shape[1:])
    assert sizes["stem"] == (16, 15, 15)
    assert sizes["stage0"] == (8, 15, 15)
    assert sizes["stage1"] == (16, 8, 8)
    assert sizes["flatten"] == (16,)
    assert sizes["classifier"] == (7,)


def test_identity_layers_are_the_depth():
    keys = {"stage0.layer1.block": "identity", "stage1.layer1.block": "identity"}
    shallow = made(point(**keys))
    assert sum(isinstance(m, ResidualBlock) for m in shallow.modules()) == 2
    assert sum(isinstance(m, IdentityBlock) for m in shallow.modules()) == 2
    assert sum(p.numel() for p in shallow.parameters()) < sum(p.numel() for p in made(point()).parameters())


def test_identity_cannot_stand_first():
    with raises(BuildError, "unsupported", None, "identity", 8, 16):
        made(point(**{"stage1.layer0.block": "identity"}))


@pytest.mark.parametrize("name", [name for name in BlockOptions() if name != "identity"])
def test_every_block_can_stand_in_every_place(name):
    nested = BlockOptions()[name].searched
    changes: dict = {}
    for place in ("stage0.layer0", "stage1.layer0", "stage1.layer1"):
        changes[f"{place}.block"] = name
        changes |= {f"{place}.block.{name}.{setting}": 2 for setting in nested}
    network = made(point(**changes))
    network(torch.randn(2, 1, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_nested_reduction_reaches_the_block():
    def hidden(reduction: int) -> int:
        changes = {"stage0.layer0.block": "bottleneck", "stage0.layer0.block.bottleneck.reduction": reduction}
        bottlenecks = [m for m in made(point(**changes)).modules() if isinstance(m, BottleneckBlock)]
        return bottlenecks[0].branch[1].get_submodule("conv").out_channels

    assert (hidden(2), hidden(4)) == (4, 2)


def test_one_activation_everywhere():
    for name, kind in ACTIVATIONS.items():
        others = tuple(other for other in ACTIVATIONS.values() if other is not kind)
        modules = list(made(point(activation=name)).modules())
        assert sum(type(m) is kind for m in modules) == 10  # stem, head, two in each of four blocks
        assert not any(type(m) in others for m in modules)


def test_width_multiplier_scales_everything_but_the_classes():
    network = made(point(), width_multiplier=0.5)
    assert network.stem.conv.out_channels == 8
    assert network.classifier.in_features == 8 and network.classifier.out_features == 10


def test_dropout_is_an_argument():
    assert made(point(), dropout=0.3).dropout.p == 0.3
    assert made(point()).dropout.p == 0.0


def test_own_blocks_by_module_and_class():
    reference = "nasforge.models.blocks.separable:SeparableBlock"
    network = made(point(**{"stage0.layer1.block": "mine_3"}), blocks={"mine": reference})
    assert type(network.stage0.layer1).__name__ == "SeparableBlock"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"strides": []}, ("range", None, "strides")),
        ({"strides": [1, 3]}, ("range", None, "strides", 2, 4)),
        ({"stem_width": 0}, ("range", None, "stem_width")),
        ({"layers": True}, ("range", None, "layers")),
        ({"width_multiplier": 0}, ("range", None, "width_multiplier")),
        ({"dropout": 1.0}, ("range", None, "dropout")),
    ],
)
def test_arguments_out_of_range(arguments, expected):
    with raises(BuildError, *expected):
        made(point(), **arguments)


def test_all_bad_arguments_at_once():
    with raises(BuildError, "range", None, "stem_width"):
        made(point(), stem_width=-1, layers=0, dropout=2)
