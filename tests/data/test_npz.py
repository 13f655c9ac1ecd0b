import zipfile

import numpy as np
import pytest

from nasforge.config import DataConfig
from nasforge.core.errors import DataError
from nasforge.data import load_data


def save(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (40, 6, 5), dtype=np.uint8),
        "y_train": np.arange(40) % 2,
        "x_test": rng.integers(0, 256, (10, 6, 5), dtype=np.uint8),
        "y_test": np.arange(10) % 2,
        **changes,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return arrays


def load(path, **settings):
    return load_data(DataConfig(str(path), validation=0.2, **settings))


def test_grey_images_and_the_own_test_part(tmp_path):
    arrays = save(tmp_path / "a.npz")
    data = load(tmp_path / "a.npz")
    assert data.shape == (1, 6, 5)
    assert (len(data.train), len(data.validation), len(data.open_test())) == (32, 8, 10)
    assert np.array_equal(data.open_test().images[:, 0].numpy(), arrays["x_test"])
    assert np.array_equal(data.open_test().labels.numpy(), arrays["y_test"])


def test_colour_images_come_channels_first_and_keras_label_columns_are_taken(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
    save(tmp_path / "a.npz", x_train=colour, y_train=(np.arange(40) % 2)[:, None], x_test=None, y_test=None)
    data = load(tmp_path / "a.npz")
    assert data.shape == (3, 6, 5)
    whole = data.train.pixels
    assert np.array_equal(np.moveaxis(whole, 1, -1), colour)
    assert len(data.open_test()) == 8  # a fifth was sealed away, there was no test part


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_reals_in_0_to_1_or_0_to_255_become_bytes(tmp_path, scale):
    reals = np.linspace(0, 1, 40 * 30).reshape(40, 6, 5)
    save(tmp_path / "a.npz", x_train=reals * scale)
    assert np.array_equal(load(tmp_path / "a.npz").train.pixels[:40, 0], np.round(reals * 255).astype(np.uint8))


def test_labels_of_any_kind_become_class_numbers(tmp_path):
    save(
        tmp_path / "s.npz",
        y_train=np.array(["cat", "ant"])[np.arange(40) % 2],
        y_test=np.array(["ant", "cat"])[np.arange(10) % 2],
    )
    data = load(tmp_path / "s.npz")
    assert data.class_names == ("ant", "cat")
    assert data.open_test().labels.tolist() == [0, 1] * 5
    save(tmp_path / "i.npz", y_train=np.array([7, -3])[np.arange(40) % 2], y_test=np.full(10, 7))
    data = load(tmp_path / "i.npz")
    assert data.class_names == ("-3", "7")
    assert data.open_test().labels.tolist() == [1] * 10


def test_class_names_are_indexed_by_label_and_unused_ones_left_out(tmp_path):
    save(
        tmp_path / "a.npz",
        y_train=np.array([0, 2])[np.arange(40) % 2],
        y_test=np.full(10, 2),
        class_names=np.array(["plane", "car", "bird"]),
    )
    assert load(tmp_path / "a.npz").class_names == ("plane", "bird")


def test_resolution_resizes(tmp_path):
    save(tmp_path / "a.npz", x_train=np.full((40, 6, 5), 77, np.uint8))
    data = load(tmp_path / "a.npz", resolution=12)
    assert data.shape == (1, 12, 12)
    assert (data.train.images == 77).all()


NAN = np.where(np.arange(40 * 30).reshape(40, 6, 5) == 5, np.nan, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, "array y_train is missing; found x_test, x_train, y_test"),
        ({"x_test": None}, "array x_test is missing"),
        ({"x_train": np.zeros((40, 6), np.uint8)}, r"x_train has shape \(40, 6\), allowed: N x H x W"),
        ({"x_train": np.zeros((40, 3, 8, 8), np.uint8)}, "1 to 4 channels"),
        ({"x_test": np.zeros((10, 6, 9), np.uint8)}, "images of different shapes"),
        ({"y_train": np.arange(39) % 2}, "y_train has 39 labels for 40 images"),
        ({"y_train": np.eye(40)}, "one label per image"),
        ({"y_train": np.arange(40) / 2}, "fractions or NaN"),
        ({"y_test": np.arange(10) % 3}, "label 2 is not among the training labels"),
        ({"x_train": NAN}, "x_train contains NaN"),
        ({"x_train": np.full((40, 6, 5), "a")}, "allowed: whole numbers 0..255"),
        ({"x_train": np.full((40, 6, 5), 700)}, "pixels from 700 to 700"),
        ({"x_train": np.full((40, 6, 5), -1.0)}, "pixels from -1.0"),
        ({"y_train": np.zeros(40, int), "y_test": np.zeros(10, int)}, "only one class, '0'"),
        ({"class_names": np.array(["only"])}, "1 class_names for 2 different labels"),
        ({"x_train": np.array([{"no": 1}] * 40, dtype=object)}, "Python objects"),
        ({"y_train": np.array([0] * 39 + [1])}, "class '1' has 1 image"),
    ],
)
def test_a_malformed_file_gives_one_clear_error(tmp_path, changes, message):
    save(tmp_path / "bad.npz", **changes)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value)


def test_a_file_that_is_no_npz(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match=r"text\.npz"):
        load(tmp_path / "text.npz")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(DataError, match="x_train is missing"):
        load(tmp_path / "other.npz")
    save(tmp_path / "whole.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:900])
    with pytest.raises(DataError, match=r"cut\.npz"):
        load(tmp_path / "cut.npz")


def test_a_missing_file_or_an_unknown_name(tmp_path):
    with pytest.raises(DataError, match=r"no file or folder .*absent\.npz"):
        load(tmp_path / "absent.npz")
    with pytest.raises(DataError, match="did you mean 'digits'"):
        load_data(DataConfig("digit"))
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"only \.npz files are read"):
        load(tmp_path / "a.csv")
