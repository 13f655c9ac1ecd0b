"""Statistics against values worked out by hand."""

import math

import numpy as np
import pytest

from nasforge.views.statistics import bootstrap_band, holm, paired_test, spread, summary, wilson


def test_summary_by_hand() -> None:
    stats = summary([1.0, 2.0, 3.0, 6.0])
    assert stats.n == 4 and stats.mean == 3.0 and stats.median == 2.5 and stats.best == 6.0
    assert stats.std == pytest.approx(math.sqrt(14 / 3)) and stats.standard_error == pytest.approx(math.sqrt(14 / 12))
    assert stats.bound == pytest.approx(3.0 - 2 * math.sqrt(14 / 12))


def test_bound_lies_on_the_bad_side_where_less_is_better() -> None:
    stats = summary([1.0, 3.0], maximise=False)
    assert stats.best == 1.0 and stats.bound == pytest.approx(2.0 + 2 * 1.0)


def test_one_seed_says_nothing_of_the_spread() -> None:
    stats = summary([0.5])
    assert (stats.std, stats.standard_error, stats.bound) == (None, None, None) and stats.mean == 0.5


def test_equal_seeds_have_no_interval_to_show() -> None:
    third = 1 / 3  # three thirds have a mean that is off by a rounding error
    assert spread([third, third, third + 1e-16]).shown_margin is None and spread([0.5]).shown_margin is None
    apart = spread([0.5, 0.6])
    assert apart.shown_margin == apart.margin


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04; made monotone: .04 .06 .06 .06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_wilcoxon_by_hand() -> None:
    # All six differences have one sign: exact two-sided p is 2 / 2**6.
    outcome = paired_test([2.0, 3.1, 4.2, 5.3, 6.4, 7.5], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert outcome.n == 6 and outcome.difference == pytest.approx(1.25)
    assert outcome.p_wilcoxon == pytest.approx(2 / 64)
    # Only all signs kept and all turned have so large a mean: the same 2 / 2**6.
    assert outcome.p_permutation == pytest.approx(2 / 64)
    assert 1.0 < outcome.low < 1.25 < outcome.high < 1.5


@pytest.mark.parametrize("unequal", [3, 4, 6])
def test_equal_pairs_do_not_make_wilcoxons_test_surer(unequal: int) -> None:
    # Of 20 pairs some differ, by one value and in one direction: of 2**unequal signs two are as far.
    values = [1.0] * unequal + [0.0] * (20 - unequal)
    assert paired_test(values, [0.0] * 20).p_wilcoxon == pytest.approx(2 / 2**unequal)


def test_equal_pairs_differ_in_nothing() -> None:
    outcome = paired_test([0.5, 0.7, 0.6], [0.5, 0.7, 0.6])
    assert (outcome.difference, outcome.low, outcome.high) == (0.0, 0.0, 0.0)
    assert outcome.p_wilcoxon == 1.0 and outcome.p_permutation == 1.0


def test_rounding_errors_rank_no_pairs() -> None:
    # As whole numbers of thousandths the differences are -18 12 -20 -20 37: two of them share a rank.
    values, random = [0.939, 0.92, 0.913, 0.925, 0.952], [0.957, 0.908, 0.933, 0.945, 0.915]
    whole = paired_test([round(1000 * value) for value in values], [round(1000 * value) for value in random])
    outcome = paired_test(values, random)
    assert (outcome.p_wilcoxon, outcome.p_permutation) == (whole.p_wilcoxon, whole.p_permutation)
    alike = paired_test([0.1 + 0.2] * 10, [0.3] * 10)
    assert alike.p_wilcoxon == 1.0 and alike.p_permutation == 1.0


def test_permutation_by_hand() -> None:
    # Sums of +-1 +-2 +-4 are the odd numbers from -7 to 7: all are as far from 0 as 1 + 2 - 4 = -1.
    assert paired_test([1.0, 2.0, 0.0], [0.0, 0.0, 4.0]).p_permutation == 1.0
    # Of -1 + 2 + 4 = 5: -7, -5, 5, 7.
    assert paired_test([0.0, 2.0, 4.0], [1.0, 0.0, 0.0]).p_permutation == 4 / 8


@pytest.mark.parametrize("n", [1, 2, 3, 5, 13])
def test_few_seeds_cannot_be_significant(n: int) -> None:
    outcome = paired_test([0.1] * n, [0.0] * n)
    assert outcome.p_permutation == 2 / 2**n


def test_many_seeds_are_sampled_and_agree_with_the_exact_test() -> None:
    rng = np.random.default_rng(1)
    values = list(rng.normal(0.2, 1.0, size=13))
    exact = paired_test(values, [0.0] * 13).p_permutation
    # A pair that differs in nothing changes no sum: exact for 13, sampled for 14.
    sampled = paired_test([*values, 0.0], [0.0] * 14).p_permutation
    assert 0.02 < exact < 0.9 and sampled == pytest.approx(exact, abs=0.02) and sampled != exact
    assert paired_test([1.0] * 40, [0.0] * 40).p_permutation == pytest.approx(1 / 10_001)


def test_noise_is_not_significant_and_a_seed_repeats_it() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=80), rng.normal(size=80)
    outcome = paired_test(list(a), list(b), seed=5)
    assert outcome == paired_test(list(a), list(b), seed=5)
    assert outcome.low < outcome.difference < outcome.high
    assert outcome.p_wilcoxon > 0.05 and outcome.p_permutation > 0.05


def test_band_is_about_two_standard_errors() -> None:
    values = np.random.default_rng(0).normal(size=(200, 3))
    mean, low, high = bootstrap_band(values, seed=1)
    assert mean == pytest.approx(values.mean(axis=0))
    width = (high - low) / (values.std(axis=0, ddof=1) / math.sqrt(200))
    assert np.all(np.abs(width - 3.92) < 0.35)
    again = bootstrap_band(values, seed=1)
    assert np.array_equal(low, again[1]) and not np.array_equal(low, bootstrap_band(values, seed=2)[1])


def test_band_is_missing_where_a_seed_is() -> None:
    mean, low, high = bootstrap_band(np.array([[math.nan, 1.0], [2.0, 1.0]]))
    assert math.isnan(mean[0]) and math.isnan(low[0]) and math.isnan(high[0])
    assert mean[1] == low[1] == high[1] == 1.0


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"), [(0, 10, 0.0, 0.27753), (5, 10, 0.23659, 0.76341), (200, 200, 0.98115, 1.0)]
)
def test_wilson_agrees_with_published_values(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-4)
