import os

import numpy as np
import pytest
from expecting import raises
from PIL import Image

from nasforge.core.errors import DataError
from nasforge.data import load_data
from nasforge.data.sources import image_names
from nasforge.settings.experiment import DataConfig


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
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        fill(tmp_path / split, count)
    data = load_data(DataConfig(str(tmp_path)))
    assert (len(data.train), len(data.validation), len(data.open_test())) == (10, 6, 4)
    whole = data.train_and_validation()
    assert len(whole) == 16
    assert whole.mean == data.train.mean


def test_a_corrupt_image_is_named(tmp_path):
    fill(tmp_path)
    (tmp_path / "bee" / "broken.png").write_bytes(b"not a picture")
    with raises(DataError, "unreadable", None, "broken.png", f"nasforge inspect {tmp_path}"):
        load_data(DataConfig(str(tmp_path)))
    whole = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(whole).save(tmp_path / "bee" / "broken.png")
    intact = (tmp_path / "bee" / "broken.png").read_bytes()
    (tmp_path / "bee" / "broken.png").write_bytes(intact[: len(intact) // 2])
    with raises(DataError, "unreadable", None, "broken.png"):
        load_data(DataConfig(str(tmp_path)))


def test_different_sizes_need_a_resolution(tmp_path):
    fill(tmp_path)
    picture(tmp_path / "ant" / "large.png", (1, 2, 3), size=(20, 20))
    with raises(DataError, "conflict", "data.resolution", "large.png", 20):
        load_data(DataConfig(str(tmp_path)))
    data = load_data(DataConfig(str(tmp_path), resolution=8))
    assert data.shape == (3, 8, 8)


def test_deep_pixels_are_refused(tmp_path):
    fill(tmp_path)
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "ant" / "deep.png")
    with raises(DataError, "unsupported", None, "deep.png", 16):
        load_data(DataConfig(str(tmp_path)))


def test_empty_folders_strange_classes_and_single_classes(tmp_path):
    with raises(DataError, "empty", None, tmp_path):
        load_data(DataConfig(str(tmp_path)))
    fill(tmp_path / "train")
    picture(tmp_path / "test" / "wasp" / "0.png", (0, 0, 0))
    with raises(DataError, "missing", None, "wasp"):
        load_data(DataConfig(str(tmp_path)))
    for i in range(5):
        picture(tmp_path / "single" / "ant" / f"{i}.png", (i, 0, 0))
    with raises(DataError, "empty", None, "ant"):
        load_data(DataConfig(str(tmp_path / "single")))


def classes(folder, *names, count=10):
    """A grey image of another level per class and number."""
    for number, name in enumerate(names):
        for i in range(count):
            picture(folder / name / f"{i:02d}.png", 40 * number + i, mode="L")


def sizes(data):
    return len(data.train), len(data.validation), len(data.open_test())


def test_what_is_hidden_or_the_systems_is_left_out_at_every_depth(tmp_path):
    classes(tmp_path, "ant", "bee")
    for place in ("ant/.ipynb_checkpoints", ".hidden", "bee/deep/.git/x", "__MACOSX/ant", "bee/@eaDir", "lost+found"):
        picture(tmp_path / place / "0.png", 0, mode="L")
    for name in ("ant/._00.png", "ant/.DS_Store", "bee/Thumbs.db", "bee/desktop.ini", ".gitkeep"):
        (tmp_path / name).write_text("no picture")
    data = load_data(DataConfig(str(tmp_path)))
    assert data.class_names == ("ant", "bee")
    assert sum(sizes(data)) == 20
    assert data.notes == ()


def test_a_folder_below_a_hidden_one_is_read(tmp_path):
    classes(tmp_path / ".data" / ".flowers", "ant", "bee")
    assert sum(sizes(load_data(DataConfig(str(tmp_path / ".data" / ".flowers"))))) == 20


def test_nested_folders_of_a_class_belong_to_it(tmp_path):
    classes(tmp_path / "ant" / "2019", "May", "June")
    classes(tmp_path, "ant", "bee")
    data = load_data(DataConfig(str(tmp_path)))
    assert data.class_names == ("ant", "bee")
    assert sum(sizes(data)) == 40


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("Train", "Val", "Test"), ("TRAIN", "VALID", "TEST"), ("training", "Validation", "testing")],
)
def test_splits_are_known_in_any_case(tmp_path, train, validation, test):
    for split, count in ((train, 5), (validation, 3), (test, 2)):
        classes(tmp_path / split, "ant", "bee", count=count)
    data = load_data(DataConfig(str(tmp_path)))
    assert data.class_names == ("ant", "bee")
    assert sizes(data) == (10, 6, 4)
    assert data.notes == ()


@pytest.mark.parametrize("names", [("car", "train", "plane"), ("Test", "car"), ("val", "car")])
def test_a_class_may_be_called_like_a_split(tmp_path, names):
    classes(tmp_path, *names, count=20)
    data = load_data(DataConfig(str(tmp_path)))
    assert data.class_names == tuple(sorted(names))
    assert data.notes == ()


def test_a_class_in_the_training_split_may_be_called_train(tmp_path):
    classes(tmp_path / "train", "car", "train")
    classes(tmp_path / "test", "car", "train", count=3)
    data = load_data(DataConfig(str(tmp_path)))
    assert data.class_names == ("car", "train")
    assert len(data.open_test()) == 6


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["Val/ant", "Val/bee", "Test/ant", "Test/bee"], ("missing", None, "folder train", "Test, Val")),
        (["ant", "bee", "test/ant", "test/bee"], ("missing", None, "folder train", "test")),
        (["train/ant", "train/bee", "val/ant", "valid/bee"], ("duplicate", None, "val and valid")),
        (["train/ant", "train/bee", "Train/ant"], ("duplicate", None, "Train and train")),
        (["train", "test"], ("missing", None, "test, train", "folder per class")),
        (["train/ant", "train/bee", "test"], ("empty", None, "test", "folder per class")),
        (["ant/train", "ant/test", "bee/train", "bee/test"], ("invalid", None, "ant", "train/ant")),
        (["train", "train/ant", "train/bee", "car"], ("conflict", None, "train", "next to car")),
        (["flowers/ant", "flowers/bee"], ("empty", None, "flowers")),
        (["flowers/train/ant", "flowers/test/ant"], ("empty", None, "flowers")),
        (["train/Ant", "train/Bee", "val/ant"], ("missing", None, "ant", "Ant")),
        (["", "ant"], ("empty", None, "ant", 10)),
        ([""], ("empty", None, 10)),
    ],
)
def test_folders_that_do_not_say_what_is_a_class(tmp_path, folders, expected):
    for folder in folders:
        classes(tmp_path, folder)
    with raises(DataError, *expected):
        load_data(DataConfig(str(tmp_path)))


def test_a_split_without_images_is_refused(tmp_path):
    classes(tmp_path / "train", "ant", "bee")
    (tmp_path / "val" / "ant").mkdir(parents=True)
    with raises(DataError, "empty", None, "val"):
        load_data(DataConfig(str(tmp_path)))


def test_folders_that_may_be_meant_as_splits_are_named(tmp_path):
    for split in ("seg_train", "seg_test"):
        classes(tmp_path / split, "ant", "bee")
    (note,) = load_data(DataConfig(str(tmp_path))).notes
    assert "all have the folders ant, bee; if they are splits" in note
    load_data.cache_clear()
    classes(tmp_path / "more", "train", "test", "car", count=20)
    (note,) = load_data(DataConfig(str(tmp_path / "more"))).notes
    assert "test, train have no folders of classes, so they are classes" in note


def test_what_lies_next_to_the_splits_is_named(tmp_path):
    classes(tmp_path / "train", "ant", "bee")
    classes(tmp_path, "masks")
    (note,) = load_data(DataConfig(str(tmp_path))).notes
    assert "only the folders train are read" in note
    assert note.endswith("left out: masks")


def test_every_ending_that_is_promised_is_read(tmp_path):
    writes = {".jfif": "JPEG", ".jpe": "JPEG", ".JPG": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".gif": "GIF"}
    writes |= {".webp": "WEBP", ".pbm": "PPM", ".pgm": "PPM", ".apng": "PNG", ".PNG": "PNG"}
    classes(tmp_path, "ant", "bee")
    for ending, kind in writes.items():
        Image.new("1" if ending == ".pbm" else "L", (6, 4)).save(tmp_path / "ant" / f"x{ending}", format=kind)
    data = load_data(DataConfig(str(tmp_path)))
    assert sum(sizes(data)) == 20 + len(writes)
    assert data.notes == ()


def test_files_that_are_left_out_are_counted_by_their_endings(tmp_path):
    classes(tmp_path, "ant", "bee")
    for name in ("a.heic", "b.HEIC", "c.txt", "noending"):
        (tmp_path / "bee" / name).write_text("no picture")
    (tmp_path / "labels.csv").write_text("not in a class")
    picture(tmp_path / "loose.png", 0, mode="L")
    others, loose = load_data(DataConfig(str(tmp_path))).notes
    assert "4 file(s) that are not read, left out: 2 .heic, 1 .txt, 1 without an ending" in others
    assert "1 image(s) outside the folders of classes" in loose


def test_classes_without_images_are_named(tmp_path):
    classes(tmp_path, "ant", "bee")
    (tmp_path / "cat" / "deep").mkdir(parents=True)
    data = load_data(DataConfig(str(tmp_path)))
    assert data.class_names == ("ant", "bee")
    assert data.notes[0].endswith("class 'cat' has no images, left out")
    (tmp_path / "dog").mkdir()
    load_data.cache_clear()
    assert "classes 'cat', 'dog' have no images" in load_data(DataConfig(str(tmp_path))).notes[0]


def test_the_reason_for_a_single_class_is_said(tmp_path):
    classes(tmp_path, "ant", "bee")
    for file in (tmp_path / "bee").iterdir():
        file.rename(file.with_suffix(".heic"))
    with raises(DataError, "empty", None, "ant", "bee", 10):
        load_data(DataConfig(str(tmp_path)))


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    classes(tmp_path / "elsewhere", "bee")
    classes(tmp_path / "d", "ant")
    (tmp_path / "d" / "bee").symlink_to(tmp_path / "elsewhere" / "bee")
    (tmp_path / "d" / "ant" / "up").symlink_to("..")
    (tmp_path / "d" / "me").symlink_to(".")
    data = load_data(DataConfig(str(tmp_path / "d")))
    assert data.class_names == ("ant", "bee")
    assert sum(sizes(data)) == 20
    assert "2 link(s) to a folder above themselves" in data.notes[0]


@pytest.mark.parametrize("target", ["gone.png", "broken.png"])
def test_a_link_to_nothing_is_named(tmp_path, target):
    classes(tmp_path, "ant", "bee")
    (tmp_path / "ant" / "broken.png").symlink_to(target)
    with raises(DataError, "missing", None, "broken.png", f"nasforge inspect {tmp_path}"):
        load_data(DataConfig(str(tmp_path)))


def test_a_folder_or_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    classes(tmp_path, "ant", "bee")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with raises(DataError, "unreadable", None, "bee", "Permission denied"):
        load_data(DataConfig(str(tmp_path)))


def test_odd_names_of_files(tmp_path):
    classes(tmp_path, "ant ant", "ü☃")
    (tmp_path / "ü☃" / "00.png").rename(tmp_path / "ü☃" / "a\nb.png")
    (tmp_path / "ü☃" / "01.png").rename(tmp_path / "ü☃" / os.fsdecode(b"\xff.png"))
    data = load_data(DataConfig(str(tmp_path)))
    assert data.class_names == ("ant ant", "ü☃")
    assert sum(sizes(data)) == 20
    (tmp_path / "ü☃" / "a\nb.png").write_bytes(b"broken")
    load_data.cache_clear()
    with raises(DataError, "unreadable", None, "nb.png") as raised:
        load_data(DataConfig(str(tmp_path)))
    assert "\n" not in str(raised.value)


def test_images_of_one_size_once_they_are_upright(tmp_path):
    classes(tmp_path, "ant", "bee")
    lying = Image.Exif()
    lying[0x0112] = 6
    Image.new("L", (4, 6), 7).save(tmp_path / "ant" / "lying.png", exif=lying)
    assert load_data(DataConfig(str(tmp_path))).shape == (1, 4, 6)
    Image.new("L", (4, 6), 7).save(tmp_path / "ant" / "standing.png")
    load_data.cache_clear()
    with raises(DataError, "conflict", "data.resolution", "standing.png", 4, 6):
        load_data(DataConfig(str(tmp_path)))


def test_what_decoding_changes_is_said_from_the_cache_too(tmp_path):
    classes(tmp_path, "ant", "bee")
    Image.new("LA", (6, 4), (7, 0)).save(tmp_path / "ant" / "clear.png")
    first = load_data(DataConfig(str(tmp_path)))
    load_data.cache_clear()
    again = load_data(DataConfig(str(tmp_path)))
    assert first.notes == again.notes
    assert "1 image(s) with transparent pixels: they are laid over white (the first is ant/clear.png)" in first.notes[0]


def test_a_split_that_lacks_a_class(tmp_path):
    classes(tmp_path / "train", "ant", "bee", "cat")
    classes(tmp_path / "val", "ant", "bee")
    classes(tmp_path / "test", "ant", "cat")
    data = load_data(DataConfig(str(tmp_path)))
    assert data.validation.absent == (2,)
    assert data.open_test().absent == (1,)
    assert "class 'bee' has no test images" in data.notes[0]


def test_the_name_of_a_row_is_that_of_its_file(tmp_path):
    for split in ("train", "test"):
        for number, label in enumerate(("cat", "dog")):
            for copy in range(6):
                picture(tmp_path / split / label / f"{copy}.png", (40 * number + copy + 100 * (split == "test"), 0, 0))
    config = DataConfig(str(tmp_path), validation=0.3)
    names = image_names(config)
    test = load_data(config).open_test()
    for place, row in enumerate(test.index):
        with Image.open(tmp_path / names[row]) as image:
            assert image.getpixel((0, 0))[0] == int(test.take(slice(place, place + 1))[0, 0, 0, 0])
            assert names[row].split("/")[:2] == ["test", ("cat", "dog")[test.labels[place]]]
    assert image_names(DataConfig("digits")) is None


def test_the_name_of_a_row_of_a_file_is_in_files(tmp_path):
    arrays = {"x_train": np.zeros((4, 2, 2), np.uint8), "y_train": np.array([0, 1, 0, 1])}
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez(tmp_path / "named.npz", **arrays, files=np.array(["a", "b", "c", "d"]))
    np.savez(tmp_path / "short.npz", **arrays, files=np.array(["a", "b"]))
    assert image_names(DataConfig(str(tmp_path / "named.npz"))) == ["a", "b", "c", "d"]
    assert image_names(DataConfig(str(tmp_path / "plain.npz"))) is None
    assert image_names(DataConfig(str(tmp_path / "short.npz"))) is None


def test_runs_among_the_classes_are_no_class(tmp_path):
    """Where `nasforge fit .` is typed in the folder of the photos."""
    classes(tmp_path, "ant", "bee")
    for journal in ("cells-fit/fit.jsonl", "cells-fit/search/journal.jsonl", "first/journal.jsonl"):
        (tmp_path / "runs" / journal).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / journal).write_text("")
        (tmp_path / "runs" / journal).with_name("map.png").write_bytes(b"drawn by nasforge")
    data = load_data(DataConfig(str(tmp_path)))
    assert data.class_names == ("ant", "bee") and not data.notes
