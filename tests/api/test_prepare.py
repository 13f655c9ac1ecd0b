import shutil

import numpy as np
import pytest
from expecting import raises
from toy_photos import folder_of_photos, photo

from nasforge.api.inspect import inspect
from nasforge.api.prepare import prepare, suggested_resolution
from nasforge.core.errors import DataError
from nasforge.data import load_data
from nasforge.data.image_file import read_image
from nasforge.data.input_rule import CENTRE_CROP, InputRule, prepared
from nasforge.evaluators.cross_validation import in_folds
from nasforge.settings.experiment import DataConfig


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NASFORGE_CACHE", str(tmp_path / "cache"))
    load_data.cache_clear()


@pytest.fixture
def photos(tmp_path):
    return folder_of_photos(tmp_path / "photos", each=25)


def test_the_file_holds_the_pixels_that_the_rule_gives(photos, tmp_path):
    photo(5555, (900, 700)).save(photos / "cat" / "large.jpg")
    with np.load(prepare(inspect(photos), tmp_path / "p", 16)) as file:
        assert set(file.files) == {"x_train", "y_train", "x_test", "y_test", "class_names", "files", "input"}
        rule = InputRule.from_text(str(file["input"]))
        assert rule == prepared(3) and rule.resize == CENTRE_CROP
        images = np.concatenate([file["x_train"], file["x_test"]])
        for name, image in zip(file["files"], images, strict=True):
            assert np.array_equal(np.moveaxis(image, -1, 0), read_image(photos / str(name), rule, (16, 16)).pixels)
        names = [str(file["class_names"][label]) for label in np.concatenate([file["y_train"], file["y_test"]])]
        assert names == [str(name).split("/")[0] for name in file["files"]]
        assert np.bincount(file["y_test"]).tolist() == [5, 5]


def test_it_is_read_as_data_and_near_duplicates_stay_in_one_fold(photos, tmp_path):
    for index in range(8):
        shutil.copy(photos / "cat" / f"{index:02}.png", photos / "cat" / f"copy{index}.png")
    inspection = inspect(photos)
    place = prepare(inspection, tmp_path / "p", 16, test=0.25)
    config = DataConfig(str(place), validation=0.2)
    data = load_data(config)
    assert data.notes == () and data.input == prepared(3) and data.shape == (3, 16, 16)
    assert data.groups is not None

    def repeated(first, second):
        known = {image.tobytes() for image in first.images.numpy()}
        return sum(image.tobytes() in known for image in second.images.numpy())

    assert repeated(data.train, data.validation) == repeated(data.train_and_validation(), data.open_test()) == 0
    for learnt, validated in in_folds(data, 4, config):
        assert repeated(learnt, validated) == 0
        assert len(learnt) + len(validated) == len(data.train_and_validation())
    with raises(DataError, "empty", None, "19 group", 22):
        in_folds(data, 22, config)


def test_splits_of_the_source_are_kept_and_a_validation_split_may_be_divided_off(photos, tmp_path):
    folder_of_photos(tmp_path / "parted" / "train", each=20)
    folder_of_photos(tmp_path / "parted" / "test", each=3)
    with np.load(prepare(inspect(tmp_path / "parted"), tmp_path / "p", 8, validation=0.25)) as file:
        assert (len(file["x_train"]), len(file["x_val"]), len(file["x_test"])) == (30, 10, 6)
        assert all(str(name).startswith("test/") for name in file["files"][-6:])


def test_the_same_seed_gives_the_same_file(photos, tmp_path):
    inspection = inspect(photos)
    first, again, other = (prepare(inspection, tmp_path / str(n), 8, seed=s) for n, s in enumerate((0, 0, 1)))
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


def test_grey_stays_one_channel_and_arrays_keep_their_pixels(tmp_path):
    inspection = inspect("digits")
    place = prepare(inspection, tmp_path / "p", suggested_resolution(inspection, 60))
    data, source = load_data(DataConfig(str(place))), load_data(DataConfig("digits"))
    assert data.shape == (1, 8, 8) and len(data.train.pixels) == 1797
    assert {x.tobytes() for x in data.train.pixels} == {x.tobytes() for x in source.train.pixels}


def test_resolution_by_size_and_time(photos, tmp_path):
    inspection = inspect(photos)  # shorter sides of 40
    assert suggested_resolution(inspection, 600) == 40  # all of one size, which they keep
    photo(3, (300, 200)).save(photos / "cat" / "x.png")
    inspection = inspect(photos)
    assert suggested_resolution(inspection, 600) == 32
    for index in range(25):
        photo(index + 999, (300, 200)).save(photos / "dog" / f"{index}.jpg")
        photo(index + 1999, (300, 200)).save(photos / "cat" / f"{index}.jpg")
    inspection = inspect(photos)
    assert [suggested_resolution(inspection, s) for s in (1, 60, 180, 600, 7200)] == [28, 32, 64, 96, 128]


def test_a_folder_that_cannot_be_written(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with raises(DataError, "failed", None, tmp_path / "file"):
        prepare(inspect(photos), tmp_path / "file", 8)


@pytest.mark.parametrize("content", [None, b"half of a file"])
def test_an_image_that_has_changed_since_the_inspection_is_named(photos, tmp_path, content):
    inspection = inspect(photos)
    file = photos / "dog" / "07.png"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with raises(DataError, "changed", None, file):
        prepare(inspection, tmp_path / "p", 16)
    assert not (tmp_path / "p" / "images.npz").exists()
