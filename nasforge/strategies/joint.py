"""Architecture and recipe in one search: one strategy asks for the network, another for how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from nasforge import registry
from nasforge.core.architecture import TRAIN, Architecture, digest
from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.protocols import Strategy
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Measure, Origin, Proposal, Result, Score, TrainShared
from nasforge.settings.experiment import Named, continues, suited_evaluator
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import Seen, generator, measure_of, unseen_neighbour
from nasforge.strategies.named import strategy_of
from nasforge.strategies.ranking import Merit, beats, merit, ranked

_KEPT = 20
_AGAIN = 5


class _Half:
    """One of the two strategies, which proposes single trainings."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self.recall, self.tell, self.withdraw = strategy.recall, strategy.tell, strategy.withdraw

    def ask(self, number: int) -> Measure | Score | None:
        proposal = self._strategy.ask(number)
        if isinstance(proposal, TrainShared):
            raise SearchError(
                "strategy joint: one half trains a supernet, which has one recipe for all networks; "
                "use strategies of single trainings",
                kind="unsupported",
                key="strategy",
            )
        return proposal


class _Recipe(NamedTuple):
    """The recipe of a trial.

    Attributes:
        point: its decisions.
        number: of the ask by which its half proposed it.
        new: whether that ask is the last thing that the half was told of.
    """

    point: Architecture
    number: int
    new: bool = False


class _Trial(NamedTuple):
    network: Architecture
    recipe: _Recipe | None


class _Known(NamedTuple):
    """The best result of a network."""

    number: int
    network: Architecture
    recipe: Architecture
    merit: Merit


class Joint:
    """Combination of two strategies, one over `model.*` and one over `train.*`; see `joint`.

    Args:
        spec: space and seed of the search.
        make_model: makes the strategy of the networks.
        make_recipe: makes the strategy of the recipes.
        revisit: every N-th trial gives a good network another recipe; 0: never.
        names: of the two strategies, for the origins of what they propose.
    """

    def __init__(
        self,
        spec: SearchSpec,
        *,
        make_model: Callable[[SearchSpace], Strategy],
        make_recipe: Callable[[SearchSpace], Strategy],
        revisit: int,
        names: tuple[str, str] = ("", ""),
    ) -> None:
        if revisit < 0:
            raise ConfigError(
                f"joint: revisit must be 0 (never) or N (every N-th trial), got {revisit}",
                kind="range",
                key="strategy.revisit",
            )
        self._space = spec.space
        self._seed = spec.seed
        self._networks, self._recipes = halves(spec.space)
        self._model = _Half(make_model(self._networks))
        self._train = _Half(make_recipe(self._recipes))
        self._revisit = revisit
        self._names = names
        self._running: dict[int, _Trial] = {}
        self._spare: list[_Recipe] = []  # asked for networks that were rejected
        self._seen = Seen()
        self._tried: dict[str, int] = {}  # arch_id -> recipes
        self._best: list[_Known] = []  # best first
        self._trained_by: dict[str, Architecture] = {}  # path of weights -> recipe
        self._waiting = False

    def ask(self, number: int) -> Proposal | None:
        """Propose a network with a recipe; None, which changes nothing, if one of the halves returns None."""
        if self._waiting:
            return None
        proposal = self._asked(number)
        self._waiting = proposal is None
        return proposal

    def recall(self, number: int, proposal: Proposal) -> None:
        """Split a recalled proposal between the two halves."""
        if isinstance(proposal, Score):
            networks = tuple(self._networks.point(_without_recipe(point)) for point in proposal.architectures)
            self._model.recall(number, replace(proposal, architectures=networks))
            self._adopt(number, proposal.architectures[0], _Trial(networks[0], None))
            return
        measure = measure_of(proposal)
        network = self._networks.point(_without_recipe(measure.architecture))
        network_measure = replace(measure, architecture=network)
        if network_measure.weights:
            self._model.recall(number, network_measure)
            self._adopt(number, measure.architecture, _Trial(network, None))
        else:
            self._recall(number, network_measure, measure.architecture)

    def tell(self, number: int, result: Result) -> None:
        """Tell both halves the result; costs depend on the network alone, so only its half learns of them."""
        network, recipe = self._running.pop(number)
        self._waiting = False
        self._model.tell(number, result)
        if recipe is None:
            return
        if result.status == "rejected" or (result.error and result.error.cause == "invalid_shape"):
            self._spare.append(recipe)
            return
        self._train.tell(recipe.number, result)
        self._trained_by.update({artifact.path: recipe.point for artifact in result.artifacts.values()})
        worth = merit(result)
        if worth is not None and worth.finished:
            self._remember(_Known(number, network, recipe.point, worth))

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        network, recipe = self._running.pop(number)
        self._model.withdraw(number)
        if recipe is None:
            return
        if recipe.number == number:
            self._train.withdraw(number)
        elif recipe.number is not None:
            self._spare.insert(0, recipe)
        self._seen.take_back()
        self._tried[network.arch_id] -= 1

    # --- asking -----------------------------------------------------------------------------------------------------

    def _asked(self, number: int) -> Measure | Score | None:
        recipe = None
        if self._is_revisit(number) and self._best:
            recipe = self._next_recipe(number)
            if recipe is None:
                return None
            known = self._worth_another(recipe.point)
            if known is not None:
                self._model.recall(number, Measure(known.network))
                origin = Origin((known.number,), "revisit", strategy=self._names[1])
                return self._settle(number, Measure(known.network, origin=origin), recipe)
        asked = self._model.ask(number)
        if asked is not None:
            asked = replace(asked, origin=replace(asked.origin or Origin(), strategy=self._names[0]))
        if asked is None or isinstance(asked, Score) or asked.weights:
            if recipe is not None and recipe.new:
                self._train.withdraw(number)
            return None if asked is None else self._continued(number, asked)
        recipe = recipe or self._next_recipe(number)
        if recipe is None:
            self._model.withdraw(number)
            return None
        return self._settle(number, asked, recipe)

    def _worth_another(self, recipe: Architecture) -> _Known | None:
        """Return the best network with the fewest recipes so far that was not trained by this recipe."""
        best = self._best[:_AGAIN]
        new = [known for known in best if self._joined(known.network, recipe).point_id not in self._seen]
        return min(new, key=lambda known: self._tried[known.network.arch_id], default=None)

    def _next_recipe(self, number: int) -> _Recipe | None:
        """Return a recipe that was asked for a rejected network, else ask the recipe's half."""
        if self._spare:
            return self._spare[0]
        asked = self._train.ask(number)
        if asked is None:
            return None
        if isinstance(asked, Score) or asked.weights:
            raise SearchError(
                "strategy joint: the recipe's strategy continues from checkpoints, which belong to another network; "
                "tune with optuna, random or evolution",
                kind="unsupported",
                key="tune",
            )
        return _Recipe(asked.architecture, number, new=True)

    def _settle(self, number: int, asked: Measure, recipe: _Recipe) -> Measure:
        """Pair the proposals of both halves; an unseen neighbour replaces a pair that was seen."""
        point = self._joined(asked.architecture, recipe.point)
        if point.point_id not in self._seen:
            if self._spare and recipe is self._spare[0]:
                self._spare.pop(0)
            self._adopt(number, point, _Trial(asked.architecture, recipe))
            return replace(asked, architecture=point)
        point = unseen_neighbour(self._space, point, generator(self._seed, number), self._seen)
        self._model.withdraw(number)
        if recipe.new:
            self._train.withdraw(number)
        self._recall(number, replace(asked, architecture=self._networks.point(_without_recipe(point))), point)
        origin = replace(asked.origin or Origin(), operator="neighbour", forecast=None)  # it was of another point
        return replace(asked, architecture=point, origin=origin)

    def _continued(self, number: int, asked: Measure | Score) -> Measure | Score:
        """Join the recipe in use to a proposal that starts no training: a batch of scores, a resumed checkpoint."""
        if isinstance(asked, Score):
            points = tuple(self._joined(network, self._recipes.default_point()) for network in asked.architectures)
            self._adopt(number, points[0], _Trial(asked.architectures[0], None))
            return replace(asked, architectures=points)
        path = asked.weights.path if asked.weights else ""
        recipe = self._trained_by.get(path, self._recipes.default_point())
        point = self._joined(asked.architecture, recipe)
        self._adopt(number, point, _Trial(asked.architecture, None))
        return replace(asked, architecture=point)

    def _is_revisit(self, number: int) -> bool:
        return self._revisit > 0 and number % self._revisit == self._revisit - 1

    # --- books ------------------------------------------------------------------------------------------------------

    def _recall(self, number: int, network: Measure, point: Architecture) -> None:
        """Record a pair by its content alone, so that a replay comes to the same state."""
        self._model.recall(number, network)
        recipe_point = self._recipes.point({key: value for key, value in point.values.items() if key.startswith(TRAIN)})
        if self._spare and self._spare[0].point == recipe_point:
            recipe = self._spare.pop(0)
        else:
            self._train.recall(number, Measure(recipe_point))
            recipe = _Recipe(recipe_point, number)
        self._adopt(number, point, _Trial(network.architecture, recipe))

    def _adopt(self, number: int, point: Architecture, trial: _Trial) -> None:
        self._running[number] = trial
        if trial.recipe is not None:
            self._running[number] = trial._replace(recipe=trial.recipe._replace(new=False))
            self._seen.note(point)
            self._tried[point.arch_id] = self._tried.get(point.arch_id, 0) + 1

    def _remember(self, known: _Known) -> None:
        same = next((held for held in self._best if held.network.arch_id == known.network.arch_id), None)
        if same is not None:
            if not beats(known.merit, same.merit):
                return
            self._best.remove(same)
        self._best.append(known)
        self._best = [self._best[index] for index in ranked([held.merit for held in self._best])[:_KEPT]]

    def _joined(self, network: Architecture, recipe: Architecture) -> Architecture:
        return self._space.point({**network.values, **recipe.values})


def halves(space: SearchSpace) -> tuple[SearchSpace, SearchSpace]:
    """Return the space of the networks and the space of the recipes, which has no network."""
    recipe = tuple(decision for decision in space.decisions if decision.key.startswith(TRAIN))
    network = tuple(decision for decision in space.decisions if not decision.key.startswith(TRAIN))
    return replace(space, decisions=network), replace(space, decisions=recipe, canonical="", text="", derive="")


def joint(
    spec: SearchSpec,
    *,
    model: str | Mapping[str, Any] = "evolution",
    recipe: str | Mapping[str, Any] = "optuna",
    revisit: int = 4,
) -> Strategy:
    """Combine a strategy for the network and one for its recipe, both told every result; `--tune` is short for it.

    Every fourth trial is not a new network: of the five best, the one with the fewest recipes so far is trained by
    another one. What a rejected network would have been trained by goes to the next network, so that the recipe's
    strategy learns nothing from costs, which are not the recipe's. A strategy with a supernet cannot take part, since
    all its networks are trained by one recipe. Where the space opens networks or recipes alone, it is searched by that
    half's strategy.

    Args:
        spec: space, seed and targets of the search; any number of objectives that both strategies take.
        model: strategy of the networks: a name, or a mapping of `name` and its options.
        recipe: strategy of the recipes, likewise.
        revisit: every N-th trial gives a good network another recipe; 0: never.
    """

    def half(named: str | Mapping[str, Any], seed: int, **ours: Any) -> Callable[[SearchSpace], Strategy]:
        content = Named.parse(named, "joint: a half")
        name = content.name
        if suited_evaluator(name) != "training":
            raise ConfigError(
                f"joint: '{name}' trains a supernet, whose networks share one recipe. Search the network first, "
                "then its recipe: nasforge tune EXPERIMENT",
                kind="unsupported",
                key="strategy",
            )
        if continues(name):
            raise ConfigError(
                f"joint: '{name}' resumes checkpoints together with their recipe. "
                "Use a joint search inside promotion instead: --strategy promotion --tune optuna",
                kind="unsupported",
                key="strategy",
            )
        known = registry.options_of("strategy", name)
        options = {**{key: ours[key] for key in ours if key in known}, **content.options}
        return lambda part: strategy_of(Named(name, options), replace(spec, space=part, seed=seed))

    # A seed of its own, else both halves would draw the same numbers.
    recipe_seed = int(digest(["recipe", spec.seed]), 16) % 2**31
    make_model, make_recipe = half(model, spec.seed), half(recipe, recipe_seed, distinct=False)
    networks, recipes = halves(spec.space)
    if not recipes.decisions or not networks.decisions:
        make = make_recipe if recipes.decisions else make_model
        return make(spec.space)
    return Joint(
        spec,
        make_model=make_model,
        make_recipe=make_recipe,
        revisit=revisit,
        names=(Named.parse(model, "joint: a half").name, Named.parse(recipe, "joint: a half").name),
    )


def _without_recipe(point: Architecture) -> dict[str, Any]:
    return {key: value for key, value in point.values.items() if not key.startswith(TRAIN)}
