"""Successive halving by promotion: many short trainings, of which the best resume from their checkpoints."""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.protocols import Strategy
from nasforge.core.ranges import check_number, check_whole
from nasforge.core.trial import CHECKPOINT, Artifact, Measure, Origin, Proposal, Result
from nasforge.settings.experiment import Named, continues, suited_evaluator
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import measure_of
from nasforge.strategies.named import strategy_of
from nasforge.strategies.ranking import Merit, merit, ranked

_MOST_DIGITS = 5
"""Digits of the trials that the lowest bracket may need for one at the top."""


class _Reached(NamedTuple):
    """Trial that finished at a rung and may be promoted."""

    number: int
    point: Architecture
    missed: bool
    merit: Merit
    checkpoint: Artifact | None


class Promotion:
    """Promotion of the best trials to the next rung; if none is due, a new point at the lowest rung.

    Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA, https://arxiv.org/abs/1810.05934),
    algorithm 2: a trial is promoted as soon as it is among the best 1/eta of all that finished at its rung, so nothing
    waits for a rung to be full. A promoted trial resumes where the other ended, at the cost of the new epochs alone.
    With `brackets` new trials begin at different rungs, as in Hyperband (https://arxiv.org/abs/1603.06560): each
    bracket has its share of them, and a trial that begins higher is compared with those promoted there. As in
    Hyperband they are then random ones: first results of different fidelity teach no strategy anything.

    Another strategy proposes new points. It hears the first result of each of its points and nothing of the
    promotions: values of different fidelity are never compared. When all points of a small space have begun, only
    promotions follow. With several objectives trials rank by non-dominated
    front and crowding; those that miss a soft target rank last.

    Args:
        spec: space, seed and targets of the search; its ladder has at least two rungs with epochs; any number of
            objectives that the other strategy takes.
        of: strategy of new networks: a name, or a mapping of `name` and its options.
        eta: promote one of every `eta` trials.
        brackets: number of lowest rungs at which new trials begin; above 1 only with `of: random`; 1: ASHA.
        checkpoints: waiting trials per rung, the best, that keep their checkpoint; another one starts again when it is
            promoted.
    """

    def __init__(
        self,
        spec: SearchSpec,
        *,
        of: str | Mapping[str, Any] = "evolution",
        eta: float = 3,
        brackets: int = 1,
        checkpoints: int = 5,
    ) -> None:
        check_number(eta, "strategy 'promotion': eta", over=1)
        if len(spec.ladder) < 2 or spec.ladder[0].proxies:
            raise ConfigError(
                "strategy promotion needs a ladder of at least two rungs with epochs, such as "
                f"[{{epochs: 1}}, {{epochs: 3}}, {{epochs: 9}}], got {', '.join(map(str, spec.ladder))}",
                kind="conflict",
                key="ladder",
            )
        if not 1 <= brackets <= len(spec.ladder):
            raise ConfigError(
                f"strategy promotion: brackets must be 1 to {len(spec.ladder)}, one for each rung, got {brackets}",
                kind="range",
                key="strategy.brackets",
            )
        check_whole(checkpoints, "strategy 'promotion': checkpoints", 1)
        if brackets > 1 and (len(spec.ladder) - 1) * math.log10(eta) > _MOST_DIGITS:
            raise ConfigError(
                f"strategy promotion: with brackets and an eta of {eta:g}, a ladder of {len(spec.ladder)} rungs needs "
                f"more than 10^{_MOST_DIGITS} trials to reach its top once; use a smaller eta",
                kind="range",
                key="strategy.eta",
            )
        new = Named.parse(of, "promotion: of")
        if brackets > 1 and new.name != "random":
            raise ConfigError(
                f"strategy promotion: with brackets new trials begin at different rungs, and '{new.name}' would "
                "compare their results; use of: random, as Hyperband does, or brackets: 1",
                kind="conflict",
                key="strategy.brackets",
            )
        self._eta = eta
        self._targets = spec.targets
        self._checkpoints = checkpoints
        self._name = new.name
        self._new = _strategy(new, spec)
        self._reached: list[list[_Reached]] = [[] for _ in spec.ladder]
        self._order: list[list[int]] = [[] for _ in spec.ladder]
        self._promoted: list[set[int]] = [set() for _ in spec.ladder]
        self._running: dict[int, tuple[Measure, bool]] = {}  # whether it is new
        self._begun = 0
        self._space = spec.space
        self._points = Counter[str]()  # that are no promotions
        self._latest: int | None = None  # the trial that was promoted last
        self._cycle = _cycle(len(spec.ladder), brackets, eta)

    def ask(self, number: int) -> Proposal | None:
        """Propose a promotion from the highest rung that has one, else a new point."""
        proposal: Measure | None = self._promotion()
        if proposal is None:
            asked = self._new.ask(number)
            if asked is None:
                return None
            if not isinstance(asked, Measure) or asked.weights:
                raise SearchError(
                    "strategy promotion: the strategy of new points must propose plain trainings, one point each; use "
                    "evolution, optuna or random without zero-cost scores",
                    kind="unsupported",
                    key="strategy.of",
                )
            if self._begins_again(asked.architecture):
                self._new.withdraw(number)
                return None
            origin = replace(asked.origin or Origin(), strategy=self._name)
            proposal = replace(asked, rung=self._cycle[self._begun % len(self._cycle)], origin=origin)
            if self._source(proposal) is not None:  # a point that came again would pass for a promotion
                proposal = replace(proposal, rung=0)
        self._adopt(number, proposal)
        return proposal

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember the proposal, and let the other strategy remember a new point."""
        measure = measure_of(proposal)
        if self._source(measure) is None:
            self._new.recall(number, replace(measure, rung=-1))
        self._adopt(number, measure)

    def tell(self, number: int, result: Result) -> None:
        """Record that the trial has reached its rung."""
        proposal, new = self._running.pop(number)
        if new:
            self._new.tell(number, result)
        worth = merit(result)
        if worth is not None and worth.finished:
            # At a rung all have the same fidelity, whatever their evaluator counts in.
            missed = not all(target.met(result.metrics) for target in self._targets)
            worth = worth._replace(steps_done=0)
            reached = _Reached(number, proposal.architecture, missed, worth, result.artifacts.get(CHECKPOINT))
            self._reached[proposal.rung].append(reached)
            for index in self._waiting(proposal.rung)[self._checkpoints :]:  # gone for good, see `wanted`
                gone = self._reached[proposal.rung][index]
                self._reached[proposal.rung][index] = gone._replace(checkpoint=None)

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        proposal, new = self._running.pop(number)
        if new:
            self._begun -= 1
            self._points[proposal.architecture.point_id] -= 1
            self._new.withdraw(number)
        elif self._latest is not None:
            self._promoted[proposal.rung - 1].remove(self._latest)

    def wanted(self) -> Collection[Artifact]:
        """Return checkpoints of the best that wait at each rung below the last."""
        waiting = [self._reached[rung][i] for rung in range(len(self._reached) - 1) for i in self._waiting(rung)]
        return [reached.checkpoint for reached in waiting if reached.checkpoint is not None]

    def _ranked(self, rung: int) -> list[int]:
        """Return the indices of the trials at a rung, best first; cached, since every ask needs them."""
        reached, order = self._reached[rung], self._order[rung]
        if reached and len(reached[0].merit.values) > 1 and len(order) < len(reached):
            order[:] = sorted(ranked([trial.merit for trial in reached]), key=lambda i: reached[i].missed)
        for index in range(len(order), len(reached)):
            insort(order, index, key=lambda i: (reached[i].missed, -reached[i].merit.values[0], i))
        return order

    def _waiting(self, rung: int) -> list[int]:
        """Return the indices of the trials at a rung that are not promoted, best first."""
        reached, promoted = self._reached[rung], self._promoted[rung]
        return [index for index in self._ranked(rung) if reached[index].number not in promoted]

    def _promotion(self) -> Measure | None:
        for rung in reversed(range(len(self._reached) - 1)):
            reached = self._reached[rung]
            waiting = self._waiting(rung)
            if waiting and waiting[0] in self._ranked(rung)[: int(len(reached) / self._eta)]:
                best = reached[waiting[0]]
                origin = Origin((best.number,), "promotion")
                return Measure(best.point, rung + 1, best.checkpoint, origin=origin)
        return None

    def _source(self, proposal: Measure) -> _Reached | None:
        """Return the trial at the rung below that a proposal promotes; None for a new point."""
        if proposal.rung < 1:
            return None
        waiting = [self._reached[proposal.rung - 1][index] for index in self._waiting(proposal.rung - 1)]
        return next((trial for trial in waiting if trial.point.point_id == proposal.architecture.point_id), None)

    def _begins_again(self, point: Architecture) -> bool:
        """Return whether a point comes again because all points of the space have begun; only promotions are left."""
        if not self._points[point.point_id] or getattr(self._new, "repeats", False):
            return False
        distinct = self._space.distinct
        return bool(distinct) and (+self._points).keys() >= distinct.keys()

    def _adopt(self, number: int, proposal: Measure) -> None:
        source = self._source(proposal)
        self._running[number] = (proposal, source is None)
        if source is None:
            self._begun += 1
            self._points[proposal.architecture.point_id] += 1
        else:
            self._promoted[proposal.rung - 1].add(source.number)
            self._latest = source.number


def _cycle(rungs: int, brackets: int, eta: float) -> list[int]:
    """Return the rungs at which new trials begin, in turn: as many per bracket as Hyperband has for one at the top."""
    if brackets == 1:
        return [0]
    top = rungs - 1
    counts = [math.ceil(rungs / (top - first + 1) * eta ** (top - first)) for first in range(brackets)]
    turns = [((turn + 0.5) / count, first) for first, count in enumerate(counts) for turn in range(count)]
    return [first for _, first in sorted(turns)]


def _strategy(named: Named, spec: SearchSpec) -> Strategy:
    """Make the strategy of new points."""
    if suited_evaluator(named.name) != "training":
        raise ConfigError(
            f"strategy promotion: '{named.name}' trains a supernet, whose networks have no rungs; "
            "use evolution, optuna or random",
            kind="unsupported",
            key="strategy.of",
        )
    if continues(named.name):
        raise ConfigError(
            f"strategy promotion: '{named.name}' itself resumes checkpoints; use evolution or random",
            kind="unsupported",
            key="strategy.of",
        )
    return strategy_of(named, spec)
