"""The choice of the winner: by the metric that is asked for, itself."""

from types import SimpleNamespace

import numpy as np
import pytest

from nasforge.api.fit import judging
from nasforge.api.fit.choice import choose_winner
from nasforge.api.fit.rows import Row, metrics_of, ranked
from nasforge.api.fit.work import Answered
from nasforge.core.metrics import short_name

TRUTH = np.repeat([0, 1, 2], [400, 30, 30])


def answered(name, chosen, flops=1.0, kind="found", trial=None):
    probabilities = np.full((len(TRUTH), 3), 0.05)
    probabilities[np.arange(len(TRUTH)), chosen] = 0.9
    return Answered(Row(name, kind, metrics_of(TRUTH, probabilities), flops=flops, trial=trial), probabilities)


def eager():
    """It finds all images of the small classes, and takes an eighth of the largest class for one of them."""
    chosen = TRUTH.copy()
    chosen[:50] = 1
    return chosen


def careful():
    """It takes a fifth of the images of the small classes for the largest one."""
    chosen = TRUTH.copy()
    chosen[400:406] = chosen[430:436] = 0
    return chosen


def chosen_by(metric, candidates, others=()):
    """The line of the log on the choice."""
    log = SimpleNamespace(last=lambda *_, **__: None, write=lambda kind, **content: content)
    work = SimpleNamespace(
        log=log,
        metric=metric,
        shown_metric=metric,
        truth=TRUTH,
        until=1.0,
        folder="fit",
        data=SimpleNamespace(class_names=("a", "b", "c")),
        places=np.arange(len(TRUTH)),
        files=[str(number) for number in range(len(TRUTH))],
    )
    return choose_winner(work, list(candidates), list(others), tried=2)


@pytest.mark.parametrize(("metric", "name"), [("f1_macro", "careful"), ("balanced_accuracy", "eager")])
def test_the_winner_has_the_best_of_the_metric_that_is_asked_for(metric, name):
    candidates = [answered("eager", eager(), trial=0), answered("careful", careful(), trial=1)]
    best = max(candidates, key=lambda candidate: candidate.row.val[metric])
    entry = chosen_by(metric, candidates)
    assert entry["winner"] == name == best.row.name and short_name(metric) in entry["reason"]


@pytest.mark.parametrize(
    ("metric", "names"),
    [
        ("accuracy", ["careful", "eager"]),
        ("f1_macro", ["careful", "eager"]),
        ("balanced_accuracy", ["eager", "careful"]),
    ],
)
def test_rows_are_ranked_by_the_metric_that_is_asked_for(metric, names):
    rows = [answered("careful", careful()).row, answered("eager", eager()).row]
    assert [row.name for row in ranked(rows, metric)] == [row.name for row in ranked(rows[::-1], metric)] == names


def test_a_baseline_is_ahead_by_macro_f1_where_that_is_asked_for():
    network, baseline = [answered("eager", eager(), trial=0)], [answered("SVM", careful(), kind="sklearn")]
    assert chosen_by("f1_macro", network, baseline)["beaten_by"] == ["SVM"]
    assert chosen_by("balanced_accuracy", network, baseline)["beaten_by"] == []


def test_what_is_unsure_is_said_of_calibrated_answers():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 0.99, len(TRUTH))
    wrong = rng.random(len(TRUTH)) > sure**3
    probabilities = np.stack([(1 - sure) / 2] * 3, 1)
    probabilities[np.arange(len(TRUTH)), np.where(wrong, (TRUTH + 1) % 3, TRUTH)] = sure
    row = Row("over-sure", "found", metrics_of(TRUTH, probabilities), flops=1.0, trial=0)
    entry = chosen_by("accuracy", [Answered(row, probabilities)])
    assert entry["temperature"] > 1.1
    calibrated = judging.calibrated(probabilities, entry["temperature"])
    assert entry["unsure_below"] == judging.unsure_below(TRUTH, calibrated, 0.95)
    assert judging.unsure_below(TRUTH, calibrated) != judging.unsure_below(TRUTH, probabilities)
