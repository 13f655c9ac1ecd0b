"""What a retraining says: figures with their spread, whether the search ranked well, and what it gained."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, overload

from scipy.stats import kendalltau
from scipy.stats import t as student

from nasforge.core.architecture import Architecture

LEVEL = 0.95
"""Of every confidence interval here."""
_FIGURE = "test/accuracy"


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


@dataclass(frozen=True)
class Retrained:
    """A network retrained from scratch with several seeds.

    Attributes:
        name: `arch_id` of a finalist, or the reference's name.
        networks: names of the retrained networks, one per seed; each has a folder in `finalists/`.
        costs: `cost/params`, `cost/flops`, `cost/memory_mb`.
        test: `test/accuracy`, `test/loss`, `test/f1_macro` over the seeds.
        failures: why some seeds have no figures, in words.
    """

    name: str
    networks: tuple[str, ...]
    costs: Mapping[str, float]
    test: Mapping[str, Spread]
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finalist:
    """A finished trial's network retrained, and a ResNet of about its FLOPs retrained by the same recipe and seeds.

    Attributes:
        rank: in the search, from 1.
        number: its trial.
        architecture: the point.
        epochs: of every retraining.
        found: the trial's metrics in the search.
        merit: the search's first objective, to be maximised.
        retrained: the finalist's own figures.
        reference: the ResNet's; None for a network that was drawn at random.
    """

    rank: int
    number: int
    architecture: Architecture
    epochs: int
    found: Mapping[str, float]
    merit: float
    retrained: Retrained
    reference: Retrained | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "rank": self.rank,
            "number": self.number,
            "arch_id": self.architecture.arch_id,
            "architecture": self.architecture.to_json(),
            "epochs": self.epochs,
            "found": dict(self.found),
            "retrained": asdict(self.retrained),
            "reference": asdict(self.reference) if self.reference else None,
        }


@dataclass(frozen=True)
class RankAgreement:
    """Whether the search put its networks in the order that the test part gives them.

    Attributes:
        tau: Kendall's tau-b, 1 for the same order, 0 for none, -1 for the reverse; None where it is not defined.
        p_value: two-sided, that there is no such agreement; exact without ties.
        n: networks compared.
        least_p: the p value of perfect agreement among so many.
    """

    tau: float | None
    p_value: float | None
    n: int
    least_p: float

    @property
    def too_few(self) -> bool:
        """Whether no order of so many networks could show anything at the level of 0.05."""
        return self.least_p > 1 - LEVEL


@dataclass(frozen=True)
class Gain:
    """How much better the finalists are on the test part, in accuracy.

    Attributes:
        difference: of the means.
        low: lower end of the 95 % confidence interval; None with fewer than two on a side.
        high: upper end.
        n: how many on either side.
        over: what was counted: `networks`, each the mean of its seeds, or `seeds` where a side has one network only.
    """

    difference: float
    low: float | None
    high: float | None
    n: tuple[int, int]
    over: str


@dataclass(frozen=True)
class Ensemble:
    """The finalists together: the mean of what they say, class by class.

    Attributes:
        name: of its folder in `finalists/`.
        members: names of its networks.
        costs: `cost/params` and `cost/flops`, the sums over the members.
        test: figures on the test part.
    """

    name: str
    members: tuple[str, ...]
    costs: Mapping[str, float]
    test: Mapping[str, float]


@dataclass(frozen=True)
class Finalists(Sequence[Finalist]):
    """All that a retraining found; as a sequence it is the best of the search, best first.

    Attributes:
        top: the best, each beside its reference.
        random: finished trials drawn at random from the others.
        ensemble: of `top`, one network of each; None for a single one.
        agreement: of the search's order with the test part's, over `top` and `random`.
        gains: of `top` over `random` (where there are any) and over `reference`.
    """

    top: tuple[Finalist, ...]
    random: tuple[Finalist, ...] = ()
    ensemble: Ensemble | None = None
    agreement: RankAgreement = field(default_factory=lambda: rank_agreement([], []))
    gains: Mapping[str, Gain] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> Finalist: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Finalist, ...]: ...
    def __getitem__(self, index: int | slice) -> Finalist | tuple[Finalist, ...]:
        return self.top[index]

    def __len__(self) -> int:
        return len(self.top)

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "finalists": [finalist.to_json() for finalist in self.top],
            "random": [finalist.to_json() for finalist in self.random],
            "ensemble": asdict(self.ensemble) if self.ensemble else None,
            "agreement": {**asdict(self.agreement), "too_few": self.agreement.too_few},
            "gains": {name: asdict(gain) for name, gain in self.gains.items()},
        }


def judged(top: Sequence[Finalist], drawn: Sequence[Finalist], ensemble: Ensemble | None) -> Finalists:
    """The whole verdict over networks that have met the test part."""
    known = [(found.merit, _mean(found.retrained)) for found in (*top, *drawn)]
    pairs = [(merit, mean) for merit, mean in known if mean is not None]
    gains = {
        "random": gain([found.retrained for found in top], [found.retrained for found in drawn]),
        "reference": gain([found.retrained for found in top], [found.reference for found in top if found.reference]),
    }
    return Finalists(
        top=tuple(top),
        random=tuple(drawn),
        ensemble=ensemble,
        agreement=rank_agreement([merit for merit, _ in pairs], [mean for _, mean in pairs]),
        gains={name: found for name, found in gains.items() if found is not None},
    )


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and 95 % confidence interval of at least one value; with a NaN the mean is NaN."""
    if any(math.isnan(value) for value in values):
        return Spread(math.nan, None, len(values))
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Spread(mean, None, 1)
    std = statistics.stdev(values)
    return Spread(mean, std, n, float(student.ppf((1 + LEVEL) / 2, n - 1)) * std / math.sqrt(n))


def rank_agreement(search: Sequence[float], test: Sequence[float]) -> RankAgreement:
    """Kendall's tau-b of two figures of the same networks.

    Kendall, "A New Measure of Rank Correlation" (https://doi.org/10.1093/biomet/30.1-2.81).
    """
    n = len(search)
    least = 2 / math.factorial(n) if n > 1 else 1.0
    if n < 2:
        return RankAgreement(None, None, n, least)
    found = kendalltau(search, test)
    if math.isnan(found.statistic):  # one of the orders is all ties
        return RankAgreement(None, None, n, least)
    return RankAgreement(float(found.statistic), float(found.pvalue), n, least)


def gain(ours: Iterable[Retrained], theirs: Iterable[Retrained]) -> Gain | None:
    """The difference of mean test accuracies with Welch's interval; None where a side has no figures.

    Welch, "The Generalization of 'Student's' Problem when Several Different Population Variances are Involved"
    (https://doi.org/10.1093/biomet/34.1-2.28). The networks are what is sampled, so each counts once, by the mean over
    its seeds; with a single network on a side only its seeds tell of chance.
    """
    sides = [[found.test[_FIGURE] for found in side if _mean(found) is not None] for side in (ours, theirs)]
    a, b = sides
    if not a or not b:
        return None
    if len(a) > 1 and len(b) > 1:
        (mean_a, var_a, n_a), (mean_b, var_b, n_b) = (_moments([s.mean for s in side]) for side in sides)
        over = "networks"
    else:
        (mean_a, var_a, n_a), (mean_b, var_b, n_b) = (_pooled(side) for side in sides)
        over = "seeds"
    difference = mean_a - mean_b
    if min(n_a, n_b) < 2 or var_a is None or var_b is None:
        return Gain(difference, None, None, (n_a, n_b), over)
    parts = var_a / n_a, var_b / n_b
    error = math.sqrt(sum(parts))
    if error == 0:
        return Gain(difference, difference, difference, (n_a, n_b), over)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (n_a - 1) + parts[1] ** 2 / (n_b - 1))
    margin = float(student.ppf((1 + LEVEL) / 2, freedom)) * error
    return Gain(difference, difference - margin, difference + margin, (n_a, n_b), over)


def _moments(values: Sequence[float]) -> tuple[float, float | None, int]:
    """Mean, sample variance and number."""
    return statistics.fmean(values), statistics.variance(values) if len(values) > 1 else None, len(values)


def _pooled(side: Sequence[Spread]) -> tuple[float, float | None, int]:
    """Mean, sample variance and number over all seeds of all networks of a side."""
    n = sum(found.n for found in side)
    mean = sum(found.mean * found.n for found in side) / n
    if n < 2:
        return mean, None, n
    squares = sum((found.std or 0.0) ** 2 * (found.n - 1) + found.n * (found.mean - mean) ** 2 for found in side)
    return mean, squares / (n - 1), n


def _mean(retrained: Retrained) -> float | None:
    """Mean test accuracy, where there is one."""
    found = retrained.test.get(_FIGURE)
    return None if found is None or math.isnan(found.mean) else found.mean
