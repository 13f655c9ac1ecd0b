"""The figures that DESIGN.md says must hold, and that only what should be counted is."""

import os
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.errors import BuildError
from nasforge.models.blocks.conv import ConvNorm
from nasforge.models.blocks.inception import InceptionBlock
from nasforge.models.costs import Latency, _Shapes, costs_of, count_flops, count_params, latency_ms, memory_mb
from nasforge.models.reference import resnet


def meta(make) -> nn.Module:
    with torch.device("meta"):
        return make()


def flops(make, *shape: int) -> int:
    return count_flops(meta(make), shape)


def test_alexnet_params():
    assert count_params(nn.Conv2d(3, 96, 11)) == 34_944
    assert count_params(nn.Linear(9216, 4096)) == 37_752_832
    assert count_params(nn.Linear(4096, 1000)) == 4_097_000


def test_separable_against_full_convolution():
    full = flops(lambda: nn.Conv2d(192, 256, 3, padding=1), 192, 28, 28)
    depthwise = nn.Conv2d(192, 192, 3, padding=1, groups=192)
    separable = flops(lambda: nn.Sequential(depthwise.to("meta"), nn.Conv2d(192, 256, 1)), 192, 28, 28)
    assert full == 9 * 192 * 256 * 28 * 28
    assert separable / full == pytest.approx((9 + 256) / (9 * 256), abs=0)
    assert round(separable / full, 4) == 0.1150


def test_inception_bottleneck():
    direct = flops(lambda: nn.Conv2d(192, 32, 5, padding=2), 192, 28, 28)
    reduced = flops(lambda: nn.Sequential(nn.Conv2d(192, 16, 1), nn.Conv2d(16, 32, 5, padding=2)), 192, 28, 28)
    assert (direct, reduced) == (120_422_400, 12_443_648)
    five = InceptionBlock(192, 256, reduction=2)[0].branches["five"]
    assert flops(lambda: five.to("meta"), 192, 28, 28) == 12_443_648


def test_inception_3a_weights():
    naive = [nn.Conv2d(192, 64, 1), nn.Conv2d(192, 128, 3), nn.Conv2d(192, 32, 5)]
    assert sum(conv.weight.numel() for conv in naive) == 387_072
    branches = InceptionBlock(192, 256, reduction=2)[0].branches
    ours = sum(m.weight.numel() for n in ("one", "three", "five") for m in branches[n].modules() if _is_conv(m))
    assert ours == 157_184


def _is_conv(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d)


class Cell(nn.Module):
    """A cell of "NAS-Bench-201", Dong & Yang 2020, https://arxiv.org/abs/2001.00326: four nodes, six edges."""

    EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))

    def __init__(self, channels: int, ops: list[str]) -> None:
        super().__init__()
        make = {
            "none": lambda: None,
            "skip_connect": nn.Identity,
            "nor_conv_1x1": lambda: nn.Sequential(nn.ReLU(), ConvNorm(channels, channels, 1)),
            "nor_conv_3x3": lambda: nn.Sequential(nn.ReLU(), ConvNorm(channels, channels, 3)),
            "avg_pool_3x3": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        }
        self.ops = nn.ModuleList([make[op]() for op in ops])

    def forward(self, x):
        nodes = [x]
        for node in (1, 2, 3):
            sources = [(self.ops[e], a) for e, (a, b) in enumerate(self.EDGES) if b == node]
            nodes.append(sum(op(nodes[a]) for op, a in sources if op is not None))
        return nodes[-1]


class Reduction(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.ReLU(), ConvNorm(channels_in, channels_out, 3, 2))
        self.second = nn.Sequential(nn.ReLU(), ConvNorm(channels_out, channels_out, 3))
        self.down = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(channels_in, channels_out, 1, bias=False))

    def forward(self, x):
        return self.second(self.first(x)) + self.down(x)


def nasbench201(ops: list[str]) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=ConvNorm(3, 16, 3))
    for stage, channels in enumerate((16, 32, 64)):
        if stage:
            layers[f"reduction{stage}"] = Reduction(channels // 2, channels)
        for cell in range(5):
            layers[f"cell{stage}_{cell}"] = Cell(channels, ops)
    norm, activation = nn.BatchNorm2d(64), nn.ReLU()
    tail = OrderedDict(
        norm=norm, relu=activation, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(64, 10)
    )
    return nn.Sequential(layers | tail)


BEST_201 = ["nor_conv_3x3"] * 3 + ["skip_connect", "nor_conv_3x3", "nor_conv_1x1"]


def test_best_cell_of_nasbench_201():
    assert flops(lambda: nasbench201(BEST_201), 3, 32, 32) == 153_272_960


@pytest.mark.skipif("NASFORGE_DATA" not in os.environ, reason="NASFORGE_DATA does not point to shared/data")
def test_params_of_nasbench_201_cells():
    with np.load(Path(os.environ["NASFORGE_DATA"]) / "nasbench201_cifar10.npz") as table:
        ops, codes, params = [str(op) for op in table["ops"]], table["codes"], table["params_M"]
        best = int(np.nanargmax(table["cifar10_test_e200"]))
    for row in (best, 1234, 15_000):
        cell = [ops[code] for code in codes[row]]
        assert count_params(nasbench201(cell)) / 1e6 == pytest.approx(float(params[row]), abs=1e-6)


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm2d(8), nn.ReLU(), nn.SiLU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Dropout()],
    ids=lambda layer: type(layer).__name__,
)
def test_normalisation_activation_and_pooling_are_free(layer):
    assert flops(lambda: layer.to("meta"), 8, 6, 6) == 0


@pytest.mark.parametrize("bias", [True, False])
def test_bias_is_free_and_groups_divide(bias):
    assert flops(lambda: nn.Conv2d(8, 16, 3, padding=1, bias=bias), 8, 6, 6) == 9 * 8 * 16 * 36
    assert flops(lambda: nn.Conv2d(8, 16, 3, padding=1, bias=bias, groups=4), 8, 6, 6) == 9 * 8 * 16 * 36 / 4
    assert flops(lambda: nn.Linear(8, 16, bias=bias), 8) == 128


def test_a_deformable_convolution_counts_as_a_convolution():
    from torchvision.ops import DeformConv2d

    class Deformed(nn.Module):
        def __init__(self, groups: int) -> None:
            super().__init__()
            self.convolution = DeformConv2d(8, 8, 3, padding=1, groups=groups, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.convolution(x, x.new_zeros(len(x), 18, *x.shape[2:]))

    assert flops(lambda: Deformed(1), 8, 8, 8) == 8 * 8 * 9 * 64 == 36_864
    assert flops(lambda: Deformed(4), 8, 8, 8) == count_flops(Deformed(4), (8, 8, 8)) == 36_864 / 4


def test_a_layer_of_the_users_own_counts_too():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.empty(8, 5))

        def forward(self, x):
            return torch.einsum("nchw,cd->ndhw", x, self.matrix)

    assert flops(Scaled, 8, 4, 4) == 16 * 8 * 5


def test_same_count_on_a_real_device_and_the_mode_is_kept():
    network = resnet(1, 8, in_channels=1, classes=10)
    network.stage1.eval()
    network.train()
    assert count_flops(network, (1, 28, 28)) == flops(lambda: resnet(1, 8, in_channels=1, classes=10), 1, 28, 28)
    assert network.training


def test_costs_of_builds_once_on_the_meta_device():
    devices = []

    def build() -> nn.Module:
        network = resnet(1, 16, in_channels=1, classes=10)
        devices.append(next(network.parameters()).device.type)
        return network

    costs = costs_of(build, (1, 28, 28), batch_size=64)
    assert devices == ["meta"]
    assert set(costs) == {"cost/params", "cost/flops", "cost/memory_mb"}
    assert costs["cost/params"] == 77_754 and costs["cost/flops"] == 9_345_920


def test_a_network_that_does_not_fit_the_images_is_one_error():
    with raises(BuildError, "failed", None, 4):
        costs_of(lambda: nn.Sequential(nn.Conv2d(1, 4, 7)), (1, 4, 4))


class Asks(nn.Module):
    """Reads values of its tensors in the forward pass."""

    def __init__(self, read) -> None:
        super().__init__()
        self.read = read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.read(x) else -x


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.mean() > 0,
        lambda x: x.mean().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu().numpy(),
        lambda x: len(x[x > 0]),
        lambda x: torch.equal(x, -x),
    ],
)
def test_a_forward_pass_that_reads_values_is_told_so(read):
    with raises(BuildError, "failed", None, "must not read values of tensors") as raised:
        flops(lambda: Asks(read), 3, 8, 8)
    assert "resolution" not in str(raised.value)


def test_a_view_that_needs_another_memory_layout_is_told_to_reshape():
    class Turned(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, 2, 3, 1).view(len(x), -1)

    with raises(BuildError, "failed", None, ".reshape(...)") as raised:
        costs_of(lambda: nn.Sequential(nn.Conv2d(1, 4, 1), Turned()), (1, 4, 4))
    assert "larger images" not in str(raised.value)


def test_memory_counts_what_autograd_keeps():
    def network() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)
        )

    batch, megabyte = 32, 2**20
    weights = 4 * (3 * 16 * 9 + 32 + 16 * 4 + 4)
    image, feature = 4 * batch * 3 * 64, 4 * batch * 16 * 64
    # kept: the images, the convolution's output (for BN), the ReLU's output (for itself and the next convolution)
    activations = image + 2 * feature + 2 * 4 * 16
    expected = (4 * weights + 4 * 2 * 16 + 8 + activations + 2 * feature) / megabyte
    assert memory_mb(meta(network), (3, 8, 8), batch) == pytest.approx(expected, rel=0.01)


def test_memory_grows_with_batch_images_and_optimizer():
    network = meta(lambda: resnet(1, 16, in_channels=1, classes=10))
    small, large = (memory_mb(network, (1, 28, 28), batch) for batch in (64, 128))
    assert large == pytest.approx(2 * small, rel=0.05)
    assert memory_mb(network, (1, 28, 28), 64, optimizer_slots=1) == pytest.approx(small - 4 * 77_754 / 2**20)


@pytest.mark.parametrize("training", [True, False])
def test_shortcuts_on_the_meta_device_change_no_shape(training):
    network = meta(lambda: resnet(1, 8, in_channels=1, classes=10)).train(training)
    x = torch.empty(4, 1, 15, 15, device="meta")
    seen: list[tuple] = []
    for module in network.modules():
        module.register_forward_hook(lambda module, inputs, out: seen.append((out.shape, out.dtype)))
    network(x)
    plain = list(seen)
    seen.clear()
    with _Shapes():
        network(x)
    assert len(seen) > 20 and seen == plain


def test_latency_tells_median_p95_and_device(clock):
    class Sleeper(nn.Module):
        turn = 0

        def forward(self, x):
            self.turn += 1
            time.sleep(0.05 if self.turn <= 2 else {21: 0.004, 22: 0.02}.get(self.turn, 0.002))
            return x

    latency = latency_ms(Sleeper(), (1, 8, 8), batch_sizes=(4,), warm_up=2, passes=20)
    assert set(latency) == {4}
    timed = latency[4]
    assert isinstance(timed, Latency)
    assert (timed.batch_size, timed.passes) == (4, 20)
    assert timed.median_ms == pytest.approx(2)  # neither the warm-up nor the one slow pass
    assert timed.p95_ms == pytest.approx(4)
    assert "thread" in timed.device


def test_latency_of_two_batch_sizes_in_eval_mode(clock):
    network = resnet(1, 8, in_channels=1, classes=10).train()
    modes = []
    network.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    network.register_forward_pre_hook(lambda module, inputs: time.sleep(0.001 * len(inputs[0])))
    latency = latency_ms(network, (1, 12, 12), batch_sizes=(1, 32), warm_up=1, passes=3)
    assert not any(modes) and len(modes) == 8
    assert network.training
    assert (latency[1].median_ms, latency[32].median_ms) == pytest.approx((1, 32))


class Attends(nn.Module):
    """Three linear layers in one, then attention over the pixels of 6 x 6."""

    def __init__(self):
        super().__init__()
        self.queries_keys_values = nn.Linear(8, 24)

    def forward(self, images):
        q, k, v = self.queries_keys_values(images.flatten(2).mT).chunk(3, dim=2)
        return nn.functional.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_is_counted_on_every_device(device):
    with torch.device(device):
        # 36 pixels x 8 x 24, then 36 x 36 x 8 for the weights and as many for their sums
        assert count_flops(Attends(), (8, 6, 6)) == 36 * 8 * 24 + 2 * 36 * 36 * 8
        layer = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(36, 2, batch_first=True))
    with torch.device("meta"):
        same = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(36, 2, batch_first=True))
    assert count_flops(layer, (8, 6, 6)) == count_flops(same, (8, 6, 6)) > 0
    assert torch.backends.mha.get_fastpath_enabled()


class OfArrays(nn.Module):
    """A network with a buffer that numpy made."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.from_numpy(np.ones(3, np.float32)))
        self.end = nn.Linear(3, 2)

    def forward(self, x):
        return self.end(x.mean((2, 3)) * self.scale)


class Recurrent(nn.Module):
    """An LSTM over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.rows, self.end = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x):
        return self.end(self.rows(x[:, 0])[0][:, -1])


def test_a_network_may_hold_tensors_of_arrays():
    assert costs_of(OfArrays, (3, 8, 8), 2, classes=2)["cost/params"] == 8


def test_a_network_that_gives_other_numbers_is_refused():
    with raises(BuildError, "invalid", None, "(8, 2) for 8 images, wanted (8, 7)"):
        costs_of(OfArrays, (3, 8, 8), 8, classes=7)


def test_an_lstm_costs_the_same_on_every_device():
    multiply_adds = 8 * (8 * 64 + 16 * 64) + 16 * 2
    assert count_flops(Recurrent(), (1, 8, 8)) == flops(Recurrent, 1, 8, 8) == multiply_adds
    assert torch.backends.mkldnn.enabled
