"""Statistics of a comparison: spread over seeds, bootstrap bands, paired tests, Holm's correction."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

LEVEL = 0.95
"""Of every confidence interval of a mean."""
BAND_RESAMPLES = 1_000
TEST_RESAMPLES = 10_000
_CHUNK = 500
_Z = 1.959964  # 95 % of a normal distribution are within this many standard deviations
_EXACT = 13  # pairs: 8,192 patterns of signs
_EQUAL = 1e-12
"""Differences of pairs are the same to the tests up to this share of the largest value: .94 - .93 and .93 - .92 are."""


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share.

    Wilson 1927; see https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval.
    """
    share = successes / n
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Summary:
    """One figure of a strategy over its seeds.

    Attributes:
        n: seeds.
        mean: over the seeds.
        std: sample standard deviation; None with one seed.
        standard_error: of the mean; None with one seed.
        bound: mean minus two standard errors, plus two where less is better; None with one seed.
        median: over the seeds.
        best: the best seed's.
    """

    n: int
    mean: float
    std: float | None
    standard_error: float | None
    bound: float | None
    median: float
    best: float


def summary(values: Sequence[float], *, maximise: bool = True) -> Summary:
    """Return the spread of at least one value over the seeds; `maximise` says on which side `bound` and `best` lie."""
    array = np.asarray(values, dtype=float)
    mean, n = float(array.mean()), len(array)
    std = float(array.std(ddof=1)) if n > 1 else None
    error = None if std is None else std / math.sqrt(n)
    bound = None if error is None else mean - 2 * error if maximise else mean + 2 * error
    best = float(array.max() if maximise else array.min())
    return Summary(n, mean, std, error, bound, float(np.median(array)), best)


def bootstrap_band(
    values: Matrix, *, seed: int = 0, resamples: int = BAND_RESAMPLES, level: float = 0.95
) -> tuple[Matrix, Matrix, Matrix]:
    """Mean over the rows, and the percentile bootstrap's band around it.

    Efron, "Bootstrap Methods: Another Look at the Jackknife" (https://doi.org/10.1214/aos/1176344552).

    Args:
        values: (seeds, points); a column with a NaN gives NaN.
        seed: of the resampling; whole rows are drawn, so a seed's curve stays in one piece.
        resamples: how many.
        level: of the band.

    Returns:
        Mean, lower and upper end, each of shape (points,).
    """
    n = len(values)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=resamples)
    means = counts @ values / n
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(means, [tail, 100.0 - tail], axis=0)
    return values.mean(axis=0), low, high


@dataclass(frozen=True)
class Spread:
    """One metric over the seeds.

    Attributes:
        mean: over the seeds.
        std: sample standard deviation; None with one seed, which says nothing of the spread.
        n: number of seeds.
        margin: half the width of the mean's 95 % confidence interval (Student's t); None with one seed.
    """

    mean: float
    std: float | None
    n: int
    margin: float | None = None

    @property
    def shown_margin(self) -> float | None:
        """Margin to print, of `shown_margin`."""
        return shown_margin(self.margin)


_NO_WIDTH = 1e-9
"""A margin up to here is an error of computation between equal values."""


def shown_margin(margin: float | None) -> float | None:
    """Return a margin to print; None where all values are the same: an interval without width promises too much."""
    return margin if margin and margin > _NO_WIDTH else None


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and 95 % confidence interval of at least one value; with a NaN the mean is NaN."""
    from scipy.stats import t as student

    if any(math.isnan(value) for value in values):
        return Spread(math.nan, None, len(values))
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Spread(mean, None, 1)
    std = statistics.stdev(values)
    return Spread(mean, std, n, float(student.ppf((1 + LEVEL) / 2, n - 1)) * std / math.sqrt(n))


@dataclass(frozen=True)
class PairedTest:
    """A strategy against random search over the seeds that both have.

    Attributes:
        n: pairs.
        difference: mean of (strategy - random), in the metric's own direction and unit.
        low: lower end of the bootstrap's 95 % interval of that mean.
        high: upper end.
        p_permutation: two-sided, that the differences lie about 0: the sign-flip test of their mean.
        p_wilcoxon: two-sided, Wilcoxon's signed-rank test; 1 where no pair differs.
        p_permutation_holm: corrected for the number of strategies compared.
        p_wilcoxon_holm: likewise.
    """

    n: int
    difference: float
    low: float
    high: float
    p_permutation: float
    p_wilcoxon: float
    p_permutation_holm: float = math.nan
    p_wilcoxon_holm: float = math.nan


def paired_test(
    values: Sequence[float], baseline: Sequence[float], *, seed: int = 0, resamples: int = TEST_RESAMPLES
) -> PairedTest:
    """Test at least one pair; `values` and `baseline` are of the same seeds in the same order.

    Wilcoxon, "Individual Comparisons by Ranking Methods" (https://doi.org/10.2307/3001968), and Pitman, "Significance
    Tests Which May be Applied to Samples from any Populations" (https://doi.org/10.2307/2984124): the permutation test
    of the mean difference, which is the mean that the table shows. The interval is the percentile bootstrap's.
    """
    from scipy.stats import wilcoxon

    differences = np.asarray(values, dtype=float) - np.asarray(baseline, dtype=float)
    n = len(differences)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            differences[rng.integers(n, size=(min(_CHUNK, resamples - done), n))].mean(axis=1)
            for done in range(0, resamples, _CHUNK)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    largest = float(np.abs([values, baseline]).max())
    rounded = np.round(differences / (_EQUAL * largest)) if largest else differences
    p_permutation = _sign_flip(rounded, rng, resamples)
    unequal = rounded[rounded != 0]  # which the test drops; scipy would take their number for large
    p_wilcoxon = float(wilcoxon(unequal).pvalue) if len(unequal) else 1.0
    return PairedTest(n, float(differences.mean()), float(low), float(high), p_permutation, p_wilcoxon)


def _sign_flip(differences: Matrix, rng: np.random.Generator, resamples: int) -> float:
    """Return the share of sign patterns whose sum is as far from 0: at least 2 / 2**n; by a sample of many pairs.

    Args:
        differences: whole numbers, so that sums in any order are the same.
        rng: draws the sample.
        resamples: its size.
    """
    n = len(differences)
    far = abs(differences.sum())
    if n <= _EXACT:
        flipped = np.arange(2**n)[:, None] >> np.arange(n) & 1
        return float((np.abs((1 - 2 * flipped) @ differences) >= far).mean())
    hits = 0
    for done in range(0, resamples, _CHUNK):
        flipped = rng.integers(2, size=(min(_CHUNK, resamples - done), n))
        hits += int((np.abs((1 - 2 * flipped) @ differences) >= far).sum())
    return (hits + 1) / (resamples + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for several tests, in the order given.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (https://www.jstor.org/stable/4615733).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    so_far = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = so_far
    return corrected
