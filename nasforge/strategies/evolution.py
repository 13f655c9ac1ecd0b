"""Evolution by mutation: elitist, and with ageing as in regularized evolution."""

from __future__ import annotations

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError
from nasforge.core.trial import Measure, Origin, Proposal, Result
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import PATIENCE, generator, measured, mutated
from nasforge.strategies.population import Population
from nasforge.strategies.ranking import fronts, ranked

_FEW = 5


class Evolution:
    """The best of a sample of the population gets a child with one change; then the worst member dies, or the oldest.

    Real et al., "Regularized Evolution for Image Classifier Architecture Search" (https://arxiv.org/abs/1802.01548),
    which lets the oldest die (`elitist: false`); since no point is measured twice, keeping the best is the better
    default: on nine tables its regret after 150 trials was about half on average
    (docs/reference/strategy_results.md). With several objectives the sample's winner is one that no other
    of the sample dominates. Failed and rejected trials do not enter the population; pruned ones do, and lose against
    every finished one.

    Args:
        spec: space and seed of the search; any number of objectives.
        population: members; the search starts with as many random points, or with five if many are rejected. None: a
            fifth of the trials that the budget allows, 10 to 20, but at most half of them: a short search must not end
            before it has learnt (docs/reference/strategy_results.md).
        sample: members that compete to be the parent; None: half of the population.
        elitist: remove the worst member; False: the oldest.
    """

    def __init__(
        self,
        spec: SearchSpec,
        *,
        population: int | None = None,
        sample: int | None = None,
        elitist: bool = True,
    ) -> None:
        if population is None:
            population = max(sample or 0, int(min(max(10, min(20, spec.trials / 5)), max(_FEW, spec.trials / 2))))
        sample = max(1, population // 2) if sample is None else sample
        if population < 2 or not 1 <= sample <= population:
            raise ConfigError(
                f"evolution: needs population >= 2 and 1 <= sample <= population, "
                f"got population {population} and sample {sample}",
                kind="range",
                key="strategy",
            )
        self._space = spec.space
        self._seed = spec.seed
        self._size = population
        self._sample = sample
        self._elitist = elitist
        self._population = Population(spec.space)  # oldest first
        self._rejected = 0

    def ask(self, number: int) -> Proposal | None:
        """Propose a random point until the population is complete, then a child."""
        rng = generator(self._seed, number)
        origin = Origin(operator="start")

        def child(attempt: int) -> Architecture:
            nonlocal origin
            members = self._population.members
            contenders = rng.sample(members, min(self._sample, len(members)))
            best = rng.choice(fronts([member.merit for member in contenders])[0])
            origin = Origin((contenders[best].number,), "mutation")
            # Where every neighbour was seen already, look further away.
            return mutated(self._space, contenders[best].point, rng, changes=1 + attempt // PATIENCE)

        # Where few points are allowed, random ones are too dear to fill a population with.
        size = self._size if self._rejected < self._size else min(self._size, _FEW)
        point = self._population.next_point(child, rng, size)
        self._population.note(number, point)
        return Measure(point, origin=origin)

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed."""
        self._population.note(number, measured(proposal))

    def tell(self, number: int, result: Result) -> None:
        """Add the trial to the population, and remove one from it."""
        self._rejected += result.status == "rejected"
        if self._population.tell(number, result) and len(self._population.members) > self._size:
            leaves = ranked(self._population.merits)[-1] if self._elitist else 0
            del self._population.members[leaves]

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        self._population.withdraw(number)
