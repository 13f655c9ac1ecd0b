"""Forecasts of a predictor against outcomes."""

import dataclasses
import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path

import pytest
from made_journal import header, point, write

from nasforge.core.events import Asked, Checked, Event, Started, Told
from nasforge.core.trial import Failure, Forecast, Measure, Origin, Result
from nasforge.experiment.state import State, load_state
from nasforge.strategies.predictor import scalarised
from nasforge.strategies.ranking import Merit
from nasforge.strategies.weighted_ranks import drawn_weights
from nasforge.views import forecasts


def state_of(folder: Path, values: Sequence[float | None], means: Sequence[float | None]) -> State:
    """A search whose trials have these values (None: failed) and these forecasts."""
    config = header(objectives=["max:val/accuracy"], constraints=[], ladder=[{"epochs": 1}])
    events: list[Event] = [dataclasses.replace(config, schema=2)]
    for number, (value, mean) in enumerate(zip(values, means, strict=True)):
        forecast = None if mean is None else Forecast(mean, 1.0)
        events += [Asked(number, Measure(point(number), origin=Origin(operator="predicted", forecast=forecast)))]
        events += [Checked(number, {}, "accepted"), Started(number, 1)]
        if value is None:
            events.append(Told(number, Result("failed", error=Failure("diverged", "NaN"))))
        else:
            events.append(Told(number, Result("finished", {"val/accuracy": value}, (value,), 1)))
    return load_state(write(folder, events))


def test_an_outcome_is_the_rank_among_the_earlier_trials(tmp_path: Path) -> None:
    state = state_of(tmp_path, [0.5, 0.7, 0.9, 0.6, None], [None, None, 1.5, -0.5, 0.0])
    outcomes = forecasts.outcomes_of(state)
    assert [(one.number, one.status) for one in outcomes] == [(2, "finished"), (3, "finished"), (4, "failed")]
    shares = [forecasts.share_text(one.score) for one in outcomes]
    assert shares == ["83%", "38%", "10%"]  # 2.5 of 3, 1.5 of 4, 0.5 of 5
    assert forecasts.sentence(outcomes[0]) == (
        "The predictor expected it to beat 93% of the earlier trials (80 % interval 59% to 99.7%); it beat 83%."
    )
    drawn = forecasts.forecast_chart(state, outcomes, lambda number: f"/trial/{number}")
    assert 'href="/trial/3"' in drawn and drawn.count("<circle") == 3 and "outcome as forecast" in drawn


def test_an_outcome_of_several_objectives_is_by_the_weights_of_its_forecast(tmp_path: Path) -> None:
    values = [(0.5, 30.0), (0.7, 20.0), (0.9, 10.0), (0.6, 5.0), None, (0.8, 40.0)]
    config = header(objectives=["max:val/accuracy", "min:cost/params"], constraints=[], ladder=[{"epochs": 1}])
    weights = {2: (1.0, 0.0), 3: (0.0, 1.0), 4: (0.5, 0.5), 5: (0.25, 0.75)}
    events: list[Event] = [dataclasses.replace(config, schema=2)]
    for number, pair in enumerate(values):
        forecast = Forecast(0.0, 1.0, weights[number]) if number in weights else None
        events += [Asked(number, Measure(point(number), origin=Origin(operator="predicted", forecast=forecast)))]
        events += [Checked(number, {}, "accepted"), Started(number, 1)]
        if pair is None:
            events.append(Told(number, Result("failed", error=Failure("diverged", "NaN"))))
        else:
            metrics = {"val/accuracy": pair[0], "cost/params": pair[1]}
            events.append(Told(number, Result("finished", metrics, (pair[0], -pair[1]), 1)))
    state = load_state(write(tmp_path, events))
    outcomes = forecasts.outcomes_of(state)
    shares = [forecasts.share_text(one.score) for one in outcomes]
    # best of 3 by accuracy; best of 4 by parameters; failed; the worst of 5 but better than the failure
    assert shares == ["83%", "88%", "10%", "25%"]
    assert "weighed: validation accuracy 25%, parameters 75%" in forecasts.sentence(
        outcomes[-1], [goal.metric for goal in state.objectives]
    )


def test_the_page_ranks_as_the_predictor_does(tmp_path: Path) -> None:
    rng = random.Random(1)
    merits = [Merit(rng.random() > 0.2, rng.choice([1, 2]), (rng.randrange(9) / 9, -rng.random())) for _ in range(150)]
    ranked = forecasts._Ranked(2)
    for count, worth in enumerate(merits, 1):
        ranked.add(worth)
        orders = scalarised(merits[:count], count)
        rank = (bisect_left(sorted(orders), orders[-1]) + bisect_right(sorted(orders), orders[-1])) / 2
        assert ranked.share_of_latest(worth, drawn_weights(count, 2)) == pytest.approx(rank / count)


def test_a_good_predictor_is_told_from_a_bad_one(tmp_path: Path) -> None:
    rng = random.Random(0)
    values = [rng.random() for _ in range(120)]
    from statistics import NormalDist

    good = forecasts.outcomes_of(state_of(tmp_path / "a", values, [NormalDist().inv_cdf(value) for value in values]))
    bad = forecasts.outcomes_of(state_of(tmp_path / "b", values, [rng.gauss(3, 1) for _ in values]))
    one, other = forecasts.correlation(good), forecasts.correlation(bad)
    assert one is not None and other is not None and one > 0.9 and abs(other) < 0.3
    assert [row["share"] > row["level"] for row in forecasts.coverage(good)] == [True, True, True]
    assert [row["share"] < row["level"] for row in forecasts.coverage(bad)] == [True, True, True]
    assert "of the latest 30 forecasts" in forecasts.correlation_chart(good)
    assert "needs more than" in forecasts.correlation_chart(good[:5]) and forecasts.correlation(good[:1]) is None
    assert forecasts.coverage([]) == []


@pytest.mark.parametrize(("score", "text"), [(0.0, "50%"), (2.326348, "99%"), (3.0902, "99.9%"), (-3.5, "0.02%")])
def test_scores_are_printed_as_shares(score: float, text: str) -> None:
    assert forecasts.share_text(score) == text
