"""A search ends when every point was tried, or when its strategy is done, and is then called finished."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import at_rung
import pytest
from expecting import raises

from nasforge.api.forecast import forecast
from nasforge.api.listing import listing
from nasforge.api.search import search
from nasforge.core.about import About
from nasforge.core.architecture import Architecture
from nasforge.core.errors import SearchError, StopNow
from nasforge.core.events import Asked, Ended
from nasforge.core.protocols import Report
from nasforge.core.space import Choice, Decision, Int, SearchSpace
from nasforge.core.trial import Charge, Measure, Proposal, Result
from nasforge.experiment.journal import read_events
from nasforge.experiment.state import replay
from nasforge.settings.experiment import resolve
from nasforge.strategies.random import Random
from nasforge.views.reader import Reader

STRATEGIES = ("random", "evolution", "local_search", "nsga2", "reinforce", "predictor", "optuna")
ONE = SearchSpace("one", (Decision("model.width", Choice((8,))), Decision("train.rate", Choice((0.1,)))))
SIX = SearchSpace("six", (Decision("model.kind", Choice(("a", "b", "c"))), Decision("model.depth", Int(1, 2))))
PAIRS = SearchSpace("pairs", (*SIX.decisions, Decision("train.batch_size", Choice((8, 16)))))


class Counting:
    """Finishes every trial at once, or fails the ones of kind `b`."""

    about = About(metrics=("val/accuracy",))

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.points: list[Architecture] = []

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        assert isinstance(proposal, Measure)
        self.points.append(proposal.architecture)
        if self.fails and proposal.architecture.values.get("model.kind") == "b":
            return Result.failed("diverged", "planted")
        return Result("finished", {"val/accuracy": len(self.points) / 100}, steps_done=1, charged=Charge(1.0))


def run(folder: Path, space: SearchSpace, evaluator: Any, **settings: Any) -> tuple[Any, list[str]]:
    messages: list[str] = []
    defaults = {"strategy": "random", "budget": {"trials": 40}, "epochs": 1, "pruner": "none", "runner": "local"}
    place = {"name": "small", "runs_dir": folder, "tracking_uri": "none"}
    config = resolve({"space": space, **defaults, **place, **settings})
    return search(config, made_evaluator=evaluator, say=messages.append), messages


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("space", "words"), [(ONE, "the only point"), (SIX, "all 6 points")])
def test_every_point_is_tried_once(tmp_path: Path, strategy: str, space: SearchSpace, words: str) -> None:
    evaluator = Counting()
    state, messages = run(tmp_path, space, evaluator, strategy=strategy)
    assert len(state.trials) == space.size == len({point.point_id for point in evaluator.points})
    assert any(words in text for text in messages)


def test_pairs_of_network_and_recipe_count(tmp_path: Path) -> None:
    evaluator = Counting()
    state, _ = run(tmp_path, PAIRS, evaluator, strategy="evolution", tune="optuna")
    assert len(state.trials) == 12 == len({point.point_id for point in evaluator.points})


def test_failed_points_were_tried_too(tmp_path: Path) -> None:
    state, _ = run(tmp_path, SIX, Counting(fails=True))
    assert state.counts()["failed"] == 2
    assert len(state.trials) == 6


def test_the_same_command_finds_it_finished(tmp_path: Path) -> None:
    run(tmp_path, SIX, Counting(), budget={"trials": 4})
    state, _ = run(tmp_path, SIX, Counting(), budget={"trials": 20})
    assert len(state.trials) == 6
    evaluator = Counting()
    state, messages = run(tmp_path, SIX, evaluator, budget={"trials": 30})
    assert not evaluator.points
    assert any("all 6 points" in text for text in messages)


def test_a_spent_budget_says_nothing(tmp_path: Path) -> None:
    state, messages = run(tmp_path, SIX, Counting(), budget={"trials": 6})
    assert len(state.trials) == 6
    assert not messages


def test_isomorphic_points_count_once(tmp_path: Path) -> None:
    space = SearchSpace("six", SIX.decisions, canonical=f"{__name__}:kind_alone")
    state, messages = run(tmp_path, space, Counting(), strategy="random")
    assert len(state.trials) == 3
    assert any("all 3 points" in text for text in messages)


def kind_alone(values: dict[str, Any]) -> str:
    return str(values["kind"])


def test_a_strategy_that_repeats_on_purpose_goes_on(tmp_path: Path) -> None:
    state, _ = run(tmp_path, SIX, Counting(), strategy={"name": "optuna", "distinct": False}, budget={"trials": 9})
    assert len(state.trials) == 9


def test_a_forecast_counts_no_more_trials_than_points(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("kind,depth,score\n" + "\n".join(f"{k},{d},0.5" for k in "abc" for d in (1, 2)))
    evaluator = {"name": "lookup_table", "path": str(table), "signal": "score", "metric": "val/accuracy"}
    config = resolve({"space": SIX, "evaluator": evaluator, "budget": {"trials": 40}, "runner": "local"})
    assert forecast(config).trials == 6


@pytest.mark.parametrize(("ladder", "rung", "trials"), [((1,), 0, 6), ((1, 3), 1, 6), ((1, 3), -2, 9), ((1, 3), 0, 9)])
def test_trials_of_the_last_rung_count_however_it_is_named(
    tmp_path: Path, ladder: tuple[int, ...], rung: int, trials: int
) -> None:
    strategy = {"name": at_rung.NAME, "rung": rung}
    rungs = {"ladder": [{"epochs": epochs} for epochs in ladder], "epochs": None}
    state, _ = run(tmp_path, SIX, Counting(), strategy=strategy, budget={"trials": 9}, **rungs)
    assert len(state.trials) == trials


class ThreeTrials(Random):
    """Has nothing more to propose after three."""

    def ask(self, number: int) -> Proposal | None:
        return super().ask(number) if number < 3 else None


@pytest.mark.parametrize(
    ("strategy", "cause", "trials"), [("random", "space", 6), (f"{__name__}:ThreeTrials", "strategy", 3)]
)
def test_a_search_that_ends_with_budget_left_is_finished(
    tmp_path: Path, strategy: str, cause: str, trials: int
) -> None:
    for _ in range(2):  # the second run finds nothing to do, and writes nothing
        state, _ = run(tmp_path, SIX, Counting(), strategy=strategy)
        assert len(state.trials) == trials
        assert [event for event in read_events(tmp_path / "small") if isinstance(event, Ended)] == [Ended(cause)]
        assert state.done and not state.spent
        reader = Reader(tmp_path / "small")
        reader.refresh()
        assert reader.standing == "finished"
        assert [row["state"] for row in listing(tmp_path)] == ["finished"]


def test_a_trial_after_the_end_opens_the_search_again(tmp_path: Path) -> None:
    run(tmp_path, SIX, Counting(), strategy=f"{__name__}:ThreeTrials")
    *events, end = read_events(tmp_path / "small")
    assert isinstance(end, Ended)
    state = replay([*events, end, Asked(3, events[1].proposal)], tmp_path / "small")  # type: ignore[union-attr]
    assert not state.done and not state.ended


def test_a_search_that_was_stopped_has_not_ended(tmp_path: Path) -> None:
    class Stops(Counting):
        def __call__(self, proposal: Proposal, report: Report) -> Result:
            if len(self.points) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(proposal, report)

    with pytest.raises(StopNow):
        run(tmp_path, SIX, Stops())
    assert not any(isinstance(event, Ended) for event in read_events(tmp_path / "small"))
    assert [row["state"] for row in listing(tmp_path)] == ["stopped"]


def test_where_every_point_is_above_the_limits_the_least_costs_are_said(tmp_path: Path) -> None:
    class Costly(Counting):
        def check(self, proposal: Proposal) -> dict[str, float]:
            assert isinstance(proposal, Measure)
            return {"cost/params": 10.0 * int(proposal.architecture.values["model.depth"])}

    with raises(SearchError, "empty", "constraints", "6 proposals", "params<=1", "params: 10"):
        run(tmp_path, SIX, Costly(), constraints=["params<=1"])
