"""NSGA-II for several objectives, one child at a time so that no worker waits for a generation to end."""

from __future__ import annotations

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError
from nasforge.core.ranges import check_whole
from nasforge.core.trial import Measure, Origin, Proposal, Result
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import (
    PATIENCE,
    crossover,
    generator,
    measured,
    mutated,
    mutation,
    open_keys,
)
from nasforge.strategies.population import Member, Population
from nasforge.strategies.ranking import ranked


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
        self._population = Population(spec.space)  # best first

    def ask(self, number: int) -> Proposal | None:
        """Propose a random point until enough are known, then a child."""
        rng = generator(self._seed, number)
        origin = Origin(operator="start")

        def parent() -> Member:
            members = self._population.members
            return members[min(rng.randrange(len(members)) for _ in range(self._tournament))]

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

        point = self._population.next_point(child, rng, self._starts)
        self._population.note(number, point)
        return Measure(point, origin=origin)

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed."""
        self._population.note(number, measured(proposal))

    def tell(self, number: int, result: Result) -> None:
        """Add the trial to the population; if it is too large, the last in rank leaves."""
        if self._population.tell(number, result):
            order = ranked(self._population.merits)
            members = self._population.members
            self._population.members = [members[index] for index in order[: self._size]]

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        self._population.withdraw(number)
