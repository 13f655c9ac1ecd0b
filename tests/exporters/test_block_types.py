"""Every option of the block catalogue survives saving, loading and export, BN statistics included."""

import pytest
import torch
from torch import nn

from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.exporters.network_folder import Description, Network, load, save_network
from nasforge.exporters.onnx import Onnx
from nasforge.exporters.torch_export import TorchExport
from nasforge.exporters.verify import verify
from nasforge.models.blocks.catalogue import ACTIVATIONS, BlockOptions
from nasforge.models.network import build

OPTIONS = BlockOptions()


def staged(blocks, activation="relu"):
    """A space with one network: one stage whose layers are these blocks."""
    decisions = [Decision("model.activation", Choice((activation,))), Decision("model.stage0.width", Choice((8,)))]
    for index, name in enumerate(blocks):
        key = f"model.stage0.layer{index}.block"
        nested = tuple(Decision(f"{key}.{name}.{setting}", Choice((2,))) for setting in OPTIONS[name].searched)
        decisions.append(Decision(key, Choice((name,), (nested,))))
    arguments = {"strides": [1], "stem_width": 8, "layers": len(blocks)}
    return SearchSpace("one", tuple(decisions), builder="staged", arguments=arguments)


def trained(space):
    torch.manual_seed(1)
    architecture = space.default_point()
    network = build(space, architecture, in_channels=3, classes=4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(3):  # running statistics and weights that no initialisation gives
        images = torch.rand(16, 3, 8, 8)
        loss = nn.functional.cross_entropy(network(images * 4 - 1), torch.arange(16) % 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    description = Description(space, architecture, (3, 8, 8), tuple("abcd"), (0.4, 0.5, 0.6), (0.2, 0.3, 0.2))
    return Network(description, network).eval()


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "identity"])
def test_every_block_survives_saving_and_loading_bit_for_bit(tmp_path, name):
    network = trained(staged([name, name]))
    statistics = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert statistics
    assert all(m.running_mean.abs().max() > 0 for m in statistics)
    save_network(tmp_path / "n", network, network.description)
    images = torch.rand(9, 3, 8, 8)
    assert torch.equal(load(tmp_path / "n")(images), network(images))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_survives(tmp_path, activation):
    network = trained(staged(["residual", "identity"], activation))
    save_network(tmp_path / "n", network, network.description)
    images = torch.rand(9, 3, 8, 8)
    assert torch.equal(load(tmp_path / "n")(images), network(images))


@pytest.mark.slow
@pytest.mark.parametrize("exporter", [Onnx(), TorchExport()], ids=["onnx", "torch_export"])
def test_all_blocks_in_one_network_are_exported(tmp_path, exporter):
    plain = [name for name in OPTIONS if not name.endswith(("_se", "_5", "_7")) and name != "identity"]
    network = trained(staged([*plain, "identity", "inverted_3_se"]))
    images = torch.randint(0, 256, (66, 3, 8, 8), dtype=torch.uint8)
    labels = network(images.float() / 255).argmax(1)
    file = exporter.write(network, images[:2].float() / 255, tmp_path / "model")
    assert verify("it", network, exporter.reload(file), images, labels).accuracy == 1.0
