"""NSGA-II for several objectives, one child at a time so that no worker waits for a generation to end."""

from __future__ import annotations

from typing import NamedTuple

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError
from nasforge.core.ranges import check_whole
from nasforge.core.trial import Measure, Origin, Proposal, Result
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import (
    PATIENCE,
    Seen,
    crossover,
    drawing,
    generator,
    measured,
    mutated,
    mutation,
    open_keys,
    unseen,
)
from nasforge.strategies.ranking import Merit, merit, ranked


class _Member(NamedTuple):
    number: int
    point: Architecture
    merit: Merit


class NSGA2:
    """NSGA-II: parents win tournaments by front and crowding; children cross and mutate; the last in rank leaves.

    Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II" (https://doi.org/10.1109/4235.996017);
    steady state as in Durillo et al., "On the Effect of the Steady-State Selection Scheme in Multi-Objective Genetic
    Algorithms" (https://doi.org/10.1007/978-3-642-01020-0_18). Failed and rejected trials do not enter the
    population, so that it consists of points that keep the constraints; pruned ones rank below all finished ones.

    Args:
        spec: space and seed of the search; any number of objectives; with one it is an elitist genetic algorithm.
        population: largest number of members; None: 10 for one objective, 20 for several, at least `starts`.
        starts: random points at the beginning.
        crossover: probability that a child has two parents.
        tournament: members that compete to be a parent. The paper has 2; with 3, searches of 50 to 200 trials were
            better on planted tables (docs/reference/strategy_results.md).
    """

    def __init__(
        self,
        spec: SearchSpec,
        *,
        population: int | None = None,
        starts: int = 10,
        crossover: float = 0.9,
        tournament: int = 3,
    ) -> None:
        if population is None:
            population = max(starts, 10 if len(spec.objectives) == 1 else 20)
        check_whole(tournament, "strategy 'nsga2': tournament", 1)
        if not 2 <= starts <= population:
            raise ConfigError(
                f"nsga2: needs 2 <= starts <= population, got starts {starts}, population {population}",
                kind="range",
                key="strategy",
            )
        if not 0 <= crossover <= 1:
            raise ConfigError(
                f"nsga2: crossover must be a probability from 0 to 1, got {crossover}",
                kind="range",
                key="strategy.crossover",
            )
        self._space = spec.space
        self._seed = spec.seed
        self._size = population
        self._starts = starts
        self._crossover = crossover
        self._tournament = tournament
        self._population: list[_Member] = []  # best first
        self._running: dict[int, Architecture] = {}
        self._seen = Seen()

    def ask(self, number: int) -> Proposal | None:
        """Propose a random point until enough are known, then a child."""
        rng = generator(self._seed, number)
        origin = Origin(operator="start")

        def parent() -> _Member:
            return self._population[min(rng.randrange(len(self._population)) for _ in range(self._tournament))]

        def child(attempt: int) -> Architecture:
            nonlocal origin
            first = parent()
            point, origin = first.point, Origin((first.number,), "mutation")
            if rng.random() < self._crossover:
                second = parent()
                point = self._space.decide(crossover(point, second.point, rng))
                origin = Origin((first.number, second.number), "crossover")
            keys = open_keys(self._space, point)
            changed = [key for key in keys if rng.random() * len(keys) < 1]
            if changed:
                point = self._space.decide(mutation(point, changed, rng))
            # Alike parents have children that were seen: change them more and more.
            return mutated(self._space, point, rng, changes=1 + attempt // PATIENCE) if attempt else point

        starting = not self._population or len(self._population) + len(self._running) < self._starts
        choose = drawing(rng)
        draw = (lambda _: self._space.decide(choose)) if starting else child
        point = unseen(self._space, draw, rng, self._seen)
        self._adopt(number, point)
        return Measure(point, origin=origin)

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed."""
        self._adopt(number, measured(proposal))

    def tell(self, number: int, result: Result) -> None:
        """Add the trial to the population; if it is too large, the last in rank leaves."""
        point = self._running.pop(number)
        worth = merit(result)
        if worth is None:
            return
        members = [*self._population, _Member(number, point, worth)]
        order = ranked([member.merit for member in members])
        self._population = [members[index] for index in order[: self._size]]

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        self._running.pop(number)
        self._seen.take_back()

    def _adopt(self, number: int, point: Architecture) -> None:
        self._running[number] = point
        self._seen.note(point)
