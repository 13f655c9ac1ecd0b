"""The plan of a fit: what is written is read back equal, and what is wrong is said with its line."""

import json

import pytest

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
    ("before", "after", "message"),
    [
        ("resolution: 64", "resolution: 6.5", r"plan.yaml:2: resolution: got 6.5, expected a whole number"),
        ("resolution: 64", "resolution: true", "got True"),
        ('"loss"', "speed", "metric: got 'speed', expected one of accuracy"),
        ('"balanced"', "often", "class_weights: got 'often', expected one of none, balanced"),
        ("folds: 5", "folds: 0", r"plan.yaml:6: trainings.folds: got 0, expected a whole number from 1 to 100"),
        ("training: 6.4", "training: .inf", "trainings.training: got inf"),
        ("  threads: 1\n", "", "threads: missing. Add them"),
        ("threads: 1", "thread: 1", "trainings.thread: unknown"),
        ("schema: 1", "schema: 2", "schema: got 2, expected 1"),
        ("resolution: 64", "resolutoin: 64", "no decision of a fit; did you mean 'resolution'"),
        (WHOLE[WHOLE.index("\n  folds") :], " 5\n", "trainings: got 5, expected a mapping of folds"),
        (WHOLE, "- 1\n", "a plan is a mapping"),
        (WHOLE, "!!python/object:os.system {}\n", "unknown tag"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, before, after, message):
    assert before in WHOLE
    (tmp_path / PLAN).write_text(WHOLE.replace(before, after))
    with pytest.raises(ConfigError, match=message):
        read_plan(tmp_path / PLAN)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_plan(tmp_path / "nothing.yaml")


def test_a_share_of_the_images_is_repeated(tmp_path):
    trainings = {**TRAININGS, "plan": {**TRAININGS["plan"], "images": 8000}}
    with FitLog(tmp_path, {}, 0.0) as log:
        log.write("decision", name="trainings", value=trainings, reason="")
        write_plan(tmp_path, log)
    assert read_plan(tmp_path / PLAN) == {"trainings": trainings}
    (tmp_path / PLAN).write_text((tmp_path / PLAN).read_text().replace("images: 8000", "images: 0"))
    with pytest.raises(ConfigError, match="images"):
        read_plan(tmp_path / PLAN)
