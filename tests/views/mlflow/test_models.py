"""The winner as a registered model, loaded where NASForge cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made_journal import header, trial, write
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND
from test_mlflow import client_of
from torch import nn

from nasforge.exporters.onnx import Onnx
from nasforge.views.mlflow.client import MlflowClient, MlflowException
from nasforge.views.mlflow.models import Winner, is_registered, register
from nasforge.views.mlflow.position import read_ids
from nasforge.views.mlflow.tracker import track

LOADED = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nasforge", "torch"):
            raise ImportError(f"{name} is not in this environment")

sys.meta_path.insert(0, Refused())
import mlflow, numpy
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/made@best")
images = numpy.zeros((3, 1, 4, 4), dtype=numpy.float32)
images[1] = 1
print(model.predict(images).astype(float).round(3).tolist(), model.predict(images, params={"output": "names"}).tolist())
print(model.metadata.metadata["class_names"], model.metadata.signature.inputs.inputs[0].shape)
"""


@pytest.fixture
def winner(tmp_path: Path) -> Winner:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([torch.full((16,), -1.0), torch.full((16,), 1.0)]))
        network[1].bias.copy_(torch.tensor([1.0, 0.0]))
    file = Onnx().write(network.eval(), torch.zeros(2, 1, 4, 4), tmp_path / "network")
    import onnx

    model = onnx.load(file)
    onnx.helper.set_model_props(model, {"class_names": json.dumps(["dark", "bright"])})
    onnx.save(model, file)
    about = {
        "shape": [1, 4, 4],
        "class_names": ["dark", "bright"],
        "metrics": {"test/accuracy": 0.9, "val/loss": 1.0},
        "trained": {"finalist": "one"},
        "weights": {"sha256": "abc"},
    }
    return Winner(file, about)


def test_the_winner_is_loaded_without_nasforge(runs_dir: Path, winner: Winner) -> None:
    folder = write(runs_dir / "made", [header(), *trial(0)])
    track(folder)
    message = register(folder, None, "made", winner)
    assert "models:/made@best" in message
    assert is_registered(folder, None, winner.about)
    uri = f"sqlite:///{runs_dir}/mlflow.db"
    done = subprocess.run([sys.executable, "-c", LOADED, uri], capture_output=True, text=True, cwd=runs_dir)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "[[0.731, 0.269], [0.0, 1.0], [0.731, 0.269]] ['dark', 'bright', 'dark']",
        "['dark', 'bright'] (-1, 1, 4, 4)",
    ]
    version = client_of(uri).get_model_version_by_alias("made", "best")
    assert version.run_id == read_ids(folder)["stores"]["default"]["parent_run_id"]
    assert not [*(runs_dir / "mlartifacts").rglob("*.pkl")]


def test_a_server_without_a_registry_gets_one_note(
    runs_dir: Path, winner: Winner, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(runs_dir / "made", [header(), *trial(0)])
    track(folder)

    def missing(*args: object, **options: object) -> None:
        raise MlflowException("no such endpoint", error_code=ENDPOINT_NOT_FOUND)

    monkeypatch.setattr(MlflowClient, "create_registered_model", missing)
    assert "no model registry" in register(folder, None, "made", winner)
