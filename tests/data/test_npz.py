import json
import os
import zipfile

import numpy as np
import pytest
from expecting import raises

from nasforge.core.errors import DataError
from nasforge.data import load_data
from nasforge.data.input_rule import prepared
from nasforge.settings.experiment import DataConfig


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


def test_grey_images_and_the_own_test_split(tmp_path):
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
    assert len(data.open_test()) == 8  # a fifth was sealed away, there was no test split


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


def split_of(data, name):
    return {"train": data.train, "validation": data.validation, "test": data.open_test()}[name]


def labelled(path, labels, names, **changes):
    """Images whose one grey level is their class: 10, 20, 30 for zebra, ant, cat."""
    classes = np.arange(60) % 3
    images = np.repeat((classes + 1) * 10, 36).reshape(60, 6, 6).astype(np.uint8) * 8
    names = {} if names is None else {"class_names": names}
    np.savez(path, x_train=images, y_train=np.array(labels)[classes], **names, **changes)
    return load(path)


ANIMALS = ["zebra", "ant", "cat"]


@pytest.mark.parametrize("kind", [str, bytes])
def test_labels_that_are_texts_are_looked_up_in_class_names(tmp_path, kind):
    texts = ANIMALS if kind is str else [name.encode() for name in ANIMALS]
    data = labelled(tmp_path / "a.npz", texts, np.array(texts))
    assert data.class_names == tuple(ANIMALS)
    for name in ("train", "validation", "test"):
        split = split_of(data, name)
        assert (split.images[:, 0, 0, 0] == (split.labels + 1) * 80).all(), name
    swapped = labelled(tmp_path / "b.npz", texts, np.array(["cat", "none", "zebra", "ant"]))
    assert swapped.class_names == ("cat", "zebra", "ant")
    assert (swapped.train.images[swapped.train.labels == 1] == 80).all()
    assert any("'none' has no training images" in note for note in swapped.notes)
    with raises(DataError, "unknown", None, "ant", "class_names", "zebra"):
        labelled(tmp_path / "c.npz", texts, np.array(["zebra", "cat", "dog"]))


def test_class_names_as_bytes_are_their_texts(tmp_path):
    assert labelled(tmp_path / "a.npz", [0, 1, 2], np.array([b"cat", b"dog", b"owl"])).class_names == (
        *("cat", "dog", "owl"),
    )
    assert labelled(tmp_path / "b.npz", [b"x", b"z", b"y"], None).class_names == ("x", "y", "z")
    with raises(DataError, "unreadable", "class_names", 8):
        labelled(tmp_path / "c.npz", [0, 1, 2], np.array([b"\xff", b"dog", b"owl"]))
    with raises(DataError, "unreadable", None, "class_names"):
        labelled(tmp_path / "d.npz", [0, 1, 2], np.array(ANIMALS, dtype=object))


def test_labels_that_are_no_indices_are_named_in_sorted_order_with_a_note(tmp_path):
    data = labelled(tmp_path / "a.npz", [3, 1, 2], np.array(["one", "two", "three"]))
    assert data.class_names == ("one", "two", "three")
    assert (data.train.images[data.train.labels == 2] == 80).all()
    assert any("1 is 'one', 2 is 'two', 3 is 'three'" in note for note in data.notes)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, bool])
def test_whole_numbers_0_and_1_are_black_and_white(tmp_path, kind):
    binary = np.random.default_rng(0).integers(0, 2, (40, 6, 5))
    save(tmp_path / "a.npz", x_train=binary.astype(kind), x_test=binary[:10].astype(kind))
    data = load(tmp_path / "a.npz")
    assert np.array_equal(data.train.pixels[:40, 0], binary * 255)
    assert any("x_train, x_test holds whole numbers 0 and 1" in note for note in data.notes)
    save(tmp_path / "same.npz", x_train=binary.astype(np.float32), x_test=binary[:10].astype(np.float64))
    same = load(tmp_path / "same.npz")
    assert same.fingerprint == data.fingerprint
    assert same.notes == ()


def test_all_splits_must_be_scaled_alike(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 5))
    for changes in (
        {"x_train": images / 255, "x_test": images[:10].astype(float)},
        {"x_train": (images > 99).astype(np.uint8)},
    ):
        save(tmp_path / "a.npz", **changes)
        with raises(DataError, "conflict", None, "x_train", "x_test"):
            load(tmp_path / "a.npz")
    save(tmp_path / "b.npz", x_train=images / 255, x_test=images[:10].astype(np.uint8))
    assert np.array_equal(load(tmp_path / "b.npz").train.pixels[:40, 0], images)
    save(tmp_path / "c.npz", x_test=np.zeros((10, 6, 5)), x_train=images.astype(float))
    assert np.array_equal(load(tmp_path / "c.npz").train.pixels[:40, 0], images)


def test_reals_may_overshoot_a_little_and_a_dim_range_is_named(tmp_path):
    save(tmp_path / "a.npz", x_train=np.linspace(-1e-5, 1 + 1e-5, 1200).reshape(40, 6, 5))
    data = load(tmp_path / "a.npz")
    assert (data.train.pixels.min(), data.train.pixels.max()) == (0, 255)
    sixteen = np.random.default_rng(0).integers(0, 17, (40, 6, 5)).astype(float)
    save(tmp_path / "b.npz", x_train=sixteen, x_test=sixteen[:10])
    assert any("if 16 is white, divide all pixels by 16" in note for note in load(tmp_path / "b.npz").notes)


@pytest.mark.parametrize("name", ["val", "validation", "valid", "dev"])
def test_a_validation_split_of_its_own_is_used(tmp_path, name):
    extra = {f"x_{name}": np.full((8, 6, 5), 9, np.uint8), f"y_{name}": np.arange(8) % 2}
    save(tmp_path / "a.npz", **extra)
    data = load(tmp_path / "a.npz")
    assert (len(data.train), len(data.validation), len(data.open_test())) == (40, 8, 10)
    assert (data.validation.images == 9).all()
    assert data.notes == ()
    twice = {"x_val": np.zeros((8, 6, 5)), "x_valid": np.zeros((8, 6, 5))}
    save(tmp_path / "b.npz", **{**twice, **extra})
    with raises(DataError, "duplicate", "validation"):
        load(tmp_path / "b.npz")
    save(tmp_path / "c.npz", **{f"x_{name}": extra[f"x_{name}"]})
    with raises(DataError, "missing", f"y_{name}"):
        load(tmp_path / "c.npz")


def test_arrays_that_are_not_read_are_named_also_from_the_cache(tmp_path):
    save(tmp_path / "a.npz", x_holdout=np.zeros(3), weights=np.zeros(3))
    for _ in range(2):
        (note,) = load(tmp_path / "a.npz").notes
        assert "not read: weights, x_holdout" in note
        load_data.cache_clear()


NAN = np.where(np.arange(40 * 30).reshape(40, 6, 5) == 5, np.nan, 0.5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"y_train": None}, ("missing", "y_train", "x_test", "x_train")),
        ({"x_test": None}, ("missing", "x_test")),
        ({"x_train": np.zeros((40, 6), np.uint8)}, ("type", "x_train", 40, 6)),
        ({"x_train": np.zeros((40, 3, 8, 8), np.uint8)}, ("type", "x_train", 4)),
        ({"x_test": np.zeros((10, 6, 9), np.uint8)}, ("conflict", "x_test")),
        ({"y_train": np.arange(39) % 2}, ("conflict", "y_train", 39, 40)),
        ({"y_train": np.eye(40)}, ("type", "y_train")),
        ({"y_train": np.arange(40) / 2}, ("type", "y_train")),
        ({"y_test": np.arange(10) % 3}, ("unknown", None, 2)),
        ({"x_train": NAN}, ("range", "x_train")),
        ({"x_train": np.full((40, 6, 5), "a")}, ("type", "x_train")),
        ({"x_train": np.full((40, 6, 5), 700)}, ("range", "x_train", 700)),
        ({"x_train": np.full((40, 6, 5), -1.0)}, ("range", "x_train", "1.0")),
        ({"y_train": np.zeros(40, int), "y_test": np.zeros(10, int)}, ("empty", "data.source")),
        ({"class_names": np.array(["only"])}, ("conflict", None, "class_names", 2)),
        ({"x_train": np.array([{"no": 1}] * 40, dtype=object)}, ("unreadable", None, "Python objects")),
        ({"y_train": np.array([0] * 39 + [1])}, ("empty", None, "class '1'", 1)),
        ({"class_names": np.array(["a", "a"])}, ("duplicate", "class_names", "a")),
        ({"class_names": np.array([["a", "b"]])}, ("type", "class_names", 2)),
        ({"y_test": np.array(["0", "1"] * 5)}, ("type", None, "labels")),
        ({"y_train": np.eye(2)[np.arange(40) % 2]}, ("type", "y_train", "y.argmax")),
        ({"x_train": np.zeros((40, 1, 8, 8), np.uint8)}, ("type", "x_train", "np.moveaxis")),
        ({"x_train": np.full((40, 6, 5), 65535, np.uint16)}, ("range", "x_train", 65535)),
        ({"x_train": np.full((40, 6, 5), 1j)}, ("type", None, "complex128")),
        ({"y_train": np.full(40, 1j)}, ("type", None, "complex128")),
        ({"x_train": None, "y_train": None, "images": np.zeros(3)}, ("missing", "x_train")),
    ],
)
def test_a_malformed_file_gives_one_clear_error(tmp_path, changes, expected):
    save(tmp_path / "bad.npz", **changes)
    with raises(DataError, *expected) as caught:
        load(tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value)


def test_a_file_that_is_no_npz(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    with raises(DataError, "unreadable", None, "text.npz"):
        load(tmp_path / "text.npz")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("a.txt", "hello")
    with raises(DataError, "missing", "x_train"):
        load(tmp_path / "other.npz")
    with zipfile.ZipFile(tmp_path / "bytes.npz", "w") as archive:
        archive.writestr("x_train.npy", "hello")
        archive.writestr("y_train.npy", "")
    with raises(DataError, "unreadable", None, "bytes.npz", "x_train"):
        load(tmp_path / "bytes.npz")
    np.save(tmp_path / "one.npy", np.zeros((40, 6, 5), np.uint8))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with raises(DataError, "unreadable", None, "one.npz", "one array"):
        load(tmp_path / "one.npz")
    save(tmp_path / "whole.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:900])
    with raises(DataError, "unreadable", None, "cut.npz"):
        load(tmp_path / "cut.npz")


def test_a_missing_file_or_an_unknown_name(tmp_path, monkeypatch):
    with raises(DataError, "missing", "data.source", "absent.npz"):
        load(tmp_path / "absent.npz")
    (tmp_path / "digit.txt").touch()
    monkeypatch.chdir(tmp_path)
    with raises(DataError, "unknown", "data.source", "'digits'"):
        load_data(DataConfig("digit"))
    (tmp_path / "a.csv").write_text("1,2")
    with raises(DataError, "unsupported", "data.source"):
        load(tmp_path / "a.csv")


def test_a_registered_name_goes_before_a_file_or_folder_of_that_name_which_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_data(DataConfig("digits")).notes == ()
    load_data.cache_clear()
    (tmp_path / "digits").mkdir()
    (note,) = load_data(DataConfig("digits")).notes
    assert f"{tmp_path / 'digits'} is not read: give --data ./digits" in note
    assert DataConfig("./digits").source == str(tmp_path / "digits")
    (tmp_path / "FashionMNIST").mkdir()
    with raises(DataError, "failed", None, "--data"):
        load_data(DataConfig("FashionMNIST", folder="nothing"))


def test_a_cache_in_the_working_folder_is_the_same_for_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASFORGE_CACHE", "cache")
    save(tmp_path / "a.npz")
    load("a.npz")
    assert os.environ["NASFORGE_CACHE"] == str(tmp_path / "cache")


def test_groups_stay_on_one_side_and_are_part_of_the_content(tmp_path):
    save(tmp_path / "a.npz")
    save(tmp_path / "b.npz", groups=np.arange(40) // 4, files=np.arange(40).astype(str))
    save(tmp_path / "c.npz", groups=[f"patient {n // 4}" for n in range(40)])
    plain, data, named = (load(tmp_path / f"{name}.npz") for name in "abc")
    assert plain.groups is None and data.notes == named.notes == ()
    assert plain.fingerprint != data.fingerprint and np.array_equal(data.groups_of(data.train), data.train.index // 4)
    assert not set(data.train.index // 4) & set(data.validation.index // 4)
    assert {label for split in (data.train, data.validation) for label in split.labels.tolist()} == {0, 1}
    load_data.cache_clear()
    again = load(tmp_path / "b.npz")  # from the cache
    assert np.array_equal(again.groups, data.groups) and again.fingerprint == data.fingerprint


def test_groups_are_of_training_and_then_of_validation_images(tmp_path):
    rng = np.random.default_rng(0)
    validation = {"x_val": rng.integers(0, 256, (6, 6, 5), np.uint8), "y_val": np.arange(6) % 2}
    save(tmp_path / "a.npz", groups=np.arange(46), **validation)
    assert len(load(tmp_path / "a.npz").groups) == 46
    save(tmp_path / "b.npz", groups=np.arange(40), **validation)
    with raises(DataError, "type", "groups", 40, 46):
        load(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no JSON", ("unreadable", "input")),
        ("[]", ("unreadable", "input")),
        ('{"channels": 1}', ("unreadable", "input", "resize")),
    ],
)
def test_an_input_rule_that_is_none_is_refused(tmp_path, text, expected):
    save(tmp_path / "a.npz", input=np.array(text))
    with raises(DataError, *expected):
        load(tmp_path / "a.npz")


def test_an_input_rule_is_read_also_from_the_cache(tmp_path):
    square = {"x_train": np.zeros((40, 6, 6), np.uint8), "x_test": np.zeros((10, 6, 6), np.uint8)}
    save(tmp_path / "a.npz", input=np.array(json.dumps(prepared(1).to_json())), **square)
    save(tmp_path / "b.npz", input=np.array(json.dumps(prepared(3).to_json())), **square)
    for _ in range(2):
        assert load(tmp_path / "a.npz").input == prepared(1)
        load_data.cache_clear()
    with raises(DataError, "conflict", "input", 3):
        load(tmp_path / "b.npz")


def test_a_rule_that_cuts_squares_is_not_that_of_other_images(tmp_path):
    save(tmp_path / "a.npz", input=np.array(json.dumps(prepared(1).to_json())))
    with raises(DataError, "conflict", "input", "6 x 5"):
        load(tmp_path / "a.npz")
    assert load(tmp_path / "a.npz", resolution=4).input == prepared(1)
