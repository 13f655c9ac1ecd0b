"""Forecasts of a predictor against outcomes."""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from made_journal import header, point, write

from nasforge.core.events import Asked, Checked, Event, Started, Told
from nasforge.core.trial import Failure, Forecast, Measure, Origin, Result
from nasforge.experiment.state import State, load_state
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
