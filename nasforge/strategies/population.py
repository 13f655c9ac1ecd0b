"""A population: the points that children descend from, and those that may yet join them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from nasforge.core.architecture import Architecture
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Result
from nasforge.strategies.choosers import Seen, unseen, unseen_sample
from nasforge.strategies.ranking import Merit, merit


class Member(NamedTuple):
    """Trial that may be a parent."""

    number: int
    point: Architecture
    merit: Merit


class Population:
    """Members, running trials and all points proposed; which member leaves is the strategy's choice.

    Args:
        space: of the points.

    Attributes:
        members: in the strategy's order; a new one is added at the end.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self.members: list[Member] = []
        self._running: dict[int, Architecture] = {}
        self._seen = Seen()

    @property
    def merits(self) -> list[Merit]:
        """The merit of each member."""
        return [member.merit for member in self.members]

    def next_point(self, child: Callable[[int], Architecture], rng: random.Random, starts: int) -> Architecture:
        """Return a random point until `starts` trials are members or running, then a child; one that was not proposed.

        Args:
            child: makes a child of the members; it is told how many children were seen already.
            rng: draws random points.
            starts: number of trials that begin the population.
        """
        if not self.members or len(self.members) + len(self._running) < starts:
            return unseen_sample(self._space, rng, self._seen)
        return unseen(self._space, child, rng, self._seen)

    def note(self, number: int, point: Architecture) -> None:
        """Remember what was proposed."""
        self._running[number] = point
        self._seen.note(point)

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        self._running.pop(number)
        self._seen.take_back()

    def tell(self, number: int, result: Result) -> bool:
        """Add the trial to the members; return False where its result has no merit."""
        point, worth = self._running.pop(number), merit(result)
        if worth is not None:
            self.members.append(Member(number, point, worth))
        return worth is not None
