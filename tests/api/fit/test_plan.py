"""The plan of a fit: what is written is read back equal, and what is wrong is said with its line."""

import json

import pytest
from expecting import raises

from nasforge.api.fit.log import FitLog
from nasforge.api.fit.plan import PLAN, read_plan, write_plan
from nasforge.core.errors import ConfigError

TRAININGS = {"plan": {"folds": 5, "epochs": 40, "steps": 320, "training": 6.4}, "threads": 1, "second_per_step": 0.02}
DECIDED = {"resolution": 64, "metric": "loss", "class_weights": "balanced", "trainings": TRAININGS}
WHOLE = """\
schema: 1
resolution: 64
metric: "loss"
class_weights: "balanced"
trainings:
  folds: 5
  epochs: 40
  steps: 320
  training: 6.4
  threads: 1
  second_per_step: 0.02
"""


def test_what_is_written_is_read_back(tmp_path):
    with FitLog(tmp_path, {}, 0.0) as log:
        for name, value in {**DECIDED, "other": 1}.items():
            log.write("decision", name=name, value=value, reason="")
        write_plan(tmp_path, log)
    text = (tmp_path / PLAN).read_text()
    assert text.endswith(WHOLE) and "--plan plan.yaml" in text
    assert read_plan(tmp_path / PLAN) == DECIDED
    assert json.loads(json.dumps(read_plan(tmp_path / PLAN))) == read_plan(tmp_path / PLAN)


def test_a_decision_that_is_left_out_is_made_anew(tmp_path):
    (tmp_path / PLAN).write_text("schema: 1\nresolution: 32\n")
    assert read_plan(tmp_path / PLAN) == {"resolution": 32}


@pytest.mark.parametrize(
    ("before", "after", "kind", "key", "names"),
    [
        ("resolution: 64", "resolution: 6.5", "range", "resolution", ("plan.yaml:2: ", "6.5", "a whole number")),
        ("resolution: 64", "resolution: true", "type", "resolution", ("True",)),
        ('"loss"', "speed", "unknown", "metric", ("speed", "accuracy")),
        ('"balanced"', "often", "unknown", "class_weights", ("often", "none, balanced")),
        ("folds: 5", "folds: 0", "range", "trainings.folds", ("plan.yaml:6: ", 0, "from 1 to 100")),
        ("training: 6.4", "training: .inf", "range", "trainings.training", ("inf",)),
        ("  threads: 1\n", "", "missing", "trainings", ("threads",)),
        ("threads: 1", "thread: 1", "unknown", "trainings.thread", ("did you mean 'threads'",)),
        ("schema: 1", "schema: 2", "unsupported", "schema", (2, 1)),
        ("resolution: 64", "resolutoin: 64", "unknown", "resolutoin", ("did you mean 'resolution'",)),
        (WHOLE[WHOLE.index("\n  folds") :], " 5\n", "type", "trainings", (5, "folds")),
        (WHOLE, "- 1\n", "type", None, ("schema",)),
        (WHOLE, "!!python/object:os.system {}\n", "unsupported", None, ("!!python/object:os.system",)),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, before, after, kind, key, names):
    assert before in WHOLE
    (tmp_path / PLAN).write_text(WHOLE.replace(before, after))
    with raises(ConfigError, kind, key, *names):
        read_plan(tmp_path / PLAN)


def test_a_missing_file_is_one_sentence(tmp_path):
    with raises(ConfigError, "missing", None, "nothing.yaml"):
        read_plan(tmp_path / "nothing.yaml")


def test_a_share_of_the_images_is_repeated(tmp_path):
    trainings = {**TRAININGS, "plan": {**TRAININGS["plan"], "images": 8000}}
    with FitLog(tmp_path, {}, 0.0) as log:
        log.write("decision", name="trainings", value=trainings, reason="")
        write_plan(tmp_path, log)
    assert read_plan(tmp_path / PLAN) == {"trainings": trainings}
    (tmp_path / PLAN).write_text((tmp_path / PLAN).read_text().replace("images: 8000", "images: 0"))
    with raises(ConfigError, "range", "trainings.images", 0):
        read_plan(tmp_path / PLAN)
