"""One-shot search: a supernet is trained on paths, architectures are measured on the weights they inherit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError
from nasforge.core.ranges import check_whole
from nasforge.core.trial import Artifact, Measure, Origin, Proposal, Result, TrainShared
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import generator, measure_of
from nasforge.strategies.differentiable import SHARED_WEIGHTS, on_shared_weights, recipe_defaults
from nasforge.strategies.evolution import Evolution
from nasforge.strategies.ranking import Merit, merit, ranked
from nasforge.strategies.reinforce import Reinforce

_AGAIN = 0.25


class OneShot:
    """Rounds of a supernet's training and of measures on its weights, then separate trainings of the best.

    Another strategy chooses the networks to measure. It hears the results as if they were trained. Only measures on the
    same weights are compared: a later round begins with the best of the round before, measured again. When the
    rounds are over, the best of the last one are trained from an initialisation, one after the other, until the budget
    ends. Decisions of the recipe stay at their defaults.

    Args:
        spec: space and seed of the search. The evaluator builds the space's supernet; smaller widths are slices of the
            largest.
        chooser: picks what to measure, in the space with the recipe's defaults (`recipe_defaults`).
        paths: how the supernet's steps choose their paths, `uniform` or `fair`.
        policy: draws the paths of a later round's training, if any; else they come from the whole space.
        policy_paths: how many paths of the policy such a round trains on.
        rounds: of training and measuring.
        epochs: of a round's training.
        measures: accepted measures in a round.
    """

    evaluator = SHARED_WEIGHTS

    def __init__(
        self,
        spec: SearchSpec,
        *,
        chooser: Evolution | Reinforce,
        paths: str,
        rounds: int,
        epochs: int,
        measures: int,
        policy: Reinforce | None = None,
        policy_paths: int = 0,
    ) -> None:
        for name, number in (("rounds", rounds), ("epochs", epochs), ("measures", measures)):
            check_whole(number, f"strategy: {name}", 1)
        if paths not in ("uniform", "fair"):
            raise ConfigError(
                f"a one-shot search needs paths 'uniform' or 'fair', got {paths!r}",
                kind="unknown",
                key="strategy.paths",
            )
        self._space = spec.space
        self._seed = spec.seed
        self._shared = _on_one_recipe(spec).space
        self._chooser = chooser
        self._policy = policy
        self._paths = paths
        self._policy_paths = policy_paths
        self._rounds = rounds
        self._epochs = epochs
        self._measures = measures
        self._round = 0  # trainings asked for
        self._training: int | None = None
        self._weights: Artifact | None = None
        self._broken = False
        self._accepted = 0  # measures of this round that were not rejected
        self._running: dict[int, tuple[Architecture, bool]] = {}  # point, whether the chooser asked for it
        self._reached: list[tuple[Architecture, Merit]] = []  # in this round
        self._before: list[tuple[Architecture, Merit]] = []  # in the round before
        self._again: list[Architecture] = []  # the best of the round before, to be measured first
        self._seen: set[str] = set()
        self._numbers: dict[str, int] = {}  # point_id -> the last trial that measured it
        self._final: set[str] = set()
        self._undo: Callable[[], None] = lambda: None  # takes the latest proposal back

    def ask(self, number: int) -> Proposal | None:
        """Propose a supernet's training, a measure on its weights, or the training of one of the best."""
        if self._broken or self._training is not None:
            return None
        proposal: Proposal | None = self._training_of(number) if self._round == 0 else None
        if proposal is None and not self._final:
            proposal = self._inherited(number)
        if proposal is None and self._running:
            return None
        if proposal is None and not self._final and self._round < self._rounds:
            proposal = self._training_of(number)
        if proposal is None:
            best = next((point for point in self._best() if point.point_id not in self._final), None)
            proposal = None if best is None else Measure(best, origin=self._from_measure(best, "trained"))
        if proposal is not None:
            self._adopt(number, proposal)
        return proposal

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed."""
        if isinstance(proposal, Measure) and proposal.weights and proposal.architecture.point_id not in self._seen:
            self._chooser.recall(number, Measure(proposal.architecture))
        self._adopt(number, proposal)

    def tell(self, number: int, result: Result) -> None:
        """Learn the supernet's weights, or the result of a measure."""
        if number == self._training:
            self._training = None
            weights = result.artifacts.get("weights")
            if weights is not None:
                self._weights = weights
            elif self._weights is None:
                self._broken = True
            else:  # what was reached on the weights before still stands: on to the trainings
                self._reached, self._rounds, self._accepted = self._before, self._round, self._measures
            return
        if number not in self._running:
            return
        point, chosen = self._running.pop(number)
        if chosen:
            self._chooser.tell(number, result)
        if result.status == "rejected":
            self._accepted -= 1
        worth = merit(result)
        if worth is not None:
            self._reached.append((point, worth))

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        self._undo()

    def _training_of(self, number: int) -> TrainShared:
        drawn: list[Architecture] = []
        if self._policy is not None and self._round > 0:
            rng = generator(self._seed, number)
            drawn = [self._policy.draw(rng) for _ in range(self._policy_paths)]
        return TrainShared(self._shared, self._paths, self._epochs, weights=self._weights, paths=tuple(drawn))

    def _inherited(self, number: int) -> Measure | None:
        """Return the next measure of this round; None if it has enough, or the space has nothing new."""
        if self._accepted >= self._measures:
            return None
        if self._again:
            return Measure(self._again[0], weights=self._weights, origin=self._from_measure(self._again[0], "again"))
        asked = self._chooser.ask(number)
        if not isinstance(asked, Measure):
            return None
        if asked.architecture.point_id in self._seen:
            self._chooser.withdraw(number)  # nothing new is left; None must change nothing
            return None
        return Measure(asked.architecture, weights=self._weights, origin=asked.origin)

    def _from_measure(self, point: Architecture, operator: str) -> Origin:
        """Return the origin of a point that was measured on a supernet's weights before."""
        return Origin((self._numbers[point.point_id],), operator)

    def _adopt(self, number: int, proposal: Proposal) -> None:
        kept = (self._training, self._round, self._again, self._before, self._reached, self._accepted)
        if isinstance(proposal, TrainShared):
            baseline = None if self._policy is None else self._policy.restart_rewards()

            def undo_training() -> None:
                (self._training, self._round, self._again, self._before, self._reached, self._accepted) = kept
                if self._policy is not None:
                    self._policy.restart_rewards(baseline)

            self._undo = undo_training
            self._training = number
            self._round += 1
            self._again = self._best()[: round(_AGAIN * self._measures)]
            self._before, self._reached, self._accepted = self._reached, [], 0
            return
        measure = measure_of(proposal)
        point = measure.architecture
        if measure.weights is None:
            self._undo = lambda: self._final.discard(point.point_id)
            self._final.add(point.point_id)
            return
        new = point.point_id not in self._seen
        earlier = self._numbers.get(point.point_id)

        def undo_measure() -> None:
            self._again, self._accepted = kept[2], kept[5]
            del self._running[number]
            if earlier is not None:
                self._numbers[point.point_id] = earlier
            if new:
                del self._numbers[point.point_id]
                self._seen.discard(point.point_id)
                self._chooser.withdraw(number)

        self._undo = undo_measure
        if not new:
            self._again = [other for other in self._again if other.point_id != point.point_id]
        self._running[number] = (point, new)
        self._numbers[point.point_id] = number
        self._seen.add(point.point_id)
        self._accepted += 1

    def _best(self) -> list[Architecture]:
        """Return the measures of this round, best first."""
        return [self._reached[index][0] for index in ranked([worth for _, worth in self._reached])]


def _on_one_recipe(spec: SearchSpec) -> SearchSpec:
    """Return the facts of the search with the recipe's decisions at their defaults."""
    return replace(spec, space=spec.space.fixed(recipe_defaults(spec.space)))


@on_shared_weights
def spos(
    spec: SearchSpec,
    *,
    epochs: int = 50,
    measures: int = 200,
    paths: str = "uniform",
    population: int = 20,
    sample: int = 5,
) -> OneShot:
    """Train one supernet on uniform or fair paths, then run evolution on inherited weights.

    "Single Path One-Shot Neural Architecture Search with Uniform Sampling", Guo et al. 2020,
    https://arxiv.org/abs/1904.00420.

    Args:
        spec: space and seed of the search; any number of objectives.
        epochs: epochs of the supernet.
        measures: networks to measure on its weights before the best are trained from scratch.
        paths: sampling of paths: `uniform`, or `fair` (FairNAS).
        population: population of the evolution.
        sample: members of the evolution that compete to be the parent.
    """
    chooser = Evolution(_on_one_recipe(spec), population=population, sample=sample)
    return OneShot(spec, chooser=chooser, paths=paths, rounds=1, epochs=epochs, measures=measures)


@on_shared_weights
def enas(
    spec: SearchSpec,
    *,
    rounds: int = 10,
    epochs: int = 5,
    measures: int = 20,
    policy_paths: int = 50,
    within: float = 0.0,
    beyond: float = -1.0,
) -> OneShot:
    """Alternate shared training on paths from a policy with the policy's learning from measures.

    "Efficient Neural Architecture Search via Parameter Sharing", Pham et al. 2018, https://arxiv.org/abs/1802.03268.
    The policy has one softmax per decision (strategy `reinforce`), where the paper has a recurrent network.

    Args:
        spec: space and seed of the search; one objective. Targets shape the policy's reward.
        rounds: rounds of weights and policy.
        epochs: epochs of the supernet per round.
        measures: networks to measure per round.
        policy_paths: paths of a later round, drawn from the policy; those of the first round are uniform.
        within: exponent of cost / bound where a soft target is met (MnasNet's alpha).
        beyond: exponent of cost / bound where a soft target is missed (MnasNet's beta).
    """
    if policy_paths < 1:
        raise ConfigError(
            f"enas: policy_paths must be at least 1, got {policy_paths}; for a search without a policy use spos",
            kind="range",
            key="strategy.policy_paths",
        )
    policy = Reinforce(_on_one_recipe(spec), within=within, beyond=beyond)
    return OneShot(
        spec,
        chooser=policy,
        paths="uniform",
        rounds=rounds,
        epochs=epochs,
        measures=measures,
        policy=policy,
        policy_paths=policy_paths,
    )
