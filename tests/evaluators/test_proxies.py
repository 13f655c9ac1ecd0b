"""Every proxy against its definition, computed another way on nets that are small enough for it."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from expecting import raises
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, relu

from nasforge import registry
from nasforge.core.errors import BuildError, ConfigError
from nasforge.core.space import SearchSpace
from nasforge.evaluators.proxies import (
    fisher,
    grad_norm,
    grasp,
    jacov,
    naswot,
    snip,
    swap,
    swap_regularised,
    synflow,
)
from nasforge.evaluators.untrained import Undefined
from nasforge.evaluators.zero_cost import proxy_of
from nasforge.models.network import build
from nasforge.settings.experiment import load_space

NAMES = [name for name in registry.names("proxy") if name != "swap_regularised"] + ["swap_regularised(params=2000)"]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        yield


def batch(count: int = 6, channels: int = 1, size: int = 8, classes: int = 10) -> tuple[Tensor, Tensor]:
    return torch.randn(count, channels, size, size), torch.arange(count) % classes


def score(name: str, network: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return proxy_of(name)(network, images, labels)


class Small(nn.Module):
    """Everything a proxy has to cope with: BN, in-place and functional activations, dropout, a layer without a use."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 6, 3, stride=2)
        self.drop = nn.Dropout(0.5)
        self.idle = nn.Linear(3, 3)
        self.last = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.second(self.act(self.norm(self.first(x)))))
        return self.last(self.drop(x.mean((2, 3))))


def plain(network: nn.Module) -> nn.Module:
    """Training mode with the dropout off, as the proxies compute."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


# --- definitions ----------------------------------------------------------------------------------------------------


def test_synflow_of_two_linear_layers_is_known_in_closed_form() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2))
    first, second = (network[i].weight.detach().double().abs().numpy() for i in (1, 2))
    bias = network[1].bias.detach().double().abs().numpy()
    through_both = second.sum(0) @ first.sum(1)  # all paths: each layer's |w * gradient| sums to them
    into_second = second.sum(0) @ (first.sum(1) + bias)
    images, labels = batch(3, 1, 2, 2)
    assert synflow(network, images, labels) == pytest.approx(math.log1p(through_both + into_second), rel=1e-12)


def test_synflow_sees_no_normalisation_no_data_and_no_sign() -> None:
    network = Small()
    images, labels = batch()
    flow = synflow(network, images, labels)
    with torch.no_grad():
        network.norm.weight.mul_(-3)
        network.norm.running_var.mul_(7)
        network.first.weight.neg_()
    assert synflow(network, 5 * images, labels) == flow
    with torch.no_grad():
        network.first.weight.mul_(2)
    assert synflow(network, images, labels) > flow


def test_snip_is_the_loss_gradient_of_masks_of_ones() -> None:
    network = plain(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 10)))
    images, labels = batch()
    convolution, linear = network[0], network[3]
    masks = [torch.ones_like(layer.weight, requires_grad=True) for layer in (convolution, linear)]
    hidden = relu(nn.functional.conv2d(images, convolution.weight * masks[0], convolution.bias)).flatten(1)
    loss = cross_entropy(nn.functional.linear(hidden, linear.weight * masks[1], linear.bias), labels)
    expected = sum(gradient.abs().sum().item() for gradient in torch.autograd.grad(loss, masks))
    assert snip(network, images, labels) == pytest.approx(expected, rel=1e-5)


def test_grad_norm_is_the_sum_of_the_layers_norms() -> None:
    network = plain(Small())
    images, labels = batch()
    norm = grad_norm(network, images, labels)
    cross_entropy(network(images), labels).backward()
    layers = (network.first, network.second, network.last)
    assert norm == pytest.approx(sum(layer.weight.grad.norm().item() for layer in layers), rel=1e-5)


def test_grasp_with_an_explicit_hessian() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.Tanh(), nn.Linear(3, 2, bias=False))
    images, labels = batch(5, 1, 2, 2)
    sizes = [12, 6]

    def loss(flat: Tensor) -> Tensor:
        first, second = flat.split(sizes)
        hidden = torch.tanh(images.flatten(1) @ first.view(3, 4).T)
        return cross_entropy(hidden @ second.view(2, 3).T, labels)

    weights = torch.cat([network[1].weight.detach().flatten(), network[3].weight.detach().flatten()])
    hessian = torch.autograd.functional.hessian(loss, weights)
    (gradient,) = torch.autograd.grad(loss(leaf := weights.clone().requires_grad_()), leaf)
    assert grasp(network, images, labels) == pytest.approx(-(weights @ hessian @ gradient).item(), rel=1e-4)


def test_fisher_of_a_convolution_and_a_linear_layer() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(2 * 36, 10))
    images, labels = batch()
    maps = network[0](images).detach().requires_grad_()
    logits = network[3](relu(maps).flatten(1))
    gradients = torch.autograd.grad(cross_entropy(logits, labels), (maps, logits))
    expected = 0.0
    for activation, gradient in zip((maps.unbind(1), logits.unbind(1)), gradients, strict=True):
        for channel, slope in zip(activation, gradient.unbind(1), strict=True):
            per_image = [(a * g).sum().item() ** 2 for a, g in zip(channel, slope, strict=True)]
            expected += 0.5 * sum(per_image) / len(per_image)
    assert fisher(network, images, labels) == pytest.approx(expected, rel=1e-5)


def test_jacov_of_a_net_whose_jacobian_is_known() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    images, labels = batch(4, 1, 4, 3)
    first, second = (network[i].weight.detach().double().numpy() for i in (1, 3))
    flat = images.flatten(1).double().numpy()
    jacobian = (second.sum(0) * (flat @ first.T > 0)) @ first
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(jacobian))
    expected = -sum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in eigenvalues)
    assert jacov(network, images, labels) == pytest.approx(expected, rel=1e-3)


def test_naswot_counts_the_units_in_which_images_agree() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 7), nn.ReLU())
    images, labels = batch(3, 1, 2, 2)
    hidden = network[1](images.flatten(1)).detach()
    codes = torch.cat([hidden, network[3](relu(hidden)).detach()], 1) > 0
    agreeing = [[int((a == b).sum()) for b in codes] for a in codes]
    assert agreeing[0][0] == 12
    determinant = np.linalg.det(np.array(agreeing, dtype=float))
    assert naswot(network, images, labels) == pytest.approx(math.log(determinant), rel=1e-9)


def test_naswot_sees_activations_that_are_no_layers_and_no_relus() -> None:
    class Functional(nn.Module):
        def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 30)
            self.activation = activation

        def forward(self, x: Tensor) -> Tensor:
            return self.activation(self.linear(x.flatten(1)))

    images, labels = batch(5, 1, 2, 2)
    network = Functional(relu)
    separation = naswot(network, images, labels)
    for other in (gelu, nn.functional.silu, nn.functional.hardswish, torch.relu_, nn.functional.leaky_relu):
        network.activation = other
        assert naswot(network, images, labels) == separation
    network.activation = torch.sigmoid
    with pytest.raises(Undefined, match="no activation"):
        naswot(network, images, labels)


def test_images_that_no_rectifier_tells_apart_have_no_number() -> None:
    images, labels = batch(4)
    images[1] = images[0]
    assert naswot(Small(), images, labels) == -math.inf


def identity_weights(network: nn.Sequential, index: int, rows: list[list[float]]) -> None:
    """Set a linear layer's weights, and its biases to 0."""
    with torch.no_grad():
        network[index].weight.copy_(torch.tensor(rows))
        network[index].bias.zero_()


def test_swap_counts_the_patterns_over_the_images() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 4), nn.ReLU(inplace=True), nn.Linear(4, 2), nn.ReLU())
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]).view(3, 1, 1, 2)
    labels = torch.arange(3)
    # The units' signs over the three images: 100, 010, 100 (as the first), 001.
    identity_weights(network, 1, [[1, 0], [0, 1], [2, 0], [-1, 0]])
    # Of what comes out of them: the first unit again 100, the other 101.
    identity_weights(network, 3, [[1, 0, 0, 0], [1, 0, 0, 1]])
    assert swap(network, images, labels) == 4, "100, 010, 001, 101"
    identity_weights(network, 3, [[1, 0, 0, 0], [0, 3, 0, 0]])
    assert swap(network, images, labels) == 3
    assert swap(network, 7 * images, labels) == 3, "only signs count"
    assert swap(network, images[[2, 0, 1]], labels) == 3, "the images' order does not"


@pytest.mark.parametrize("count", [3, 63, 64, 65, 130])
def test_swap_is_exact_for_any_number_of_images(count: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 30), nn.ReLU())
    images, labels = batch(count, 1, 2, 2)
    with torch.no_grad():
        network[1].weight[7] = 3 * network[1].weight[8]
        network[1].bias[7] = 3 * network[1].bias[8]
        hidden = network[1](images.flatten(1))
        signs = torch.cat([hidden, network[3](relu(hidden))], 1) > 0
    patterns = {tuple(unit.tolist()) for unit in signs.T}
    assert len(patterns) < 80
    assert swap(network, images, labels) == len(patterns)


def test_regularised_swap_is_swap_where_the_size_is_the_one_wished_for() -> None:
    network = Small()
    images, labels = batch()
    size = sum(parameter.numel() for parameter in network.parameters())
    plain = swap(network, images, labels)
    assert swap_regularised(network, images, labels, params=size) == plain
    value_of_proxy = swap_regularised(network, images, labels, params=size + 100, spread=50)
    assert value_of_proxy == pytest.approx(plain * math.exp(-4))
    assert swap_regularised(network, images, labels, params=2 * size) == pytest.approx(plain * math.exp(-0.25))
    for wrong in ({"params": 0}, {"params": size, "spread": -1}):
        with raises(ConfigError, "range"):
            swap_regularised(network, images, labels, **wrong)


def test_log_params_and_log_flops() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 10))
    network[0].bias.requires_grad_(False)
    images, labels = batch()
    assert score("log_params", network, images, labels) == math.log(27 + 1080 + 10)
    assert score("log_flops", network, images, labels) == math.log(27 * 36 + 1080)
    empty = nn.Sequential(nn.AvgPool2d(8), nn.Flatten())
    for name in ("log_params", "log_flops"):
        with pytest.raises(Undefined):
            score(name, empty, images, labels)


def test_zen_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)
    )
    network[1].weight.data.fill_(9.0)
    images, labels = batch(4, 1, 6)
    zen = score("zen", network, images, labels)
    torch.manual_seed(11)
    weight = torch.randn(network[0].weight.shape)
    torch.randn(network[5].weight.shape)  # the classifier's, of no consequence
    inputs = torch.randn(images.shape)
    moved = inputs + 0.01 * torch.randn(images.shape)

    def features(x: Tensor) -> tuple[Tensor, Tensor]:
        maps = nn.functional.conv2d(x, weight)
        variance = maps.var((0, 2, 3), unbiased=False)
        mean = maps.mean((0, 2, 3)).view(1, 3, 1, 1)
        return relu((maps - mean) / (variance.view(1, 3, 1, 1) + 1e-5).sqrt()), variance.mean()

    (here, _), (there, variance) = features(inputs), features(moved)
    change = (here - there).abs().sum((1, 2, 3)).mean()
    assert zen == pytest.approx((change.log() + variance.sqrt().log()).item(), rel=1e-4)


# --- what holds for all of them -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_the_network_stays_as_it_is_bit_for_bit(name: str, training: bool) -> None:
    network = Small().train(training)
    network.norm.eval()
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    before = set(vars(network)), [set(vars(module)) for module in network.modules()]
    assert math.isfinite(score(name, network, *batch()))
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    assert all(tensor.dtype == state[key].dtype for key, tensor in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert (set(vars(network)), [set(vars(module)) for module in network.modules()]) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "log_params"])  # which runs nothing
def test_the_network_stays_as_it_is_when_it_breaks(name: str) -> None:
    class Breaking(Small):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise RuntimeError("in the middle")

    network = Breaking().eval()
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises((RuntimeError, BuildError)) as caught:
        score(name, network, *batch())
    assert "in the middle" in str(caught.value)
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    assert not any(module.training or module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_score_and_it_is_a_number_on_every_space(name: str) -> None:
    space: SearchSpace = load_space("tiny")
    images, labels = batch()
    values = {"model.activation": "silu", "model.stage0.layer1.block": "identity"}
    for point in (space.default_point(), space.point({**space.default_point().values, **values})):
        scores = []
        for _ in range(2):
            torch.manual_seed(3)
            scores.append(score(name, build(space, point, in_channels=1, classes=10), images, labels))
        assert scores[0] == scores[1] and math.isfinite(scores[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_users_module_of_other_parts(name: str) -> None:
    class Attention(nn.Module):
        """Patches, raw parameters, attention, a frozen layer; nothing that has a familiar name."""

        def __init__(self) -> None:
            super().__init__()
            self.cut = nn.Conv2d(1, 16, 2, stride=2)
            self.token = nn.Parameter(0.1 * torch.randn(1, 1, 16))
            self.mix = nn.MultiheadAttention(16, 2, batch_first=True)
            self.inner = nn.LayerNorm(16)
            self.frozen = nn.Linear(16, 16).requires_grad_(False)
            self.matrix = nn.Parameter(torch.randn(16, 10))

        def forward(self, x: Tensor) -> Tensor:
            x = self.cut(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
            x = self.inner(x + self.mix(x, x, x, need_weights=False)[0])
            return gelu(self.frozen(x))[:, 0] @ self.matrix

    network = Attention()
    frozen = network.frozen.weight.clone()
    assert math.isfinite(score(name, network, *batch()))
    assert torch.equal(network.frozen.weight, frozen) and not network.frozen.weight.requires_grad


@pytest.mark.parametrize("name", ["snip", "grad_norm", "grasp", "fisher"])
def test_what_has_no_weights_has_no_number(name: str) -> None:
    with pytest.raises(Undefined, match="no weights that are trained"):
        score(name, nn.Sequential(nn.AvgPool2d(8), nn.Flatten()), *batch(4, 2, 8, 2))
