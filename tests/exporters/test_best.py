import shutil

import changing_builder
import pytest
from expecting import raises

import nasforge
from nasforge.core.errors import DataError
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.exporters.best import write_best
from nasforge.exporters.network_folder import load

SPACE = SearchSpace("changing", (Decision("model.width", Choice((4,))),), builder="changing_builder:build")


def searched(runs, **settings):
    place = {"runs_dir": runs, "tracking_uri": "none", "name": "s", "runner": "local"}
    data = {"source": "digits", "images": 200}
    nasforge.search(space=SPACE, data=data, **{"epochs": 1, "budget": {"trials": 1}, **settings}, **place)
    return runs / "s"


@pytest.mark.parametrize(
    "settings",
    [{}, {"evaluator": {"name": "cross_validation", "folds": 2, "epochs": 1}, "epochs": None}],
    ids=["weights", "ensemble"],
)
def test_a_builder_that_changed_since_the_trial_writes_no_best(tmp_path, monkeypatch, settings):
    folder = searched(tmp_path, **settings)
    assert load(write_best(folder)).class_names
    shutil.rmtree(folder / "best")
    monkeypatch.setattr(changing_builder, "PADDING_MODE", "circular")
    with raises(DataError, "mismatch", "builder", "changing_builder:build", "trial 0"):
        write_best(folder)
    assert not (folder / "best").exists()
    monkeypatch.undo()
    assert load(write_best(folder)).class_names
