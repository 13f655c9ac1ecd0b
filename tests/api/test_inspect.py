import csv
import json
import shutil

import numpy as np
import pytest
from expecting import raises
from PIL import Image
from toy_photos import folder_of_photos, photo

from nasforge.api.inspect import inspect
from nasforge.cli import app as cli
from nasforge.core.errors import DataError
from nasforge.data.label_table import read_table
from nasforge.views.fit_remarks import sentences_on


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NASFORGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path):
    return folder_of_photos(tmp_path / "photos")


def table(path, lines, titles=("image", "label")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([titles, *lines])
    return path


def test_counts_sizes_and_channels(photos):
    photo(7777, (30, 90)).save(photos / "cat" / "tall.png")
    inspection = inspect(photos)
    assert inspection.classes == {"cat": 13, "dog": 12}
    assert (inspection.images, inspection.channels, inspection.shorter_side) == (25, 3, (30, 40, 40))
    assert inspection.parts == {"train": 25} and inspection.groups is None and inspection.imbalance == 13 / 12
    assert not any(
        [
            inspection.unreadable,
            inspection.left_out,
            inspection.duplicates,
            inspection.near_duplicates,
            inspection.two_labels,
        ]
    )
    assert json.loads(json.dumps(inspection.to_json()))["images"] == 25


def test_grey_pictures_saved_in_colour_are_grey(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "grey" / name).mkdir(parents=True)
        for index in range(12):
            grey = photo(index + 50 * ord(name)).convert("L")
            grey.convert("RGB" if index % 2 else "L").save(tmp_path / "grey" / name / f"{index}.jpg")
    assert inspect(tmp_path / "grey").channels == 1


def test_unreadable_files_are_all_listed_and_refused_above_five_percent(tmp_path):
    photos = folder_of_photos(tmp_path / "photos", each=40)
    (photos / "cat" / "empty.jpg").write_bytes(b"")
    (photos / "dog" / "text.png").write_text("no image")
    whole = (photos / "dog" / "00.png").read_bytes()
    (photos / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "cat" / "link.jpg").symlink_to("nowhere.jpg")
    inspection = inspect(photos)
    assert set(inspection.unreadable) == {"cat/empty.jpg", "dog/text.png", "dog/cut.png", "cat/link.jpg"}
    assert "empty" in inspection.unreadable["cat/empty.jpg"] and inspection.images == 80
    with raises(DataError, "unreadable", None, "4 of 84"):
        inspect(photos, strict=True)
    (photos / "dog" / "five.png").write_text("no image")
    with raises(DataError, "unreadable", None, "5 of 85", "5%"):
        inspect(photos)


def test_small_classes_are_left_out_and_too_little_is_refused(photos):
    (photos / "owl").mkdir()
    for index in range(4):
        photo(900 + index).save(photos / "owl" / f"{index}.png")
    inspection = inspect(photos)
    assert list(inspection.classes) == ["cat", "dog"] and "4 image(s)" in inspection.left_out["owl"]
    with raises(DataError, "range", None, "owl", 4):
        inspect(photos, strict=True)
    for index in range(9):
        (photos / "dog" / f"{index:02}.png").unlink()
    with raises(DataError, "empty", None, "1 class"):
        inspect(photos)
    photo(77).save(photos / "dog" / "x.png")
    photo(78).save(photos / "dog" / "y.png")
    with raises(DataError, "empty", None, 17, 20):
        inspect(photos)


def test_equal_and_nearly_equal_images_form_groups(photos):
    shutil.copy(photos / "cat" / "01.png", photos / "cat" / "copy.png")
    shutil.copy(photos / "cat" / "02.png", photos / "dog" / "other.png")
    with Image.open(photos / "dog" / "03.png") as image:
        image.resize((30, 20)).save(photos / "dog" / "small.jpg", quality=80)
    inspection = inspect(photos)
    assert inspection.duplicates == (("cat/01.png", "cat/copy.png"), ("cat/02.png", "dog/other.png"))
    assert inspection.two_labels == (("cat/02.png: cat", "dog/other.png: dog"),)
    assert inspection.near_duplicates == (("dog/03.png", "dog/small.jpg"),)
    assert inspection.groups == 24
    with raises(DataError, "conflict", None, "cat/02.png"):
        inspect(photos, strict=True)


def test_images_of_a_class_that_is_left_out_are_no_duplicates(photos):
    (photos / "bird").mkdir()
    shutil.copy(photos / "dog" / "03.png", photos / "bird" / "copy.png")
    with Image.open(photos / "dog" / "04.png") as image:
        image.resize((20, 20)).save(photos / "bird" / "small.jpg")
    report = inspect(photos)
    assert set(report.left_out) == {"bird"}
    assert report.duplicates == report.near_duplicates == ()
    assert report.two_labels == (("bird/copy.png: bird", "dog/03.png: dog"),)  # of use all the same


def test_pictures_that_all_look_alike_are_not_near_duplicates(tmp_path):
    rng = np.random.default_rng(0)
    base = np.asarray(photo(1), np.int16)
    for name in ("a", "b"):
        (tmp_path / "alike" / name).mkdir(parents=True)
        for index in range(12):
            noisy = (base + rng.integers(-3, 4, base.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / "alike" / name / f"{index}.png")
    inspection = inspect(tmp_path / "alike")
    assert inspection.groups is None and "look alike" in inspection.notes[-1]


def test_given_splits_are_kept_and_a_leak_between_them_is_said(tmp_path):
    folder_of_photos(tmp_path / "data" / "train")
    for name, seed in (("cat", 500), ("dog", 600)):
        (tmp_path / "data" / "test" / name).mkdir(parents=True)
        photo(seed).save(tmp_path / "data" / "test" / name / "a.png")
    shutil.copy(tmp_path / "data" / "train" / "cat" / "03.png", tmp_path / "data" / "test" / "cat" / "b.png")
    inspection = inspect(tmp_path / "data")
    assert inspection.parts == {"train": 24, "test": 3}
    assert "1 image(s) of the test split repeat a training image" in inspection.notes[-1]
    shutil.rmtree(tmp_path / "data" / "test" / "dog")
    assert (
        "class 'dog' has no test images, so metrics of that split leave them out"
        in inspect(tmp_path / "data").notes[-1]
    )


def test_an_image_in_a_table_whose_name_is_too_long_is_not_there(tmp_path):
    photo(0).save(tmp_path / "a.png")
    lines = table(tmp_path / "labels.csv", [("a.png", "A"), ("x" * 5000 + ".png", "B")], ("image", "label"))
    rows, _ = read_table(lines, tmp_path)
    assert [row.file for row in rows] == [tmp_path / "a.png", None]


def test_a_table_of_labels(photos, tmp_path):
    files = sorted(photos.rglob("*.png"))
    lines = [(file.relative_to(photos), "AB"[index % 2], index // 3) for index, file in enumerate(files)]
    inspection = inspect(photos, labels=table(tmp_path / "labels.csv", lines, ("File Name", "Diagnosis", "patient")))
    assert inspection.classes == {"A": 12, "B": 12} and inspection.groups == 8
    assert "groups in 'patient'" in inspection.notes[0]
    named = inspect(
        photos,
        labels=table(tmp_path / "other.csv", lines[:-1], ("x", "y", "z")),
        image_column="x",
        label_column="y",
        group_column="z",
    )
    assert named.groups == 8 and any("1 image(s)" in note and "have no line" in note for note in named.notes)


def test_a_repeated_line_without_a_group_is_one_image(photos, tmp_path):
    files = sorted(photos.rglob("*.png"))
    lines = [(file.relative_to(photos), "AB"[index % 2], "") for index, file in enumerate(files)]
    labels = table(tmp_path / "labels.csv", [*lines, lines[0]], ("image", "label", "patient"))
    assert inspect(photos, labels=labels).images == len(files)


def test_the_line_with_the_separator_that_excel_reads_is_no_line_of_titles(photos, tmp_path):
    lines = [
        f"{file.relative_to(photos)};{'AB'[index % 2]}" for index, file in enumerate(sorted(photos.rglob("*.png")))
    ]
    (tmp_path / "labels.csv").write_text("sep=;\r\n" + "\r\n".join(["image;label", *lines]) + "\r\n")
    inspection = inspect(photos, labels=tmp_path / "labels.csv")
    assert inspection.classes == {"A": 12, "B": 12} and not inspection.unreadable


def test_images_that_a_table_names_by_absolute_paths_have_a_line(photos, tmp_path, monkeypatch):
    lines = [(file.resolve(), "AB"[index % 2]) for index, file in enumerate(sorted(photos.rglob("*.png")))]
    labels = table(tmp_path / "labels.csv", lines, ("image", "label"))
    monkeypatch.chdir(photos.parent)
    assert not any("have no line" in note for note in inspect(photos.name, labels=labels).notes)


def test_a_table_in_another_encoding_says_what_to_do(photos, tmp_path):
    (tmp_path / "labels.csv").write_bytes("image,label\na.png,gr\xfcn\n".encode("latin-1"))
    with raises(DataError, "unreadable", "labels", "UTF-8"):
        inspect(photos, labels=tmp_path / "labels.csv")


def test_a_table_with_numbers_instead_of_names_and_semicolons(tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(24):
        photo(index).save(tmp_path / "images" / f"{index:03}.png")
    text = "image ID;class label\n" + "\n".join(f"{index};{index % 2 + 9}" for index in range(25)) + "\n;3\n"
    (tmp_path / "labels.csv").write_text("\ufeff" + text, encoding="utf-8")
    inspection = inspect(tmp_path / "images", labels=tmp_path / "labels.csv")
    assert inspection.classes == {"9": 12, "10": 12} and inspection.unreadable == {"24": "there is no such file"}
    assert any("1 line(s) without an image or a label" in note for note in inspection.notes)


@pytest.mark.parametrize(
    ("lines", "titles", "options", "expected"),
    [
        ([("cat/00.png", "a", "b")], ("image", "u", "v"), {}, ("missing", "label_column")),
        ([("nowhere", "a", "b")], ("u", "label", "v"), {}, ("missing", "image_column")),
        (
            [("cat/00.png", "a")],
            ("image", "label"),
            {"label_column": "labels"},
            ("unknown", "label_column", "'label'"),
        ),
        ([("00.png", "a")], ("image", "label"), {}, ("conflict", "labels", "cat/00.png", "dog/00.png")),
        ([("cat/00.png", "a", "x")], ("image", "label"), {}, ("unreadable", "labels", "line 2", 3, 2)),
        ([], ("image", "label"), {}, ("unreadable", "labels", "0 line")),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(photos, tmp_path, lines, titles, options, expected):
    with raises(DataError, *expected):
        inspect(photos, labels=table(tmp_path / "labels.csv", lines, titles), **options)


def test_arrays_and_known_names_are_taken(tmp_path):
    inspection = inspect("digits")
    assert inspection.images == 1797 and inspection.channels == 1 and inspection.shorter_side == (8, 8, 8)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", x_train=rng.integers(0, 256, (40, 9, 9, 3), np.uint8), y_train=np.arange(40) % 2)
    assert inspect(tmp_path / "a.npz").classes == {"0": 20, "1": 20}


def test_what_is_printed(photos, capfd, tmp_path):
    (photos / "cat" / "bad.jpg").write_bytes(b"")
    assert cli.main(["inspect", str(photos)]) == 0
    printed = capfd.readouterr().out
    assert (
        "24 images of 2 classes, in colour" in printed and "cat/bad.jpg: cannot be read (the file is empty)" in printed
    )
    assert cli.main(["inspect", str(photos), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["classes"] == {"cat": 12, "dog": 12}
    assert cli.main(["inspect", str(photos), "--strict"]) == 2
    assert cli.main(["inspect", str(photos), "--label-column", "x"]) == 2
    assert "--labels" in capfd.readouterr().err


def test_of_more_images_than_time_allows_a_share_of_every_class_is_used(photos, monkeypatch):
    assert inspect(photos, seconds=0.0).images == 24  # so few are always looked at
    monkeypatch.setattr("nasforge.api.inspect._ALWAYS", 12)
    monkeypatch.setattr("nasforge.api.inspect._LEAST_OF_SHARE", 11)
    monkeypatch.setattr("nasforge.api.inspect._TIMED", 5)
    inspection = inspect(photos, seconds=0.0)
    assert inspection.classes == {"cat": 11, "dog": 11} and any(
        "22 of 24 images are used" in note for note in inspection.notes
    )
    assert inspect(photos, seconds=60.0).images == 24


def test_a_table_that_was_written_on_windows(photos, tmp_path):
    files = sorted(photos.rglob("*.png"))
    lines = [(str(file.relative_to(photos)).replace("/", "\\"), file.parent.name) for file in files]
    inspection = inspect(photos, labels=table(tmp_path / "labels.csv", lines, ("image", "label")))
    assert inspection.classes == {"cat": 12, "dog": 12} and not inspection.unreadable


@pytest.mark.parametrize(("splits", "noted"), [(("train", "val"), False), (("train", "vali"), True)])
def test_a_column_of_splits_that_is_not_read_is_noted(photos, tmp_path, splits, noted):
    files = sorted(photos.rglob("*.png"))
    lines = [(file.relative_to(photos), file.parent.name, splits[index % 2]) for index, file in enumerate(files)]
    inspection = inspect(photos, labels=table(tmp_path / "labels.csv", lines, ("image", "label", "Split")))
    notes = [note for note in inspection.notes if "'Split' is not read" in note]
    assert len(notes) == noted and all("line 3 has 'vali'" in note for note in notes)
    assert ("validation" in inspection.parts) != noted


def test_sentences_on_odd_names_stay_on_one_line(tmp_path):
    folder_of_photos(tmp_path / "photos", classes=("a\nb", "c"))
    (first, *_) = sentences_on(inspect(tmp_path / "photos").to_json())
    assert first == "24 images of 2 classes: 'a\\nb' (12), c (12)"


@pytest.mark.parametrize("empty", ["", " "])
def test_arrays_with_an_empty_label_are_refused(tmp_path, empty):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "some.npz", x_train=images, y_train=np.array(["ant", "bee", empty, "bee"] * 10))
    with raises(DataError, "missing", "y_train", 10):
        inspect(tmp_path / "some.npz")
