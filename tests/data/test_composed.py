"""Data sets made of another one: their labels are true, their splits apart, balanced, and the seed decides them."""

from pathlib import Path

import numpy as np
import pytest
from expecting import raises

import nasforge
from nasforge.core.errors import ConfigError, DataError
from nasforge.data import load_data
from nasforge.data.split import Split
from nasforge.settings.experiment import DataConfig, resolve
from nasforge.settings.values import data_of

CLASSES = 10


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pictures that say what they are: each is of one level of grey, no two alike, the class is its last digit."""
    levels = np.arange(240, dtype=np.uint8)
    path = tmp_path_factory.mktemp("data") / "levels.npz"
    pictures = np.broadcast_to(levels[:, None, None], (240, 2, 2))
    splits = {"train": slice(0, 140), "val": slice(140, 180), "test": slice(180, 240)}
    arrays = {f"x_{split}": pictures[where] for split, where in splits.items()}
    labels = {f"y_{split}": levels[where] % CLASSES for split, where in splits.items()}
    np.savez(path, **arrays, **labels)
    return str(path)


BOUNDS = {"train": (0, 140), "validation": (140, 180), "test": (180, 240)}


def splits_of(config: DataConfig) -> dict[str, Split]:
    data = load_data(config)
    return {"train": data.train, "validation": data.validation, "test": data.open_test()}


def test_the_class_is_the_sum_of_the_three_channels(npz: str) -> None:
    data = load_data(DataConfig(f"addnist:{npz}"))
    assert data.shape == (3, 2, 2) and data.class_names == tuple(map(str, range(1, 21)))
    for split in splits_of(DataConfig(f"addnist:{npz}")).values():
        levels = split.images.numpy()
        assert (levels == levels[:, :, :1, :1]).all(), "a channel is one picture"
        assert np.array_equal((levels[:, :, 0, 0] % CLASSES).sum(1), split.labels.numpy() + 1)


def test_the_class_is_how_many_classes_the_four_pictures_have(npz: str) -> None:
    data = load_data(DataConfig(f"tile:{npz}"))
    assert data.shape == (1, 4, 4) and data.class_names == ("1 class", "2 classes", "3 classes", "4 classes")
    for split in splits_of(DataConfig(f"tile:{npz}")).values():
        corners = split.images.numpy()[:, 0, ::2, ::2].reshape(-1, 4)
        whole = split.images.numpy()[:, 0]
        assert (whole == whole[:, ::2, ::2].repeat(2, 1).repeat(2, 2)).all(), "each quarter is one picture"
        classes = [len(set(row)) for row in (corners % CLASSES).tolist()]
        assert classes == (split.labels + 1).tolist()
        if len(split) == 5000:  # the training split has 14 pictures of each class
            assert all(len(set(row)) == 4 for row in corners.tolist()), "no picture is twice in an image"


@pytest.mark.parametrize("name", ["addnist", "tile"])
def test_splits_are_made_of_their_own_pictures_alone(name: str, npz: str) -> None:
    for split, images in splits_of(DataConfig(f"{name}:{npz}")).items():
        low, high = BOUNDS[split]
        levels = np.unique(images.images.numpy())
        assert low <= levels.min() and levels.max() < high
        assert len(levels) == high - low, "all of them are used"


def test_pictures_of_a_source_without_splits_are_divided_before_they_are_combined(tmp_path: Path) -> None:
    levels = np.arange(200, dtype=np.uint8)
    pictures = np.broadcast_to(levels[:, None, None], (200, 2, 2))
    path = tmp_path / "whole.npz"
    np.savez(path, x_train=pictures, y_train=levels % CLASSES)
    whole = load_data(DataConfig(str(path), seed=3))
    composed = splits_of(DataConfig(f"tile:{path}", seed=3))
    for split, images in {"train": whole.train, "validation": whole.validation, "test": whole.open_test()}.items():
        assert set(np.unique(composed[split].images)) <= set(np.unique(images.images))


@pytest.mark.parametrize(("name", "classes"), [("addnist", 20), ("tile", 4)])
def test_all_classes_of_a_split_have_equally_many_images(name: str, classes: int, npz: str) -> None:
    sizes = {}
    for split, images in splits_of(DataConfig(f"{name}:{npz}")).items():
        counts = images.labels.bincount(minlength=classes)
        assert len(counts) == classes and counts.min() == counts.max()
        sizes[split] = len(images)
    assert sizes == {"train": 5000, "validation": 1000, "test": 1000}


@pytest.mark.parametrize("name", ["addnist", "tile"])
def test_the_seed_decides_what_is_combined_and_the_hash_says_so(name: str, npz: str) -> None:
    first, again, other = (load_data.__wrapped__(DataConfig(f"{name}:{npz}", seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.train.images, again.train.images) and first.fingerprint == again.fingerprint
    assert not np.array_equal(first.train.images, other.train.images)
    plain = load_data(DataConfig(npz, seed=1))
    assert len({first.fingerprint, other.fingerprint, plain.fingerprint}) == 3
    assert any(f"data {name}:" in note for note in first.notes)


def test_combinations_of_a_sum_are_equally_frequent(npz: str) -> None:
    split = load_data(DataConfig(f"addnist:{npz}")).train
    digits = split.images.numpy()[:, :, 0, 0][split.labels.numpy() == 1] % CLASSES  # the sum 2: 6 combinations
    kinds, counts = np.unique(digits, axis=0, return_counts=True)
    assert len(kinds) == 6 and counts.min() > 20 and counts.sum() == 250


def test_a_data_set_of_few_classes(tmp_path: Path) -> None:
    path = tmp_path / "two.npz"
    levels = np.arange(60, dtype=np.uint8)
    np.savez(path, x_train=np.broadcast_to(levels[:, None, None, None], (60, 2, 2, 3)), y_train=levels % 2)
    assert load_data(DataConfig(f"addnist:{path}")).class_names == ("1", "2", "3")
    assert load_data(DataConfig(f"tile:{path}")).class_names == ("1 class", "2 classes")
    colour = load_data(DataConfig(f"tile:{path}"))
    assert colour.shape == (3, 4, 4)


def test_resolution_is_that_of_the_image_and_one_may_be_made_of_another() -> None:
    assert load_data(DataConfig("tile:digits", resolution=12)).shape == (1, 12, 12)
    assert load_data(DataConfig("addnist:digits", resolution=12)).shape == (3, 12, 12)
    assert load_data(DataConfig("tile:addnist:digits")).shape == (3, 16, 16)
    with raises(DataError, "range", "data.resolution", 13):
        load_data(DataConfig("tile:digits", resolution=13))


def test_names_paths_and_mistakes(npz: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(npz).parent)
    assert data_of("tile:levels.npz") == DataConfig(f"tile:{npz}")
    assert data_of("addnist:digits").source == "addnist:digits"
    for source, names in (
        ("addnist", ("addnist:digits",)),
        ("tile:", ("tile:digits",)),
        ("tile:digts", ("digts", "digits")),
        ("digits:tile", ("digits:tile",)),
    ):
        with raises(ConfigError, "unknown", "data.source", *names):
            data_of(source)
    with raises(DataError, "missing", "data.source"):
        load_data(DataConfig("tile:/nowhere/at/all.npz"))


def test_a_search_on_a_data_set_that_is_made(tmp_path: Path) -> None:
    config = resolve(
        {
            "space": "tiny",
            "data": {"source": "tile:digits", "images": 300},
            "strategy": "random",
            "epochs": 1,
            "budget": {"trials": 1},
            "runner": "local",
            "evaluator": {"name": "training", "device": "cpu"},
            "runs_dir": tmp_path,
            "tracking_uri": "none",
        }
    )
    assert config.name.startswith("tiny-tile_digits")
    state = nasforge.search(config)
    assert state.best is not None and 0 < state.best.metrics["val/accuracy"] < 1
