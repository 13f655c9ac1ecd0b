"""The rows that command line, dashboard and `--json` share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nasforge.core.ladder import in_unit
from nasforge.experiment.state import load_state
from nasforge.views import tables


def test_leaderboard_is_the_ranking(made: Path) -> None:
    state = load_state(made)
    rows = tables.leaderboard(state)
    assert [row["number"] for row in rows] == [trial.number for trial in state.ranking()] == [7, 6, 2, 1, 0]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["number"] for row in tables.leaderboard(state, 2)] == [7, 6]
    assert rows[0]["metrics"]["val/accuracy"] == 0.87
    assert rows[0]["epochs"] == 3
    assert rows[0]["arch_id"] == state.trials[7].architecture.arch_id
    json.dumps(rows, allow_nan=False)


def test_front_holds_what_nothing_dominates(made: Path) -> None:
    rows = tables.pareto_front(load_state(made))
    points = [(row["metrics"]["val/accuracy"], row["metrics"]["cost/flops"]) for row in rows]
    assert points == [(0.87, 16000.0), (0.86, 8000.0)]


def test_curves_have_a_point_per_report(made: Path) -> None:
    rows = tables.learning_curves(load_state(made))
    assert [(row["epoch"], row["value"]) for row in rows if row["number"] == 2] == [(1, 0.62), (2, 0.72), (3, 0.82)]
    assert [row["epoch"] for row in rows if row["number"] == 4] == [1]
    assert tables.learning_curves(load_state(made), "val/none") == []


def test_best_so_far_never_gets_worse(made: Path) -> None:
    rows = tables.best_so_far(load_state(made))
    assert [row["number"] for row in rows] == [0, 1, 2, 6, 7]
    assert [row["best"] for row in rows] == [0.8, 0.81, 0.82, 0.86, 0.87]


def test_failures_come_with_advice(made: Path) -> None:
    (row,) = tables.failures(load_state(made))
    assert (row["cause"], row["count"], row["trials"]) == ("diverged", 1, [3])
    assert row["message"] == "the loss became NaN in epoch 1"
    assert row["advice"] == "lower the learning rate"


def test_summary_and_budget(made: Path) -> None:
    summary = tables.summary(load_state(made))
    assert summary["space"] == "made"
    assert summary["finished"] == 5
    assert summary["best_trial"] == 7
    assert summary["best val/accuracy"] == 0.87
    assert summary["best cost/flops"] == 16000.0
    assert summary["budget_used"] == pytest.approx(0.8), "eight accepted of ten; the rejected one is free"


def test_decisions_of_a_trial(made: Path) -> None:
    rows = tables.decisions(load_state(made).trials[1])
    assert [row["decision"] for row in rows] == ["model.width", "model.block", "train.learning_rate"]
    assert rows[0]["value"] == 16


def test_steps_are_what_the_evaluator_counts(made: Path) -> None:
    state = load_state(made)
    assert tables.steps_of(state) == "epochs"
    for counted in ("folds", "repeats"):
        state.ladder = in_unit(state.ladder, counted)
        assert tables.steps_of(state) == counted
        assert tables.leaderboard(state)[0][counted] == 3
        assert "epochs" not in tables.leaderboard(state)[0]
