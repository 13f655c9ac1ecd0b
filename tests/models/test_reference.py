import pytest
import torch
from expecting import raises

from nasforge.core.errors import BuildError
from nasforge.models.costs import count_flops, count_params
from nasforge.models.reference import DEPTHS, resnet, resnet_of_flops

SHAPE = (1, 28, 28)


def test_resnet_20_is_the_one_that_was_measured():
    network = resnet(3, 16, in_channels=1, classes=10)
    assert count_params(network) == 272_186
    assert count_flops(network, SHAPE) == 31_021_952
    assert network(torch.rand(2, *SHAPE)).shape == (2, 10)


@pytest.mark.parametrize("flops", [1e6, 1e7, 4e7])
def test_no_other_width_comes_nearer_than_the_tolerance(flops):
    name, network = resnet_of_flops(flops, shape=SHAPE, classes=10)
    off = abs(count_flops(network, SHAPE) / flops - 1)
    depth, width = int(name.split()[0].removeprefix("ResNet-")), float(name.split("x")[1]) * 16
    assert depth in {6 * n + 2 for n in DEPTHS}
    assert count_params(network) == count_params(resnet((depth - 2) // 6, int(width), in_channels=1, classes=10))
    if off > 0.03:
        with torch.device("meta"):
            others = [count_flops(resnet(n, w, in_channels=1, classes=10), SHAPE) for n in (1, 2) for w in range(1, 30)]
        assert off <= min(abs(other / flops - 1) for other in others) + 1e-12


def test_exact_budget_of_a_paper_width_gives_that_width():
    name, _ = resnet_of_flops(31_021_952, shape=SHAPE, classes=10)
    assert name == "ResNet-20 x1"


def test_budget_must_be_positive():
    with raises(BuildError, "range", None, 0):
        resnet_of_flops(0, shape=SHAPE, classes=10)


def test_large_images_are_reduced_by_the_stem_and_a_fourth_stage():
    name, network = resnet_of_flops(5e6, shape=(3, 64, 64), classes=4)
    assert name.endswith(" stem2") and hasattr(network, "stage3")
    assert network.stem(torch.rand(1, 3, 64, 64)).shape[2:] == (32, 32)
    name, network = resnet_of_flops(5e6, shape=(3, 128, 128), classes=4)
    assert name.endswith(" stem4")
    assert (int(name.split()[0].removeprefix("ResNet-")) - 2) % 8 == 0
    small, same = (resnet_of_flops(5e6, shape=(3, size, size), classes=4)[0] for size in (40, 41))
    assert "stem" not in small and "stem" in same
