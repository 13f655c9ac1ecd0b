"""Random search: the baseline that every other strategy has to beat."""

from __future__ import annotations

from nasforge.core.trial import Measure, Origin, Proposal, Result
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import Seen, generator, measured, unseen_sample


class Random:
    """Random search: every decision is drawn from its domain; nothing is learnt.

    Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization" (https://jmlr.org/papers/v13/bergstra12a.html).

    Args:
        spec: space and seed of the search; any number of objectives.
    """

    def __init__(self, spec: SearchSpec) -> None:
        self._space = spec.space
        self._seed = spec.seed
        self._seen = Seen()

    def ask(self, number: int) -> Proposal | None:
        """Propose a random point that was not proposed before."""
        rng = generator(self._seed, number)
        point = unseen_sample(self._space, rng, self._seen)
        self._seen.note(point)
        return Measure(point, origin=Origin(operator="sampled"))

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed."""
        self._seen.note(measured(proposal))

    def tell(self, number: int, result: Result) -> None:
        """Learn nothing."""

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        self._seen.take_back()
