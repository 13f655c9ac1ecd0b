"""Differentiable search: a supernet's alphas learn by gradients; what they stand for is trained and ranked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from nasforge.core.alphas import COST_TERMS, Settings, check_mixable, derive, without
from nasforge.core.architecture import MODEL, Architecture, Value
from nasforge.core.errors import ConfigError
from nasforge.core.goals import Constraint
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Measure, Origin, Proposal, Result, TrainShared
from nasforge.strategies.choosers import generator, measured
from nasforge.strategies.supernets import SHARED_WEIGHTS, recipe_defaults


class Differentiable:
    """Asks for one or several trainings of the supernet, then for the networks that their alphas stand for, best first.

    The derived networks are trained from an initialisation and ranked by what they reach. Where one violates a hard
    constraint, the next in order takes its place. Decisions of the recipe stay at their defaults.

    Args:
        space: what to search; the evaluator builds its supernet.
        seed: of the search; draws the first alphas.
        objectives: one; the alphas follow the loss, and a cost term where the variant has one.
        targets: soft limits on `cost/flops` or `cost/params`; a variant without a cost term leaves them to the ranking.
        relaxation: registered in `nasforge.supernet.relaxations`.
        epochs: of a supernet's training.
        runs: supernets, independent of each other, side by side on the workers.
        settings: of the alphas' learning.
        cost_weight: of every cost term at the start; 0: no cost terms.
    """

    evaluator = SHARED_WEIGHTS

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        objectives: int,
        targets: Sequence[Constraint],
        relaxation: str,
        epochs: int,
        runs: int,
        settings: Settings,
        cost_weight: float = 0.0,
    ) -> None:
        if objectives != 1:
            raise ConfigError(f"a differentiable search takes one objective, got {objectives}; give a cost as a target")
        if epochs < 1 or runs < 1:
            raise ConfigError(f"a differentiable search needs epochs and runs of at least 1, got {epochs} and {runs}")
        if settings.warmup_epochs >= epochs:
            raise ConfigError(
                f"warmup_epochs must be less than epochs, or the alphas never learn; got {settings.warmup_epochs} and "
                f"{epochs}"
            )
        self._space = space
        self._seed = seed
        self._relaxation = relaxation
        self._epochs = epochs
        self._runs = runs
        self._settings: dict[str, Value] = asdict(settings)
        self._underived = settings.underived
        self._cost_terms: dict[str, float] = {}
        if cost_weight:
            bounded = [target for target in targets if target.metric in COST_TERMS]
            if targets and not bounded:
                known = " and ".join(metric.removeprefix("cost/") for metric in COST_TERMS)
                said = ", ".join(map(str, targets))
                raise ConfigError(f"cost_aware puts {known} into the loss, not {said}; give a target on one of them")
            self._cost_terms = {target.metric: cost_weight for target in bounded} or {"cost/flops": cost_weight}
            self._settings |= {f"bound/{target.metric}": target.bound for target in bounded}
        self._trained = space.fixed(recipe_defaults(space))
        self._asked = 0
        self._training: set[int] = set()
        self._derived: list[tuple[int, Iterator[Architecture]]] = []  # by the supernet's trial
        self._seen: set[str] = set()

    def ask(self, number: int) -> Proposal | None:
        """A supernet's training, then derived networks; of several supernets in turn."""
        if self._asked < self._runs:
            proposal: Proposal = TrainShared(
                self._trained,
                self._relaxation,
                self._epochs,
                alphas=first_alphas(self._trained, self._seed, number),
                cost_terms=self._cost_terms,
                settings=self._settings,
            )
        else:
            derived = None if self._training else self._next()
            if derived is None:
                return None
            supernet, point = derived
            proposal = Measure(point, origin=Origin((supernet,), "derived"))
        self.recall(number, proposal)
        return proposal

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed."""
        if isinstance(proposal, TrainShared):
            self._asked += 1
            self._training.add(number)
        else:
            self._seen.add(measured(proposal).point_id)

    def tell(self, number: int, result: Result) -> None:
        """A supernet's alphas are kept; how its networks fare changes nothing."""
        if number not in self._training:
            return
        self._training.remove(number)
        if result.alphas is not None:
            alphas = without(self._space, result.alphas, self._underived)
            self._derived.append((number, derive(self._space, alphas)))
            self._derived.sort(key=lambda pair: pair[0])

    def _next(self) -> tuple[int, Architecture] | None:
        """A supernet's trial and its next unseen network, of the supernets in turn; None when all are exhausted."""
        for offset in range(len(self._derived)):
            turn = (len(self._seen) + offset) % len(self._derived)
            supernet, points = self._derived[turn]
            for point in points:
                if point.point_id not in self._seen:
                    return supernet, point
        return None


def first_alphas(space: SearchSpace, seed: int, number: int) -> dict[str, tuple[float, ...]]:
    """Alphas near zero, 1e-3 times a normal draw as in DARTS, for every decision of the network that is left open."""
    rng = generator(seed, number)
    alphas = {}
    for key, domain in space.domains.items():
        if key.startswith(MODEL) and 1 < domain.size < math.inf:
            check_mixable(key, domain)
            alphas[key] = tuple(rng.gauss(0.0, 1e-3) for _ in domain.values)
    return alphas
