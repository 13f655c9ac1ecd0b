"""A predictor that is asked which of many candidates to measure next: an ensemble of scikit-learn's regressors."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.space import LISTED
from nasforge.core.trial import Forecast, Measure, Origin, Proposal, Result, Score
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import Seen, generator, measure_of, unseen_sample
from nasforge.strategies.local_search import LocalSearch
from nasforge.strategies.predictor.candidates import Pool
from nasforge.strategies.predictor.encoding import Encoding, Rows
from nasforge.strategies.predictor.isomorphic import Twins
from nasforge.strategies.predictor.regressors import Drawn, Lesson, Member, Numbers, Process, Targets, Trees
from nasforge.strategies.predictor.scored import Scored
from nasforge.strategies.ranking import Merit, beats, merit
from nasforge.strategies.weighted_ranks import ascending_ranks, drawn_weights, worst_weighted

Order: TypeAlias = tuple[bool, int, float]
"""Sort key of a merit: finished, fidelity, value."""

_FAILED: Order = (False, -1, -math.inf)
_PARENTS = 10
_TWINS = 2
_REFUSED = 3
"""Number of rejections from which on they are learnt from."""

_PROXIES = 0
"""The rung of a ladder that may be one of proxies."""

_RESCORED = 1.5
_FAILURES = 3
_PATIENCE = 30
_CLIMBING, _VAST = 10, 100_000
"""Trials in a row that are not better until the ascent is over; points of a space that makes an ascent necessary."""
_CANDIDATES = 300
_SCREENED = 2000
_DIGITS, _DIGITS_OF_WEIGHTS = 3, 6


class _Told(NamedTuple):
    """Outcome of a point.

    Attributes:
        number: its trial.
        point: the point.
        merit: None for failures and rejections.
        violation: of the hard constraints; 0 where they are met.
    """

    number: int
    point: Architecture
    merit: Merit | None
    violation: float


class _Promising(NamedTuple):
    """Candidate to propose, with its forecast where a model made one."""

    point: Architecture
    forecast: Forecast | None


class Predictor:
    """Model that learns from all results which candidate may be the best, and proposes it.

    Thompson sampling, the form for workers in parallel of which is Kandasamy et al., "Parallelised Bayesian
    Optimisation via Thompson Sampling" (https://proceedings.mlr.press/v84/kandasamy18a.html), over models as well as
    over values: every ask draws one member of the ensemble, from its prediction a value for every candidate, and takes
    the candidate with the highest. Members are two Gaussian processes, one that expects a smooth and one that expects
    a rough dependence on the decisions, and extra-trees (Geurts et al., https://doi.org/10.1007/s10994-006-6226-1), as
    in White et al., "How Powerful are Performance Predictors in Neural Architecture Search?"
    (https://arxiv.org/abs/2104.01177), where these are the best of those learnt from few trials.

    What is predicted is the normal score of a trial's rank among all told: so one setting serves every metric and
    scale. Ranks are those of `ranking.Merit`: pruned trials come below finished ones, failed ones below all. For
    several objectives every ask draws weights and ranks by the worst weighted one (Knowles, "ParEGO",
    https://doi.org/10.1109/TEVC.2005.851274). What was rejected trains a model of its own, and candidates that a draw
    of that model rejects are left out (Eriksson and Poloczek, https://proceedings.mlr.press/v130/eriksson21a.html).

    The largest of many independent draws is often that of a random point, of which a model knows nothing. So in a space
    of over 100,000 points, and with one objective, a candidate's value is its mean and the same number of deviations
    for all, a new one at every ask, until 10 trials were not better than the best.

    A model that is sure of itself may be wrong where nothing was measured. So with one objective, after 30 trials that
    were not better than the best, every other ask is a `LocalSearch`'s, which climbs from random points on its own,
    until something better is found; the model learns from its trials too.

    The origin of a proposal holds its `Forecast` by the member that was drawn, with the weights of several objectives.

    Costs are no input, since a candidate's are known only after the check and follow from the decisions, unless
    zero-cost scores are asked for: then all candidates are scored in batches, each of them one trial, and their scores
    and costs are inputs (as in White et al., above). The first batch is random, with the points that the search begins
    with; later ones hold what is near the best.

    Args:
        spec: space and seed of the search; any number of objectives.
        starts: random points before the first prediction; with zero-cost scores the best of some random ones.
        zero_cost: zero-cost proxies as further inputs (`[synflow, naswot]`); the ladder's first rung measures them.
        screened: random points in the first batch of scores; None: all of a space of at most 20,000, else 2,000.
    """

    def __init__(
        self,
        spec: SearchSpec,
        *,
        starts: int = 10,
        zero_cost: Sequence[str] = (),
        screened: int | None = None,
    ) -> None:
        if starts < 2:
            raise ConfigError(
                f"predictor: starts must be at least 2, got {starts}", kind="range", key="strategy.starts"
            )
        if screened is not None and screened < starts:
            raise ConfigError(
                f"predictor: screened must be at least starts ({starts}), got {screened}",
                kind="range",
                key="strategy.screened",
            )
        self._space = spec.space
        self._seed = spec.seed
        self._starts = starts
        self._encoding = Encoding(spec.space)
        self._pool = Pool(spec.space, self._encoding, spec.seed)
        self._told: list[_Told] = []
        self._twins = Twins(spec.space, self._encoding, spec.seed)
        # The trials to learn from, in the order in which they could be: it only grows, so that a replay tunes the same.
        self._known: list[int] = []
        self._rows: dict[int, Rows] = {}
        self._twin_rows: dict[int, Rows] = {}
        self._running: dict[int, Architecture] = {}
        self._seen = Seen()
        self._members: tuple[Member, ...] = (Process(), Process(rough=True), Trees())
        self._limits = Process()
        self._objectives = len(spec.objectives)
        self._single = self._objectives == 1
        self._local = LocalSearch(replace(spec, objectives=spec.objectives[:1]), starts=1)
        self._local.seen = self._seen
        self._elsewhere: set[int] = set()
        self._best: Merit | None = None
        self._stalled = 0
        self._zero_cost = tuple(zero_cost)
        self._screened = screened or (int(spec.space.size) if spec.space.size <= LISTED else _SCREENED)
        self._scored = Scored(self._zero_cost, self._encoding)
        self._scoring: dict[int, tuple[Architecture, ...]] = {}
        self._batches = 0
        self._failures = 0

    def ask(self, number: int) -> Proposal | None:
        """Propose the candidate with the highest draw; a random point as long as too little is known.

        With zero-cost scores now and then a batch to be scored; None until the first is.
        """
        rng = generator(self._seed, number)
        if self._zero_cost:
            batch = self._batch(number, rng)
            if batch:
                self._scoring[number] = batch
                return Score(batch, _PROXIES, Origin(operator="screened"))
            if not self._scored:
                return None
        if self._looks_elsewhere(number) and (proposal := self._local.ask(number)):
            measure = measure_of(proposal)
            self._adopt(number, measure.architecture)
            return replace(measure, origin=replace(measure.origin or Origin(), strategy="local_search"))
        promising = self._promising(number, rng) if self._encoding.decisions else None
        if promising is None:
            point = unseen_sample(self._space, rng, self._seen)
            origin = Origin(operator="start")
        else:
            point, origin = promising.point, Origin(operator="predicted", forecast=promising.forecast)
        self._adopt(number, point)
        return Measure(point, origin=origin)

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed."""
        if isinstance(proposal, Score):
            self._scoring[number] = proposal.architectures
            return
        measure = measure_of(proposal)
        if self._zero_cost and measure.rung == _PROXIES:  # a batch of one in a journal of version 0.1.0
            self._scoring[number] = (measure.architecture,)
            return
        if self._looks_elsewhere(number):
            self._local.recall(number, measure)
        self._adopt(number, measure.architecture)

    def tell(self, number: int, result: Result) -> None:
        """Learn from one more trial, or from a batch of scores.

        Raises:
            SearchError: the scores are not those asked for, or their trials fail.
        """
        if number in self._scoring:
            self._tell_scores(self._scoring.pop(number), result)
            return
        if number in self._elsewhere:
            self._elsewhere.remove(number)
            self._local.tell(number, result)
        violation = result.metrics["constraint/violation"] if result.status == "rejected" else 0.0
        worth = merit(result)
        point = self._running.pop(number)
        if self._can_be_learnt(point):
            self._known.append(len(self._told))
        self._told.append(_Told(number, point, worth, violation))
        if worth and (self._best is None or beats(worth, self._best)):
            self._best, self._stalled = worth, 0
        else:
            self._stalled += 1

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        if self._scoring.pop(number, None) is not None:
            return
        self._running.pop(number)
        if number in self._elsewhere:
            self._elsewhere.remove(number)
            self._local.withdraw(number)
        else:
            self._seen.take_back()

    def _looks_elsewhere(self, number: int) -> bool:
        """Return whether local search proposes now: every other time while the model finds nothing better."""
        return self._single and self._stalled >= _PATIENCE and number % 2 == 1

    def _adopt(self, number: int, point: Architecture) -> None:
        self._running[number] = point
        if self._looks_elsewhere(number):
            self._elsewhere.add(number)  # the local search has noted the point
        else:
            self._seen.note(point)

    # --- zero-cost scores -------------------------------------------------------------------------------------------

    def _batch(self, number: int, rng: random.Random) -> tuple[Architecture, ...]:
        """Return the points to score now; most of the time there are none."""
        if self._scoring:
            return ()
        if not self._scored:
            first: Iterable[Architecture] = (self._space.sample(rng) for _ in range(self._screened))
            if self._space.size <= self._screened:
                first = self._space.points()
            # a model can learn from the points that the search begins with only where they have scores
            first = (*(told.point for told in self._told), *self._running.values(), *first)
            return tuple({point.point_id: point for point in first}.values())
        best = self._measured()
        if len(best) < self._starts * _RESCORED ** (self._batches - 1):
            return ()
        candidates = self._pool.at(number, self._parents(best, rng.getrandbits(64)), rng, near=True)
        return tuple(point for point in candidates.points if point not in self._scored)[: self._screened]

    def _tell_scores(self, batch: tuple[Architecture, ...], result: Result) -> None:
        if result.status == "finished":
            missed = [trial for trial, told in enumerate(self._told) if not self._can_be_learnt(told.point)]
            self._scored.add(batch, result.scores or [result.metrics])
            self._known += [trial for trial in missed if self._can_be_learnt(self._told[trial].point)]
            self._batches += 1
            self._failures = 0
            return
        self._failures += 1
        if self._failures == _FAILURES:
            raise SearchError(
                f"strategy predictor: {_FAILURES} batches of zero-cost scores in a row had no result, the last one: "
                f"{result.error.message if result.error else result.status}; let the ladder begin with a rung of "
                "proxies that this space has, or leave the option zero_cost out",
                kind="failed",
                key="strategy.zero_cost",
            )

    # --- prediction -------------------------------------------------------------------------------------------------

    def _measured(self) -> list[tuple[_Told, Merit]]:
        return [(told, told.merit) for told in self._told if told.merit]

    def _parents(self, trials: list[tuple[_Told, Merit]], weights: int) -> list[tuple[int, Architecture]]:
        """Return the best trials, the best first."""
        scores = scalarised([merit for _, merit in trials], weights)
        best = sorted(range(len(trials)), key=scores.__getitem__, reverse=True)[:_PARENTS]
        return [(trials[index][0].number, trials[index][0].point) for index in best]

    def _promising(self, number: int, rng: random.Random) -> _Promising | None:
        """Return the candidate with the highest draw; None without enough trials, or without unseen candidates."""
        trials = self._measured()
        ready = sum(self._can_be_learnt(told.point) for told, _ in trials) >= self._starts
        refused = sum(told.violation > 0 and self._can_be_learnt(told.point) for told in self._told)
        if not (ready or self._scored or refused >= _REFUSED):
            return None
        weights = rng.getrandbits(64)
        if self._scored and not ready:
            points, rows = self._scored.open(self._seen, (), rng, len(self._scored) // self._starts)
        else:
            candidates = self._pool.at(number, self._parents(trials, weights), rng)
            kept = [index for index, point in enumerate(candidates.points) if point.point_id not in self._seen]
            points, rows = [candidates.points[index] for index in kept], candidates.rows[kept]
            if self._scored:
                points, rows = self._scored.open(self._seen, points, rng, _CANDIDATES)
        if not points:
            return None
        draws = np.random.default_rng(rng.getrandbits(64))
        self._encode()
        drawn = self._values(rng.choice(self._members), weights, rows, draws) if ready else None
        if drawn is not None:
            values = drawn.values
        else:
            values = self._scored.worth(points) if self._scored else draws.random(len(points))
        if refused >= _REFUSED:
            margins = self._margins(rows, draws)
            # Where the draw allows none, the one that seems to violate least.
            values = np.where(margins > 0, values, -np.inf) if (margins > 0).any() else margins
        best = int(np.argmax(values))
        # with several objectives the score is by the weights of this ask
        forecast_weights = () if self._single else drawn_weights(weights, self._objectives)
        forecast = None if drawn is None else _forecast(drawn, best, forecast_weights)
        return _Promising(points[best], forecast)

    def _can_be_learnt(self, point: Architecture) -> bool:
        """Return False for points without scores if others have them."""
        return not self._zero_cost or point in self._scored

    def _encode(self) -> None:
        """Encode the trials that were told since the last time."""
        for trial in self._known[len(self._rows) :]:
            told = self._told[trial]
            scores = self._scored.row(told.point)
            row, twins = self._encoding([told.point])[0], self._twins.of(told.number, told.point, _TWINS)
            self._rows[trial] = np.concatenate([row, scores])
            self._twin_rows[trial] = np.hstack([twins, np.tile(scores, (len(twins), 1))])

    def _lesson(self, known: list[int], targets: Targets, weights: int) -> Lesson:
        decision = self._encoding.decision
        scores = self._encoding.decisions + np.arange(self._scored.columns)
        return Lesson(self._rows, np.concatenate([decision, scores]), known, targets, weights, self._twin_rows)

    def _values(self, member: Member, weights: int, rows: Rows, draws: np.random.Generator) -> Drawn:
        """Return every candidate's value by one draw of a member of the ensemble."""

        def targets(trials: Sequence[int], weights: int) -> Numbers:
            merits = [self._told[trial].merit for trial in trials]
            scores = iter(scalarised([merit for merit in merits if merit], weights))
            return normal_scores([next(scores) if merit else _FAILED for merit in merits])

        known = [trial for trial in self._known if not self._told[trial].violation]
        member.learn(self._lesson(known, targets, weights))
        return member.draw(rows, self._deviates(len(rows), draws))

    def _margins(self, rows: Rows, draws: np.random.Generator) -> Numbers:
        """Return every candidate's margin to rejection by one draw; negative if it would be rejected."""

        def targets(trials: Sequence[int], weights: int) -> Numbers:
            violations = [self._told[trial].violation for trial in trials]
            return np.array([-0.5 - min(1.5, violation) if violation else 1.0 for violation in violations])

        known = [trial for trial in self._known if self._told[trial].merit or self._told[trial].violation]
        self._limits.learn(self._lesson(known, targets, 0))
        return self._limits.draw(rows, draws.standard_normal(len(rows))).values

    def _deviates(self, count: int, draws: np.random.Generator) -> Numbers:
        """Return by how many deviations every candidate's value lies above its mean.

        The largest of a thousand independent draws is one of a random candidate, of which the model knows nothing. In a
        vast space hardly one of those is any good, so all share one number as long as this leads upwards.
        """
        if self._single and self._stalled < _CLIMBING and self._space.size > _VAST:
            return np.full(count, abs(draws.standard_normal()))
        return draws.standard_normal(count)


def _forecast(drawn: Drawn, index: int, weights: Sequence[float]) -> Forecast:
    """Return the forecast of one candidate, rounded for the journal."""
    mean, deviation = float(drawn.means[index]), float(drawn.deviations[index])
    rounded = tuple(round(weight, _DIGITS_OF_WEIGHTS) for weight in weights)
    return Forecast(round(mean, _DIGITS), round(deviation, _DIGITS), rounded)


def scalarised(merits: Sequence[Merit], weights: int) -> list[Order]:
    """Return merits as sortable values; several objectives are weighted by weights drawn from the seed."""
    if not merits or len(merits[0].values) == 1:
        return [(merit.finished, merit.steps_done, merit.values[0]) for merit in merits]
    objectives = len(merits[0].values)
    columns = ([merit.values[objective] for merit in merits] for objective in range(objectives))
    places = [np.array(ascending_ranks(column)) for column in columns]
    values = worst_weighted(places, len(merits), drawn_weights(weights, objectives)).tolist()
    return [(merit.finished, merit.steps_done, value) for merit, value in zip(merits, values, strict=True)]


def normal_scores(values: Sequence[Any]) -> Numbers:
    """Replace values by the quantiles of the normal distribution at their ranks; equal values stay equal."""
    quantile = NormalDist().inv_cdf
    return np.array([quantile(rank / len(values)) for rank in ascending_ranks(values)])
