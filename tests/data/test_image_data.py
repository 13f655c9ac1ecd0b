import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from expecting import raises

from nasforge.core.errors import DataError
from nasforge.data import load_data
from nasforge.settings.experiment import DataConfig

FASHION = Path(os.environ.get("NASFORGE_DATA", "/nowhere")) / "fashion_mnist.npz"


def rows(data):
    return [set(split.index.tolist()) for split in (data.train, data.validation, data.open_test())]


def test_digits_need_nothing_and_are_divided_without_overlap():
    data = load_data(DataConfig("digits"))
    assert data.shape == (1, 8, 8)
    assert data.class_names == tuple("0123456789")
    train, validation, test = rows(data)
    assert len(train | validation | test) == 1797 == len(train) + len(validation) + len(test)
    assert len(test) == 359
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.max() == 255


def test_the_division_is_stratified_and_seeded():
    data = load_data(DataConfig("digits"))
    shares = torch.bincount(data.train.labels) / len(data.train)
    for split in (data.validation, data.open_test()):
        assert torch.allclose(torch.bincount(split.labels) / len(split), shares, atol=0.01)
    again = load_data(DataConfig("digits", validation=0.1))
    load_data.cache_clear()
    assert rows(again) == rows(load_data(DataConfig("digits")))
    assert rows(load_data(DataConfig("digits", seed=1)))[2] != rows(data)[2]


def test_the_sealed_split_does_not_depend_on_what_is_searched_with():
    whole, few = load_data(DataConfig("digits")), load_data(DataConfig("digits", images=500, validation=0.2))
    assert np.array_equal(whole.open_test().index, few.open_test().index)
    assert (len(few.train), len(few.validation)) == (400, 100)


def test_mean_and_std_are_of_the_training_split_alone():
    data = load_data(DataConfig("digits"))
    pixels = data.train.images.double() / 255
    assert data.mean == pytest.approx([float(pixels.mean())])
    assert data.std == pytest.approx([float(pixels.std(correction=0))])
    assert data.open_test().mean == data.train.mean
    assert data.mean != pytest.approx([float((data.open_test().images.double() / 255).mean())], rel=1e-6)


def test_the_fingerprint_names_content_and_division():
    prints = {
        load_data(config).fingerprint
        for config in (
            DataConfig("digits"),
            DataConfig("digits", seed=1),
            DataConfig("digits", validation=0.2),
            DataConfig("digits", images=500),
            DataConfig("digits", resolution=16),
        )
    }
    assert len(prints) == 5
    load_data.cache_clear()
    assert load_data(DataConfig("digits")).fingerprint in prints


def test_the_same_images_elsewhere_have_the_same_fingerprint(tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 256, (40, 6, 5), dtype=np.uint8), np.arange(40) % 2
    for name in ("a.npz", "b.npz"):
        np.savez(tmp_path / name, x_train=images, y_train=labels)
    images[3, 2, 1] ^= 1
    np.savez(tmp_path / "c.npz", x_train=images, y_train=labels)
    a, b, c = (load_data(DataConfig(str(tmp_path / f"{name}.npz"))).fingerprint for name in "abc")
    assert a == b != c


def test_data_stay_in_the_process_from_trial_to_trial():
    data = load_data(DataConfig("digits"))
    assert load_data(DataConfig("digits")) is data
    device = torch.device("cpu")
    assert data.train.on(device)[0] is data.train.on(device)[0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"images": 5000}, ("range", "data.images", 5000, 1438)),
        ({"validation": 0.001}, ("range", None, 10)),
        ({"test": 0.001}, ("range", None, 2, 10)),
        ({"images": 12}, ("empty", None, "data.images")),
    ],
)
def test_divisions_that_cannot_be_made(settings, expected):
    with raises(DataError, *expected):
        load_data(DataConfig("digits", **settings))


@pytest.mark.parametrize(
    ("counts", "settings"),
    [
        ((3, 3, 3), {}),
        ((3, 3, 3), {"test": 0.34}),
        ((50, 50, 3), {}),
        ((50, 50, 3), {"test": 0.01}),
        ((30, 30, 30), {"test": 0.99, "validation": 0.99}),
        ((1000, 1000, 1000), {"test": 0.0001}),
    ],
)
def test_the_share_that_a_message_names_does(tmp_path, counts, settings):
    labels = np.repeat(np.arange(len(counts)), counts)
    np.savez(tmp_path / "a.npz", x_train=np.zeros((len(labels), 2, 2), np.uint8), y_train=labels)
    refused = 0
    for _ in range(3):
        try:
            data = load_data(DataConfig(str(tmp_path / "a.npz"), **settings))
            break
        except DataError as error:
            name, share = re.search(r"--set data\.(test|validation)=([\d.]+)", str(error)).groups()
            settings = {**settings, name: float(share)}
            refused += 1
    assert refused
    for split in (data.train, data.validation, data.open_test()):
        assert split.absent == ()


@pytest.mark.parametrize("images", [100, 1430, 1438])
def test_any_number_of_images_keeps_all_classes(images):
    data = load_data(DataConfig("digits", images=images, validation=0.3))
    assert len(data.train) + len(data.validation) == images
    assert set(data.train.labels.tolist()) == set(range(10)) == set(data.validation.labels.tolist())


@pytest.mark.skipif(not FASHION.exists(), reason="NASFORGE_DATA does not point to fashion_mnist.npz")
def test_fashion_mnist_is_the_official_one():
    data = load_data(DataConfig(str(FASHION), images=6000))
    assert data.shape == (1, 28, 28)
    assert (len(data.train), len(data.validation), len(data.open_test())) == (5400, 600, 10000)
    assert torch.bincount(data.train.labels).tolist() == [540] * 10
    assert float(np.asarray(data.train.pixels[:60000], np.float64).mean()) == pytest.approx(72.94035, abs=1e-4)
