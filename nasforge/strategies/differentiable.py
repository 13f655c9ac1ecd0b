"""Differentiable search: a supernet's alphas learn by gradients; what they stand for is trained and ranked.

DARTS and its relatives are presets of one class: each names a relaxation, its epochs and its options.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from inspect import Parameter, Signature, cleandoc
from itertools import chain
from typing import Any, TypeVar, get_type_hints

from nasforge.core.alphas import COST_TERMS, Alphas, Settings, check_mixable, derive, without
from nasforge.core.architecture import MODEL, TRAIN, Architecture, Value
from nasforge.core.errors import ConfigError
from nasforge.core.protocols import Strategy
from nasforge.core.ranges import check_whole
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Measure, Origin, Proposal, Result, TrainShared
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import Seen, generator, measured
from nasforge.strategies.prices import Prices

Factory = TypeVar("Factory", bound=Callable[..., Strategy])

SHARED_WEIGHTS = "shared_weights"
"""The evaluator that trains supernets; a strategy that needs it names it in its attribute `evaluator`."""
_PATIENCE = 2
"""Rejections in a row after which prices are learnt anew."""


def on_shared_weights(factory: Factory) -> Factory:
    """Mark a factory of strategies that need the evaluator `shared_weights`."""
    setattr(factory, "evaluator", SHARED_WEIGHTS)  # noqa: B010 - a function has no such attribute declared
    return factory


def recipe_defaults(space: SearchSpace) -> dict[str, Value]:
    """Return the defaults of all `train.*` decisions: the one recipe that the paths of a supernet share."""
    return {key: space.default_of(key) for key in space.domains if key.startswith(TRAIN)}


class Differentiable:
    """One or several trainings of the supernet, then the networks that their alphas stand for, best first.

    The derived networks are trained from an initialisation and ranked by what they reach. Where one violates a hard
    constraint, the next in order takes its place; after several in a row the alphas are lowered by what their options
    cost (`Prices`). Decisions of the recipe stay at their defaults.

    Args:
        spec: space, constraints and seed of the search; one objective, which the alphas follow. Targets are soft
            limits on `cost/flops` or `cost/params`; a preset without a cost term leaves them to the ranking.
        relaxation: registered name.
        epochs: of a supernet's training.
        runs: supernets, independent of each other, side by side on the workers.
        settings: of the alphas' learning.
        cost_weight: of every cost term at the start; 0: no cost terms.
    """

    evaluator = SHARED_WEIGHTS

    def __init__(
        self,
        spec: SearchSpec,
        *,
        relaxation: str,
        epochs: int,
        runs: int = 1,
        settings: Settings,
        cost_weight: float = 0.0,
    ) -> None:
        if len(spec.objectives) != 1:
            raise ConfigError(
                f"a differentiable search takes one objective, got {len(spec.objectives)}; "
                "make a cost a target instead",
                kind="unsupported",
                key="objectives",
            )
        check_whole(epochs, "strategy: epochs", 1)
        check_whole(runs, "strategy: runs", 1)
        if settings.warmup_epochs >= epochs:
            raise ConfigError(
                f"warmup_epochs must be less than epochs, or the alphas never learn; got {settings.warmup_epochs} and "
                f"{epochs}",
                kind="conflict",
                key="strategy.warmup_epochs",
            )
        self._space = spec.space
        self._seed = spec.seed
        self._relaxation = relaxation
        self._epochs = epochs
        self._runs = runs
        self._settings: dict[str, Value] = asdict(settings)
        self._underived = settings.underived
        self._cost_terms: dict[str, float] = {}
        if cost_weight:
            bounded = [target for target in spec.targets if target.metric in COST_TERMS]
            if spec.targets and not bounded:
                known = " and ".join(metric.removeprefix("cost/") for metric in COST_TERMS)
                targets = ", ".join(map(str, spec.targets))
                raise ConfigError(
                    f"cost_aware can put {known} into the loss, got {targets}; set a target on one of them",
                    kind="unsupported",
                    key="targets",
                )
            self._cost_terms = {target.metric: cost_weight for target in bounded} or {"cost/flops": cost_weight}
            self._settings |= {f"bound/{target.metric}": target.bound for target in bounded}
        self._trained = spec.space.fixed(recipe_defaults(spec.space))
        self._asked = 0
        self._training: set[int] = set()
        self._alphas: list[tuple[int, Alphas]] = []  # by the supernet's trial
        self._derived: list[tuple[int, Iterator[Architecture]]] = []  # the same
        self._prices = Prices(spec.space, spec.constraints)
        self._running: dict[int, Architecture] = {}
        self._rejected = 0  # in a row
        self._seen = Seen()
        self._taken: tuple[int, Architecture] | None = None  # place in `_derived` and network of the latest proposal

    def ask(self, number: int) -> Proposal | None:
        """Propose a supernet's training, then derived networks, from the supernets in turn."""
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
        taken = self._taken
        self.recall(number, proposal)
        self._taken = taken
        return proposal

    def recall(self, number: int, proposal: Proposal) -> None:
        """Remember what was proposed."""
        self._taken = None
        if isinstance(proposal, TrainShared):
            self._asked += 1
            self._training.add(number)
        else:
            self._running[number] = measured(proposal)
            self._seen.note(self._running[number])

    def tell(self, number: int, result: Result) -> None:
        """Keep a supernet's alphas; learn from a derived network what its options cost."""
        if number in self._training:
            self._training.remove(number)
            if result.alphas is not None:
                self._alphas.append((number, without(self._space, result.alphas, self._underived)))
                self._alphas.sort(key=lambda pair: pair[0])
                self._derive()
            return
        self._prices.note(self._running.pop(number), result.metrics)
        self._rejected = self._rejected + 1 if result.status == "rejected" else 0
        if self._rejected and self._rejected % _PATIENCE == 0:
            self._derive()

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        if number in self._training:
            self._training.remove(number)
            self._asked -= 1
            return
        del self._running[number]
        self._seen.take_back()
        if self._taken is not None:
            turn, point = self._taken
            supernet, points = self._derived[turn]
            self._derived[turn] = (supernet, chain([point], points))

    def _derive(self) -> None:
        """Order the networks of every supernet anew, by alphas and prices."""
        self._derived = [(number, derive(self._space, self._prices.lowered(alphas))) for number, alphas in self._alphas]

    def _next(self) -> tuple[int, Architecture] | None:
        """Return a supernet's trial and its next unseen network, in turn; None when all are exhausted."""
        for offset in range(len(self._derived)):
            turn = (len(self._seen) + offset) % len(self._derived)
            supernet, points = self._derived[turn]
            for point in points:
                if point.point_id not in self._seen:
                    self._taken = (turn, point)
                    return supernet, point
        return None


def first_alphas(space: SearchSpace, seed: int, number: int) -> dict[str, tuple[float, ...]]:
    """Draw alphas near zero, 1e-3 times a normal draw as in DARTS, for every open decision of the network."""
    rng = generator(seed, number)
    alphas = {}
    for key, domain in space.domains.items():
        if key.startswith(MODEL) and 1 < domain.size < math.inf:
            check_mixable(key, domain)
            alphas[key] = tuple(rng.gauss(0.0, 1e-3) for _ in domain.values)
    return alphas


# --- presets ---------------------------------------------------------------------------------------------------------

_LEARNING = ("learning_rate", "warmup_epochs")
_COLLAPSE = ("stop_at_skips", "underived")
_MEANINGS = {
    "epochs": "epochs of the supernet.",
    "runs": "number of supernets.",
    "cost_weight": "weight of every cost in the loss at the start.",
    "second_order": "look ahead by one step of the weights.",
    "temperature": "temperature of the Gumbel samples at the start.",
    "last_temperature": "temperature of the Gumbel samples at the end.",
    "regulariser": "weight of the distance from the flat Dirichlet.",
    "learning_rate": "learning rate of the alphas; 0: from the number of steps.",
    "warmup_epochs": "epochs that train only the weights.",
    "stop_at_skips": "share of options without weights at which a collapsing search is stopped; 1: never.",
    "underived": "option that is derived only if no other is allowed (`core.alphas.without`); empty: no such rule.",
}
"""Options of presets, for their docstrings and the tables made from these."""
_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Settings)}


def preset(
    about: str,
    relaxation: str,
    *,
    epochs: int,
    options: Sequence[str],
    settings: Settings | None = None,
    cost_weight: float | None = None,
) -> Callable[..., Differentiable]:
    """Return a factory of `Differentiable` under a name of its own, for the registry.

    Args:
        about: the beginning of its docstring: what it does, and the paper.
        relaxation: registered name.
        epochs: default of the option of that name.
        options: fields of `Settings` that a user may set, in addition to `epochs` and `runs`.
        settings: values of the other fields; None: the defaults.
        cost_weight: default of an option that puts expected costs into the loss; None: there is no such option.
    """
    fixed = settings or Settings()
    costs = {} if cost_weight is None else {"cost_weight": cost_weight}
    defaults = {"epochs": epochs, "runs": 1, **costs, **{name: _DEFAULTS[name] for name in options}}
    types = {**get_type_hints(Settings), "epochs": int, "runs": int, "cost_weight": float}

    @on_shared_weights
    def make(spec: SearchSpec, **chosen: Any) -> Differentiable:
        taken = {**defaults, **chosen}
        weight = taken.get("cost_weight", 0.0)
        if costs and not 0 < weight < math.inf:
            raise ConfigError(
                f"cost_aware: cost_weight must be above 0, got {weight}; for a search without costs use gdas",
                kind="range",
                key="strategy.cost_weight",
            )
        return Differentiable(
            spec,
            relaxation=relaxation,
            epochs=taken["epochs"],
            runs=taken["runs"],
            settings=replace(fixed, **{name: taken[name] for name in options}),
            cost_weight=weight,
        )

    meanings = [f"    {name}: {_MEANINGS[name]}" for name in defaults]
    make.__doc__ = "\n".join([cleandoc(about), "", "Args:", "    spec: space and seed of the search.", *meanings])
    make.__annotations__ = {"spec": SearchSpec, **{name: types[name] for name in defaults}, "return": Differentiable}
    named = [Parameter(name, Parameter.KEYWORD_ONLY, default=value) for name, value in defaults.items()]
    first = Parameter("spec", Parameter.POSITIONAL_OR_KEYWORD)
    setattr(make, "__signature__", Signature([first, *named]))  # noqa: B010 - as above
    return make


darts = preset(
    'Every option counts by its softmax: "DARTS", Liu et al. 2019, https://arxiv.org/abs/1806.09055.',
    "softmax",
    epochs=25,
    options=("second_order", *_LEARNING, *_COLLAPSE),
)
gdas = preset(
    'One Gumbel-sampled path a step: "GDAS", Dong & Yang 2019, https://arxiv.org/abs/1910.04465.',
    "gumbel_hard",
    epochs=50,
    options=("temperature", "last_temperature", *_LEARNING, *_COLLAPSE),
)
drnas = preset(
    'Shares drawn from a Dirichlet distribution: "DrNAS", Chen et al. 2021, https://arxiv.org/abs/2006.10355.',
    "dirichlet",
    epochs=25,
    options=("regulariser", *_LEARNING, *_COLLAPSE),
)
cost_aware = preset(
    """Gumbel-sampled paths with the expected FLOPs or params in the loss, so that targets are met.

    "FBNet", Wu et al. 2019, https://arxiv.org/abs/1812.03443, and "ProxylessNAS", Cai et al. 2019,
    https://arxiv.org/abs/1812.00332. The weight of a term follows the excess of the most likely network over its
    target. Without targets the FLOPs count, relative to those of what is derived at the start, with a fixed weight.
    """,
    "gumbel_hard",
    epochs=50,
    options=("temperature", "last_temperature", *_LEARNING),
    # cheap options are the aim here: many have no weights, and `none` is the cheapest
    settings=Settings(stop_at_skips=1.0, underived=""),
    cost_weight=0.1,
)
