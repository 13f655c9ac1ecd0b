"""Results of a retraining: metrics with their spread, the agreement of ranks, and the gain."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, overload

from nasforge.core.architecture import Architecture, Value
from nasforge.core.goals import Objective
from nasforge.views.statistics import LEVEL, Spread, shown_margin, spread

_ENUMERATED = 8
"""Networks of which all orders are looked at, 40,320 of them."""
_SAMPLED = 20_000
"""Orders of more networks that are looked at."""
ACCURACY = Objective("test/accuracy", maximise=True)
"""What networks are judged by where the search's objective is not measured on the test split."""


@dataclass(frozen=True)
class Retrained:
    """A network retrained from scratch with several seeds.

    Attributes:
        name: `arch_id` of a finalist, or the reference's name.
        networks: names of the retrained networks, one per seed; each has a folder in `finalists/`.
        costs: `cost/params`, `cost/flops`, `cost/memory_mb`.
        test: `test/accuracy`, `test/loss`, `test/f1_macro` over the seeds.
        failures: why some seeds have no figures, in words.
        notes: sentences on the network: how it was widened, or that a reference could not be scaled to its FLOPs.
    """

    name: str
    networks: tuple[str, ...]
    costs: Mapping[str, float]
    test: Mapping[str, Spread]
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finalist:
    """A finished trial's network retrained, and references of about its FLOPs retrained by the same recipe and seeds.

    Attributes:
        rank: in the search, from 1.
        number: its trial.
        architecture: the point.
        epochs: of every retraining.
        search_metrics: the trial's metrics in the search.
        merit: the search's first objective that was measured on images, to be maximised.
        retrained: the finalist's own figures.
        reference: the first reference's, a ResNet unless another was asked for; None for a network that was drawn at
            random.
        more_references: the other references', by the names under which they were asked for.
        recipe: the settings that replaced the search's.
        widened: the decisions that were raised up to the limits of the search.
    """

    rank: int
    number: int
    architecture: Architecture
    epochs: int
    search_metrics: Mapping[str, float]
    merit: float
    retrained: Retrained
    reference: Retrained | None = None
    more_references: Mapping[str, Retrained] = field(default_factory=dict)
    recipe: Mapping[str, Value] = field(default_factory=dict)
    widened: Mapping[str, Value] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[Retrained, ...]:
        """The network and all its references."""
        first = () if self.reference is None else (self.reference,)
        return (self.retrained, *first, *self.more_references.values())

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "rank": self.rank,
            "number": self.number,
            "arch_id": self.architecture.arch_id,
            "architecture": self.architecture.to_json(),
            "epochs": self.epochs,
            "recipe": dict(self.recipe),
            "widened": dict(self.widened),
            "found": dict(self.search_metrics),
            "retrained": asdict(self.retrained),
            "reference": asdict(self.reference) if self.reference else None,
            "more_references": {name: asdict(other) for name, other in self.more_references.items()},
        }


@dataclass(frozen=True)
class RankAgreement:
    """Agreement between the ranks in the search and on the test split.

    Attributes:
        tau: Kendall's tau-b, 1 for the same order, 0 for none, -1 for the reverse; None where it is not defined.
        p_value: two-sided, that there is no such agreement; exact without ties.
        n: networks compared.
        least_p: the p value of perfect agreement among this many.
    """

    tau: float | None
    p_value: float | None
    n: int
    least_p: float

    @property
    def too_few(self) -> bool:
        """True if there are too few networks for any order to be significant at 0.05."""
        return self.least_p > 1 - LEVEL


@dataclass(frozen=True)
class Gain:
    """Gain of the finalists on the test split, in the metric that they are judged by.

    Attributes:
        difference: of the means, above 0 where the finalists are better.
        low: lower end of the 95 % confidence interval; None with fewer than two on a side, or where all are equal:
            an interval without width promises too much.
        high: upper end.
        n: how many on either side.
        over: what they are: `networks`, each the mean of its seeds; `seeds` of a side's only network; `pairs` of a
            network and its own reference, on both sides.
    """

    difference: float
    low: float | None
    high: float | None
    n: tuple[int, int]
    over: tuple[str, str]


@dataclass(frozen=True)
class Ensemble:
    """The finalists together: the mean of what they say, class by class.

    Attributes:
        name: of its folder in `finalists/`.
        members: names of its networks.
        costs: `cost/params` and `cost/flops`, the sums over the members.
        test: figures on the test split.
    """

    name: str
    members: tuple[str, ...]
    costs: Mapping[str, float]
    test: Mapping[str, float]


@dataclass(frozen=True)
class Finalists(Sequence[Finalist]):
    """All that a retraining found; as a sequence it is the best of the search, best first.

    Attributes:
        top: the best, each with its reference.
        random: finished trials drawn at random from the others.
        ensemble: of `top`, one network of each; None for a single one.
        agreement: of the search's order with the test split's, over `top` and `random`.
        gains: of `top` over `random` (where there are any), over `reference`, and over each of the other references:
            `reference/NAME`.
        figure: what `agreement` and `gains` are about: the search's objective on the test split, else `test/accuracy`.
        warning: a sentence where the best has learnt nothing; else "".
        compared: names under which the references were asked for; the first is `reference`.
    """

    top: tuple[Finalist, ...]
    random: tuple[Finalist, ...] = ()
    ensemble: Ensemble | None = None
    agreement: RankAgreement = field(default_factory=lambda: rank_agreement([], []))
    gains: Mapping[str, Gain] = field(default_factory=dict)
    figure: str = ACCURACY.metric
    warning: str = ""
    compared: tuple[str, ...] = ("resnet",)

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
            "figure": self.figure,
            "warning": self.warning,
            "references": list(self.compared),
        }


def judged(
    top: Sequence[Finalist],
    drawn: Sequence[Finalist],
    ensemble: Ensemble | None,
    objective: Objective = ACCURACY,
    compared: tuple[str, ...] = ("resnet",),
) -> Finalists:
    """Return the whole verdict over networks that have met the test split.

    Args:
        top: the best of the search.
        drawn: others of it.
        ensemble: of the best.
        objective: of the search, `Finalist.merit`; the test split's figure of that name is compared where all have it.
        compared: names of the references.
    """
    goal = _on_the_test_part(objective, [*top, *drawn])
    known = [(finalist.merit, mean_of(finalist.retrained, goal)) for finalist in (*top, *drawn)]
    pairs = [(merit, goal.oriented(mean)) for merit, mean in known if mean is not None]
    gains = {
        "random": gain([finalist.retrained for finalist in top], [finalist.retrained for finalist in drawn], goal),
        "reference": gain_of_pairs(
            [(finalist.retrained, finalist.reference) for finalist in top if finalist.reference], goal
        ),
    }
    for name in compared[1:]:
        pairs_of_one = [(f.retrained, f.more_references[name]) for f in top if name in f.more_references]
        gains[f"reference/{name}"] = gain_of_pairs(pairs_of_one, goal)
    return Finalists(
        top=tuple(top),
        random=tuple(drawn),
        ensemble=ensemble,
        agreement=rank_agreement([merit for merit, _ in pairs], [mean for _, mean in pairs]),
        gains={name: finalist for name, finalist in gains.items() if finalist is not None},
        figure=goal.metric,
        compared=compared,
    )


def _on_the_test_part(objective: Objective, finalists: Sequence[Finalist]) -> Objective:
    """Return the same figure on the test split; accuracy, where it was not measured on every network."""
    key = objective.metric.replace("val/", "test/", 1)
    parts = [part for finalist in finalists for part in finalist.parts if part.test]
    return Objective(key, objective.maximise) if all(key in part.test for part in parts) else ACCURACY


def rank_agreement(search: Sequence[float], test: Sequence[float]) -> RankAgreement:
    """Kendall's tau-b of two figures of the same networks.

    Kendall, "A New Measure of Rank Correlation" (https://doi.org/10.1093/biomet/30.1-2.81).
    """
    n = len(search)
    least = 2 / math.factorial(n) if n > 1 else 1.0
    if n < 2:
        return RankAgreement(None, None, n, least)
    from scipy.stats import kendalltau

    correlation = kendalltau(search, test)
    if math.isnan(correlation.statistic):  # one of the orders is all ties
        return RankAgreement(None, None, n, least)
    p_value = float(correlation.pvalue)
    if min(len(set(search)), len(set(test))) < n:  # scipy's is exact without ties only
        p_value, least = _p_with_ties(search, test)
    return RankAgreement(float(correlation.statistic), p_value, n, least)


def _p_with_ties(search: Sequence[float], test: Sequence[float]) -> tuple[float, float]:
    """Return the share of all orders of `test` that agree or disagree at least as much, and the least such share.

    Of more than 8 networks it is the share of a sample of orders, always the same one.
    """
    import numpy as np

    n = len(test)
    if n <= _ENUMERATED:
        orders = np.array(list(itertools.permutations(range(n))))
    else:
        orders = np.random.default_rng(0).permuted(np.tile(np.arange(n), (_SAMPLED, 1)), axis=1)
        orders[0] = np.arange(n)  # the one that was seen
    ours, theirs = (np.sign(np.subtract.outer(side, side)) for side in (np.array(search), np.array(test)))
    concordant = np.array([abs((ours * theirs[np.ix_(order, order)]).sum()) for order in orders])
    seen = abs((ours * theirs).sum())
    return float((concordant >= seen).mean()), float((concordant == concordant.max()).mean())


def gain(ours: Iterable[Retrained], theirs: Iterable[Retrained], goal: Objective = ACCURACY) -> Gain | None:
    """Return the difference of mean figures with Welch's interval; None where a side has no figures.

    Welch, "The Generalization of 'Student's' Problem when Several Different Population Variances are Involved"
    (https://doi.org/10.1093/biomet/34.1-2.28). The networks are what is sampled, so each counts once, by the mean over
    its seeds; of a side with a single network its seeds tell of chance.
    """
    values = [[r.test[goal.metric] for r in side if mean_of(r, goal) is not None] for side in (ours, theirs)]
    if not all(values):
        return None
    (mean_a, variance_a, n_a, over_a), (mean_b, variance_b, n_b, over_b) = map(_mean_and_variance, values)
    difference = goal.oriented(mean_a) - goal.oriented(mean_b)
    if variance_a is None or variance_b is None:
        return _within(difference, None, (n_a, n_b), (over_a, over_b))
    margin, variance = 0.0, variance_a + variance_b
    if variance > 0:
        from scipy.stats import t as student

        freedom = variance**2 / (variance_a**2 / (n_a - 1) + variance_b**2 / (n_b - 1))
        margin = float(student.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(variance)
    return _within(difference, shown_margin(margin), (n_a, n_b), (over_a, over_b))


def gain_of_pairs(pairs: Iterable[tuple[Retrained, Retrained]], goal: Objective = ACCURACY) -> Gain | None:
    """Return the mean difference of networks and their references, with Student's interval; None without metrics.

    A network and a reference of its FLOPs, by its recipe, differ less by chance than two networks do. Of a single pair
    the seeds are counted, as in `gain`.
    """
    whole = [(a, b) for a, b in pairs if mean_of(a, goal) is not None and mean_of(b, goal) is not None]
    if len(whole) < 2:
        return gain([a for a, _ in whole], [b for _, b in whole], goal)
    of_each = [goal.oriented(a.test[goal.metric].mean) - goal.oriented(b.test[goal.metric].mean) for a, b in whole]
    over = spread(of_each)
    return _within(over.mean, over.shown_margin, (over.n, over.n), ("pairs", "pairs"))


def _within(difference: float, margin: float | None, n: tuple[int, int], over: tuple[str, str]) -> Gain:
    """Return a gain with the interval of this margin; None: without one."""
    if margin is None:
        return Gain(difference, None, None, n, over)
    return Gain(difference, difference - margin, difference + margin, n, over)


def _mean_and_variance(side: Sequence[Spread]) -> tuple[float, float | None, int, str]:
    """Mean, variance of that mean, how many it is of, and what these are; no variance of a single one."""
    if len(side) == 1:
        (one,) = side
        return one.mean, None if one.std is None else one.std**2 / one.n, one.n, "seeds"
    means = [member.mean for member in side]
    return statistics.fmean(means), statistics.variance(means) / len(means), len(means), "networks"


def mean_of(retrained: Retrained, goal: Objective = ACCURACY) -> float | None:
    """Return the mean of a figure on the test split, where there is one."""
    over = retrained.test.get(goal.metric)
    return None if over is None or math.isnan(over.mean) else over.mean
