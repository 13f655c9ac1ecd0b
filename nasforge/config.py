"""Settings as users write them -> frozen dataclasses. Every problem is collected and shown at once."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nasforge import registry
from nasforge.core.architecture import MODEL, TRAIN, Value
from nasforge.core.errors import ConfigError, NasforgeError, Problem, did_you_mean
from nasforge.core.goals import Budget, Constraint, Objective, Rung, ladder_to
from nasforge.core.space import SearchSpace
from nasforge.space_file import load_recipe, load_space, shipped_spaces
from nasforge.yaml_document import Document, read_yaml

__all__ = ["DataConfig", "ExperimentConfig", "Named", "load_settings", "load_space", "resolve", "shipped_spaces"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from and how they are divided.

    Attributes:
        source: a registered name (`digits`), a torchvision class (`FashionMNIST`), a `.npz` file or an image folder.
        folder: where torchvision keeps its downloads.
        validation: share of the training part that validates.
        test: share that is sealed away; only where the source brings no test part of its own.
        images: use only so many training and validation images, stratified.
        resolution: resize to this height and width in pixels.
        seed: of the division.
    """

    source: str
    folder: str | None = None
    validation: float = 0.1
    test: float = 0.2
    images: int | None = None
    resolution: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            share = getattr(self, name)
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
                raise ConfigError(f"data: {name} must be a share between 0 and 1, got {share!r}")
        for name in ("images", "resolution"):
            number = getattr(self, name)
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
                raise ConfigError(f"data: {name} must be a whole number of at least 1, got {number!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise ConfigError(f"data: seed must be a whole number from 0 to 4294967295, got {self.seed!r}")
        if self.resolution is not None and self.resolution > 4096:
            raise ConfigError(f"data: resolution must be at most 4096 pixels, got {self.resolution}")
        if self.folder is not None and not isinstance(self.folder, str):
            raise ConfigError(f"data: folder must be a path, got {self.folder!r}")
        if not isinstance(self.source, str) or not self.source or len(self.source) > 4096:
            raise ConfigError(f"data: source must be a name, a file or a folder, got {self.source!r}")


@dataclass(frozen=True)
class Named:
    """A registered name with its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"name": self.name, "options": dict(self.options)}

    @staticmethod
    def parse(content: Any, what: str) -> Named:
        """From `evolution`, or from a mapping `{name: evolution, population: 20}`."""
        if isinstance(content, Named):
            return content
        if isinstance(content, str) and content:
            return Named(content)
        if isinstance(content, Mapping) and isinstance(content.get("name"), str):
            options = {str(k): v for k, v in content.items() if k not in ("name", "options")}
            inner = content.get("options") or {}
            if not isinstance(inner, Mapping):
                raise ConfigError(f"{what}: options must be a mapping, got {inner!r}")
            return Named(content["name"], {**options, **inner})
        raise ConfigError(f"{what} must be a name, or a mapping with 'name' and options, got {content!r}")


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

    @property
    def folder(self) -> Path:
        """Where the experiment lives."""
        return self.runs_dir / self.name

    @property
    def epochs(self) -> int:
        """Of the longest training in the search; the ladder's last rung, unless that counts trainings."""
        if self.evaluator.name in _TRAININGS:
            return int(self.evaluator.options["epochs"])
        return self.ladder[-1].epochs

    @property
    def trainings(self) -> int:
        """Per trial: 1, or the folds or repeats of an evaluator that averages them."""
        return self.ladder[-1].epochs if self.evaluator.name in _TRAININGS else 1

    @property
    def single(self) -> ExperimentConfig:
        """The same with one training per trial."""
        if self.evaluator.name not in _TRAININGS:
            return self
        own = ("epochs", _TRAININGS[self.evaluator.name][0])
        options = {key: value for key, value in self.evaluator.options.items() if key not in own}
        return replace(self, evaluator=Named("training", options), ladder=(Rung(self.epochs),))

    def to_json(self) -> dict[str, Any]:
        """JSON-able form, as the journal's header keeps it; infinite limits of the budget are left out."""
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
            "budget": self.budget.limits,
            "ladder": [rung.to_json() for rung in self.ladder],
            "recipe": dict(self.recipe),
            "seed": self.seed,
            "tracking_uri": self.tracking_uri,
        }

    @staticmethod
    def from_json(name: str, content: Mapping[str, Any], runs_dir: Path) -> ExperimentConfig:
        """The inverse of `to_json`; the name and the runs folder come from where the journal was found."""
        return ExperimentConfig(
            name=name,
            space=SearchSpace.from_json(content["space"]),
            data=None if content["data"] is None else DataConfig(**content["data"]),
            strategy=Named(**content["strategy"]),
            evaluator=Named(**content["evaluator"]),
            pruner=Named(**content["pruner"]),
            runner=Named(**content["runner"]),
            objectives=tuple(Objective.parse(text) for text in content["objectives"]),
            constraints=tuple(Constraint.parse(text) for text in content["constraints"]),
            targets=tuple(Constraint.parse(text) for text in content["targets"]),
            budget=Budget(**content["budget"]),
            ladder=tuple(Rung(**rung) for rung in content["ladder"]),
            recipe=content["recipe"],
            seed=content["seed"],
            runs_dir=runs_dir.expanduser().absolute(),
            tracking_uri=content["tracking_uri"],
        )


def check_name(name: Any) -> str:
    """An experiment's name, safe as a folder's. Raises ConfigError otherwise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"name {name!r}: an experiment's name starts with a letter or digit and holds up to 100 letters, "
            "digits, '.', '_' and '-'"
        )
    return name


_JOINT, _PROMOTION = "joint", "promotion"
_TRAININGS = {"cross_validation": ("folds", 5), "repeated_seeds": ("repeats", 3)}
"""Evaluators of several trainings per architecture: the option that says how many, and its default."""
_PATHS = ("source", "folder")
_FILE_OPTIONS = ("path", "axes")
_SETTINGS = (
    *("name", "space", "data", "strategy", "evaluator", "pruner", "runner", "objectives", "constraints", "targets"),
    *("tune", "budget", "epochs", "ladder", "recipe", "seed", "runs_dir", "tracking_uri"),
)


def load_settings(path: Path) -> tuple[dict[str, Any], Document]:
    """The settings in an experiment's YAML file, for `resolve`. Paths in it are relative to the file."""
    document = read_yaml(path)
    if not isinstance(document.content, dict):
        raise ConfigError([Problem("an experiment is a mapping of settings", str(path))])
    settings = dict(document.content)
    space = settings.get("space")
    if isinstance(space, str) and (path.parent / space).exists():
        settings["space"] = str(path.parent / space)
    data = settings.get("data")
    if isinstance(data, str):
        settings["data"] = absolute_path(data, path.parent)
    elif isinstance(data, Mapping):
        paths = {key: absolute_path(data[key], path.parent) for key in _PATHS if isinstance(data.get(key), str)}
        settings["data"] = {**data, **paths}
    recipe = settings.get("recipe")
    opened = recipe.get("open") if isinstance(recipe, Mapping) else recipe
    if isinstance(opened, str) and (path.parent / opened).is_file():
        settings["recipe"] = {**(recipe if isinstance(recipe, Mapping) else {}), "open": str(path.parent / opened)}
    if isinstance(settings.get("evaluator"), Mapping):
        settings["evaluator"] = _with_whole_paths(settings["evaluator"], path.parent)
    return settings, document


def _with_whole_paths(options: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """An evaluator's options, the files among them as workers see them."""
    nested = options.get("options")
    paths = {k: absolute_path(options[k], folder) for k in _FILE_OPTIONS if isinstance(options.get(k), str)}
    return {
        **options,
        **paths,
        **({"options": _with_whole_paths(nested, folder)} if isinstance(nested, Mapping) else {}),
    }


def absolute_path(text: str, folder: Path | None = None) -> str:
    """A path as workers see it, whose working folder is another; a name (no slash, no suffix) stays a name.

    Args:
        text: from the user.
        folder: where to look first, for paths in a file; else the working folder.
    """
    path = Path(text).expanduser()
    if "/" not in text and not path.suffix:
        return text
    beside = folder / path if folder else path
    return str((beside if beside.exists() else path).absolute())


def resolve(settings: Mapping[str, Any], document: Document | None = None) -> ExperimentConfig:
    """Settings as users write them -> the whole configuration, with defaults filled in.

    Args:
        settings: `space` (a YAML file, a shipped name or a SearchSpace) and `data` (a name, file or folder, or a
            mapping of DataConfig's fields); all others are optional. `strategy`, `evaluator`, `pruner`, `runner`: a
            name or a mapping with `name`. `objectives`, `constraints`, `targets`: lists of texts. `budget`: a mapping.
            `recipe`: a mapping of fixed settings, in which `open` names a recipe (a shipped one, a YAML file or a
            SearchSpace) whose decisions are searched in place of the space's; or that name alone. `tune`: a strategy
            for the recipe beside the one for the network (strategy `joint`). `epochs` or `ladder`.
            `seed`, `name`, `runs_dir`, `tracking_uri`.
        document: the YAML file that they came from, for line numbers.

    Raises:
        ConfigError: with every problem found.
    """
    problems: list[Problem] = []

    def attempt(key: str, make: Any) -> Any:
        try:
            return make()
        except ConfigError as error:
            for problem in error.problems:
                if problem.file:
                    problems.append(problem)
                else:
                    problems.append(
                        document.problem(problem.message, (key,)) if document else replace(problem, key=key)
                    )
        except (NasforgeError, TypeError, ValueError) as error:
            problems.append(document.problem(str(error), (key,)) if document else Problem(str(error), key=key))
        return None

    for key in settings:
        if key not in _SETTINGS:
            message = f"unknown setting; {did_you_mean(str(key), _SETTINGS)}"
            problems.append(document.problem(message, (key,)) if document else Problem(message, key=str(key)))
    given = {key: value for key, value in settings.items() if value is not None}
    space = attempt("space", lambda: _space(given.get("space")))
    data = attempt("data", lambda: _data(given.get("data")))
    named = {
        key: attempt(key, lambda key=key, default=default: Named.parse(given.get(key, default), key))
        for key, default in (("strategy", "evolution"), ("runner", "ray_tune"))
    }
    suited = suited_evaluator(named["strategy"].name if named["strategy"] else "")
    named["evaluator"] = attempt("evaluator", lambda: _evaluator(given.get("evaluator", suited)))
    objectives = attempt("objectives", lambda: _objectives(given.get("objectives", ["val/accuracy"])))
    constraints = attempt("constraints", lambda: _limits(given.get("constraints", [])))
    targets = attempt("targets", lambda: _limits(given.get("targets", [])))
    budget = attempt("budget", lambda: _budget(given.get("budget")))
    ladder = attempt(
        "epochs" if "epochs" in given else "ladder", lambda: _ladder(given.get("epochs"), given.get("ladder"))
    )
    if named["evaluator"] is not None and named["evaluator"].name in _TRAININGS and ladder is not None:
        counted = attempt("evaluator", lambda: _in_turn(named["evaluator"], ladder, given))
        named["evaluator"], ladder = counted or (named["evaluator"], ladder)
    pruner = attempt("pruner", lambda: Named.parse(given.get("pruner", "asha"), "pruner"))
    opened, recipe = attempt("recipe", lambda: _recipe(given.get("recipe", {}))) or (None, {})
    if space is not None and opened is not None:
        space = space.with_recipe(opened)
    searched_by = named["strategy"].name if named["strategy"] else ""
    if "tune" in given and named["strategy"] is not None and space is not None:
        tuned = attempt("tune", lambda: _tuned(named["strategy"], given["tune"], space))
        if tuned is not None:
            searched_by = f"{searched_by}-{Named.parse(given['tune'], 'tune').name}"
            named["strategy"] = tuned
    seed = attempt("seed", lambda: _seed(given.get("seed", 0)))
    runs_dir = attempt("runs_dir", lambda: Path(_text(given.get("runs_dir", "runs"), "a folder")))
    uri = attempt("tracking_uri", lambda: _text(given["tracking_uri"], "an URI") if "tracking_uri" in given else None)
    default_name = None
    if space is not None and named["strategy"] is not None and seed is not None:
        parts = [space.name, *([Path(data.source).stem or "data"] if data else []), searched_by, f"s{seed}"]
        default_name = re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(parts))
    name = attempt("name", lambda: check_name(given.get("name", default_name or "search")))
    if space is not None and recipe:
        decided = {key.rpartition(".")[2] for key in space.domains if key.startswith(TRAIN)}  # nested ones too
        searched = [key for key in recipe if key in decided]
        if searched:
            message = f"{', '.join(searched)}: the space searches this; fix it with a smaller space instead"
            problems.append(document.problem(message, ("recipe",)) if document else Problem(message, key="recipe"))
    if problems:
        raise ConfigError(problems)
    return ExperimentConfig(
        name=name,
        space=space,
        data=data,
        strategy=named["strategy"],
        evaluator=named["evaluator"],
        pruner=pruner,
        runner=named["runner"],
        objectives=objectives,
        constraints=constraints,
        targets=targets,
        budget=budget,
        ladder=ladder,
        recipe=recipe,
        seed=seed,
        runs_dir=runs_dir.expanduser().absolute(),
        tracking_uri=uri,
    )


def _evaluator(content: Any) -> Named:
    named = Named.parse(content, "evaluator")
    return Named(named.name, _with_whole_paths(named.options))


def _tuned(strategy: Named, content: Any, space: SearchSpace) -> Named:
    """`strategy: evolution` and `tune: optuna` as the one strategy `joint` that they are short for.

    What begins with short trainings gets its new points from `joint`: `promotion` of it.
    """
    tune = Named.parse(content, "tune")
    if strategy.name == _JOINT:
        raise ConfigError(f"strategy {_JOINT} names its recipe's strategy itself: leave tune out, or strategy")
    if not any(key.startswith(TRAIN) for key in space.domains):
        raise ConfigError(f"the space '{space.name}' opens no decision of the recipe; open one: --recipe sgd")
    if not any(key.startswith(MODEL) for key in space.domains):
        raise ConfigError(f"the space '{space.name}' has recipes alone: --strategy {tune.name}, without tune")
    if strategy.name == _PROMOTION:
        inner = _tuned(Named.parse(strategy.options.get("of", "evolution"), "strategy.of"), tune, space)
        return Named(_PROMOTION, {**strategy.options, "of": {"name": inner.name, **inner.options}})
    options = dict(tune.options)
    own: dict[str, Any] = {key: options.pop(key) for key in ("revisit", "relatives") if key in options}
    halves = {"model": {"name": strategy.name, **strategy.options}, "recipe": {"name": tune.name, **options}}
    return Named(_JOINT, {**halves, **own})


def _in_turn(evaluator: Named, ladder: tuple[Rung, ...], given: Mapping[str, Any]) -> tuple[Named, tuple[Rung, ...]]:
    """An evaluator of several trainings: `epochs` are its option then, and the ladder counts trainings."""
    what, default = _TRAININGS[evaluator.name]
    if given.get("ladder") is not None:
        raise ConfigError(f"{evaluator.name} has a ladder of its own, of {what}; say epochs instead of ladder")
    count = evaluator.options.get(what, default)
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise ConfigError(f"{evaluator.name}: {what} must be a whole number of at least 2, got {count!r}")
    epochs = evaluator.options.get("epochs", ladder[-1].epochs)
    return Named(evaluator.name, {**evaluator.options, what: count, "epochs": epochs}), tuple(
        Rung(number) for number in range(1, count + 1)
    )


def suited_evaluator(strategy: str) -> str:
    """What measures where the user names nothing: a strategy with a supernet says so in its attribute `evaluator`."""
    try:
        return str(getattr(registry.get("strategy", strategy), "evaluator", "training"))
    except ConfigError:  # an unknown strategy is reported where it is made
        return "training"


def _space(content: Any) -> SearchSpace:
    if isinstance(content, SearchSpace):
        return content
    if not isinstance(content, (str, Path)):
        raise ConfigError("needs a YAML file or the name of a shipped space, see `nasforge spaces`")
    return load_space(content)


def _data(content: Any) -> DataConfig | None:
    if content is None:
        return None
    if isinstance(content, DataConfig):
        content = asdict(content)
    if isinstance(content, (str, Path)):
        content = {"source": content}
    if not isinstance(content, Mapping):
        raise ConfigError(f"data must be a name, a file, a folder or a mapping, got {content!r}")
    allowed = [item.name for item in fields(DataConfig)]
    for key in content:
        if key not in allowed:
            raise ConfigError(f"unknown data setting '{key}'; {did_you_mean(str(key), allowed)}")
    if "source" not in content:
        raise ConfigError("data needs a source: a name, a file or a folder")
    given: dict[str, Any] = {**content}
    for key in _PATHS:
        if isinstance(given.get(key), (str, Path)):
            given[key] = absolute_path(str(given[key]))
    return DataConfig(**given)


def _texts(content: Any, what: str) -> list[str]:
    items = [content] if isinstance(content, str) else content
    if not isinstance(items, Sequence):
        raise ConfigError(f"{what} must be a list, got {content!r}")
    return [str(item) for item in items]


def _objectives(content: Any) -> tuple[Objective, ...]:
    found = tuple(o if isinstance(o, Objective) else Objective.parse(o) for o in _texts_or_objects(content, Objective))
    names = [objective.metric for objective in found]
    if not found:
        raise ConfigError("at least one objective is needed")
    if len(set(names)) < len(names):
        raise ConfigError(f"an objective is given twice: {', '.join(names)}")
    return found


def _limits(content: Any) -> tuple[Constraint, ...]:
    return tuple(
        c if isinstance(c, Constraint) else Constraint.parse(c) for c in _texts_or_objects(content, Constraint)
    )


def _texts_or_objects(content: Any, kind: type) -> list[Any]:
    if isinstance(content, Sequence) and not isinstance(content, str) and all(isinstance(c, kind) for c in content):
        return list(content)
    return _texts(content, kind.__name__.lower() + "s")


def _budget(content: Any) -> Budget:
    if content is None:
        return Budget(trials=20)
    if isinstance(content, Budget):
        budget = content
    elif isinstance(content, Mapping):
        allowed = [item.name for item in fields(Budget)]
        for key in content:
            if key not in allowed:
                raise ConfigError(f"unknown limit '{key}'; {did_you_mean(str(key), allowed)}")
        budget = Budget(**{key: value for key, value in content.items() if value is not None})
    else:
        raise ConfigError(f"budget must be a mapping such as {{trials: 50}}, got {content!r}")
    return budget if budget.limits else Budget(trials=20)


def _ladder(epochs: Any, ladder: Any) -> tuple[Rung, ...]:
    if epochs is not None and ladder is not None:
        raise ConfigError("give epochs or a ladder, not both")
    if ladder is None:
        return ladder_to(Rung(3 if epochs is None else epochs).epochs)
    if not isinstance(ladder, Sequence) or isinstance(ladder, str) or not ladder:
        raise ConfigError(f"a ladder is a list such as [{{epochs: 1}}, {{epochs: 3}}], got {ladder!r}")
    rungs = []
    for item in ladder:
        if isinstance(item, Rung):
            rungs.append(item)
        elif isinstance(item, Mapping) and _is_rung(item):
            rungs.append(Rung(**item))
        else:
            raise ConfigError(
                "a rung is {epochs: N}, perhaps with share: 0.2 and resolution: 16, or as the first one "
                f"{{proxies: [synflow, ...]}}, got {item!r}"
            )
    if any(rung.proxies for rung in rungs[1:]):
        raise ConfigError("only the first rung of a ladder may be one of proxies")
    if rungs[-1].proxies:
        raise ConfigError(
            "a rung of proxies is followed by one with epochs, such as {epochs: 3}; to search by proxies alone, leave "
            "the ladder out and take evaluator zero_cost with an objective such as zc/synflow"
        )
    if any(later.epochs <= earlier.epochs for earlier, later in itertools.pairwise(rungs)):
        raise ConfigError(f"the rungs' epochs must rise, got {', '.join(map(str, rungs))}")
    trained = [rung for rung in rungs if not rung.proxies]
    if not trained[-1].full:
        raise ConfigError(
            "the last rung trains on all images as they are: leave its share and resolution out (data.images and "
            "data.resolution say what all images are)"
        )
    for earlier, later in itertools.pairwise(trained):
        sizes = [rung.resolution or math.inf for rung in (earlier, later)]
        if later.share < earlier.share or sizes[1] < sizes[0]:
            raise ConfigError(f"share and resolution must not fall from rung to rung, got {earlier}, then {later}")
    return tuple(rungs)


def _is_rung(item: Mapping[str, Any]) -> bool:
    trained = "epochs" in item and set(item) <= {"epochs", "share", "resolution"}
    return trained or (set(item) == {"proxies"} and item["proxies"] != [])


def _recipe(content: Any) -> tuple[SearchSpace | None, dict[str, Value]]:
    """The recipe whose decisions are opened, if one is named, and the settings that are fixed."""
    if isinstance(content, (str, Path, SearchSpace)):
        content = {"open": content}
    if not isinstance(content, Mapping):
        raise ConfigError(f"recipe must be a recipe's name or a mapping such as {{optimizer: adamw}}, got {content!r}")
    fixed = {key: value for key, value in content.items() if key != "open"}
    opened = content.get("open")
    if opened is not None and not isinstance(opened, SearchSpace):
        opened = load_recipe(_text(opened, "a YAML file or the name of a shipped recipe"))
    for key, value in fixed.items():
        if str(key).startswith((MODEL, TRAIN)):
            raise ConfigError(f"recipe: write '{str(key).partition('.')[2]}', without the prefix")
        if not isinstance(value, (str, int, float, bool)):
            raise ConfigError(f"recipe: {key} needs one value, got {value!r}")
    return opened, fixed


def _text(content: Any, what: str) -> str:
    if not isinstance(content, (str, Path)):
        raise ConfigError(f"must be {what}, got {content!r}")
    return str(content)


def _seed(content: Any) -> int:
    if isinstance(content, bool) or not isinstance(content, int) or content < 0:
        raise ConfigError(f"seed must be a whole number of at least 0, got {content!r}")
    return content
