"""Assembled ranks, and the strategy that measures networks in their order; what all strategies share is elsewhere."""

import functools
import math
import random
from pathlib import Path

import numpy as np
import pytest
from expecting import raises
from scipy.stats import rankdata

import nasforge
from nasforge.core.domains import Int
from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.ladder import Rung
from nasforge.core.space import Decision, SearchSpace
from nasforge.core.trial import Measure, Result, Score
from nasforge.settings.experiment import resolve
from nasforge.strategies import screening
from nasforge.strategies.aggregation import log_rank_sums
from nasforge.strategies.screening import Screening
from nasforge.testing import strategies as suite
from nasforge.testing.scripted import FLAT, MIXED, SMALL, drive, spec_of

LADDER = (Rung(proxies=("good", "luck")), Rung(9))
NAN = math.nan


# --- ranks ----------------------------------------------------------------------------------------------------------


def test_the_sum_of_the_logarithms_of_ranks_by_hand():
    sums = log_rank_sums({"a": [3.0, 1.0, 2.0], "b": [10.0, 30.0, 20.0]})
    assert sums == pytest.approx([math.log(1 / 3), math.log(1 / 3), 2 * math.log(2 / 3)])
    assert sums[2] > sums[0], "second by both is better than first by one and last by the other"


def test_only_ranks_count_and_ranks_within_the_pool():
    rng = random.Random(1)
    scores = {name: [rng.gauss(0, 1) for _ in range(40)] for name in "abc"}
    stretched = {"a": [math.exp(v) for v in scores["a"]], "b": [v**3 - 7 for v in scores["b"]], "c": scores["c"]}
    assert log_rank_sums(stretched) == log_rank_sums(scores)
    expected = sum(np.log(rankdata(column) / 40) for column in scores.values())
    assert log_rank_sums(scores) == pytest.approx(list(expected))
    order = list(range(40))
    rng.shuffle(order)
    shuffled = log_rank_sums({name: [column[index] for index in order] for name, column in scores.items()})
    assert shuffled == [log_rank_sums(scores)[index] for index in order]


def test_equal_scores_share_their_rank_and_what_has_no_number_is_last():
    assert log_rank_sums({"a": [1.0, 2.0, 2.0, 3.0]}) == pytest.approx([math.log(r / 4) for r in (1, 2.5, 2.5, 4)])
    assert log_rank_sums({"a": [NAN, -5.0, math.inf, -math.inf]}) == pytest.approx(
        [math.log(r / 4) for r in (2, 4, 2, 2)]
    )
    assert log_rank_sums({}) == [] and log_rank_sums({"a": []}) == []


# --- the strategy ---------------------------------------------------------------------------------------------------


def goodness(point):
    return sum(value == "c" for value in point.values.values())


def scores_of(point):
    return {"zc/good": float(goodness(point)), "zc/luck": random.Random(point.point_id).random(), "cost/params": 1.0}


def searched(strategy, asks, score=scores_of, batches=1):
    """Ask and tell, one trial after the other; return the measured points, and check the number of batches."""
    measured, scored = [], 0
    for number in range(asks):
        proposal = strategy.ask(number)
        if isinstance(proposal, Score):
            scored += 1
            strategy.tell(number, Result("finished", scores=tuple(map(score, proposal.architectures))))
        else:
            measured.append(proposal.architecture)
            strategy.tell(number, Result("finished", values=(0.5,), steps_done=9))
    assert scored == batches
    return measured


def test_networks_are_measured_in_the_order_of_their_ranks_within_the_pool():
    strategy = Screening(spec_of(FLAT, seed=0, ladder=LADDER), pool=300, batch=100, proxies=["good"])
    measured = searched(strategy, 60, batches=3)
    grades = [goodness(point) for point in measured]
    assert grades == sorted(grades, reverse=True) and len({point.point_id for point in measured}) == 57
    assert grades[0] >= 4, "the best of 300"


def test_a_network_must_be_good_by_all_scores():
    strategy = Screening(spec_of(FLAT, seed=0, ladder=LADDER), pool=200, batch=200)
    batch = strategy.ask(0)
    rows = [scores_of(point) for point in batch.architectures]
    strategy.tell(0, Result("finished", scores=tuple(rows)))
    sums = log_rank_sums({name: [row[name] for row in rows] for name in ("zc/good", "zc/luck")})
    best = max(range(200), key=sums.__getitem__)
    assert strategy.ask(1).architecture == batch.architectures[best]
    assert strategy.ask(1).origin.operator == "ranked" and batch.origin.operator == "screened"


def test_batches_are_out_side_by_side_and_are_waited_for():
    strategy = Screening(spec_of(FLAT, seed=0, ladder=LADDER), pool=25, batch=10)
    batches = [strategy.ask(number) for number in range(3)]
    assert [len(batch.architectures) for batch in batches] == [10, 10, 5]
    assert len({point.point_id for batch in batches for point in batch.architectures}) == 25
    assert strategy.ask(3) is None
    for number in (2, 0):
        strategy.tell(number, Result("finished", scores=tuple(map(scores_of, batches[number].architectures))))
    assert strategy.ask(3) is None
    strategy.tell(1, Result.failed("crash", "the worker died"))
    again = strategy.ask(3)
    assert isinstance(again, Score) and len(again.architectures) == 10, "a lost batch is replaced"
    strategy.tell(3, Result("finished", scores=tuple(map(scores_of, again.architectures))))
    assert isinstance(strategy.ask(4), Measure)


def test_when_all_are_measured_the_next_batch_is_scored():
    strategy = Screening(spec_of(FLAT, seed=0, ladder=LADDER), pool=5, batch=5)
    measured = searched(strategy, 1 + 5 + 1 + 5 + 1, batches=3)
    assert len({point.point_id for point in measured}) == 10


def test_a_small_space_is_scored_and_measured_whole_then_points_come_again():
    strategy = Screening(spec_of(SMALL, seed=0, ladder=LADDER), pool=50, batch=4)
    score = lambda point: {"zc/good": point.values["model.a"], "zc/luck": 1.0}  # noqa: E731
    measured = searched(strategy, 2 + 6 + 3, score=score, batches=2)
    assert [point.values["model.a"] for point in measured[:6]] == [3, 3, 2, 2, 1, 1]
    assert len({point.point_id for point in measured[:6]}) == 6


def test_what_violates_a_limit_by_its_scored_costs_is_left_out():
    strategy = Screening(spec_of(FLAT, seed=0, ladder=LADDER), pool=100, batch=100)
    score = lambda p: {**scores_of(p), "constraint/violation": float(p.values["model.layer0"] != "b")}  # noqa: E731
    assert {point.values["model.layer0"] for point in searched(strategy, 8, score=score)} == {"b"}


def scored(strategy, number, violation):
    """Ask for a batch, and answer with a violation of each network, by its place in the batch."""
    batch = strategy.ask(number)
    assert isinstance(batch, Score)
    points = enumerate(batch.architectures)
    scores = tuple({**scores_of(point), "constraint/violation": violation(place)} for place, point in points)
    strategy.tell(number, Result("finished", scores=scores))


def test_a_space_in_which_every_network_violates_the_constraints_ends_the_search(monkeypatch):
    monkeypatch.setattr(screening, "VIOLATING_IN_A_ROW", 30)
    huge = SearchSpace("huge", (Decision("model.n", Int(0, 10**9)),))
    strategy = Screening(spec_of(huge, seed=0, ladder=LADDER), pool=20, batch=10)
    for number in range(3):
        scored(strategy, number, lambda place: 0.5 + place)
    with raises(SearchError, "empty", "constraints", 30, 0.5):
        strategy.ask(3)
    strategy = Screening(spec_of(huge, seed=0, ladder=LADDER), pool=30, batch=10)
    for number in range(3):
        scored(strategy, number, lambda place, number=number: float(number != 1 or place > 0))
    assert isinstance(strategy.ask(3), Measure), "one of them keeps the constraints"
    for number in (4, 5):
        scored(strategy, number, lambda place: 1.0)
    with raises(SearchError, "empty", "constraints", 9 + 10 + 10 + 10):
        strategy.ask(6)


def test_a_withdrawn_proposal_is_made_again():
    strategy = Screening(spec_of(FLAT, seed=0, ladder=LADDER), pool=10, batch=10)
    first = strategy.ask(0)
    strategy.withdraw(0)
    assert strategy.ask(0) == first
    strategy.tell(0, Result("finished", scores=tuple(map(scores_of, first.architectures))))
    best = strategy.ask(1)
    strategy.withdraw(1)
    assert strategy.ask(1) == best != strategy.ask(2)


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
def test_conformance_with_many_batches(check):
    check(functools.partial(Screening, pool=12, batch=5))


def test_several_proposals_at_once_and_back_out_of_order():
    lines = drive(Screening(spec_of(MIXED), pool=12, batch=5), MIXED, asks=20, workers=4)
    points = [content.architecture.point_id for _, content in lines if isinstance(content, Measure)]
    assert len(points) == len(set(points)) >= 12


def test_a_network_without_one_of_the_scores_is_an_error():
    strategy = Screening(spec_of(FLAT, seed=0, ladder=LADDER), pool=2, batch=2)
    strategy.ask(0)
    with raises(SearchError, "missing", "ladder", "zc/luck"):
        strategy.tell(0, Result("finished", scores=({"zc/good": 1.0, "zc/luck": 2.0}, {"zc/good": 1.0})))


def test_a_proxy_may_be_named_without_its_options():
    ladder = (Rung(proxies=("good", "luck(seed=1)")), Rung(9))
    Screening(spec_of(FLAT, seed=0, ladder=ladder), proxies=["luck"])


def test_scores_that_nobody_gives_are_an_error():
    with raises(ConfigError, "missing", "strategy.proxies", "synflow"):
        Screening(spec_of(FLAT, ladder=LADDER), proxies=["synflow"])
    strategy = Screening(spec_of(FLAT), pool=4, proxies=["synflow"])
    with raises(SearchError, "missing", "ladder", "zc/synflow"):
        searched(strategy, 1)
    bare = Screening(spec_of(FLAT), pool=4)
    with raises(SearchError, "missing", "ladder"):
        searched(bare, 1, score=lambda point: {"cost/params": 1.0})


@pytest.mark.parametrize(("option", "value"), [("pool", 0), ("batch", 0), ("batch", 2.5)])
def test_wrong_options_are_refused(option, value):
    with raises(ConfigError, "range", f"strategy.{option}"):
        Screening(spec_of(FLAT, ladder=LADDER), **{option: value})


def test_a_search_scores_then_trains_the_best(tmp_path: Path) -> None:
    config = resolve(
        {
            "space": "tiny",
            "data": {"source": "digits", "images": 400},
            "strategy": {"name": "screening", "pool": 8, "batch": 4},
            "ladder": [{"proxies": ["log_flops", "progressivity"]}, {"epochs": 1}],
            "constraints": ["params<=20k"],
            "budget": {"trials": 4},
            "runner": "local",
            "evaluator": {"name": "training", "device": "cpu"},
            "runs_dir": tmp_path,
            "tracking_uri": "none",
        }
    )
    state = nasforge.search(config)
    scored = [state.trials[number] for number in (0, 1)]
    points = [point for trial in scored for point in trial.proposal.architectures]
    rows = [row for trial in scored for row in trial.result.scores]
    columns = {name: [row[name] for row in rows] for name in ("zc/log_flops", "zc/progressivity")}
    sums = log_rank_sums(columns)
    order = sorted(range(8), key=lambda index: -sums[index])
    small = [points[index] for index in order if rows[index]["cost/params"] <= 20_000]
    assert [state.trials[number].proposal.architecture for number in (2, 3)] == small[:2]
    assert {trial.number for trial in state.ranking()} == {2, 3}
