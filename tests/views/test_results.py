"""Sentences and tables on the result of a search or a fit."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "mlflow"))
from made_journal import header, point, trial

from nasforge.core.events import Asked, Checked, Event, Reported, Started, Told
from nasforge.core.trial import Artifact, Charge, Measure, Result
from nasforge.experiment.state import replay
from nasforge.views import page, tables
from nasforge.views.answers import StoredAnswers, confusion_of
from nasforge.views.charts import _charged, slice_chart
from nasforge.views.network_svg import network_svg
from nasforge.views.parts import Part
from nasforge.views.results import bars_of_test, interval_of, kind_text, note_on_seeds, outcome_sentence
from nasforge.views.statistics import spread
from nasforge.views.svg import short
from nasforge.views.texts import excess_text, metric_text, when_text
from nasforge.views.trajectory import trajectory_of


@pytest.mark.parametrize(("seeds", "words"), [(2, "one of the 2 that the mean above is of"), (1, ""), (None, "")])
def test_a_mean_over_seeds_is_not_taken_for_the_answers_of_one_network(seeds: int | None, words: str) -> None:
    assert words in note_on_seeds([{"won": False, "n": 9}, {"won": True, "n": seeds}])
    assert bool(note_on_seeds([{"won": True, "n": seeds}])) == bool(words)


def test_kinds_are_words() -> None:
    assert kind_text("trial") == kind_text("found") == "found by the search" and kind_text("new") == "new"


@pytest.mark.parametrize(("classes", "listed"), [(5, 3), (40, 5)])
def test_the_most_frequent_confusions_are_listed_next_to_a_matrix(classes: int, listed: int) -> None:
    truth = np.arange(5)
    answers = StoredAnswers(truth, np.eye(classes)[(truth + 1) % 5], [str(n) for n in truth], False)
    matrix = confusion_of(answers, [str(n) for n in range(classes)])
    assert len(matrix.wrong) == 5 and len(matrix.listed) == listed
    assert page.confusion(matrix, "Of one seed.").count("is taken for") == listed
    assert "0 of 5 images are right. Of one seed.</p>" in page.confusion(matrix, "Of one seed.")


def test_a_time_has_its_unit_once() -> None:
    state = replay([header(objectives=["min:time/train_s", "min:cost/flops"]), *trial(0)])
    assert "training time 6.0 s" in outcome_sentence(state, [], "finished")


@pytest.mark.parametrize("at", [None, math.inf, math.nan, 1e300])
def test_a_time_that_no_calendar_has_is_a_dash(at: float | None) -> None:
    assert when_text(at) == "–"


def test_a_charge_grows_in_the_order_in_which_trials_end() -> None:
    *slow, end = trial(0)
    state = replay([header(), *slow, *trial(1), end])
    assert _charged(state, "seconds") == {1: 6.0, 0: 12.0} and state.closed == [1, 0]


def test_steps_before_the_first_report_count() -> None:
    def reported(number: int, *steps: int, weights: Artifact | None = None) -> list[Event]:
        begun = [Asked(number, Measure(point(number), weights=weights)), Checked(number, {}, "accepted")]
        reports = [Reported(number, 1, step, {"val/accuracy": 0.5}, "continue") for step in steps]
        result = Result("finished", {"val/accuracy": 0.5}, (0.5,), steps[-1], Charge(1.0))
        return [*begun, Started(number, 1), *reports, Told(number, result)]

    file = Artifact("artifacts/0/attempt-1/checkpoint.pt", "0" * 64, 1)
    events = [*reported(0, 12, 200), *reported(1, 201, 202, weights=file)]
    assert tables.effort(replay([header(objectives=["max:val/accuracy"]), *events]))["steps"] == 202


def test_names_of_many_options_keep_their_end() -> None:
    options = ["separable_3", "separable_3_se", "residual", "identity", "bottleneck"]
    state = replay([header(), *(event for number in range(9) for event in trial(number))])
    assert "…" not in slice_chart(state, lambda number: "", "model.block", "val/accuracy")
    names = [short(option, 9) for option in options]
    assert names == ["separ…e_3", "separ…_se", "residual", "identity", "bottl…eck"]


def test_a_drawing_of_a_network_says_how_it_is_read() -> None:
    drawing = network_svg({"a": [Part("stem", "ConvNorm", 3, (8, 4, 4), 10, 20)]})
    assert "<figcaption>Each bar is a layer" in drawing


def test_by_how_much_a_limit_is_exceeded_is_never_nothing() -> None:
    assert excess_text("params<=1002000", 40 / 1_002_000) == "params<=1.002M is exceeded by 0.004%"
    assert [excess_text("flops<=5", excess)[24:] for excess in (0.5, 0.05, 0.004)] == ["50.0%", "5.0%", "0.4%"]


def test_intervals_end_where_the_metric_does() -> None:
    assert interval_of("test/accuracy", spread([0.99, 0.97])) == pytest.approx((0.852938, 1.0), abs=1e-6)
    assert interval_of("test/loss", spread([0.99, 0.97])) == pytest.approx((0.852938, 1.107062), abs=1e-6)
    assert interval_of("test/accuracy", spread([0.9, 0.9])) is None is interval_of("test/accuracy", spread([0.9]))


def test_a_search_by_costs_is_compared_by_accuracy_on_the_test_split() -> None:
    state = replay([header(objectives=["min:cost/flops", "max:val/accuracy"]), *trial(0)])
    name = point(0).short_id
    state.tests[f"{name}-seed0-e3"] = {"test/accuracy": 0.5}
    path = trajectory_of(state, header())
    assert (path.test_metric, list(path.test or ())) == ("test/accuracy", [0.5])


def test_bars_and_tables_have_a_value_in_the_same_form() -> None:
    row = {"name": "trial 0", "value": 0.98333, "low": None, "high": None, "won": True, "metric": "test/accuracy"}
    assert f">{metric_text(row['value'], 'test/accuracy')}<" in bars_of_test([row])
