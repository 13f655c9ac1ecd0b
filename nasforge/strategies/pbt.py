"""Population-based training: recipes change while their networks are trained."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from random import Random
from typing import NamedTuple

from nasforge.core.architecture import TRAIN, Architecture, Value
from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.ranges import check_number, check_whole
from nasforge.core.recipe import CHANGEABLE
from nasforge.core.space import Domain, SearchSpace
from nasforge.core.trial import CHECKPOINT, Artifact, Measure, Origin, Proposal, Result
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import Seen, following, generator, measure_of, nearby, unseen_sample
from nasforge.strategies.ranking import Merit, merit, ranked

_FAILURES = 3


class _Stand(NamedTuple):
    """Result of a member at a rung."""

    number: int
    point: Architecture
    merit: Merit
    checkpoint: Artifact


class _Member:
    """One of the population: a training in pieces, the weights of which may be another's by now.

    Attributes:
        rung: the last one it finished; -1 before the first.
        failures: in a row since then.
        running: whether a piece of it is out.
    """

    def __init__(self) -> None:
        self.rung = -1
        self.stand: _Stand | None = None
        self.failures = 0
        self.running = True


class PBT:
    """A population of trainings; at every rung the worst resume a copy of one of the best, by a changed recipe.

    Jaderberg et al., "Population Based Training of Neural Networks" (https://arxiv.org/abs/1711.09846), with
    truncation selection. Members pass the ladder's rungs one after the other, each time as a separate trial that
    resumes a checkpoint. A member that is among the worst quarter of all that reached its rung takes the weights, the
    network and the recipe of one of the best quarter there, with changed decisions where they may change; the others
    continue as they are. The member that is furthest behind goes first, and none waits: with several workers a member
    is compared with those that came before it. A piece of training that fails counts as the worst of its rung. The
    search has finished when all members have reached the last rung.

    Members differ in all that the space opens; what may not change in mid-training (batch size, optimizer, the
    network) stays that of the member whose weights are taken.

    Args:
        spec: its space opens at least one decision of the recipe that may change in mid-training. Members are compared
            at the rungs of its ladder; rungs of equal distance are usual. Several objectives rank by non-dominated
            front and crowding.
        population: number of members; more where the search begins with more points than that.
        share: share of the members of a rung to replace, and to copy.
        change: settings of the recipe to change, without `train.`; None: all that may change.
        resample: probability of drawing a setting again instead of moving it.
    """

    def __init__(
        self,
        spec: SearchSpec,
        *,
        population: int = 10,
        share: float = 0.25,
        change: Sequence[str] | None = None,
        resample: float = 0.25,
    ) -> None:
        check_whole(population, "strategy 'pbt': population", 2)
        check_number(share, "strategy 'pbt': share", least=0.001, most=0.5)
        check_number(resample, "strategy 'pbt': resample", least=0, most=1)
        if math.floor(share * population) < 1:
            raise ConfigError(
                f"strategy 'pbt': a share of {share:g} of {population} members replaces none; use "
                f"a population of {math.ceil(1 / share)} or more, or a larger share",
                kind="range",
                key="strategy.share",
            )
        if len(spec.ladder) < 2 or spec.ladder[0].proxies:
            raise ConfigError(
                "strategy pbt compares its members at the rungs of a ladder of epochs, such as "
                f"[{{epochs: 2}}, {{epochs: 4}}, {{epochs: 6}}], got {', '.join(map(str, spec.ladder))}",
                kind="conflict",
                key="ladder",
            )
        self._space = spec.space
        self._seed = spec.seed
        self._top = len(spec.ladder) - 1
        self._size = population
        self._several = len(spec.objectives) > 1
        self._share = share
        self._resample = resample
        self._changed = _changed(spec.space, change)
        self._members: list[_Member] = []
        self._running: dict[int, tuple[_Member, Architecture, int]] = {}  # the rung that it is on its way to
        self._stands: list[list[_Stand]] = [[] for _ in spec.ladder]
        self._begun = False  # whether the latest proposal began a member
        self._seen = Seen()

    def ask(self, number: int) -> Proposal | None:
        """Propose a new member, or the next piece of the member that is furthest behind."""
        rng = generator(self._seed, number)
        proposal: Measure | None = None
        member = self._next()
        if member is not None:
            proposal = self._piece(member, rng)
        elif len(self._members) < self._size:
            point = unseen_sample(self._space, rng, self._seen)
            proposal = Measure(point, rung=0, origin=Origin(operator="start"))
        if proposal is not None:
            self._adopt(number, proposal, member)
        return proposal

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed."""
        measure = measure_of(proposal)
        self._adopt(number, measure, self._next() if measure.rung > 0 else None)  # one at the first rung is new

    def tell(self, number: int, result: Result) -> None:
        """Record that a member has reached its rung, or failed on the way."""
        member, point, rung = self._running.pop(number)
        member.running = False
        worth = merit(result)
        if worth is not None and worth.finished:
            checkpoint = result.artifacts.get(CHECKPOINT)
            if checkpoint is None and rung < self._top:
                raise SearchError(
                    "strategy pbt resumes checkpoints, and the evaluator saves none; use evaluator training",
                    kind="unsupported",
                    key="evaluator",
                )
            member.rung, member.failures = rung, 0
            if checkpoint is not None:
                member.stand = _Stand(number, point, worth._replace(steps_done=0), checkpoint)
                self._stands[rung].append(member.stand)
            return
        member.failures += 1
        if member.stand is None or member.failures >= _FAILURES:
            self._members.remove(member)  # at the beginning another one takes its place
            if member.stand is not None:
                self._size -= 1

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        member, _, _ = self._running.pop(number)
        member.running = False
        if self._begun:
            self._members.remove(member)
        self._seen.take_back()

    def wanted(self) -> Collection[Artifact]:
        """Return checkpoints of members that will resume, and of the best at rungs that some have yet to pass.

        With several objectives those are all at such a rung, since a newcomer may move any of them up in crowding.
        """
        going = [m for m in self._members if m.stand is not None and m.rung < self._top]
        kept = [m.stand.checkpoint for m in going if m.stand is not None]
        last = -1 if len(self._members) < self._size else min((m.rung for m in self._members), default=self._top)
        for rung in range(max(0, last), self._top):
            reached = self._stands[rung]
            coming = max(0, self._size - len(self._members)) + sum(m.rung < rung for m in self._members)
            best = reached if self._several else self._best(rung, of=len(reached) + coming)
            kept += [stand.checkpoint for stand in best]  # each may still be among the best
        return kept

    def _next(self) -> _Member | None:
        """Return the furthest behind of the members that are ready; None while the population grows."""
        if len(self._members) < self._size:
            return None
        ready = [m for m in self._members if not m.running and m.rung < self._top]
        return min(ready, key=lambda member: member.rung, default=None)

    def _piece(self, member: _Member, rng: Random) -> Measure:
        """Propose a member's next rung: unchanged, or as one of the best with a changed recipe."""
        stand = member.stand
        assert stand is not None  # noqa: S101  (a member without one is not ready)
        reached = self._stands[member.rung]
        order = ranked([other.merit for other in reached])
        worst = order[len(order) - math.floor(self._share * len(order)) :]
        is_worst = any(reached[index] is stand for index in worst)
        if not is_worst and not member.failures:
            origin = Origin((stand.number,), "continued")
            return Measure(stand.point, member.rung + 1, stand.checkpoint, origin=origin)
        donor = rng.choice(self._best(member.rung))
        origin = Origin((donor.number,), "exploit")
        return Measure(self._explored(donor.point, rng), member.rung + 1, donor.checkpoint, origin=origin)

    def _best(self, rung: int, of: int | None = None) -> list[_Stand]:
        """Return the best share of all that reached a rung, or all if they are fewer."""
        reached = self._stands[rung]
        order = ranked([stand.merit for stand in reached])
        count = len(order) if of is None else of
        return [reached[index] for index in order[: max(1, math.floor(self._share * count))]]

    def _explored(self, point: Architecture, rng: Random) -> Architecture:
        """Return the same point with changed settings: each moved a little on its scale, or drawn again."""
        follow = following(point.values, rng)

        def choose(key: str, domain: Domain) -> Value:
            if key not in self._changed or key not in point.values:
                return follow(key, domain)
            return domain.sample(rng) if rng.random() < self._resample else nearby(domain, follow(key, domain), rng)

        return self._space.decide(choose)

    def _adopt(self, number: int, proposal: Measure, member: _Member | None) -> None:
        self._begun = member is None
        if member is None:
            member = _Member()
            self._members.append(member)
        member.running = True
        self._running[number] = (member, proposal.architecture, member.rung + 1)
        self._seen.note(proposal.architecture)


def _changed(space: SearchSpace, change: Sequence[str] | None) -> set[str]:
    """Return the decisions that may change during training. Raises ConfigError."""
    recipe = {key: key.rpartition(".")[2] for key in space.domains if key.startswith(TRAIN)}
    may = ", ".join(sorted(CHANGEABLE))
    for name in change or ():
        if name not in CHANGEABLE:
            raise ConfigError(
                f"strategy 'pbt': {name} may not change during training, because the training's state depends on it. "
                f"Choose from: {may}",
                kind="unsupported",
                key="strategy.change",
            )
        if name not in recipe.values():
            opened = ", ".join(sorted(recipe.values())) or "none"
            raise ConfigError(
                f"strategy 'pbt': change names {name}, which the space does not open; choose of: {opened}",
                kind="unknown",
                key="strategy.change",
            )
    changeable = CHANGEABLE if change is None else set(change)
    keys = {key for key, name in recipe.items() if name in changeable and space.domains[key].size > 1}
    if not keys:
        raise ConfigError(
            f"strategy 'pbt': the space opens no decision of the recipe that may change during training ({may}); "
            "open some: --recipe sgd",
            kind="missing",
            key="recipe",
        )
    return keys
