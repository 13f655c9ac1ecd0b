import numpy as np
import pytest
from PIL import Image

from nasforge.config import DataConfig
from nasforge.core.errors import DataError
from nasforge.data import load_data


def picture(path, value, size=(6, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def fill(folder, count=10, mode="RGB"):
    for number, name in enumerate(("ant", "bee")):
        for i in range(count):
            level = 100 * number + i
            picture(folder / name / f"{i}.png", level if mode == "L" else (level, 0, 0), mode=mode)


def test_a_folder_per_class(tmp_path):
    fill(tmp_path)
    data = load_data(DataConfig(str(tmp_path)))
    assert data.class_names == ("ant", "bee")
    assert data.shape == (3, 4, 6)
    assert (len(data.train), len(data.validation), len(data.open_test())) == (14, 2, 4)
    for image, label in zip(data.train.images, data.train.labels, strict=True):
        assert (image[0, 0, 0] >= 100) == bool(label)


def test_grey_images_have_one_channel(tmp_path):
    fill(tmp_path, mode="L")
    assert load_data(DataConfig(str(tmp_path))).shape == (1, 4, 6)


def test_own_train_val_and_test_folders_are_used(tmp_path):
    for part, count in (("train", 5), ("val", 3), ("test", 2)):
        fill(tmp_path / part, count)
    data = load_data(DataConfig(str(tmp_path)))
    assert (len(data.train), len(data.validation), len(data.open_test())) == (10, 6, 4)
    whole = data.train_and_validation()
    assert len(whole) == 16
    assert whole.mean == data.train.mean


def test_a_corrupt_image_is_named(tmp_path):
    fill(tmp_path)
    (tmp_path / "bee" / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken\.png cannot be read"):
        load_data(DataConfig(str(tmp_path)))
    whole = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(whole).save(tmp_path / "bee" / "broken.png")
    intact = (tmp_path / "bee" / "broken.png").read_bytes()
    (tmp_path / "bee" / "broken.png").write_bytes(intact[: len(intact) // 2])
    with pytest.raises(DataError, match=r"broken\.png"):
        load_data(DataConfig(str(tmp_path)))


def test_different_sizes_need_a_resolution(tmp_path):
    fill(tmp_path)
    picture(tmp_path / "ant" / "large.png", (1, 2, 3), size=(20, 20))
    with pytest.raises(DataError, match=r"differ in size.*large\.png 20 x 20; set `resolution`"):
        load_data(DataConfig(str(tmp_path)))
    data = load_data(DataConfig(str(tmp_path), resolution=8))
    assert data.shape == (3, 8, 8)


def test_deep_pixels_are_refused(tmp_path):
    fill(tmp_path)
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "ant" / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png has pixels of mode I;16"):
        load_data(DataConfig(str(tmp_path)))


def test_empty_folders_strange_classes_and_single_classes(tmp_path):
    with pytest.raises(DataError, match="no images; expected one folder per class"):
        load_data(DataConfig(str(tmp_path)))
    fill(tmp_path / "train")
    picture(tmp_path / "test" / "wasp" / "0.png", (0, 0, 0))
    with pytest.raises(DataError, match="class 'wasp' of the test part has no training images"):
        load_data(DataConfig(str(tmp_path)))
    for i in range(5):
        picture(tmp_path / "single" / "ant" / f"{i}.png", (i, 0, 0))
    with pytest.raises(DataError, match="only one class, 'ant'"):
        load_data(DataConfig(str(tmp_path / "single")))
