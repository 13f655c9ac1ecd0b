import json
import math
from dataclasses import replace

import pytest
from expecting import raises
from hypothesis import given
from hypothesis import strategies as st

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError, did_you_mean
from nasforge.core.goals import Budget, Constraint, Objective, text_of_limit
from nasforge.core.ladder import Rung, in_unit, ladder_to
from nasforge.core.pareto import dominates, front
from nasforge.core.ranges import is_number
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.core.trial import (
    Artifact,
    Charge,
    Forecast,
    Measure,
    Origin,
    Result,
    Score,
    TrainShared,
    proposal_from_json,
)

ARTIFACT = Artifact("artifacts/3/attempt-1/weights.safetensors", "ab" * 32, 1234)
POINT = Architecture({"model.a": "x", "train.b": 0.1}, canonical="x")
SPACE = SearchSpace("s", (Decision("model.a", Choice(("x", "y"))),))


@pytest.mark.parametrize(
    ("text", "metric", "maximise"),
    [
        ("val/accuracy", "val/accuracy", True),
        ("cost/flops", "cost/flops", False),
        ("time/train_s", "time/train_s", False),
        ("val/loss", "val/loss", False),
        ("val/accuracy_std", "val/accuracy_std", False),
        ("val/error", "val/error", False),
        ("max:val/loss", "val/loss", True),
        ("min:my/metric", "my/metric", False),
    ],
)
def test_objectives(text, metric, maximise):
    objective = Objective.parse(text)
    assert (objective.metric, objective.maximise) == (metric, maximise)
    assert Objective.parse(str(objective)) == objective
    assert objective.oriented(2.0) == (2.0 if maximise else -2.0)


@pytest.mark.parametrize("text", ["", " ", "best:val/accuracy", "max:"])
def test_wrong_objectives(text):
    with raises(ConfigError, "type", "objectives"):
        Objective.parse(text)


@pytest.mark.parametrize(
    ("text", "metric", "bound"),
    [
        ("flops<=40M", "cost/flops", 40e6),
        ("params <= 300k", "cost/params", 300e3),
        ("latency_ms<=5", "cost/latency_ms", 5),
        ("memory_mb<=1.5k", "cost/memory_mb", 1500),
        ("cost/flops<=1e6", "cost/flops", 1e6),
        ("flops<=2G", "cost/flops", 2e9),
        ("Params<=5", "cost/params", 5),
        ("Energy_mJ<=5", "cost/Energy_mJ", 5),
    ],
)
def test_constraints(text, metric, bound):
    constraint = Constraint.parse(text)
    assert (constraint.metric, constraint.bound) == (metric, bound)
    assert Constraint.parse(str(constraint)) == constraint
    assert constraint.violation({metric: bound}) == 0
    assert constraint.violation({metric: 1.25 * bound}) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("flops<=40000000", "flops<=40M"),
        ("flops<=40m", "flops<=40M"),
        ("params<=1.1e6", "params<=1.1M"),
        ("params<=2g", "params<=2G"),
        ("flops<=1234567", "flops<=1234567"),  # no digit is lost
        ("flops<=999999", "flops<=999999"),
        ("params<=500", "params<=500"),
        ("memory_mb<=2000", "memory_mb<=2000"),
        ("latency_ms<=5000", "latency_ms<=5000"),
    ],
)
def test_text_of_constraints(typed, text):
    constraint = Constraint.parse(typed)
    assert constraint.text == text
    assert text_of_limit(str(constraint)) == text
    assert Constraint.parse(text).bound == pytest.approx(constraint.bound, rel=1e-12)
    assert text_of_limit("what a plug-in says") == "what a plug-in says"


def test_an_unknown_cost_meets_no_limit():
    limit = Constraint.parse("flops<=5")
    assert limit.met({"cost/flops": 5.0})
    assert not any(map(limit.met, ({"cost/flops": 5.1}, {"cost/flops": math.nan}, {"cost/params": 1.0}, {})))


@pytest.mark.parametrize("text", ["flops<40M", "flops>=40M", "flops<=1.2.3", "flops<=0", "flops<=-3", "flops<=1e400"])
def test_wrong_constraints(text):
    with raises(ConfigError, "range" if text in ("flops<=0", "flops<=1e400") else "type", "constraints", text):
        Constraint.parse(text)


def test_budget_and_ladder():
    assert not Budget().limits
    assert Budget(trials=3).limits == {"trials": 3}
    for wrong in (0, -1, math.nan, True, "5"):
        with raises(ConfigError, "range" if is_number(wrong) else "type", "budget.trials", wrong):
            Budget(trials=wrong)
    assert [rung.epochs for rung in ladder_to(9)] == [1, 3, 9]
    assert [rung.epochs for rung in ladder_to(20)] == [2, 6, 20]
    assert [rung.epochs for rung in ladder_to(1)] == [1]
    for wrong in (0, 1.5, True):
        with raises(ConfigError, "range" if is_number(wrong) else "type", "ladder.epochs", wrong):
            Rung(wrong)


def test_rungs_of_proxies():
    rung = Rung(proxies=["synflow", "naswot"])
    assert (rung.epochs, rung.proxies, str(rung)) == (0, ("synflow", "naswot"), "synflow+naswot")
    for each in (rung, Rung(3), Rung(3, share=0.5, resolution=8), Rung(2, unit="folds"), Rung(1, unit="repeats")):
        assert Rung.from_json(json.loads(json.dumps(each.to_json()))) == each
    assert Rung(2, unit="folds").to_json() == {"folds": 2} and str(Rung(2, unit="folds")) == "2"
    assert in_unit((rung, Rung(1)), "folds") == (rung, Rung(1, unit="folds"))
    assert Rung(3).to_json() == {"epochs": 3}, "as journals had it before there were proxies"
    with raises(ConfigError, "conflict", "ladder"):
        Rung(1, ("synflow",))
    for wrong in ("synflow", ["a", "a"], [""], [3], 5):
        with raises(ConfigError, "duplicate" if wrong == ["a", "a"] else "type", "ladder", wrong):
            Rung(proxies=wrong)


def test_what_has_no_scores_is_written_as_before_there_were_any():
    measure, result = Measure(POINT), Result("finished", {"val/accuracy": 0.5}, (0.5,), 3)
    assert "also" not in measure.to_json() and not {"also", "scores"} & result.to_json().keys()


@pytest.mark.parametrize("others", [(Architecture({"model.a": "y"}),), ()])
def test_a_measure_with_others_of_an_old_journal_is_a_score(others):
    old = {**Measure(POINT, rung=0).to_json(), "also": [other.to_json() for other in others]}
    score = Score((POINT, *others))
    assert proposal_from_json(old) == score
    assert score.to_schema_1() == old


@pytest.mark.parametrize("others", [({"zc/synflow": 1.0, "cost/params": 7.0},), ()])
def test_a_result_with_others_of_an_old_journal_is_that_of_a_score(others):
    metrics = {"zc/synflow": 3.5, "constraint/violation": 0.5, "time/worker_s": 2.0, "work/multiply_adds": 9.0}
    old = {**Result("finished", metrics, charged=Charge(2.0, 9.0)).to_json(), "also": list(others)}
    result = Result.from_json(old)
    assert result.scores == ({"zc/synflow": 3.5, "constraint/violation": 0.5}, *others)
    assert result.metrics == {"time/worker_s": 2.0, "work/multiply_adds": 9.0} and result.charged == Charge(2.0, 9.0)
    assert result.to_schema_1() == old


vectors = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))


@given(vectors, vectors, vectors)
def test_domination_is_a_strict_partial_order(a, b, c):
    assert not dominates(a, a)
    assert not (dominates(a, b) and dominates(b, a))
    if dominates(a, b) and dominates(b, c):
        assert dominates(a, c)
    assert dominates(a, b) == (min(x - y for x, y in zip(a, b, strict=True)) >= 0 and a != b)


@pytest.mark.parametrize(
    "proposal",
    [
        Measure(POINT),
        Measure(POINT, rung=1, weights=ARTIFACT),
        Score((POINT, Architecture({"model.a": "y"})), 1),
        TrainShared(SPACE, "uniform", 3),
        TrainShared(SPACE, "softmax", 3, ARTIFACT, (POINT,), {"model.a": (0.1, 0.2)}, {"cost/flops": 0.5}),
    ],
)
def test_proposals_survive_json(proposal):
    assert proposal_from_json(json.loads(json.dumps(proposal.to_json()))) == proposal


@pytest.mark.parametrize(
    "result",
    [
        Result("finished", {"val/accuracy": 0.9}, (0.9, -3.0), 3, Charge(1.5, 2e9), {"weights": ARTIFACT}),
        Result("finished", steps_done=2, alphas={"model.a": (0.1, -0.2)}),
        Result("finished", {"time/worker_s": 3.5}, scores=({"zc/synflow": 1.0, "cost/params": 7.0}, {})),
        Result.failed("diverged", "NaN after epoch 2", "lower the learning rate", Charge(0.5)),
        Result("rejected", {"cost/flops": 9e9, "constraint/violation": 2.0}),
    ],
)
def test_results_survive_json(result):
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_usable_results_have_values_and_no_nan():
    assert Result("finished", values=(0.5, math.inf)).usable
    assert not Result("finished", values=(0.5, math.nan)).usable
    assert not Result("failed").usable
    assert Charge(1, 2) + Charge(3, 4) == Charge(4, 6)


def test_did_you_mean():
    assert did_you_mean("evolutoin", ["random", "evolution"]) == "did you mean 'evolution'? Known: evolution, random"
    assert did_you_mean("zzz", ["a"]) == "Known: a"
    assert did_you_mean("zzz", []) == "Known: (none)"


def test_objects_made_in_short_are_those_of_their_constructors():
    assert Charge.of(1.5, 2.0) == Charge(1.5, 2.0) == Charge.from_json({"worker_seconds": 1.5, "multiply_adds": 2.0})
    assert Charge.from_json({"worker_seconds": 1.5}) == Charge(1.5)
    origin = Origin((1, 2), "crossover", start=3)
    assert Origin.from_json(origin.to_json()) == origin
    told = Origin(operator="policy", forecast=Forecast(1.25, 0.5), policy={"model.block": (0.25, 0.75)})
    assert told.to_json() == {
        "operator": "policy",
        "forecast": {"mean": 1.25, "deviation": 0.5},
        "policy": {"model.block": [0.25, 0.75]},
    }
    assert Origin.from_json(json.loads(json.dumps(told.to_json()))) == told != replace(told, policy=None)
    assert hash(told) == hash(replace(told, policy=None))
    for wrong in ({"parents": [1], "mother": 2}, {"operators": "start"}):
        with pytest.raises(TypeError, match="an origin has"):
            Origin.from_json(wrong)
    with pytest.raises(KeyError):
        Charge.from_json({"worker_seconds": 1.0, "seconds": 1.0})


@given(st.lists(st.tuples(*[st.sampled_from([-math.inf, 0.0, 1.0, 2.0, 3.0])] * 2), max_size=12))
def test_the_front_of_two_values_is_that_of_every_pair(points):
    def beaten(index):
        return any(
            dominates(other, points[index]) or (other == points[index] and place < index)
            for place, other in enumerate(points)
        )

    assert front(points) == [index for index in range(len(points)) if not beaten(index)]
