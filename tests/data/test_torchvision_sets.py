import struct

import numpy as np
import pytest
import torchvision.datasets
from expecting import raises

from nasforge.core.errors import DataError
from nasforge.data import load_data, torchvision_sets
from nasforge.settings.experiment import DataConfig


def write_idx(path, array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.tobytes())


def test_a_set_that_lies_in_the_folder_is_read(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 100), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    data = load_data(DataConfig("FashionMNIST", folder=str(tmp_path)))
    assert data.shape == (1, 28, 28)
    assert (len(data.train), len(data.validation), len(data.open_test())) == (90, 10, 20)
    assert data.class_names[0] == "T-shirt/top"
    assert np.array_equal(data.open_test().images[:, 0].numpy(), images)


def test_offline_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with raises(DataError, "failed", None, "FashionMNIST", tmp_path):
        load_data(DataConfig("FashionMNIST", folder=str(tmp_path)))


def test_a_damaged_image_of_a_set_is_named(tmp_path, monkeypatch):
    class Broken(list):
        classes = ("a", "b")

        def __getitem__(self, number):
            raise OSError("image file is truncated")

    monkeypatch.setattr(torchvision_sets, "_open", lambda *args: Broken([1, 2]))
    with raises(DataError, "unreadable", None, "CIFAR10", 0, "train", "is truncated"):
        load_data(DataConfig("CIFAR10", folder=str(tmp_path)))


@pytest.mark.parametrize("name", sorted(torchvision_sets.KNOWN))
def test_every_known_name_is_a_class_that_takes_the_argument(name):
    import inspect

    parameters = inspect.signature(getattr(torchvision.datasets, name)).parameters
    assert torchvision_sets.KNOWN[name].argument in parameters or "kwargs" in parameters
    assert "download" in parameters or "kwargs" in parameters
