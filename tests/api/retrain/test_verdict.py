import json
import math

import pytest
from scipy import stats

from nasforge.api.retrain.verdict import (
    Finalist,
    Retrained,
    Spread,
    gain,
    gain_of_pairs,
    judged,
    rank_agreement,
    spread,
)
from nasforge.core.architecture import Architecture
from nasforge.core.goals import Objective


def retrained(*accuracies, name="x", **others):
    test = {"test/accuracy": spread(accuracies)} if accuracies else {}
    test |= {f"test/{key}": spread([value]) for key, value in others.items()}
    return Retrained(name, tuple(f"{name}-{i}" for i in range(len(accuracies))), {"cost/params": 1.0}, test)


def finalist(merit, *accuracies, reference=None):
    return Finalist(1, 0, Architecture({"model.a": 1}), 3, {}, merit, retrained(*accuracies), reference)


def test_the_interval_of_a_mean_is_students():
    values = [0.90, 0.92, 0.95, 0.91]
    interval = spread(values)
    low, high = stats.t.interval(0.95, 3, loc=interval.mean, scale=stats.sem(values))
    assert (interval.mean - interval.margin, interval.mean + interval.margin) == pytest.approx((low, high))
    assert interval.n == 4


def test_one_seed_has_no_spread_and_nan_no_mean():
    assert spread([0.9]) == Spread(0.9, None, 1, None)
    assert math.isnan(spread([0.9, math.nan]).mean) and spread([0.9, math.nan]).margin is None


def test_agreement_is_kendalls_with_the_exact_p_value():
    agreement = rank_agreement([1, 2, 3, 4, 5], [0.1, 0.2, 0.3, 0.5, 0.4])
    assert agreement.tau == pytest.approx(0.8)
    assert agreement.p_value == pytest.approx(
        2 * (1 + 4) / math.factorial(5)
    )  # of 120 orders 1 has no inversion, 4 one
    assert not agreement.too_few
    assert rank_agreement([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]).tau == pytest.approx(-1)


@pytest.mark.parametrize("n", [0, 1, 2, 4, 5])
def test_so_few_networks_cannot_tell(n):
    agreement = rank_agreement(range(n), range(n))
    assert agreement.too_few == (n < 5)
    assert agreement.tau == (None if n < 2 else pytest.approx(1))
    if n > 1:
        assert agreement.p_value == pytest.approx(agreement.least_p)


@pytest.mark.parametrize(
    ("search", "test", "p_value", "least"),
    [
        # Of 6 orders of 1 2 2 two each begin with 1, end with it, have it between: |S| is 2, 2, 0.
        ([1, 2, 3], [1, 2, 2], 2 / 3, 2 / 3),
        # Of the 6 ways to choose who has the two low values, the same two as above and the other two: 2 / 6.
        ([1, 1, 2, 2], [1, 1, 2, 2], 1 / 3, 1 / 3),
        ([1, 2, 3, 4], [1, 2, 3, 3], 1 / 6, 1 / 6),
    ],
)
def test_the_p_value_with_ties_counts_all_orders(search, test, p_value, least):
    agreement = rank_agreement(search, test)
    assert (agreement.p_value, agreement.least_p) == (pytest.approx(p_value), pytest.approx(least))


def test_the_p_value_of_many_networks_with_ties_is_of_a_sample():
    search, test = list(range(10)), [0, 1, 2, 3, 4, 5, 6, 7, 7, 8]
    assert rank_agreement(search, test).p_value < 0.001
    mixed = rank_agreement(search, [3, 3, 1, 8, 0, 5, 2, 7, 4, 6])
    from_table = stats.kendalltau(
        search, [3, 3, 1, 8, 0, 5, 2, 7, 4, 6]
    ).pvalue  # by the normal distribution: too small
    assert mixed.p_value == pytest.approx(from_table, abs=0.1)


def test_an_order_that_is_all_ties_is_none():
    assert rank_agreement([1, 1, 1], [0.1, 0.2, 0.3]).tau is None


def test_gain_counts_networks_by_the_mean_of_their_seeds():
    ours = [retrained(0.94, 0.96), retrained(0.93, 0.95), retrained(0.97)]
    theirs = [retrained(0.90), retrained(0.91, 0.93)]
    gained = gain(ours, theirs)
    a, b = [0.95, 0.94, 0.97], [0.90, 0.92]
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert gained.difference == pytest.approx(sum(a) / 3 - sum(b) / 2)
    assert (gained.low, gained.high) == pytest.approx((interval.low, interval.high))
    assert (gained.n, gained.over) == ((3, 2), ("networks", "networks"))


def test_gain_of_a_single_network_counts_its_seeds_and_the_other_sides_networks():
    gained = gain([retrained(0.94, 0.96)], [retrained(0.90, 0.92), retrained(0.95)])
    interval = stats.ttest_ind([0.94, 0.96], [0.91, 0.95], equal_var=False).confidence_interval()
    assert (gained.low, gained.high) == pytest.approx((interval.low, interval.high))
    assert (gained.n, gained.over) == ((2, 2), ("seeds", "networks"))
    more_seeds = gain([retrained(0.94, 0.96)], [retrained(*[0.90, 0.92] * 5), retrained(*[0.95] * 10)])
    assert (more_seeds.low, more_seeds.high) == pytest.approx((gained.low, gained.high))  # still two networks


def test_a_network_is_paired_with_its_own_reference():
    ours = [retrained(0.90, 0.92), retrained(0.80), retrained(0.70)]
    theirs = [retrained(0.90), retrained(0.78, 0.80), retrained(0.688)]
    gained = gain_of_pairs(zip(ours, theirs, strict=True))
    interval = stats.ttest_rel([0.91, 0.80, 0.70], [0.90, 0.79, 0.688]).confidence_interval()
    assert (gained.low, gained.high) == pytest.approx((interval.low, interval.high))
    assert gained.difference == pytest.approx(0.032 / 3) and (gained.n, gained.over) == ((3, 3), ("pairs", "pairs"))
    assert gained.low > 0 > gain(ours, theirs).low  # as unpaired networks they would drown in their differences
    one_failed = gain_of_pairs([(ours[0], theirs[0]), (ours[1], retrained()), (ours[2], theirs[2])])
    assert one_failed.difference == pytest.approx(0.011) and one_failed.n == (2, 2)
    alone = gain_of_pairs([(retrained(0.94, 0.96), retrained(0.90, 0.91))])
    assert alone == gain([retrained(0.94, 0.96)], [retrained(0.90, 0.91)]) and alone.over == ("seeds", "seeds")
    assert gain_of_pairs([(retrained(0.9), retrained())]) is None


def test_gain_without_chance_or_figures():
    alone = gain([retrained(0.94)], [retrained(0.90)])
    assert alone.difference == pytest.approx(0.04) and alone.low is None and alone.n == (1, 1)
    assert gain([retrained(0.94)], [retrained()]) is None
    same = gain([retrained(0.9, 0.9)], [retrained(0.8, 0.8)])
    assert (same.difference, same.low, same.high) == (pytest.approx(0.1), None, None)
    pairs = gain_of_pairs([(retrained(0.9), retrained(0.8)), (retrained(0.7), retrained(0.6))])
    assert (pairs.difference, pairs.low, pairs.high) == (pytest.approx(0.1), None, None)


def test_judged_compares_top_with_random_and_reference():
    top = [finalist(0.9, 0.95, reference=retrained(0.90)), finalist(0.8, 0.93, reference=retrained(0.92))]
    drawn = [finalist(0.6, 0.91), finalist(0.5, 0.89), finalist(0.4)]  # the last one has failed
    verdict = judged(top, drawn, None)
    assert (verdict.agreement.n, verdict.agreement.tau) == (4, pytest.approx(1))
    assert verdict.gains["random"].difference == pytest.approx(0.04)
    assert verdict.gains["reference"].difference == pytest.approx(0.03)
    assert list(verdict) == top and verdict[0] is top[0] and len(verdict) == 2
    json.dumps(verdict.to_json())
    assert "random" not in judged(top, [], None).gains


def test_networks_are_judged_by_what_the_search_was_for():
    top = [Finalist(1, 0, Architecture({"model.a": 1}), 3, {}, -0.2, retrained(0.9, loss=0.3))]
    drawn = [Finalist(2, 1, Architecture({"model.a": 2}), 3, {}, -0.4, retrained(0.95, loss=0.5))]
    verdict = judged(top, drawn, None, Objective("val/loss", maximise=False))
    assert verdict.figure == "test/loss" and verdict.to_json()["figure"] == "test/loss"
    assert verdict.gains["random"].difference == pytest.approx(0.2)  # less is better
    assert verdict.agreement.tau == pytest.approx(1)
    other = judged(top, drawn, None, Objective("val/roc_auc", maximise=True))  # not measured on the test split
    assert other.figure == "test/accuracy" and other.gains["random"].difference == pytest.approx(-0.05)


def test_a_lower_loss_is_a_gain_over_references():
    goal = Objective("test/loss", maximise=False)
    pairs = [(retrained(0.9, loss=0.1), retrained(0.9, loss=0.4)), (retrained(0.9, loss=0.2), retrained(0.9, loss=0.3))]
    assert gain_of_pairs(pairs, goal).difference == pytest.approx(0.2)
    assert gain([a for a, _ in pairs], [b for _, b in pairs], goal).difference == pytest.approx(0.2)
