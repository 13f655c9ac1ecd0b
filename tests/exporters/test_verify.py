import copy
import logging
import warnings

import pytest
import torch
from expecting import raises
from test_network_folder import trained
from torch import nn

from nasforge import registry
from nasforge.core.errors import ExportError
from nasforge.exporters.network_folder import Network
from nasforge.exporters.onnx import Onnx
from nasforge.exporters.safetensors import Safetensors
from nasforge.exporters.torch_export import TorchExport
from nasforge.exporters.verify import verify

EXPORTERS = pytest.mark.parametrize(
    "exporter",
    [registry.get("exporter", name)() for name in registry.names("exporter")],
    ids=registry.names("exporter"),
)


@pytest.fixture(scope="module")
def network():
    body, description = trained()
    return Network(description, body).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (70, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def labels(network, images):
    """Half of them right, so that accuracy says something."""
    labels = network(images.float() / 255).argmax(1)
    labels[::2] = (labels[::2] + 1) % 10
    return labels


@EXPORTERS
def test_every_export_agrees_for_every_batch_size(tmp_path, network, images, labels, exporter):
    file = exporter.write(network, images[:1].float() / 255, tmp_path / "model")
    agreement = verify("it", network, exporter.reload(file), images, labels)
    assert agreement.images == 70
    assert agreement.accuracy == agreement.accuracy_exported == 0.5
    assert agreement.difference < 1e-5 < agreement.largest


@EXPORTERS
def test_a_wrong_bn_statistic_is_caught(tmp_path, network, images, labels, exporter):
    broken = copy.deepcopy(network)
    broken.body[1].running_var[0] *= 1.5
    file = exporter.write(broken, images[:2].float() / 255, tmp_path / "model")
    with raises(ExportError, "mismatch", None, "it: "):
        verify("it", network, exporter.reload(file), images, labels)


@EXPORTERS
def test_a_damaged_file_is_refused(tmp_path, network, images, exporter):
    file = exporter.write(network, images[:2].float() / 255, tmp_path / "model")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ExportError):
        exporter.reload(file)


def test_missing_normalisation_is_caught(network, images, labels):
    with raises(ExportError, "mismatch", None, "outputs"):
        verify("it", network, network.body, images, labels)


def test_train_mode_is_caught(network, images, labels):
    with raises(ExportError, "mismatch", None, "outputs"):
        verify("it", network, copy.deepcopy(network).train(), images, labels)


def test_nan_is_caught_wherever_it_comes(network, images, labels):
    def predict(batch):
        return network(batch) * (float("nan") if len(batch) == 2 else 1)

    with raises(ExportError, "mismatch", None, "outputs", "nan"):
        verify("it", network, predict, images, labels)


def test_another_accuracy_is_caught_even_within_the_tolerance(network, images, labels):
    def predict(batch):
        return network(batch).flip(1)

    with raises(ExportError, "mismatch", "val/accuracy", 70, "0.5000"):
        verify("it", network, predict, images, labels, tolerance=1e9)


def test_a_tie_that_rounding_decides_is_no_other_accuracy():
    images = torch.zeros((3, 1, 1, 1), dtype=torch.uint8)

    def outputs(first):
        return lambda batch: torch.tensor([first, 5.0, 0.0]).repeat(len(batch), 1)

    tied = verify("it", outputs(5.00001), outputs(4.99999), images, torch.zeros(3, dtype=torch.long))
    assert (tied.accuracy, tied.accuracy_exported) == (1.0, 0.0)
    with raises(ExportError, "mismatch", "val/accuracy"):
        verify("it", outputs(5.1), outputs(4.9), images, torch.zeros(3, dtype=torch.long), tolerance=1)


def test_a_fixed_batch_size_is_caught(network, images, labels):
    def predict(batch):
        if len(batch) != 2:
            raise RuntimeError("expected a batch of 2")
        return network(batch)

    with raises(ExportError, "failed", None, "batch of 1", "expected a batch of 2"):
        verify("it", network, predict, images, labels)


def test_a_wrong_shape_is_caught(network, images, labels):
    with raises(ExportError, "mismatch", None, (1, 9), (1, 10)):
        verify("it", network, lambda batch: network(batch)[:, :9], images, labels)


def test_nothing_is_verified_without_images(network, images, labels):
    with raises(ExportError, "empty"):
        verify("it", network, network, images[:0], labels[:0])


@EXPORTERS
def test_the_snippet_runs_the_file(tmp_path, network, images, exporter, monkeypatch, capsys):
    file = exporter.write(network, images[:2].float() / 255, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    exec(exporter.snippet(file.name, (1, 8, 8)), {})
    assert len(capsys.readouterr().out.split()) >= 4


def test_the_file_gets_its_suffix_once(tmp_path, network, images):
    example = images[:2].float() / 255
    assert TorchExport().write(network, example, tmp_path / "v1.2").name == "v1.2.pt2"
    assert TorchExport().write(network, example, tmp_path / "a.pt2").name == "a.pt2"


def test_onnx_without_its_packages_says_what_to_install(tmp_path, network, images, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with raises(ExportError, "missing", None, "pip install onnx onnxscript"):
        Onnx().write(network, images[:2].float(), tmp_path / "model")
    with raises(ExportError, "missing", None, "pip install onnxruntime"):
        Onnx().reload(tmp_path / "model.onnx")


def test_onnx_says_nothing_on_the_terminal(tmp_path, network, images, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Onnx().write(network, images[:2].float() / 255, tmp_path / "model")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("torch.onnx").level == logging.NOTSET


class Unexportable(nn.Module):
    def forward(self, images):
        return images if images.sum() > 0 else -images


@pytest.mark.parametrize("exporter", [Onnx(), TorchExport()])
def test_a_network_that_cannot_be_traced_is_one_clear_error(tmp_path, exporter, images, capfd):
    with raises(ExportError, "failed", None, "data-dependent", f"({__file__}, line ") as caught:
        exporter.write(Unexportable().eval(), images[:2].float(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    assert len(str(caught.value)) < 500
    assert "\x1b" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_safetensors_needs_a_described_network(tmp_path, images):
    with raises(ExportError, "type", None, "Linear"):
        Safetensors().write(nn.Linear(2, 2), images, tmp_path / "model")
