"""The same few networks again and again: how far can a short training be trusted? (`nasforge calibrate`)"""

from __future__ import annotations

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.trial import Measure, Origin, Proposal, Result, Score
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import TRIES, Seen, generator, measure_of, unseen_sample


class Repeated:
    """Random points, each of them proposed several times: every trial has a seed of its own.

    What a constraint rejects, or cannot be built, is replaced by another draw. A trial of a batch of zero-cost scores
    comes last where they are wanted.

    Args:
        spec: space and seed of the draws; any number of objectives.
        networks: different points.
        seeds: trainings of each.
        scored: whether all are scored at the ladder's first rung, which is then one of proxies.
    """

    repeats = True

    def __init__(
        self,
        spec: SearchSpec,
        *,
        networks: int = 12,
        seeds: int = 2,
        scored: bool = False,
    ) -> None:
        if networks < 3 or seeds < 1:
            raise ConfigError(
                f"needs networks >= 3 and seeds >= 1, got networks {networks} and seeds {seeds}", kind="range"
            )
        if spec.space.size < networks:
            raise ConfigError(
                f"got {networks} networks, but the space '{spec.space.name}' has only {spec.space.size:g} points; "
                "ask for fewer",
                kind="range",
                key="networks",
            )
        self._space = spec.space
        self._seed = spec.seed
        self._networks = networks
        self._repetitions = networks * (seeds - 1)
        self._scored = scored
        self._scoring = False  # whether the latest proposal is the batch of scores
        self._points: dict[int, Architecture] = {}  # by the number of the first trial
        self._repeated = 0
        self._seen = Seen()

    def ask(self, number: int) -> Proposal | None:
        """Propose new points until there are enough, then each of them again, then the scores."""
        proposal = self._next(number)
        if proposal is not None:
            self.recall(number, proposal)
        return proposal

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed."""
        self._scoring = isinstance(proposal, Score)
        if self._scoring:
            self._scored = False
            return
        measure = measure_of(proposal)
        if len(self._points) < self._networks:
            self._points[number] = measure.architecture
            self._seen.note(measure.architecture)
        else:
            self._repeated += 1

    def tell(self, number: int, result: Result) -> None:
        """Replace a network whose result is unusable by another one."""
        unbuildable = result.error is not None and result.error.cause == "invalid_shape"
        if result.status == "rejected" or unbuildable:
            self._points.pop(number, None)

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        if self._scoring:
            self._scored, self._scoring = True, False
        elif self._points.pop(number, None) is not None:
            self._seen.take_back()
        else:
            self._repeated -= 1

    def _next(self, number: int) -> Proposal | None:
        if len(self._points) < self._networks:
            rng = generator(self._seed, number)
            point = unseen_sample(self._space, rng, self._seen)
            if point.point_id in self._seen:
                count = len(self._points)
                raise SearchError(
                    f"{TRIES} draws in a row brought no new network: {count} of the {len(self._seen)} drawn keep the "
                    f"constraints; ask for {count} of them, or widen the space",
                    kind="empty",
                )
            return Measure(point, origin=Origin(operator="sampled"))
        points = list(self._points.values())
        if self._repeated < self._repetitions:
            turn = self._repeated % self._networks
            return Measure(points[turn], origin=Origin((list(self._points)[turn],), "repeated"))
        return Score(tuple(points)) if self._scored else None
