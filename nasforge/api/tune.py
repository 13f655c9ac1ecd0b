"""Hyperparameter search on one network: an experiment's best, another one of its space, or a timm model by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nasforge import registry
from nasforge.api.search import admit_cluster, search
from nasforge.core.architecture import TRAIN, Architecture, Value
from nasforge.core.errors import ConfigError, JournalError, SpaceError, did_you_mean
from nasforge.core.goals import Budget, Objective
from nasforge.core.ladder import Rung, ladder_to
from nasforge.core.metrics import PROXY
from nasforge.core.paths import absolute_path
from nasforge.core.protocols import Tracker
from nasforge.core.recipe import settings_of
from nasforge.core.say import Say, to_stderr
from nasforge.core.space import Domain, SearchSpace
from nasforge.core.tracking_uri import admit_store
from nasforge.core.trial import Trial
from nasforge.core.trust import foreign, typed
from nasforge.data import load_data
from nasforge.experiment.experiment import Experiment
from nasforge.experiment.journal import fit_of, has_begun
from nasforge.experiment.places import search_of
from nasforge.experiment.state import State, load_state
from nasforge.settings.experiment import NO_PRUNER, ExperimentConfig, Named, check_experiment_name, name_from, resolve
from nasforge.settings.space_file import load_recipe

_UNTRAINED = ("cost/", PROXY)
_AFTER = ("name", "budget", "epochs", "seed", "runner", "pruner", "tracking_uri")


@dataclass(frozen=True)
class Tuned:
    """Result of tuning a recipe.

    Attributes:
        config: of the experiment that tuned it.
        state: of it.
        network: the network, in words: its `arch_id`, or timm's name.
        begun: the trial of the recipe that tuning began with; None where there was none, or it has not finished.
        changed: where that recipe is not the one that the network had: setting -> (what it was, what it is).
    """

    config: ExperimentConfig
    state: State
    network: str
    begun: Trial | None
    changed: Mapping[str, tuple[Value, Value]]

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
    weights: str | Path | None = None,
    data: Any = None,
    trackers: Sequence[Tracker] = (),
    say: Say = to_stderr,
    on_open: Callable[[Experiment], None] = lambda experiment: None,
    runs_dir: str | Path = "runs",
    trust: bool = False,
    **settings: Any,
) -> Tuned:
    """Tune the recipe of one network by one of Optuna's samplers, or continue to; the search is an ordinary experiment.

    Example:
        >>> tuned = nasforge.tune("first", recipe="sgd", budget={"trials": 30})
        >>> tuned.gained, tuned.state.best.architecture.train

    Args:
        experiment: the name of a search or a fit in `runs_dir`, or its folder; its data, runner, ladder and objectives
            are taken over, but for objectives and limits on costs, which a recipe does not change. The recipe that the
            network had is tried first, as far as `recipe` allows it.
        trial: the network of this trial, in place of the best.
        architecture: a network of the experiment's space, `model.*` -> value, in place of the best.
        recipe: decisions that are tuned in place of the space's: a shipped recipe's name, a YAML file or a space. Its
            defaults hold too; what it does not name stays as the network had it.
        sampler: as in strategy `optuna`.
        model: a timm network by name instead of an experiment, from random weights, or
        weights: from those of this file, as timm writes it: `.safetensors`, or a checkpoint of torch (`.pth`) that
            holds tensors alone.
        data: with `model` as in `nasforge.resolve`; with `experiment` where its images lie now, if they were
            moved: a file or folder, or a mapping of `source` and `folder`.
        trackers: as in `search`.
        say: as in `search`.
        on_open: as in `search`.
        runs_dir: where experiments live.
        trust: you agree to run the code that the experiment's journal names; code that a search of yours used needs no
            consent.
        settings: with `model` those of `nasforge.resolve`; with `experiment` any of `name` (else
            EXPERIMENT-tuned), `budget`, `epochs`, `seed`, `runner`, `pruner`, `tracking_uri`.

    Raises:
        TrustError: the experiment's journal names code that you have not agreed to run.
        NasforgeError: a user's mistake, in words.
        StopNow: as in `search`.
    """
    strategy = Named("optuna", {"sampler": sampler})
    if (experiment is None) == (model is None):
        raise ConfigError("tune needs an experiment, or a timm model and data. Name one of the two", kind="missing")
    if weights is not None and model is None:
        raise ConfigError(
            "weights belong to a timm model. Name it with --model, or leave --weights out", kind="missing", key="model"
        )
    if model is not None and (trial is not None or architecture is not None):
        raise ConfigError(
            "a trial and an architecture choose a network of an experiment. Leave them out with a timm model",
            kind="conflict",
            key="model",
        )
    changed: Mapping[str, tuple[Value, Value]] = {}
    if model is not None:
        space = timm_space(model, recipe, weights)
        config = resolve({**settings, "space": space, "strategy": strategy, "data": data, "runs_dir": runs_dir})
        config = replace(config, start_from=None)
        network = model
        state = search(config, trackers=trackers, say=say, on_open=on_open)
    else:
        folder = search_of(str(experiment), runs_dir)
        source = load_state(folder)
        point = _network_of(source, trial, architecture)
        with foreign(folder.absolute().parent, trust=trust):
            config, changed = _config_after(folder, source, point, recipe, strategy, data, settings)
            network = config.space.default_point().arch_id
            state = search(config, trackers=trackers, say=say, on_open=on_open)
    begun = state.trials.get(0) if "first" in config.strategy.options else None
    ranked = {finished.number for finished in state.finished()}
    return Tuned(config, state, network, begun if begun and begun.number in ranked else None, changed)


def timm_space(model: str, recipe: str | Path | SearchSpace | None, weights: str | Path | None = None) -> SearchSpace:
    """Return the space of one timm network, from random weights or those of a file, and a recipe's decisions.

    Raises:
        ConfigError: no recipe, a name that timm does not know, or a file that is not there or not of this network.
    """
    if recipe is None:
        raise ConfigError(
            f"no recipe to tune for '{model}'. Set --recipe sgd, or name a YAML file",
            kind="missing",
            key="recipe",
        )
    from nasforge.models.timm_backbone import backbone_space, check_file, check_known, check_weights  # imports timm

    opened = recipe if isinstance(recipe, SearchSpace) else load_recipe(recipe)
    if weights is None:
        check_known(model, "model")
        return backbone_space(model).with_recipe(opened)
    file = Path(absolute_path(weights))
    check_file(file)
    check_weights(file, model, "model")
    return backbone_space(model, file).with_recipe(opened)


def _network_of(state: State, trial: int | None, architecture: Mapping[str, Value] | None) -> Architecture:
    """Return the network to be tuned, and the recipe that it had."""
    name = state.name
    if trial is not None and architecture is not None:
        raise ConfigError(
            "got a trial and an architecture, expected one of them. Leave one out", kind="conflict", key="trial"
        )
    if architecture is not None:
        return Architecture(architecture)
    if trial is None:
        if state.best is None or state.best.architecture is None:
            raise JournalError(
                f"no trial of '{name}' has finished, so there is no best network to tune. Run the search first",
                kind="empty",
            )
        return state.best.architecture
    candidate = state.trial(trial)
    if candidate.architecture is None:
        raise JournalError(
            f"trial {trial} of '{name}' trained a supernet; name the trial of one network",
            kind="unsupported",
            key="trial",
        )
    return candidate.architecture


def _config_after(
    folder: Path,
    source: State,
    point: Architecture,
    recipe: str | Path | SearchSpace | None,
    strategy: Named,
    data: str | Path | Mapping[str, str] | None,
    settings: Mapping[str, Any],
) -> tuple[ExperimentConfig, dict[str, tuple[Value, Value]]]:
    """Return the experiment that tunes `point`, which was found in the experiment in `folder`; and `Tuned.changed`."""
    for key in settings:
        if key not in _AFTER:
            raise ConfigError(
                f"tune: '{key}' is the experiment's own; {did_you_mean(key, _AFTER)}", kind="conflict", key=key
            )
    config = source.config.with_data_at(data)
    fit = fit_of(folder)
    # earlier versions put it into the fit's folder
    if fit is not None and not has_begun(fit / name_from(f"{config.name}-tuned")):
        config = replace(config, name=fit.name, runs_dir=fit.parent.absolute())
    if data and config.data and load_data(config.data).fingerprint != source.header.data_hash:
        raise JournalError(
            f"{config.data.source}: not the data of '{config.name}'; give those that it was searched on",
            kind="changed",
            key="data",
        )
    opened = load_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe
    network = {key: value for key, value in point.values.items() if not key.startswith(TRAIN)}
    space = (config.space.with_recipe(opened) if opened else config.space).fixed(network)
    undecided = [key for key, domain in space.domains.items() if not key.startswith(TRAIN) and domain.size > 1]
    if undecided:
        raise ConfigError(
            f"the architecture leaves {', '.join(undecided)} open; give a value for every decision",
            kind="missing",
            key="architecture",
        )
    if not any(key.startswith(TRAIN) and domain.size > 1 for key, domain in space.domains.items()):
        raise ConfigError(
            f"the space '{space.name}' opens no decision of the recipe; open one: --recipe sgd",
            kind="missing",
            key="recipe",
        )
    fixed_values = config.space.fixed(network).decide(
        lambda key, _: point.values.get(key, config.space.default_of(key))
    )
    had = settings_of(config.space, fixed_values, config.recipe)
    fixed = _fixed(config, fixed_values, space, opened)
    first = _nearest(space, had)
    begin = {key: value for key, value in first.values.items() if key.startswith(TRAIN)}
    now = settings_of(space, first, fixed)
    config_of_user = resolve(
        {
            **{"strategy": strategy, "name": name_from(f"{config.name}-tuned"), **settings},
            **{"space": space, "data": config.data, "objectives": config.objectives},
        }
    )
    _admit_typed(config_of_user, settings)
    objectives = tuple(o for o in config.objectives if not o.metric.startswith(_UNTRAINED))
    evaluator, ladder = _measured_by(config, settings.get("epochs"))
    tuned = replace(
        config,
        name=check_experiment_name(config_of_user.name),
        space=space,
        strategy=Named(strategy.name, {**strategy.options, "first": begin}),
        evaluator=evaluator,
        pruner=config_of_user.pruner if "pruner" in settings else _pruner_until(config, settings.get("epochs")),
        runner=config_of_user.runner if "runner" in settings else config.runner,
        objectives=objectives or (Objective.parse("val/accuracy"),),
        constraints=(),
        targets=(),
        budget=config_of_user.budget if "budget" in settings else Budget(trials=20),
        ladder=ladder,
        recipe=fixed,
        seed=config_of_user.seed if "seed" in settings else config.seed,
        tracking_uri=(config.tracking_uri if "tracking_uri" not in settings else None) or config_of_user.tracking_uri,
        start_from=None,  # the recipe that the network had comes first
    )
    return tuned, {key: (had[key], now[key]) for key in had if had[key] != now[key]}


def _admit_typed(config: ExperimentConfig, settings: Mapping[str, Any]) -> None:
    """Admit runner, pruner and store that the user names for this tuning; they need no further consent."""
    with typed():
        for kind in ("runner", "pruner"):
            if kind in settings and ":" in (name := getattr(config, kind).name):
                registry.get(kind, name)
        if "runner" in settings and (address := config.runner.options.get("address")):
            admit_cluster(address)
        if "tracking_uri" in settings:
            admit_store(config.tracking_uri, config.runs_dir)


def _fixed(
    config: ExperimentConfig, values: Architecture, space: SearchSpace, opened: SearchSpace | None
) -> dict[str, Value]:
    """Return the settings of the network's recipe that `space` does not open and the opened recipe does not fix."""
    tuned = {_setting(key) for key in space.domains if key.startswith(TRAIN)}
    named = {_setting(key) for key in opened.defaults} if opened else set()
    decided = {_setting(key): value for key, value in values.values.items() if key.startswith(TRAIN)}
    return {key: value for key, value in {**decided, **config.recipe}.items() if key not in tuned | named}


def _nearest(space: SearchSpace, had: Mapping[str, Value]) -> Architecture:
    """Return the point of these settings; where a domain has no such value, its default."""

    def choose(key: str, domain: Domain) -> Value:
        try:
            return domain.check(had[_setting(key)])
        except (KeyError, SpaceError):
            return space.default_of(key)

    return space.decide(choose)


def _setting(key: str) -> str:
    return key.rpartition(".")[2]


def _pruner_until(config: ExperimentConfig, epochs: int | None) -> Named:
    """Return the experiment's pruner at its steps before `epochs`, the last one; no pruner where it has none."""
    at = config.pruner.options.get("at")
    if not epochs or config.trainings > 1 or at is None:
        return config.pruner
    earlier = [step for step in at if step < epochs]
    return Named(config.pruner.name, {**config.pruner.options, "at": earlier}) if earlier else Named(NO_PRUNER)


def _measured_by(config: ExperimentConfig, epochs: int | None) -> tuple[Named, tuple[Rung, ...]]:
    """Evaluator and ladder of the tuning: the experiment's, but trainings of `epochs` where they are given."""
    evaluator = config.evaluator
    if evaluator.name in ("shared_weights", "zero_cost"):  # those measure without the recipe
        evaluator = Named("training")
    if epochs and config.trainings > 1:
        return Named(evaluator.name, {**evaluator.options, "epochs": epochs}), config.ladder
    ladder = tuple(rung for rung in config.ladder if not rung.proxies)
    return evaluator, ladder_to(epochs) if epochs else ladder
