"""Hyperparameter search on one network: an experiment's best, another one of its space, or a timm model by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nasforge.compose import Say, search
from nasforge.config import ExperimentConfig, Named, check_name, resolve
from nasforge.core.architecture import MODEL, TRAIN, Architecture, Value
from nasforge.core.errors import ConfigError, JournalError, did_you_mean
from nasforge.core.goals import Budget, Objective, ladder_to
from nasforge.core.protocols import Tracker
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.core.trial import Trial
from nasforge.experiment import Experiment
from nasforge.space_file import load_recipe
from nasforge.state import State, load_state

_BUILDER = "timm_backbone"
_COSTS = "cost/"
_AFTER = ("name", "budget", "epochs", "seed", "runner", "pruner", "tracking_uri")


@dataclass(frozen=True)
class Tuned:
    """What tuning a recipe has brought.

    Attributes:
        config: of the experiment that tuned it.
        state: of it.
        network: the network, in words: its `arch_id`, or timm's name.
        begun: the trial of the recipe that tuning began with; None where there was none, or it has not finished.
    """

    config: ExperimentConfig
    state: State
    network: str
    begun: Trial | None

    @property
    def gained(self) -> float | None:
        """By how much the best recipe is better than the first one, in the first objective; None without either."""
        best, objective = self.state.best, self.state.objectives[0]
        if best is None or self.begun is None:
            return None
        ours, before = best.metrics[objective.metric], self.begun.metrics[objective.metric]
        return objective.oriented(ours) - objective.oriented(before)


def tune(
    experiment: Path | str | None = None,
    *,
    trial: int | None = None,
    architecture: Mapping[str, Value] | None = None,
    recipe: str | Path | SearchSpace | None = None,
    sampler: str = "tpe",
    model: str | None = None,
    trackers: Sequence[Tracker] = (),
    say: Say = lambda text: print(text, file=sys.stderr),
    on_open: Callable[[Experiment], None] = lambda experiment: None,
    **settings: Any,
) -> Tuned:
    """Tune the recipe of one network by one of Optuna's samplers, or continue to; the search is an ordinary experiment.

    Example:
        >>> tuned = nasforge.tune("runs/first", recipe="sgd", budget={"trials": 30})
        >>> tuned.gained, tuned.state.best.architecture.train

    Args:
        experiment: the folder of an experiment; its data, runner, ladder and objectives are taken over, but for
            objectives and limits on costs, which a recipe does not change. The recipe that the network had is tried
            first.
        trial: the network of this trial, in place of the best.
        architecture: a network of the experiment's space, `model.*` -> value, in place of the best.
        recipe: decisions that are tuned in place of the space's: a shipped recipe's name, a YAML file or a space.
        sampler: as in strategy `optuna`.
        model: a timm network by name instead of an experiment, from random weights.
        trackers: as in `search`.
        say: as in `search`.
        on_open: as in `search`.
        settings: with `model` those of `nasforge.config.resolve`; with `experiment` any of `name` (else
            EXPERIMENT-tuned), `budget`, `epochs`, `seed`, `runner`, `pruner`, `tracking_uri`.

    Raises:
        NasforgeError: a user's mistake, in words.
        StopNow: as in `search`.
    """
    strategy = Named("optuna", {"sampler": sampler})
    if (experiment is None) == (model is None):
        raise ConfigError("tune what? Name an experiment, or a timm model and data: one of the two")
    if model is not None:
        config = resolve({**settings, "space": timm_space(model, recipe), "strategy": strategy})
        network = model
    else:
        source = load_state(Path(str(experiment)))
        point = _network_of(source, trial, architecture)
        config = _config_after(Path(str(experiment)), source, point, recipe, strategy, settings)
        network = config.space.default_point().arch_id
    state = search(config, trackers=trackers, say=say, on_open=on_open)
    begun = state.trials.get(0) if "first" in config.strategy.options else None
    ranked = {found.number for found in state.finished()}
    return Tuned(config, state, network, begun if begun and begun.number in ranked else None)


def timm_space(model: str, recipe: str | Path | SearchSpace | None) -> SearchSpace:
    """The space of one timm network, random weights, and a recipe's decisions.

    Raises:
        ConfigError: no recipe.
    """
    if recipe is None:
        raise ConfigError(f"which recipe is to be tuned for '{model}'? Name one: --recipe sgd, or a YAML file")
    opened = recipe if isinstance(recipe, SearchSpace) else load_recipe(recipe)
    backbone = Decision(f"{MODEL}backbone", Choice((model,)))
    return SearchSpace(model, (backbone,), _BUILDER, {"backbones": [model]}).with_recipe(opened)


def _network_of(state: State, trial: int | None, architecture: Mapping[str, Value] | None) -> Architecture:
    """The network to be tuned, and the recipe that it had."""
    name = state.header.experiment
    if trial is not None and architecture is not None:
        raise ConfigError("give a trial or an architecture, not both")
    if architecture is not None:
        return Architecture(architecture)
    if trial is None:
        if state.best is None or state.best.architecture is None:
            raise JournalError(f"no trial of '{name}' has finished: there is no best network to tune yet")
        return state.best.architecture
    found = state.trials.get(trial)
    if found is None:
        raise JournalError(f"'{name}' has no trial {trial}; they go from 0 to {len(state.trials) - 1}")
    if found.architecture is None:
        raise JournalError(f"trial {trial} of '{name}' trained a supernet; name the trial of one network")
    return found.architecture


def _config_after(
    folder: Path,
    source: State,
    point: Architecture,
    recipe: str | Path | SearchSpace | None,
    strategy: Named,
    settings: Mapping[str, Any],
) -> ExperimentConfig:
    """The experiment that tunes `point`, which was found in the experiment in `folder`."""
    for key in settings:
        if key not in _AFTER:
            raise ConfigError(f"tune: '{key}' is the experiment's own; {did_you_mean(key, _AFTER)}")
    config = ExperimentConfig.from_json(source.header.experiment, source.header.config, folder.absolute().parent)
    space = config.space
    if recipe is not None:
        space = space.with_recipe(recipe if isinstance(recipe, SearchSpace) else load_recipe(recipe))
    space = space.fixed({key: value for key, value in point.values.items() if not key.startswith(TRAIN)})
    undecided = [key for key, domain in space.domains.items() if not key.startswith(TRAIN) and domain.size > 1]
    if undecided:
        raise ConfigError(f"the architecture leaves {', '.join(undecided)} open; give a value for every decision")
    if not any(key.startswith(TRAIN) and domain.size > 1 for key, domain in space.domains.items()):
        raise ConfigError(f"the space '{space.name}' opens no decision of the recipe; open one: --recipe sgd")
    first = {key: _begin(space, config.recipe, point, key) for key in space.domains if key.startswith(TRAIN)}
    given = resolve(
        {"strategy": strategy, "name": f"{config.name}-tuned", **settings, "space": space, "data": config.data}
    )
    objectives = tuple(o for o in config.objectives if not o.metric.startswith(_COSTS))
    trained = config.evaluator.name not in ("shared_weights", "zero_cost")  # those measure without the recipe
    return replace(
        config,
        name=check_name(given.name),
        space=space,
        strategy=Named(strategy.name, {**strategy.options, "first": first}),
        evaluator=config.evaluator if trained else Named("training"),
        pruner=given.pruner if "pruner" in settings else config.pruner,
        runner=given.runner if "runner" in settings else config.runner,
        objectives=objectives or (Objective.parse("val/accuracy"),),
        constraints=(),
        targets=(),
        budget=given.budget if "budget" in settings else Budget(trials=20),
        ladder=ladder_to(settings["epochs"])
        if settings.get("epochs")
        else tuple(rung for rung in config.ladder if not rung.proxies),
        recipe={key: value for key, value in config.recipe.items() if TRAIN + key not in space.domains},
        seed=given.seed if "seed" in settings else config.seed,
        tracking_uri=given.tracking_uri if "tracking_uri" in settings else config.tracking_uri,
    )


def _begin(space: SearchSpace, fixed: Mapping[str, Value], point: Architecture, key: str) -> Value:
    """What the network was trained with: a decision of its own, a setting of the experiment, or the space's default."""
    return point.values.get(key, fixed.get(key.removeprefix(TRAIN), space.default_of(key)))
