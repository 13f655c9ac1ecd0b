"""scikit-learn's regressors as members of an ensemble that draws instead of averaging."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Kernel, StationaryKernelMixin
from sklearn.tree import ExtraTreeRegressor

from nasforge.strategies.predictor.encoding import Rows

Numbers: TypeAlias = NDArray[np.float64]
Targets: TypeAlias = Callable[[Sequence[int], int], Numbers]

_KEPT, _KEPT_WITH_TWINS = 200, 240
_TUNED = 128
_GROWTH = 1.25
_SCALES = (0.1, 0.25, 0.5, 1.0)
_NOISES = (1e-3, 0.03, 0.1, 0.3)
_USUAL, _SPREAD = 1 / 3, 2.7
_TREES = 16
_FEW = 16


class Lesson(NamedTuple):
    """Training data of a regressor.

    Attributes:
        rows: of every trial to learn from.
        decision: for every column the decision it belongs to.
        known: the trials to learn from, in the order in which they became known.
        targets: target values of some of them, by the weights of objectives that are drawn from a number.
        weights: that number.
        twins: for each of them the rows of points that are the same network.
    """

    rows: Mapping[int, Rows]
    decision: NDArray[np.intp]
    known: Sequence[int]
    targets: Targets
    weights: int
    twins: Mapping[int, Rows]

    def kept(self) -> tuple[Rows, Numbers]:
        """Return rows and targets: all while they are few, then the best and the latest, so that learning stays cheap.

        Twins have their trial's target; where there is no room for all, those of the best come first.
        """
        targets = self.targets(self.known, self.weights)
        trials = np.array(self.known)
        best = np.argsort(-targets, kind="stable")
        if len(trials) > _KEPT:
            chosen = np.union1d(best[: _KEPT // 2], np.arange(len(trials) - _KEPT // 2, len(trials)))
        else:
            chosen = np.arange(len(trials))
        rows, values = [np.array([self.rows[trial] for trial in trials[chosen]])], [targets[chosen]]
        room = _KEPT_WITH_TWINS - len(chosen)
        for index in best:
            if room <= 0:
                break
            twins = self.twins[trials[index]][:room]
            room -= len(twins)
            rows.append(twins)
            values.append(np.full(len(twins), targets[index]))
        return np.concatenate(rows), np.concatenate(values)


class Drawn(NamedTuple):
    """Draw of a regressor, one number for every row.

    Attributes:
        values: from the predicted distributions.
        means: of the predictions.
        deviations: expected standard deviations of the outcomes, noise included where the regressor knows it.
    """

    values: Numbers
    means: Numbers
    deviations: Numbers


class Member(Protocol):
    """One regressor of an ensemble."""

    def learn(self, lesson: Lesson) -> None:
        """Forget everything and learn this: what is learnt depends on the lesson alone."""
        ...

    def draw(self, rows: Rows, deviates: Numbers) -> Drawn:
        """Return a value for every row from its predicted distribution.

        Args:
            rows: of the candidates.
            deviates: how many standard deviations each value lies above its mean, drawn from the standard normal.
        """
        ...


class Alike(StationaryKernelMixin, Kernel):  # type: ignore[misc]
    """A covariance that falls with the squared distance d of two rows: exp(-d), or Matern 5/2 of sqrt(2 d).

    Args:
        rough: Matern's.
    """

    def __init__(self, rough: bool = False) -> None:
        self.rough = rough

    def __call__(self, X: Rows, Y: Rows | None = None, eval_gradient: bool = False) -> Any:
        """Return the covariances of the rows of X and Y; with `eval_gradient` also their gradient by no parameters."""
        covariances = covariance(squared_distances(X, X if Y is None else Y), self.rough)
        return (covariances, np.empty((len(X), len(X), 0))) if eval_gradient else covariances

    def diag(self, X: Rows) -> Numbers:
        """Return ones."""
        return np.ones(len(X))

    def __repr__(self) -> str:
        return f"Alike(rough={self.rough})"


class Process:
    """A Gaussian process (scikit-learn's) that learns how much every decision matters, and how much is noise.

    Weights of decisions and noise are those of the highest likelihood, the amplitude solved for, under a wide prior
    on the weights; they are searched decision by decision at 10, 12, 15, 18, ... trials, on those trials alone.

    Args:
        rough: expect neighbours to differ more than a smooth dependence has it.
    """

    def __init__(self, rough: bool = False) -> None:
        self._rough = rough
        self._tuned = 0
        self._stretch: Numbers = np.empty(0)
        self._noise = 0.0
        self._amplitude = 1.0
        self._process = GaussianProcessRegressor()

    def learn(self, lesson: Lesson) -> None:
        """Tune the weights when it is time, and fit."""
        due = milestone(len(lesson.known))
        if due != self._tuned:
            self._tuned = due
            trials = lesson.known[max(0, due - _TUNED) : due]
            rows, targets = np.array([lesson.rows[trial] for trial in trials]), lesson.targets(trials, due)
            weights, self._noise = most_likely(rows, targets, lesson.decision, self._rough)
            self._stretch = np.sqrt(weights)[lesson.decision]
        rows, targets = lesson.kept()
        self._process = GaussianProcessRegressor(Alike(self._rough), alpha=self._noise, optimizer=None)
        self._process.fit(rows * self._stretch, targets)
        self._amplitude = math.sqrt(max(1e-6, float(targets @ self._process.alpha_) / len(targets)))

    def draw(self, rows: Rows, deviates: Numbers) -> Drawn:
        """Return values of the normal distribution of every row."""
        means, deviations = self._process.predict(rows * self._stretch, return_std=True)
        values = np.asarray(means + self._amplitude * deviations * deviates)
        return Drawn(values, means, self._amplitude * np.sqrt(np.square(deviations) + self._noise))


class Trees:
    """Extra-trees: what does not depend on distances at all."""

    def __init__(self) -> None:
        self._trees: list[ExtraTreeRegressor] = []

    def learn(self, lesson: Lesson) -> None:
        """Grow the trees one by one, which for few trials is faster than a forest; each has its number as seed."""
        rows, targets = lesson.kept()
        seeds = range(_TREES * len(lesson.known), _TREES * (len(lesson.known) + 1))
        self._trees = [ExtraTreeRegressor(random_state=seed).fit(rows, targets) for seed in seeds]

    def draw(self, rows: Rows, deviates: Numbers) -> Drawn:
        """Return values of the normal distribution with the mean and deviation of the trees' predictions of a row."""
        short = rows.astype(np.float32)
        predictions = np.array([tree.predict(short, check_input=False) for tree in self._trees])
        means, deviations = predictions.mean(0), predictions.std(0)
        return Drawn(np.asarray(means + deviations * deviates), means, deviations)


def milestone(count: int) -> int:
    """Return the last of 10, 12, 15, 18, ... up to `count`; `count` itself below 10."""
    reached, following = count, 10
    while following <= count:
        reached, following = following, int(following * _GROWTH)
    return reached


def squared_distances(a: Rows, b: Rows) -> Numbers:
    """Return the squared distance of every row of `a` from every row of `b`."""
    return np.asarray(np.maximum(0.0, (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T))


def covariance(distances: Numbers, rough: bool) -> Numbers:
    """Return the covariance of two rows at this squared distance."""
    if not rough:
        return np.exp(-distances)
    root = np.sqrt(10 * distances)
    return np.asarray((1 + root + root * root / 3) * np.exp(-root))


def most_likely(rows: Rows, targets: Numbers, decision: NDArray[np.intp], rough: bool) -> tuple[Numbers, float]:
    """Search by coordinates for the weights of decisions and the noise that make the targets most likely.

    Args:
        rows: trials x columns.
        targets: of mean 0.
        decision: for every column the decision it belongs to.
        rough: see `covariance`.

    Returns:
        A weight for every decision, and the noise's variance relative to the amplitude.
    """
    apart = np.array(
        [squared_distances(rows[:, mask], rows[:, mask]) for mask in decision == np.unique(decision)[:, None]]
    )
    count, diagonal = len(targets), np.diag_indices(len(targets))

    def likelihood(distances: Numbers, weights: Numbers, noise: float) -> float:
        covariances = covariance(distances, rough)
        covariances[diagonal] = 1 + noise
        try:
            lower = np.linalg.cholesky(covariances)
        except np.linalg.LinAlgError:
            return -math.inf
        amplitude = float(np.square(np.linalg.solve(lower, targets)).sum()) / count
        prior = np.square(np.log(weights / _USUAL) / _SPREAD).sum() / 2
        return -0.5 * count * math.log(max(amplitude, 1e-12)) - float(np.log(lower[diagonal]).sum()) - float(prior)

    even = apart.sum(0)
    best, noise, scale = max(
        (likelihood(scale * even, np.full(len(apart), scale), noise), noise, scale)
        for scale in _SCALES
        for noise in _NOISES
    )
    weights = np.full(len(apart), scale)
    distances = scale * even
    sweeps: tuple[tuple[float, ...], ...] = ((0.25, 0.5, 2.0, 4.0), (0.6, 1.6))
    if len(apart) > _FEW:  # dear, and few trials say nothing of many decisions
        sweeps = ((0.25, 4.0),) if count > len(apart) / 2 else ()
    for factors in sweeps:
        for index, squared in enumerate(apart):
            start = weights[index]
            for changed in start * np.array(factors):
                trial, moved = weights.copy(), np.maximum(0.0, distances + (changed - weights[index]) * squared)
                trial[index] = changed
                value = likelihood(moved, trial, noise)
                if value > best:
                    best, weights, distances = value, trial, moved
        best, noise = max((likelihood(distances, weights, other), other) for other in _NOISES)
    return weights, noise
