"""Rewards are ranks; violations lie below them; soft targets shape them as MnasNet's."""

import math
import random
import statistics

import pytest
from expecting import raises

from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.goals import Constraint
from nasforge.core.trial import Result
from nasforge.strategies.rewards import Rewards, shaped

FLOPS, PARAMS = Constraint("cost/flops", 100.0), Constraint("cost/params", 10.0)


def finished(value, steps=3, **costs):
    return Result("finished", {f"cost/{name}": cost for name, cost in costs.items()}, (value,), steps)


def rejected(violation):
    return Result("rejected", metrics={"constraint/violation": violation})


def test_rewards_depend_on_the_order_alone():
    rng = random.Random(0)
    accuracies = [rng.random() for _ in range(50)]
    scales = (lambda a: a, lambda a: 100 * a, lambda a: -1 / (a + 1e-6), lambda a: math.exp(40 * a))
    sequences = []
    for scale in scales:
        rewards = Rewards()
        sequences.append([rewards(finished(scale(accuracy))) for accuracy in accuracies])
    assert all(rewards == sequences[0] for rewards in sequences)


def test_rewards_are_centred_and_a_new_best_stands_out():
    rewards, rng = Rewards(), random.Random(0)
    values = [rewards(finished(rng.random())) for _ in range(2000)]
    assert abs(statistics.mean(values)) < 0.1
    assert min(values) > -1
    assert rewards(finished(2.0)) == pytest.approx(math.log(2 * 2001) - 1)
    assert rewards(finished(-1.0)) == pytest.approx(-1, abs=1e-3)


def test_rejections_lie_below_everything_measured_by_their_violation():
    rewards = Rewards()
    measured = [rewards(finished(value)) for value in (0.5, 0.1, 0.9)]
    for violation in (0.4, 0.5, 0.6, 0.7):
        rewards(rejected(violation))
    small, large, middle = (rewards(rejected(violation)) for violation in (0.01, 2.0, 0.55))
    assert max(small, large, middle) < min(measured)
    assert small > middle > large >= -3
    assert rewards(finished(0.0)) > -1  # rejections do not take part in the ranks of what is measured


@pytest.mark.parametrize(
    "result", [Result.failed("diverged", "NaN"), Result("pruned", steps_done=1), finished(math.nan)]
)
def test_failures_get_what_the_worst_gets(result):
    rewards = Rewards()
    best = rewards(finished(0.9))
    assert rewards(result) == -1 < best


def test_pruned_lies_below_finished_and_the_later_pruned_above_the_earlier():
    rewards = Rewards()
    for value in (0.2, 0.3):
        rewards(finished(value, steps=9))
    early = rewards(Result("pruned", values=(0.99,), steps_done=1))
    late = rewards(Result("pruned", values=(0.1,), steps_done=3))
    assert early < late < rewards(finished(0.0, steps=9))


def test_shaped_is_the_equation_of_mnasnet():
    assert shaped(0.75, {"cost/flops": 200.0}, (FLOPS,), -0.07, -0.07) == pytest.approx(0.75 * 2**-0.07)
    assert shaped(0.75, {"cost/flops": 50.0}, (FLOPS,), 0.0, -1.0) == 0.75
    assert shaped(0.75, {"cost/flops": 100.0}, (FLOPS,), 0.0, -1.0) == 0.75
    assert shaped(0.75, {"cost/flops": 200.0}, (FLOPS,), 0.0, -1.0) == pytest.approx(0.375)
    both = {"cost/flops": 200.0, "cost/params": 40.0}
    assert shaped(0.8, both, (FLOPS, PARAMS), 0.0, -1.0) == pytest.approx(0.1)


def test_missing_a_target_makes_a_negative_value_worse_too():
    assert shaped(-0.5, {"cost/flops": 200.0}, (FLOPS,), 0.0, -1.0) == pytest.approx(-1.0)
    assert shaped(-0.5, {"cost/flops": 0.0}, (FLOPS,), -0.1, -1.0) > -0.5


@pytest.mark.parametrize("value", [0.5, -0.5])
def test_steep_exponents_stay_within_what_a_float_holds(value):
    far, near = (shaped(value, {"cost/flops": cost}, (FLOPS,), 0.0, -60.0) for cost in (1e8, 200.0))
    assert -math.inf < far < near < value
    assert value < shaped(value, {"cost/flops": 0.1}, (FLOPS,), -120.0, -1.0) < math.inf


def test_targets_turn_the_order():
    with_target, without = Rewards((FLOPS,)), Rewards()
    for rewards in (with_target, without):
        rewards(finished(0.8, flops=90.0))
    assert with_target(finished(0.9, flops=150.0)) < with_target(finished(0.7, flops=80.0))
    assert without(finished(0.9, flops=150.0)) > without(finished(0.7, flops=80.0))


def test_a_missing_cost_is_said():
    with raises(SearchError, "missing", "cost/flops"):
        Rewards((FLOPS,))(finished(0.5))


@pytest.mark.parametrize("exponent", [0.07, math.nan, -math.inf])
def test_exponents_that_reward_cost_are_refused(exponent):
    with raises(ConfigError, "range", "beyond"):
        Rewards((FLOPS,), beyond=exponent)
