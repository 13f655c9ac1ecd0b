import dataclasses
from types import SimpleNamespace

import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.errors import DataError
from nasforge.training.artifacts import load_probe, load_weights, save_weights, sha256_of, write_tensors
from nasforge.training.probe import Probe


@pytest.fixture
def report(tmp_path):
    folder = tmp_path / "artifacts" / "3" / "attempt-1"
    folder.mkdir(parents=True)
    return SimpleNamespace(experiment=tmp_path, folder=folder)


def test_weights_come_back_exactly(report, tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    artifact = save_weights(network.state_dict(), report)
    assert artifact.path == "artifacts/3/attempt-1/weights.safetensors"
    assert artifact.size == (tmp_path / artifact.path).stat().st_size
    loaded = load_weights(tmp_path, artifact)
    assert loaded.keys() == network.state_dict().keys()
    assert all(torch.equal(loaded[key], value) for key, value in network.state_dict().items())
    assert [p.name for p in report.folder.iterdir()] == ["weights.safetensors"]


def test_shared_tensors_are_kept(report, tmp_path):
    weight = torch.arange(4.0)
    loaded = load_weights(tmp_path, save_weights({"a": weight, "b": weight}, report, "shared"))
    assert torch.equal(loaded["a"], loaded["b"])


def test_a_changed_a_missing_and_a_foreign_file_are_refused(report, tmp_path):
    artifact = save_weights({"a": torch.zeros(4)}, report)
    file = tmp_path / artifact.path
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with raises(DataError, "changed"):
        load_weights(tmp_path, artifact)
    file.unlink()
    with raises(DataError, "missing"):
        load_weights(tmp_path, artifact)
    with raises(DataError, "untrusted"):
        load_weights(tmp_path, dataclasses.replace(artifact, path="../secret.safetensors"))


def test_a_probe_comes_back_with_the_weights(report, tmp_path):
    state, probe = {"a": torch.zeros(4)}, Probe(2, (0.25, -1.5))
    artifact = save_weights(state, report, probe=probe)
    assert load_probe(tmp_path, artifact) == probe and load_weights(tmp_path, artifact).keys() == {"a"}
    assert load_probe(tmp_path, save_weights(state, report)) is None
    for damaged in ("{", "[]", '{"images": 3, "logits": [1]}'):
        file = tmp_path / artifact.path
        write_tensors(state, file, {"probe": damaged})
        with raises(DataError, "unreadable", None, file):
            load_probe(tmp_path, dataclasses.replace(artifact, sha256=sha256_of(file)))
