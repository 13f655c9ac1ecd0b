"""Data that were moved: the same content is taken from its new place, by every command that needs it."""

import json
import shutil

import numpy as np
import pytest
from expecting import raises

from nasforge import export, resolve, retrain, search, tune
from nasforge.api.rerun import rerun
from nasforge.cli import app as cli
from nasforge.core.errors import ConfigError, DataError, JournalError
from nasforge.core.events import Moved
from nasforge.core.layout import JOURNAL
from nasforge.core.space import Choice, Decision, Float, SearchSpace
from nasforge.data import load_data
from nasforge.experiment.journal import read_events
from nasforge.experiment.state import load_state
from nasforge.models import reference
from nasforge.models.reference import resnet
from nasforge.views.parts import parts_of_trial

SPACE = SearchSpace(
    "small",
    (
        Decision("model.activation", Choice(("relu",))),
        Decision("model.stage0.width", Choice((8, 12))),
        Decision("model.stage0.layer0.block", Choice(("separable_3",))),
        Decision("train.learning_rate", Float(0.05, 0.2, log=True)),
    ),
    builder="staged",
    arguments={"strides": [1], "stem_width": 8, "layers": 1},
    defaults={"train.batch_size": 16, "train.channels_last": False},
)


def images(path, seed=0):
    labels = np.arange(60) % 2
    noise = np.random.default_rng(seed).integers(0, 40, (60, 6, 6))
    np.savez(path, x_train=(noise + labels[:, None, None] * 200).astype(np.uint8), y_train=labels)


def settings(runs, data, trials):
    return {
        "space": SPACE,
        "data": data,
        "strategy": "random",
        "runner": "local",
        "pruner": "none",
        "epochs": 1,
        "budget": {"trials": trials},
        "tracking_uri": "none",
        "name": "small",
        "runs_dir": str(runs),
    }


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of one trial and the data of it, left untouched."""
    place = tmp_path_factory.mktemp("searched")
    images(place / "old.npz")
    search(**settings(place, str(place / "old.npz"), 1))
    load_data.cache_clear()
    return place


@pytest.fixture
def moved(searched, tmp_path, monkeypatch):
    """The folder of a search whose data lie at `new.npz` now, and no longer in `old.npz`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(searched / "small", "small")
    shutil.copyfile(searched / "old.npz", "new.npz")
    for file in ("small/journal.jsonl", "small/best/network.json"):
        text = (tmp_path / file).read_text()
        (tmp_path / file).write_text(text.replace(str(searched / "old.npz"), str(tmp_path / "old.npz")))
    return tmp_path / "small"


def places(folder):
    return [event.config["data"]["source"] for event in read_events(folder) if isinstance(event, Moved)]


def test_a_search_continues_and_keeps_the_new_place(moved, tmp_path):
    with raises(DataError, "missing", "data.source", "old.npz", "--data"):
        search(**settings(tmp_path, "old.npz", 2))
    for trials in (2, 2, 3):
        state = search(**settings(tmp_path, "new.npz", trials))
        assert state.counts()["finished"] == trials
    new = str(tmp_path / "new.npz")
    assert places(moved) == [new]
    assert load_state(moved).header.config["data"]["source"] == new
    assert json.loads((moved / "best/network.json").read_text())["trained"]["data"]["source"] == new
    export(moved, ["safetensors"], tmp_path / "out")


def test_other_content_is_refused_everywhere(moved, tmp_path):
    images("other.npz", seed=1)
    before = (moved / JOURNAL).read_bytes()
    for attempt in (
        lambda: search(**settings(tmp_path, "other.npz", 2)),
        lambda: retrain(moved, data="other.npz"),
        lambda: rerun(moved, 0, "other.npz"),
        lambda: tune(moved, data="other.npz"),
    ):
        with raises(JournalError, "changed"):
            attempt()
    with raises(ConfigError, "conflict", None, "images"):
        retrain(moved, data={"images": 3})
    assert (moved / JOURNAL).read_bytes() == before


def test_a_relative_path_in_an_older_journal_is_the_same_data(moved, tmp_path):
    lines = (moved / JOURNAL).read_text().splitlines(keepends=True)
    lines[0] = lines[0].replace(str(tmp_path / "old.npz"), "new.npz")
    (moved / JOURNAL).write_text("".join(lines))
    assert rerun(moved, 0).equal
    search(**settings(tmp_path, "new.npz", 2))
    assert places(moved) == [str(tmp_path / "new.npz")]


def test_a_trial_is_repeated_and_drawn_and_a_network_is_tuned(moved, tmp_path):
    assert rerun(moved, 0, "new.npz").equal
    state = load_state(moved)
    assert parts_of_trial(moved, state, state.trials[0], tmp_path / "new.npz")
    tuned = tune(moved, data="new.npz", budget={"trials": 1})
    assert tuned.config.data and tuned.config.data.source == str(tmp_path / "new.npz")
    assert places(moved) == []


def test_retrain_and_export_take_the_new_place(moved, tmp_path, monkeypatch, capfd):
    nearest = ("ResNet-8", resnet(1, 4, in_channels=1, classes=2))  # looking for the nearest one takes a second
    monkeypatch.setattr(reference, "resnet_of_flops", lambda *flops, **others: nearest)
    place = ["--runs-dir", str(tmp_path)]
    assert cli.main(["export", "small", *place]) == 2
    assert "set --data" in capfd.readouterr().err
    assert cli.main(["export", "small", "--data", "new.npz", *place]) == 0
    assert cli.main(["show", "small", "--data", "new.npz", *place]) == 2
    assert cli.main(["show", "small", "--trial", "0", "--rerun", "--data", "new.npz", *place]) == 0
    assert cli.main(["retrain", "small", "--seeds", "1", "--epochs", "1", "--data", "new.npz", *place]) == 0
    assert places(moved) == [str(tmp_path / "new.npz")]
    assert cli.main(["export", "small", *place]) == 0


def test_a_table_that_was_moved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = SearchSpace("table", (Decision("model.width", Choice((4, 8))),))
    (tmp_path / "old.csv").write_text("width,acc\n4,0.5\n8,0.7\n")

    def config(path, trials):
        columns = {"signal": "acc"}
        return resolve(
            {
                **settings(tmp_path, None, trials),
                "space": space,
                "evaluator": {"name": "lookup_table", "path": path, **columns},
            }
        )

    search(config("old.csv", 1))
    (tmp_path / "old.csv").rename("new.csv")
    state = search(config("new.csv", 2))
    assert state.header.config["evaluator"]["options"]["path"] == str(tmp_path / "new.csv")
    (tmp_path / "other.csv").write_text("width,acc\n4,0.6\n8,0.7\n")
    with raises(JournalError, "changed", "evaluator.options.path"):
        search(config("other.csv", 3))
