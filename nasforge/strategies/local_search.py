"""Local search: a strong and cheap baseline. It tries the neighbours of the best point, and moves to a better one."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from nasforge.core.architecture import Architecture, Value
from nasforge.core.errors import ConfigError
from nasforge.core.trial import Measure, Origin, Proposal, Result
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import (
    Seen,
    check_single,
    following,
    generator,
    measured,
    moves,
    near_first,
    places_apart,
    unseen_sample,
)
from nasforge.strategies.ranking import Merit, beats, merit

Move = tuple[str, Value]
"""A decision and the value that it takes in a neighbour."""


@dataclass
class _Descent:
    """One way up from a random start.

    Attributes:
        start: the trial of its random start.
        number: the trial of the incumbent, which is the best so far.
        point: the incumbent.
        merit: what the incumbent reached; None until its start is told.
        running: its trials that are out.
        moves: of all neighbours of the incumbent, in the order of trying; empty until its start is told.
        position: the moves before it lead to points that were seen.
        tried: the moves tried since its start.
    """

    start: int
    number: int
    point: Architecture
    merit: Merit | None = None
    running: int = 0
    moves: list[Move] = field(default_factory=list)
    position: int = 0
    tried: set[Move] = field(default_factory=set)


class LocalSearch:
    """Local search from the incumbent to the first better neighbour; restarts at random without one.

    White et al., "Exploring the Loss Landscape in Neural Architecture Search" (https://arxiv.org/abs/2005.02960).
    A neighbour differs in one decision (and, where that opens others, in those, drawn at random). All neighbours are
    tried in random order, near numbers rather first (`near_first`), those of large or continuous ranges by sampled
    steps. A new incumbent first tries the moves that were not tried since the start of its descent, because a move
    that just failed mostly fails again; moves to numbers beyond the next one come later. Workers never wait: while
    results are out, further asks take the next neighbours, or another start where there are none left; the best
    incumbent is served first.

    Args:
        spec: space and seed of the search; one objective; for several use `nsga2` or `evolution`.
        starts: random points before the first descent.
        steps: neighbours tried per long or continuous range.

    Attributes:
        seen: the `point_id` of everything proposed so far; may be shared with another strategy.
    """

    def __init__(self, spec: SearchSpec, *, starts: int = 5, steps: int = 4) -> None:
        check_single(spec, "local_search")
        if starts < 1 or steps < 1:
            raise ConfigError(
                f"local_search: needs starts >= 1 and steps >= 1, got starts {starts} and steps {steps}",
                kind="range",
                key="strategy",
            )
        self._space = spec.space
        self._seed = spec.seed
        self._starts = starts
        self._steps = steps
        self._started = 0
        self._descents: list[_Descent] = []
        self._running: dict[int, tuple[Architecture, _Descent]] = {}
        # What was before the latest proposal, so that it can be withdrawn.
        self._before = (list(self._descents), self._started)
        self._new_move: Move | None = None
        self.seen = Seen()

    def ask(self, number: int) -> Proposal | None:
        """Propose a neighbour of the best incumbent that has one left, else a random point."""
        point = None
        origin = Origin(operator="start")
        if self._started >= self._starts:
            for descent in self._best_first():
                point = self._neighbour(descent)
                if point is not None:
                    origin = Origin((descent.number,), "neighbour", start=descent.start)
                    break
        if point is None:
            point = unseen_sample(self._space, generator(self._seed, number), self.seen)
        self._adopt(number, point)
        return Measure(point, origin=origin)

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed."""
        self._adopt(number, measured(proposal))

    def tell(self, number: int, result: Result) -> None:
        """Make a better neighbour the incumbent of its descent."""
        point, descent = self._running.pop(number)
        descent.running -= 1
        worth = merit(result)
        if worth is not None and (descent.merit is None or beats(worth, descent.merit)):
            descent.number, descent.point, descent.merit = number, point, worth
            descent.moves, descent.position = self._moves(descent), 0
        elif descent.merit is None:
            self._descents.remove(descent)  # its start failed

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        _, descent = self._running.pop(number)
        descent.running -= 1
        self._descents, self._started = self._before
        if self._new_move is not None:
            descent.tried.remove(self._new_move)
        self.seen.take_back()

    def _best_first(self) -> list[_Descent]:
        """Return the descents whose start was told, best first; of equals the older first."""
        told = [(descent.merit, descent) for descent in self._descents if descent.merit is not None]
        return [descent for _, descent in sorted(told, key=lambda pair: pair[0], reverse=True)]

    def _adopt(self, number: int, point: Architecture) -> None:
        """Assign a proposal, new or recalled, to the descent of its incumbent or neighbour, else to a new one.

        This depends only on the point, so a replay gives the same descents as the search.
        """
        self._before = (list(self._descents), self._started)
        origin = next((d for d in self._best_first() if _near(d.point, point)), None)
        if origin is None:
            if self._started >= self._starts:
                # A new start is asked for only when nothing else is left: descents without running trials are over.
                self._descents = [descent for descent in self._descents if descent.running]
            origin = _Descent(number, number, point)
            self._descents.append(origin)
            self._started += 1
        move = _move(origin.point, point)
        self._new_move = None if move in origin.tried else move
        if move is not None:
            origin.tried.add(move)
        origin.running += 1
        self._running[number] = (point, origin)
        self.seen.note(point)

    def _moves(self, descent: _Descent) -> list[Move]:
        """Return the moves to all neighbours of a new incumbent, in the order of trying."""
        rng = random.Random(f"{self._seed}/{descent.number}/moves")
        shuffled = near_first(self._space, descent.point, moves(self._space, descent.point, rng, self._steps), rng)

        def reluctance(move: Move) -> int:
            key, value = move
            far = places_apart(self._space.domains[key], descent.point.values[key], value) > 1
            return far + (move in descent.tried)

        return sorted(shuffled, key=reluctance)

    def _neighbour(self, descent: _Descent) -> Architecture | None:
        """Return the next neighbour of a descent's incumbent that was not seen; None if there is none."""
        while descent.position < len(descent.moves):
            key, value = descent.moves[descent.position]
            rng = random.Random(f"{self._seed}/{descent.number}/{descent.position}")
            point = self._space.decide(following({**descent.point.values, key: value}, rng))
            if point.point_id not in self.seen:
                return point
            descent.position += 1
        return None


def _near(a: Architecture, b: Architecture) -> bool:
    """Return whether two points differ in at most one decision, apart from decisions active in one of them only."""
    return sum(b.values.get(key, value) != value for key, value in a.values.items()) <= 1


def _move(incumbent: Architecture, point: Architecture) -> Move | None:
    """Return the move from an incumbent to a neighbour; None for the incumbent itself."""
    return next(((key, b) for key, b in point.values.items() if incumbent.values.get(key, b) != b), None)
