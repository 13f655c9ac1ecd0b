"""The parts of AZ-NAS against their definitions, computed another way on small nets with planted properties."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nasforge.evaluators.az_nas import expressivity, progressivity, trainability
from nasforge.evaluators.untrained import Undefined

LABELS = torch.arange(6) % 10


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        yield


def images(channels: int = 4, size: int = 6, count: int = 6) -> Tensor:
    return torch.zeros(count, channels, size, size)


def convolution(weight: Tensor, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), stride, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def pointwise(matrix: Tensor) -> nn.Conv2d:
    return convolution(matrix[:, :, None, None])


def seeded_score(proxy: object, network: nn.Module, inputs: Tensor, seed: int = 11) -> float:
    torch.manual_seed(seed)
    return proxy(network, inputs, LABELS)  # type: ignore[operator]


def entropy(maps: np.ndarray) -> float:
    rows = np.moveaxis(maps, 1, -1).reshape(-1, maps.shape[1])
    eigenvalues = np.linalg.eigvalsh(np.cov(rows.T, bias=True))
    shares = eigenvalues / eigenvalues.sum()
    return -sum(share * math.log(share + 1e-8) for share in shares)


def test_expressivity_sums_the_entropies_of_the_blocks_and_progressivity_is_their_least_growth() -> None:
    first, second = nn.Conv2d(4, 5, 3), nn.Conv2d(5, 9, 3)
    block = nn.Sequential(first, nn.BatchNorm2d(5), nn.ReLU(inplace=True))
    network = nn.Sequential(block, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 10))
    scores = [seeded_score(proxy, network, images()) for proxy in (expressivity, progressivity)]
    torch.manual_seed(11)
    inputs = torch.randn(6, 4, 6, 6)
    with torch.no_grad():
        one = block(inputs)
        entropies = [entropy(maps.numpy()) for maps in (one, second(one))]
    assert scores[0] == pytest.approx(sum(entropies), rel=1e-4)
    assert scores[1] == pytest.approx(entropies[1] - entropies[0], rel=1e-3)


def test_independent_channels_express_log_of_their_number_and_equal_ones_nothing() -> None:
    spread = seeded_score(expressivity, nn.Sequential(pointwise(torch.eye(4))), images(size=40))
    assert spread == pytest.approx(math.log(4), abs=0.01)
    equal = nn.Sequential(pointwise(torch.ones(4, 4)))
    assert seeded_score(expressivity, equal, images()) == pytest.approx(0, abs=1e-6)
    wider = nn.Sequential(pointwise(torch.ones(4, 4)), pointwise(torch.ones(8, 4)))
    assert seeded_score(progressivity, wider, images()) == pytest.approx(0, abs=1e-6)


def test_a_block_that_loses_channels_is_what_progressivity_sees() -> None:
    keep, lose = torch.eye(4), torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    lossless = nn.Sequential(*(pointwise(keep) for _ in range(4)))
    narrowed = nn.Sequential(pointwise(keep), pointwise(keep), pointwise(lose), pointwise(keep))
    assert seeded_score(progressivity, lossless, images(size=20)) == pytest.approx(0, abs=1e-6)
    assert seeded_score(progressivity, narrowed, images(size=20)) == pytest.approx(-math.log(2), abs=0.05)


def rotation() -> Tensor:
    orthogonal, _ = torch.linalg.qr(torch.randn(4, 4))
    return orthogonal


@pytest.mark.parametrize("factor", [1.0, 0.5, 3.0])
def test_trainability_is_the_change_of_gradients_by_a_scaled_rotation(factor: float) -> None:
    network = nn.Sequential(pointwise(torch.eye(4)), pointwise(factor * rotation()))
    scores = seeded_score(trainability, network, images(size=60))
    assert scores == pytest.approx(2 - factor - 1 / factor, abs=0.05)


def test_trainability_is_the_mean_over_pairs_of_blocks() -> None:
    network = nn.Sequential(*(pointwise(factor * rotation()) for factor in (7.0, 1.0, 0.5)))
    assert seeded_score(trainability, network, images(size=60)) == pytest.approx((0 - 0.5) / 2, abs=0.05)


def test_pixels_that_become_one_are_channels() -> None:
    # Each output is the sum of 2 x 2 pixels: its gradient is at all four of them, so s is their length, 2.
    weight = torch.zeros(4, 4, 2, 2)
    weight[range(4), range(4)] = 1.0
    network = nn.Sequential(pointwise(torch.eye(4)), convolution(weight, stride=2))
    expected = 2 - 2 - 1 / 2
    assert seeded_score(trainability, network, images(size=120)) == pytest.approx(expected, abs=0.05)
    # An odd size: the last row and column take no part.
    assert seeded_score(trainability, network, images(size=121)) == pytest.approx(expected, abs=0.05)


def test_a_block_that_hands_on_its_input_has_no_number() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.edge = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.edge(x)

    network = nn.Sequential(nn.Conv2d(4, 4, 3), Skip(), nn.Conv2d(4, 4, 3))
    with pytest.raises(Undefined, match="unchanged"):
        seeded_score(trainability, network, images())


@pytest.mark.parametrize("proxy", [expressivity, progressivity, trainability])
def test_only_the_shape_of_the_images_counts_and_the_seed_decides(proxy: object) -> None:
    network = nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 1))
    one, other = images(), torch.randn(6, 4, 6, 6)
    assert seeded_score(proxy, network, one) == seeded_score(proxy, network, other)
    assert seeded_score(proxy, network, one) != seeded_score(proxy, network, one, seed=12)


class Wrapped(nn.Module):
    """A network in an attribute, as models of other packages often are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class Residual(nn.Module):
    """x + branch, with an activation that overwrites its input."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x.clone())


@pytest.mark.parametrize("proxy", [expressivity, progressivity, trainability])
def test_blocks_are_the_same_in_chains_of_chains_and_in_wrappers(proxy: object) -> None:
    blocks = [nn.Conv2d(4, 4, 3), Residual(), Residual()]
    flat = nn.Sequential(*blocks)
    scores = seeded_score(proxy, flat, images())
    for other in (nn.Sequential(blocks[0], nn.Sequential(*blocks[1:])), Wrapped(flat), Wrapped(Wrapped(flat))):
        assert seeded_score(proxy, other, images()) == scores


def test_a_network_without_maps_has_no_number() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
    for proxy in (expressivity, progressivity, trainability):
        with pytest.raises(Undefined, match="no block that gives a map"):
            seeded_score(proxy, flat, images())
    single = nn.Sequential(nn.Conv2d(4, 4, 3))
    for proxy in (progressivity, trainability):
        with pytest.raises(Undefined, match="two blocks"):
            seeded_score(proxy, single, images())
