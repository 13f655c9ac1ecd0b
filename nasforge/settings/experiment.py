"""Settings as users write them -> frozen dataclasses. Every problem is collected and shown at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from nasforge import registry
from nasforge.core.architecture import MODEL, TRAIN, Value
from nasforge.core.errors import ConfigError, EventError, NasforgeError, Problem, did_you_mean
from nasforge.core.events import Header
from nasforge.core.goals import Budget, Constraint, Objective
from nasforge.core.ladder import Rung, Unit
from nasforge.core.paths import home_expanded, whole_path
from nasforge.core.ranges import check_whole
from nasforge.core.space import SearchSpace
from nasforge.core.tracking_uri import chosen_uri
from nasforge.core.uri import without_secrets
from nasforge.settings.space_file import LONGEST_NAME, NAME, load_space, shipped_spaces
from nasforge.settings.spec import CLASSIFICATION, SearchSpec
from nasforge.settings.values import (
    AUTOMATIC,
    FILE_OPTIONS,
    DataConfig,
    Named,
    Starts,
    budget_of,
    data_of,
    evaluator_of,
    ladder_of,
    limits_of,
    objectives_of,
    recipe_settings,
    seed_of,
    space_of,
    starts_of,
    suited_objectives,
    text_of,
    with_absolute_paths,
    with_whole_paths,
)
from nasforge.settings.yaml_file import Document, read_yaml

__all__ = [
    "DataConfig",
    "ExperimentConfig",
    "Named",
    "load_settings",
    "load_space",
    "resolve",
    "shipped_spaces",
    "with_absolute_paths",
]


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything that defines a search. See `resolve` for how users write it."""

    name: str
    space: SearchSpace
    data: DataConfig | None
    strategy: Named
    evaluator: Named
    pruner: Named
    runner: Named
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    targets: tuple[Constraint, ...]
    budget: Budget
    ladder: tuple[Rung, ...]
    recipe: Mapping[str, Value]
    seed: int
    runs_dir: Path
    tracking_uri: str | None
    start_from: Starts | None = None
    title: str = ""
    task: str = CLASSIFICATION

    @property
    def shown_name(self) -> str:
        """The name by which trackers show the search: `title` where another name than the folder's is handed down."""
        return self.title or self.name

    @property
    def folder(self) -> Path:
        """Folder of the experiment."""
        return self.runs_dir / self.name

    @property
    def spec(self) -> SearchSpec:
        """The facts that strategies, evaluators and pruners are made from."""
        return SearchSpec(
            space=self.space,
            data=self.data,
            ladder=self.ladder,
            recipe=self.recipe,
            objectives=self.objectives,
            targets=self.targets,
            seed=self.seed,
            constraints=self.constraints,
            task=self.task,
            trials=self.budget.trials,
        )

    @property
    def epochs(self) -> int:
        """Of the longest training in the search; the ladder's last rung, unless that counts trainings."""
        if self.evaluator.name in TRAININGS:
            return int(self.evaluator.options["epochs"])
        return self.ladder[-1].epochs

    @property
    def trainings(self) -> int:
        """Per trial: 1, or the folds or repeats of an evaluator that averages them."""
        return self.ladder[-1].epochs if self.evaluator.name in TRAININGS else 1

    @property
    def single(self) -> ExperimentConfig:
        """The same with one training per trial."""
        if self.evaluator.name not in TRAININGS:
            return self
        dropped = ("epochs", TRAININGS[self.evaluator.name][0])
        options = {key: value for key, value in self.evaluator.options.items() if key not in dropped}
        return replace(self, evaluator=Named("training", options), ladder=(Rung(self.epochs),))

    def with_data_at(self, place: str | Path | Mapping[str, Any] | None) -> ExperimentConfig:
        """Return the same configuration with its data in another place.

        Args:
            place: the file or folder, or a mapping of `source` and `folder` (of torchvision's downloads); None for the
                place that it has.

        Raises:
            ConfigError: the experiment has no images, or another setting is given.
        """
        if not place:
            return self
        settings = place if isinstance(place, Mapping) else {"source": place}
        if self.data is None:
            raise ConfigError(
                f"'{self.name}' has no images, so data cannot be moved; leave data out", kind="conflict", key="data"
            )
        allowed = ("source", "folder")
        for key in settings:
            if key not in allowed:
                raise ConfigError(
                    f"data: '{key}' cannot change in an experiment; {did_you_mean(str(key), allowed)}",
                    kind="conflict",
                    key=f"data.{key}",
                )
        return replace(self, data=replace(self.data, **with_absolute_paths(settings)))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form for the journal's header, without secrets and infinite limits of the budget."""
        return {
            "space": self.space.to_json(),
            "data": None if self.data is None else asdict(self.data),
            "strategy": self.strategy.to_json(),
            "evaluator": self.evaluator.to_json(),
            "pruner": self.pruner.to_json(),
            "runner": self.runner.to_json(),
            "objectives": [str(objective) for objective in self.objectives],
            "constraints": [str(constraint) for constraint in self.constraints],
            "targets": [str(target) for target in self.targets],
            "budget": self.budget.to_json(),
            "ladder": [rung.to_json() for rung in self.ladder],
            "recipe": dict(self.recipe),
            "seed": self.seed,
            "tracking_uri": None if self.tracking_uri is None else without_secrets(self.tracking_uri),
            **({"task": self.task} if self.task != CLASSIFICATION else {}),
            **({"start_from": self.start_from.to_json()} if self.start_from and self.start_from.points else {}),
        }

    @staticmethod
    def from_json(name: str, content: Mapping[str, Any], runs_dir: Path) -> ExperimentConfig:
        """Rebuild the object from its `to_json` form; name and runs folder are those of the journal's place.

        Raises:
            EventError: the content has another form.
        """
        try:
            return ExperimentConfig(
                name=name,
                space=SearchSpace.from_json(content["space"]),
                data=None if content["data"] is None else DataConfig(**content["data"]),
                strategy=Named(**content["strategy"]),
                evaluator=Named(**content["evaluator"]),
                pruner=Named(**content["pruner"]),
                runner=Named(**content["runner"]),
                objectives=tuple(Objective.recorded(text) for text in content["objectives"]),
                constraints=tuple(Constraint.parse(text) for text in content["constraints"]),
                targets=tuple(Constraint.parse(text) for text in content["targets"]),
                budget=Budget(**content["budget"]),
                ladder=tuple(Rung.from_json(rung) for rung in content["ladder"]),
                recipe=content["recipe"],
                seed=content["seed"],
                runs_dir=whole_path(runs_dir),
                tracking_uri=content["tracking_uri"],
                start_from=Starts.from_json(content.get("start_from")),
                task=content.get("task", CLASSIFICATION),
            )
        except (TypeError, ValueError, KeyError, AttributeError) as error:  # whatever the file says
            cause = f"no key {error}" if isinstance(error, KeyError) else error
            raise EventError(f"the configuration of '{name}' is invalid: {cause}", kind="invalid") from None

    @staticmethod
    def of_journal(header: Header, folder: Path) -> ExperimentConfig:
        """Return the configuration of the experiment in `folder`, as the header of its journal has it."""
        folder = folder.absolute()
        return ExperimentConfig.from_json(folder.name, header.config, folder.parent)


def places_of(config: Mapping[str, Any], places: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a header's `config` that locate its data, with the new places of `places`.

    Args:
        config: as in `ExperimentConfig.to_json`.
        places: likewise.

    Returns:
        `data`, or `evaluator` where there are no data but a table; nothing where the two configurations name no places.
    """
    if isinstance(config.get("data"), Mapping) and isinstance(places.get("data"), Mapping):
        now = {key: places["data"].get(key) for key in ("source", "folder")}
        return {"data": {**config["data"], **now}}
    ours, theirs = config.get("evaluator"), places.get("evaluator")
    if config.get("data") is None and isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        options = theirs["options"]
        files = {key: options[key] for key in FILE_OPTIONS if key in ours["options"] and key in options}
        return {"evaluator": {**ours, "options": {**ours["options"], **files}}}
    return {}


def check_experiment_name(name: Any) -> str:
    """Return an experiment's name that is safe as a folder's. Raises ConfigError otherwise."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"name {name!r}: an experiment's name starts with a letter or digit and holds up to 100 letters, "
            "digits, '.', '_' and '-'",
            kind="invalid",
            key="name",
        )
    return name


DEFAULTS = {"strategy": "evolution", "pruner": "asha", "runner": "ray_tune"}
"""Defaults of the settings; that of the evaluator depends on the strategy, see `suited_evaluator`."""

NO_PRUNER = "none"
"""The name that stands for no pruner."""

TRAININGS: dict[str, tuple[Unit, int]] = {"cross_validation": ("folds", 5), "repeated_seeds": ("repeats", 3)}
"""Evaluators of several trainings per architecture, whose steps count these: the option, and its default."""
_SETTINGS = (
    *("name", "space", "data", "strategy", "evaluator", "pruner", "runner", "objectives", "constraints", "targets"),
    *("tune", "budget", "epochs", "ladder", "recipe", "seed", "runs_dir", "tracking_uri"),
    *("start_from", "task"),
)


def load_settings(path: Path) -> tuple[dict[str, Any], Document]:
    """Read the settings of an experiment's YAML file, for `resolve`. Paths in it are relative to the file."""
    path = home_expanded(path)
    document = read_yaml(path)
    if not isinstance(document.content, dict):
        raise ConfigError([Problem("expected a mapping of settings", str(path), kind="type")])
    if "decisions" in document.content:
        message = "a search space, not an experiment; search it by: nasforge search FILE"
        raise ConfigError([document.problem(message, ("decisions",), "type")])
    settings = dict(document.content)
    space = settings.get("space")
    if isinstance(space, str) and (path.parent / space).is_file():
        settings["space"] = str(path.parent / space)
    data = settings.get("data")
    if isinstance(data, str):
        settings["data"] = with_absolute_paths({"source": data}, path.parent)["source"]
    elif isinstance(data, Mapping):
        settings["data"] = with_absolute_paths(data, path.parent)
    recipe = settings.get("recipe")
    opened = recipe.get("open") if isinstance(recipe, Mapping) else recipe
    if isinstance(opened, str) and (path.parent / opened).is_file():
        settings["recipe"] = {**(recipe if isinstance(recipe, Mapping) else {}), "open": str(path.parent / opened)}
    starts = settings.get("start_from")
    if isinstance(starts, str) and (path.parent / starts).is_file():
        settings["start_from"] = str(path.parent / starts)
    if isinstance(settings.get("evaluator"), Mapping):
        settings["evaluator"] = with_whole_paths(settings["evaluator"], path.parent)
    return settings, document


def name_after(space: SearchSpace, data: DataConfig | None, *parts: str) -> str:
    """Return a name for an experiment with this space, these data and `parts`."""
    place = [Path(data.source).stem or "data"] if data else []
    return name_from("-".join([space.name, *place, *parts]))


def name_from(text: str) -> str:
    """Return a text as a name: of characters that names may have, and with a digest for the end of a long one."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", text)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 9]}-{sha256(text.encode()).hexdigest()[:8]}"


def resolve(settings: Mapping[str, Any], document: Document | None = None) -> ExperimentConfig:
    """Make the complete configuration from settings as users write them, with defaults filled in.

    Args:
        settings: `space` (a YAML file, a shipped name or a SearchSpace) and `data` (a name, file or folder, or a
            mapping of DataConfig's fields); all others are optional. `strategy`, `evaluator`, `pruner`, `runner`: a
            name or a mapping with `name`. `objectives`, `constraints`, `targets`: lists of texts. `budget`: a mapping.
            `recipe`: a mapping of fixed settings, in which `open` names a recipe (a shipped one, a YAML file or a
            SearchSpace) whose decisions are searched in place of the space's; or that name alone. `tune`: a strategy
            for the recipe in addition to the one for the network (strategy `joint`). `epochs` or `ladder`.
            `seed`, `name`, `runs_dir`, `tracking_uri` (left out: the environment variable `MLFLOW_TRACKING_URI`, or
            else `mlflow.db` in the runs folder). `start_from`: points that are tried first: `default`, `portfolio`, a
            file, an experiment, or `none`; left out: `default` where networks are trained in a space with defaults.
            `task`: the name of what networks are trained for; left out: `classification`.
        document: the YAML file that they came from, for line numbers.

    Raises:
        ConfigError: with every problem found.
    """
    problems: list[Problem] = []

    def wrong(message: str, key: str, kind: str, inner: str | None = None) -> None:
        """Add a problem at a setting, or at a key of an error that lies below it: `budget.until`."""
        path: tuple[str, ...] = (key,)
        if inner and inner.startswith(f"{key}."):
            path, key = tuple(inner.split(".")), inner
        at = document.problem(message, path, kind) if document else Problem(message, key=str(key), kind=kind)
        problems.append(at)

    def attempt(key: str, make: Callable[..., Any], *content: Any) -> Any:
        try:
            return make(*content)
        except ConfigError as error:
            for problem in error.problems:
                if problem.file:
                    problems.append(problem)
                else:
                    wrong(problem.message, key, problem.kind, problem.key or error.key)
        except NasforgeError as error:
            wrong(str(error), key, error.kind, error.key)
        except (TypeError, ValueError) as error:
            wrong(str(error), key, "invalid")
        return None

    for key in settings:
        if key not in _SETTINGS:
            wrong(f"unknown setting; {did_you_mean(str(key), _SETTINGS)}", key, "unknown")
    present = {key: value for key, value in settings.items() if value is not None}
    space = attempt("space", space_of, present.get("space"))
    data = attempt("data", data_of, present.get("data"))
    named = {key: attempt(key, _named, key, present.get(key, default)) for key, default in DEFAULTS.items()}
    strategy = named["strategy"]
    suited = suited_evaluator(strategy.name if strategy else "")
    evaluator = attempt("evaluator", _named, "evaluator", present.get("evaluator", suited))
    objectives = attempt("objectives", objectives_of, present.get("objectives", suited_objectives(evaluator)))
    constraints = attempt("constraints", limits_of, present.get("constraints", []), evaluator)
    targets = attempt("targets", limits_of, present.get("targets", []), evaluator)
    budget = attempt("budget", budget_of, present.get("budget"), objectives or ())
    ladder_key = "epochs" if "epochs" in present else "ladder"
    ladder = attempt(ladder_key, ladder_of, present.get("epochs"), present.get("ladder"))
    if evaluator is not None and evaluator.name in TRAININGS and ladder is not None:
        evaluator, ladder = attempt("evaluator", _in_turn, evaluator, ladder, present) or (evaluator, ladder)
    opened, recipe = attempt("recipe", recipe_settings, present.get("recipe", {})) or (None, {})
    if space is not None and opened is not None:
        space = space.with_recipe(opened)
    searched_by = strategy.name if strategy else ""
    if "tune" in present and strategy is not None and space is not None:
        tuned = attempt("tune", _tuned, strategy, present["tune"], space)
        if tuned is not None:
            searched_by = f"{searched_by}-{Named.parse(present['tune'], 'tune').name}"
            strategy = tuned
    seed = attempt("seed", seed_of, present.get("seed", 0))
    runs_dir = attempt("runs_dir", lambda: whole_path(text_of(present.get("runs_dir", "runs"), "a folder")))
    uri = attempt("tracking_uri", _tracking_uri, present.get("tracking_uri"))
    default_name = None
    if space is not None and strategy is not None and seed is not None:
        default_name = name_after(space, data, searched_by, f"s{seed}")
    name = attempt("name", check_experiment_name, present.get("name", default_name or "search"))
    if space is not None and recipe:
        decided = {key.rpartition(".")[2] for key in space.domains if key.startswith(TRAIN)}  # nested ones too
        searched = [key for key in recipe if key in decided]
        if searched:
            wrong(
                f"{', '.join(searched)}: the space searches this; fix it with a smaller space instead",
                "recipe",
                "conflict",
            )
    if strategy is not None and named["pruner"] and named["pruner"].name == "median" and continues(strategy.name):
        wrong(
            f"strategy {strategy.name} decides which trials continue, so the pruner would stop none; leave it out",
            "pruner",
            "conflict",
        )
    task = attempt("task", _task, present.get("task", CLASSIFICATION))
    start_from = attempt("start_from", starts_of, present.get("start_from", AUTOMATIC))
    if named["runner"] and evaluator and named["runner"].name == "ray_tune":
        device = str(evaluator.options.get("device", "auto"))
        if re.fullmatch(r"cuda:0*[1-9]\d*", device):
            wrong(
                f"device '{device}' is not for runner ray_tune, since Ray chooses the GPU of each worker; set device "
                "cuda, or use --runner local",
                "evaluator",
                "conflict",
            )
    if problems:
        raise ConfigError(problems)
    return ExperimentConfig(
        name=name,
        space=space,
        data=data,
        strategy=strategy,
        evaluator=evaluator,
        pruner=named["pruner"],
        runner=named["runner"],
        objectives=objectives,
        constraints=constraints,
        targets=targets,
        budget=budget,
        ladder=ladder,
        recipe=recipe,
        seed=seed,
        runs_dir=runs_dir,
        tracking_uri=uri,
        start_from=start_from,
        task=task,
    )


def _named(kind: str, content: Any) -> Named:
    """Return a registered name with options that it takes."""
    named = evaluator_of(content) if kind == "evaluator" else Named.parse(content, kind)
    if (kind, named.name) != ("pruner", NO_PRUNER):
        registry.check_named(kind, named.name, named.options)
    return named


def _task(content: Any) -> str:
    """Return the registered name of a task."""
    name = text_of(content, "the name of a task")
    registry.check_name("task", name)
    return name


def _tracking_uri(content: Any) -> str | None:
    return chosen_uri(None if content is None else text_of(content, "a URI"))


def _tuned(strategy: Named, content: Any, space: SearchSpace) -> Named:
    """Return the strategy `joint` that `strategy: evolution` with `tune: optuna` abbreviates.

    What begins with short trainings gets its new points from `joint`: `promotion` of it.
    """
    tune = Named.parse(content, "tune")
    registry.check_name("strategy", tune.name)
    if strategy.name == "joint":
        raise ConfigError(
            "strategy joint already has a strategy for the recipe; leave tune out",
            kind="conflict",
            key="tune",
        )
    if not any(key.startswith(TRAIN) for key in space.domains):
        raise ConfigError(
            f"the space '{space.name}' opens no decision of the recipe, so there is nothing to tune; "
            "open some: --recipe sgd",
            kind="conflict",
            key="tune",
        )
    if not any(key.startswith(MODEL) for key in space.domains):
        raise ConfigError(
            f"the space '{space.name}' has decisions of the recipe alone; use --strategy {tune.name} without tune",
            kind="conflict",
            key="tune",
        )
    if strategy.name == "promotion":
        inner = _tuned(Named.parse(strategy.options.get("of", "evolution"), "strategy.of"), tune, space)
        return Named("promotion", {**strategy.options, "of": {"name": inner.name, **inner.options}})
    options = dict(tune.options)
    if "relatives" in options:
        raise ConfigError(
            "tune: relatives was removed, because it brought no measurable gain. Leave it out",
            kind="removed",
            key="tune",
        )
    joint_options: dict[str, Any] = {"revisit": options.pop("revisit")} if "revisit" in options else {}
    halves = {"model": {"name": strategy.name, **strategy.options}, "recipe": {"name": tune.name, **options}}
    return Named("joint", {**halves, **joint_options})


def _in_turn(evaluator: Named, ladder: tuple[Rung, ...], settings: Mapping[str, Any]) -> tuple[Named, tuple[Rung, ...]]:
    """Return an evaluator of several trainings: `epochs` become its option, and the ladder counts trainings."""
    what, default = TRAININGS[evaluator.name]
    if settings.get("ladder") is not None:
        raise ConfigError(
            f"{evaluator.name} has a fixed ladder of {what}. Set epochs instead of ladder",
            kind="conflict",
            key="ladder",
        )
    count = check_whole(evaluator.options.get(what, default), f"{evaluator.name}: {what}", 2)
    asked, epochs = settings.get("epochs"), evaluator.options.get("epochs", ladder[-1].epochs)
    if asked is not None and asked != epochs:
        raise ConfigError(
            f"epochs {asked}, and {evaluator.name} has epochs {epochs}; name one of them", kind="conflict", key="epochs"
        )
    return Named(evaluator.name, {**evaluator.options, what: count, "epochs": epochs}), tuple(
        Rung(number, unit=what) for number in range(1, count + 1)
    )


def continues(strategy: str) -> bool:
    """Return whether a strategy resumes other trials' checkpoints: then it has the method `wanted`."""
    return hasattr(registry.get("strategy", strategy), "wanted")


def begins_with_default(config: ExperimentConfig) -> bool:
    """Return whether a new search begins with the default point although nobody asked for it."""
    known_strategy = config.strategy.name in registry.BUILT_IN["strategy"]
    trains = config.data is not None and config.space.builder and config.evaluator.name in ("training", *TRAININGS)
    if not known_strategy or not trains or suited_evaluator(config.strategy.name) != "training":
        return False
    screens = config.ladder[0].proxies or config.strategy.options.get("zero_cost")
    if screens or "first" in config.strategy.options:  # the strategy begins with points of its own
        return False
    return any(key.startswith(MODEL) for key in config.space.defaults)


def suited_evaluator(strategy: str) -> str:
    """Return the default evaluator for a strategy: one with a supernet has the attribute `evaluator`."""
    try:
        return str(getattr(registry.get("strategy", strategy), "evaluator", "training"))
    except ConfigError:  # an unknown strategy is reported where it is made
        return "training"
