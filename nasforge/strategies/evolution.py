"""Regularized evolution, the strongest of the simple evolutionary searches, and its elitist sibling."""

from __future__ import annotations

from typing import NamedTuple

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Measure, Proposal, Result
from nasforge.strategies.choosers import drawing, generator, measured, mutated, unseen
from nasforge.strategies.ranking import Merit, fronts, merit, ranked

_PATIENCE = 20


class _Member(NamedTuple):
    point: Architecture
    merit: Merit


class Evolution:
    """The best of a small sample of the population gets a child with one change; the oldest member dies.

    Real et al., "Regularized Evolution for Image Classifier Architecture Search" (https://arxiv.org/abs/1802.01548).
    With several objectives the sample's winner is one that no other of the sample dominates. Failed and rejected
    trials do not enter the population; pruned ones do, and lose against every finished one.

    Args:
        space: what to search.
        seed: of the search.
        objectives: any number.
        population: members; as many random points start the search.
        sample: members that compete to be the parent.
        elitist: the worst member dies instead of the oldest.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        objectives: int = 1,
        population: int = 10,
        sample: int = 5,
        elitist: bool = False,
    ) -> None:
        if population < 2 or not 1 <= sample <= population:
            raise ConfigError(
                f"evolution: needs population >= 2 and 1 <= sample <= population, "
                f"got population {population} and sample {sample}"
            )
        self._space = space
        self._seed = seed
        self._size = population
        self._sample = sample
        self._elitist = elitist
        self._population: list[_Member] = []  # oldest first
        self._running: dict[int, Architecture] = {}
        self._seen: set[str] = set()

    def ask(self, number: int) -> Proposal | None:
        """A random point until the population is complete, then a child."""
        rng = generator(self._seed, number)

        def child(attempt: int) -> Architecture:
            contenders = rng.sample(self._population, min(self._sample, len(self._population)))
            best = rng.choice(fronts([member.merit for member in contenders])[0])
            # Where every neighbour was seen already, look further away.
            return mutated(self._space, contenders[best].point, rng, changes=1 + attempt // _PATIENCE)

        starting = not self._population or len(self._population) + len(self._running) < self._size
        choose = drawing(rng)
        point = unseen((lambda _: self._space.decide(choose)) if starting else child, self._seen)
        self._adopt(number, point)
        return Measure(point)

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed."""
        self._adopt(number, measured(proposal))

    def tell(self, number: int, result: Result) -> None:
        """The trial joins the population, and one leaves it."""
        point = self._running.pop(number)
        worth = merit(result)
        if worth is None:
            return
        self._population.append(_Member(point, worth))
        if len(self._population) > self._size:
            leaves = ranked([member.merit for member in self._population])[-1] if self._elitist else 0
            del self._population[leaves]

    def _adopt(self, number: int, point: Architecture) -> None:
        self._running[number] = point
        self._seen.add(point.point_id)
