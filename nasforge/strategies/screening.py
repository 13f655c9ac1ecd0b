"""Search by assembled zero-cost scores: score many networks, train those that rank best."""

from __future__ import annotations

from collections.abc import Sequence

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.ladder import proxy_metric
from nasforge.core.metrics import PROXY
from nasforge.core.ranges import check_whole
from nasforge.core.space import LISTED
from nasforge.core.trial import VIOLATION, Measure, Origin, Proposal, Result, Score
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.aggregation import log_rank_sums
from nasforge.strategies.choosers import Seen, generator, measure_of, unseen_sample

VIOLATING_IN_A_ROW = 1000
"""Scored networks in a row of which none keeps the constraints; after them no more are scored."""


class Screening:
    """Random networks are scored by zero-cost proxies, and measured in the order of their assembled ranks.

    Lee and Ham, "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search",
    https://arxiv.org/abs/2403.19232: see `aggregation.log_rank_sums`. The ladder begins with a rung of proxies. Batches
    of scores are trials and can run side by side; the ranks are those within all scored networks. When all of them are
    measured, the next batch is scored. Networks whose scored costs violate a constraint are left out; where that
    is all of the last `VIOLATING_IN_A_ROW`, the search ends. Results of measured networks change nothing.

    Args:
        spec: space and seed of the search; any number of objectives.
        pool: networks to score before the first is measured, at most all of the space.
        batch: networks scored in one trial.
        proxies: those of the first rung to assemble (`[swap, expressivity]`); empty: all.
    """

    def __init__(self, spec: SearchSpec, *, pool: int = 500, batch: int = 100, proxies: Sequence[str] = ()) -> None:
        for name, number in (("pool", pool), ("batch", batch)):
            check_whole(number, f"strategy 'screening': {name}", 1)
        reported = set(map(proxy_metric, spec.ladder[0].proxies))  # without their options
        unknown = [name for name in proxies if reported and proxy_metric(name) not in reported]
        if unknown:
            raise ConfigError(
                f"strategy 'screening': proxies names {unknown[0]}, but the ladder's first rung has "
                f"{', '.join(spec.ladder[0].proxies)}; name it there too",
                kind="missing",
                key="strategy.proxies",
            )
        self._space = spec.space
        self._seed = spec.seed
        self._pool = pool
        self._batch = batch
        self._names = tuple(map(proxy_metric, proxies))
        self._scoring: dict[int, tuple[Architecture, ...]] = {}
        self._scored: dict[str, Architecture] = {}  # by point_id, in the order in which they were told
        self._scores: list[dict[str, float]] = []
        self._violating: dict[str, float] = {}  # point_id -> by how much
        self._violating_in_a_row = 0
        self._order: list[Architecture] = []
        self._latest: int | None = None  # number of the latest proposal if it is a batch
        self._seen = Seen()

    def ask(self, number: int) -> Proposal | None:
        """Propose a batch to score until the pool is complete, then the best network that is not measured yet.

        None while scores are missing.

        Raises:
            SearchError: the pool is complete, and the latest networks that were scored all violate the constraints.
        """
        rng = generator(self._seed, number)
        scoring = sum(map(len, self._scoring.values()))
        proposal: Proposal | None = None
        if len(self._scored) + scoring < self._pool:
            proposal = self._next_batch(number, min(self._batch, self._pool - len(self._scored) - scoring))
        if proposal is None and self._scoring:
            return None
        if proposal is None:
            best = next((point for point in self._order if point.point_id not in self._seen), None)
            if best is not None:
                proposal = Measure(best, origin=Origin(operator="ranked"))
            else:
                self._check_constraints()
                proposal = self._next_batch(number, self._batch)
        if proposal is None:  # everything of the space is scored and measured
            point = unseen_sample(self._space, rng, self._seen)
            proposal = Measure(point, origin=Origin(operator="sampled"))
        self.recall(number, proposal)
        return proposal

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed."""
        if isinstance(proposal, Score):
            self._scoring[number] = proposal.architectures
            self._latest = number
        else:
            self._seen.note(measure_of(proposal).architecture)
            self._latest = None

    def tell(self, number: int, result: Result) -> None:
        """Rank all scored networks again after a batch.

        Raises:
            SearchError: the scores are not those to assemble.
        """
        batch = self._scoring.pop(number, None)
        if batch is None:
            return
        if result.status != "finished" or not result.scores:  # another batch takes its place
            return
        for point, metrics in zip(batch, result.scores, strict=True):
            if point.point_id in self._scored:
                continue
            self._names = self._names or tuple(key for key in metrics if key.startswith(PROXY))
            missing = [name for name in self._names if name not in metrics]
            if missing or not self._names:
                raise SearchError(
                    f"strategy screening: the ladder's first rung reports no {missing[0] if missing else 'zc/...'}; "
                    "name the proxy there: ladder: [{proxies: [swap, expressivity]}, {epochs: N}]",
                    kind="missing",
                    key="ladder",
                )
            self._scored[point.point_id] = point
            self._scores.append({name: metrics[name] for name in self._names})
            excess = metrics.get(VIOLATION, 0.0)
            if excess > 0:
                self._violating[point.point_id] = excess
            self._violating_in_a_row = self._violating_in_a_row + 1 if excess > 0 else 0
        self._rank()

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        if self._latest == number:
            del self._scoring[number]
        else:
            self._seen.take_back()

    def _check_constraints(self) -> None:
        """Raise SearchError if the latest networks that were scored all violate the constraints."""
        if self._violating_in_a_row < VIOLATING_IN_A_ROW:
            return
        least = min(list(self._violating.values())[-self._violating_in_a_row :])
        raise SearchError(
            f"strategy 'screening': the last {self._violating_in_a_row:,} networks that were scored all violate the "
            f"constraints, the best of them by {least:.3g} of its limits in all. Relax the constraint, or narrow the "
            "space (smaller widths, fewer layers)",
            kind="empty",
            key="constraints",
        )

    def _rank(self) -> None:
        """Order the networks that keep the constraints, the best first."""
        points = list(self._scored.values())
        sums = log_rank_sums({name: [row[name] for row in self._scores] for name in self._names})
        order = sorted(range(len(points)), key=lambda index: -sums[index])
        self._order = [points[index] for index in order if points[index].point_id not in self._violating]

    def _next_batch(self, number: int, count: int) -> Score | None:
        """Return networks that were not scored yet, as many as there are; None if there is none."""
        rng = generator(self._seed, number)
        known = {*self._scored, *(point.point_id for batch in self._scoring.values() for point in batch)}
        if self._space.size <= LISTED:
            left = [point for name, point in self._space.distinct.items() if name not in known]
            points = rng.sample(left, min(count, len(left)))
        else:
            points = []
            while len(points) < count:
                point = unseen_sample(self._space, rng, known)
                if point.point_id in known:
                    break
                known.add(point.point_id)
                points.append(point)
        return Score(tuple(points), 0, Origin(operator="screened")) if points else None
