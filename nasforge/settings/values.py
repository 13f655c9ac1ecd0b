"""Parsers of single settings as users write them. Each raises ConfigError, which `resolve` collects."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from nasforge import registry
from nasforge.core.architecture import MODEL, TRAIN, Value
from nasforge.core.errors import ConfigError, SpaceError, did_you_mean
from nasforge.core.goals import COSTS, DEFAULT_METRIC, Budget, Constraint, Objective
from nasforge.core.ladder import Rung, ladder_to
from nasforge.core.metrics import metric_of_column
from nasforge.core.paths import absolute_path, is_there, like_path, path_or_name
from nasforge.core.ranges import check_number, check_whole
from nasforge.core.space import SearchSpace
from nasforge.settings.space_file import load_recipe, load_space

Goal = TypeVar("Goal", Objective, Constraint)

FILE_OPTIONS = ("path", "axes")
"""Options of an evaluator that name files."""


@dataclass(frozen=True)
class DataConfig:
    """Source of the images, and how they are split.

    Relative paths are made absolute against the working folder, since workers have another one.

    Attributes:
        source: a registered name (`digits`), a torchvision class (`FashionMNIST`), a `.npz` file or an image folder; or
            a data set that is made of one of these (`addnist:digits`).
        folder: where torchvision keeps its downloads.
        validation: share of the training split that validates.
        test: share that is sealed away; only where the source brings no test split of its own.
        images: number of training and validation images to use, stratified; None: all.
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
            check_number(getattr(self, name), f"data: {name}", over=0, below=1)
        if self.images is not None:
            check_whole(self.images, "data: images", 1)
        if self.resolution is not None:
            check_whole(self.resolution, "data: resolution", 1, 4096)
        check_whole(self.seed, "data: seed", 0, 2**32 - 1)
        if self.folder is not None and not isinstance(self.folder, str):
            raise ConfigError(f"data: folder must be a path, got {self.folder!r}", kind="type", key="data.folder")
        if not isinstance(self.source, str) or not self.source or len(self.source) > 4096:
            raise ConfigError(
                f"data: source must be a name, a file or a folder, got {self.source!r}", kind="type", key="data.source"
            )
        for name, path in with_absolute_paths({"source": self.source, "folder": self.folder}).items():
            object.__setattr__(self, name, path)


def with_absolute_paths(data: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Return the data's settings with absolute paths; a registered data set wins over a file of its name.

    Args:
        data: fields of DataConfig, as users write them.
        folder: where to look first, for paths in a file; else the working folder.
    """
    absolute = dict(data)
    if isinstance(source := data.get("source"), Path):
        absolute["source"] = absolute_path(source, folder) if is_there(source) else str(source)
    elif isinstance(source, str):
        absolute["source"] = _absolute_source(source, folder)
    if isinstance(place := data.get("folder"), (str, Path)):
        absolute["folder"] = absolute_path(place, folder)
    return absolute


def _absolute_source(source: str, folder: Path | None) -> str:
    if source in registry.names("data"):
        return source
    if pair := made_of(source):
        return f"{pair[0]}:{_absolute_source(pair[1], folder)}"
    return path_or_name(source, folder)


def made_of(source: str) -> tuple[str, str] | None:
    """Split `addnist:digits` into the data set that is made and the one that it is made of; None for all others."""
    name, colon, inner = source.partition(":")
    return (name, inner) if colon and is_made(name) else None


def is_made(name: str) -> bool:
    """Return whether a registered data set is made of another one: whether its function takes that one too."""
    return name in registry.names("data") and len(registry.describe("data", name).signature.parameters) > 1


@dataclass(frozen=True)
class Named:
    """A registered name with its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {"name": self.name, "options": dict(self.options)}

    @staticmethod
    def parse(content: Any, what: str) -> Named:
        """Parse `evolution`, or a mapping `{name: evolution, population: 20}`."""
        if isinstance(content, Named):
            return content
        if isinstance(content, str) and content:
            return Named(content)
        if isinstance(content, Mapping) and isinstance(content.get("name"), str):
            options = {str(k): v for k, v in content.items() if k not in ("name", "options")}
            inner = content.get("options") or {}
            if not isinstance(inner, Mapping):
                raise ConfigError(f"{what}: options must be a mapping, got {inner!r}", kind="type", key=what)
            twice = [key for key in inner if key in options and options[key] != inner[key]]
            if twice:
                raise ConfigError(
                    f"{what}: {twice[0]} is {options[twice[0]]!r}, in its options {inner[twice[0]]!r}; name it once",
                    kind="duplicate",
                    key=what,
                )
            return Named(content["name"], {**options, **inner})
        raise ConfigError(
            f"{what} must be a name, or a mapping with 'name' and options, got {content!r}", kind="type", key=what
        )


AUTOMATIC, DEFAULT_POINT, PORTFOLIO = "automatic", "default", "portfolio"
"""Sources of starts: what suits the search, the space's default point, the space's shipped portfolio."""
NO_STARTS = "none"


@dataclass(frozen=True)
class Starts:
    """The points that are tried before the strategy proposes its own.

    Attributes:
        source: `automatic`, `default`, `portfolio`, a file or an experiment.
        points: decisions and values of each; empty until the search knows its images.
    """

    source: str
    points: tuple[Mapping[str, Value], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {"source": self.source, "points": [dict(point) for point in self.points]}

    @staticmethod
    def from_json(content: Mapping[str, Any] | None) -> Starts | None:
        """Rebuild the object from its `to_json` form; None stays None."""
        return None if content is None else Starts(content["source"], tuple(content["points"]))


def starts_of(content: Any) -> Starts | None:
    """Parse `default`, `portfolio`, a file or an experiment; `none` for no starts."""
    if isinstance(content, Starts):
        return content
    if not isinstance(content, (str, Path)) or not str(content):
        raise ConfigError(
            f"must be default, portfolio, none, a file or an experiment, got {content!r}", kind="type", key="start_from"
        )
    if content == NO_STARTS:
        return None
    known = (AUTOMATIC, DEFAULT_POINT, PORTFOLIO)
    return Starts(str(content) if content in known else path_or_name(str(content)))


def with_whole_paths(options: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Return an evaluator's options with absolute paths of files, for workers."""
    nested = options.get("options")
    paths = {k: path_or_name(str(options[k]), folder) for k in FILE_OPTIONS if isinstance(options.get(k), (str, Path))}
    return {
        **options,
        **paths,
        **({"options": with_whole_paths(nested, folder)} if isinstance(nested, Mapping) else {}),
    }


def evaluator_of(content: Any) -> Named:
    """Return the evaluator with absolute paths of files among its options, for workers."""
    named = Named.parse(content, "evaluator")
    return Named(named.name, with_whole_paths(named.options))


def space_of(content: Any) -> SearchSpace:
    """Return a space from itself, its YAML file, or the name of a shipped one."""
    if isinstance(content, SearchSpace):
        _check_made(content)
        return content
    if not isinstance(content, (str, Path)):
        raise ConfigError(
            f"must be a YAML file, the name of a shipped space or a SearchSpace, got {content!r}; list those shipped: "
            "nasforge spaces",
            kind="type",
            key="space",
        )
    return load_space(content)


def _check_made(space: SearchSpace) -> None:
    """Check what a space made in Python says, as that of a YAML file is checked.

    Raises:
        SpaceError: a text or a mapping is none, or a key or a default is not one of the space.
    """
    for name in ("name", "builder", "canonical", "text", "derive"):
        if not isinstance(text := getattr(space, name), str):
            raise SpaceError(
                f"space: {name} is {text!r}, expected a text"
                + (" such as my_module:build, which workers can import" if callable(text) else ""),
                kind="type",
                key=name,
            )
    try:
        json.dumps(dict(space.arguments), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SpaceError(
            f"space '{space.name}': arguments: {error}; the journal keeps texts, numbers, lists and mappings",
            kind="type",
            key="arguments",
        ) from None
    for key in (*space.domains, *space.defaults):
        if not key.startswith((MODEL, TRAIN)):
            raise SpaceError(
                f"space '{space.name}': '{key}' must begin with {MODEL} or {TRAIN}: a decision of the network, or a "
                "setting of its training",
                kind="unknown",
                key=key,
            )
    for key, value in space.defaults.items():
        if key in space.domains:
            if space.domains[key].size > 1:  # else it was fixed, at another value maybe
                _check_default(space, key, value)
        elif key.startswith(MODEL):
            raise SpaceError(
                f"space '{space.name}': a default of '{key}', which is no decision; {did_you_mean(key, space.domains)}",
                kind="unknown",
                key=key,
            )


def _check_default(space: SearchSpace, key: str, value: Value) -> None:
    try:
        space.domains[key].check(value)
    except SpaceError as error:
        raise SpaceError(f"space '{space.name}': the default of '{key}': {error}", kind=error.kind, key=key) from None


def data_of(content: Any) -> DataConfig | None:
    """Make a DataConfig from a name, a file, a folder, or a mapping of its fields."""
    if content is None:
        return None
    if isinstance(content, DataConfig):
        content = asdict(content)
    if isinstance(content, (str, Path)):
        content = {"source": content}
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"data must be a name, a file, a folder or a mapping, got {content!r}", kind="type", key="data"
        )
    allowed = [item.name for item in fields(DataConfig)]
    for key in content:
        if key not in allowed:
            raise ConfigError(
                f"unknown data setting '{key}'; {did_you_mean(str(key), allowed)}", kind="unknown", key=f"data.{key}"
            )
    if "source" not in content:
        raise ConfigError("data has no source; set it to a name, a file or a folder", kind="missing", key="data.source")
    config = DataConfig(**with_absolute_paths(content))
    if problem := unknown_source(config.source):
        raise ConfigError(problem, kind="unknown", key="data.source")
    return config


def unknown_source(source: str) -> str:
    """Return why a data source is neither a registered name nor a path; empty where it is one of them."""
    names = registry.names("data")
    if is_made(source):
        return f"'{source}' is made of another data set. Name it behind a colon: {source}:digits"
    if pair := made_of(source):
        return unknown_source(pair[1]) if pair[1] else unknown_source(pair[0])
    if source in names or Path(source).is_absolute():
        return ""
    if re.fullmatch(r"[\w.]+:\w+", source):
        return f"'{source}' is no name. A data set of your own needs an entry point: see docs/howto/plugins.md"
    return f"'{source}' is neither a name, nor a file or folder in {Path.cwd()}{like_source(source)}"


def like_source(source: str) -> str:
    """Return the end of a message on a data source that is not there: what looks alike, else all names."""
    names = registry.names("data")
    near = "" if get_close_matches(source, names) else like_path(source)
    return f".{near}" if near else f"; {did_you_mean(source, names)}"


def _parsed(content: Any, kind: type[Goal]) -> tuple[Goal, ...]:
    """Return objects of a kind, parsed where they are texts."""
    items = [content] if isinstance(content, str) else content
    if not isinstance(items, Sequence):
        raise ConfigError(f"{kind.__name__.lower()}s must be a list, got {content!r}", kind="type")
    return tuple(item if isinstance(item, kind) else kind.parse(str(item)) for item in items)


def objectives_of(content: Any) -> tuple[Objective, ...]:
    """Return objectives, parsed where they are texts; at least one, none twice."""
    objectives = _parsed(content, Objective)
    names = [objective.metric for objective in objectives]
    if not objectives:
        raise ConfigError(
            "objectives is empty, expected at least one, such as val/accuracy", kind="empty", key="objectives"
        )
    if len(set(names)) < len(names):
        raise ConfigError(
            f"objectives name a metric twice: {', '.join(names)}; remove one", kind="duplicate", key="objectives"
        )
    return objectives


def suited_objectives(evaluator: Named | None) -> list[str]:
    """Return the default objectives: the metric of a table's signal, else the validation accuracy."""
    if evaluator is None or evaluator.name != "lookup_table":
        return [DEFAULT_METRIC]
    return [signal_metric(evaluator.options)]


def signal_metric(options: Mapping[str, Any], objectives: Sequence[Objective] = ()) -> str:
    """Return the metric of a table's signal: its option `metric`, or by the name of its column.

    Args:
        options: of the evaluator `lookup_table`.
        objectives: of the search, where they are known; one that is the default metric says what the signal is.
    """
    if isinstance(options.get("metric"), str):
        return str(options["metric"])
    if any(objective.metric == DEFAULT_METRIC for objective in objectives):
        return DEFAULT_METRIC
    fidelity = options.get("fidelity")
    columns = [options.get("signal"), *(fidelity.values() if isinstance(fidelity, Mapping) else ())]
    names = {metric_of_column(column) for column in columns if isinstance(column, str)}
    return next((name for name in names if name is not None), DEFAULT_METRIC) if len(names) == 1 else DEFAULT_METRIC


def limits_of(content: Any, evaluator: Named | None) -> tuple[Constraint, ...]:
    """Return constraints or targets, parsed where they are texts, on costs of a network or of the evaluator.

    What a user's evaluator measures is known once it is made: see `nasforge.api.assembly.make_evaluator`.
    """
    columns = evaluator.options.get("costs") if evaluator else None
    known = [*COSTS]
    if isinstance(columns, Mapping):
        known += [str(name).removeprefix("cost/") for name in columns]
    limits = _parsed(content, Constraint)
    for limit in limits:
        name = limit.metric.removeprefix("cost/")
        if name not in known and (evaluator is None or evaluator.name in registry.BUILT_IN["evaluator"]):
            raise ConfigError(
                f"constraint '{limit}': no such cost; {did_you_mean(name, known)}", kind="unknown", key=limit.metric
            )
    return limits


def budget_of(content: Any, objectives: Sequence[Objective] = ()) -> Budget:
    """Make a Budget from a mapping of its fields; 20 trials if nothing else ends the search.

    Args:
        content: what the user writes.
        objectives: of the search, for the direction of what `until` names.
    """
    if content is None:
        return Budget(trials=20)
    if isinstance(content, Budget):
        budget = content
    elif isinstance(content, Mapping):
        allowed = [item.name for item in fields(Budget)]
        for key in content:
            if key not in allowed:
                raise ConfigError(
                    f"budget: unknown limit '{key}'; {did_you_mean(str(key), allowed)}",
                    kind="unknown",
                    key=f"budget.{key}",
                )
        budget = Budget(**{key: value for key, value in content.items() if value is not None})
    else:
        raise ConfigError(
            f"budget must be a mapping such as {{trials: 50}}, got {content!r}", kind="type", key="budget"
        )
    return (budget if budget.limits else replace(budget, trials=20)).with_directions(objectives)


def ladder_of(epochs: Any, ladder: Any) -> tuple[Rung, ...]:
    """Return the rungs of a ladder, or the geometric one that ends at `epochs`."""
    if epochs is not None and ladder is not None:
        raise ConfigError("epochs and ladder are both set; set one of them", kind="conflict", key="ladder")
    if ladder is None:
        return ladder_to(Rung(3 if epochs is None else epochs).epochs)
    if not isinstance(ladder, Sequence) or isinstance(ladder, str) or not ladder:
        raise ConfigError(
            f"a ladder is a list such as [{{epochs: 1}}, {{epochs: 3}}], got {ladder!r}", kind="type", key="ladder"
        )
    rungs = []
    for item in ladder:
        if isinstance(item, Rung):
            rungs.append(item)
        elif isinstance(item, Mapping) and _is_rung(item):
            rungs.append(Rung(**item))
        else:
            raise ConfigError(
                "a rung is {epochs: N}, perhaps with share: 0.2 and resolution: 16, or as the first one "
                f"{{proxies: [synflow, ...]}}, got {item!r}",
                kind="type",
                key="ladder",
            )
    if any(rung.proxies for rung in rungs[1:]):
        raise ConfigError(
            "only the first rung of a ladder may have proxies; move it to the beginning", kind="invalid", key="ladder"
        )
    if rungs[-1].proxies:
        raise ConfigError(
            "a rung of proxies is followed by one with epochs, such as {epochs: 3}; to search by proxies alone, leave "
            "the ladder out and take evaluator zero_cost with an objective such as zc/synflow",
            kind="missing",
            key="ladder",
        )
    if any(later.epochs <= earlier.epochs for earlier, later in itertools.pairwise(rungs)):
        raise ConfigError(
            f"the rungs' epochs must rise, got {', '.join(map(str, rungs))}", kind="invalid", key="ladder"
        )
    trained = [rung for rung in rungs if not rung.proxies]
    if not trained[-1].full:
        raise ConfigError(
            "the last rung uses all images at full size. Leave its share and resolution out (data.images and "
            "data.resolution limit all rungs)",
            kind="invalid",
            key="ladder",
        )
    for earlier, later in itertools.pairwise(trained):
        sizes = [rung.resolution or math.inf for rung in (earlier, later)]
        if later.share < earlier.share or sizes[1] < sizes[0]:
            raise ConfigError(
                f"share and resolution must not fall from rung to rung, got {earlier}, then {later}",
                kind="invalid",
                key="ladder",
            )
    return tuple(rungs)


def _is_rung(item: Mapping[str, Any]) -> bool:
    trained = "epochs" in item and set(item) <= {"epochs", "share", "resolution"}
    return trained or (set(item) == {"proxies"} and item["proxies"] != [])


def recipe_settings(content: Any) -> tuple[SearchSpace | None, dict[str, Value]]:
    """Return the recipe whose decisions are opened, None without one, and the settings that are fixed."""
    if isinstance(content, (str, Path, SearchSpace)):
        content = {"open": content}
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"recipe must be a recipe's name or a mapping such as {{mixup: 0.2}}, got {content!r}",
            kind="type",
            key="recipe",
        )
    fixed = fixed_settings({key: value for key, value in content.items() if key != "open"})
    opened = content.get("open")
    if opened is not None and not isinstance(opened, SearchSpace):
        opened = load_recipe(text_of(opened, "a YAML file or the name of a shipped recipe"))
    return opened, fixed


def fixed_settings(content: Any) -> dict[str, Value]:
    """Return settings of a recipe by name; whether each exists and is in range shows when the recipe is made."""
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"recipe must be a mapping such as {{mixup: 0.2}}, got {content!r}", kind="type", key="recipe"
        )
    for key, value in content.items():
        if str(key).startswith((MODEL, TRAIN)):
            raise ConfigError(
                f"recipe: got '{key}', expected a name without prefix; write '{str(key).partition('.')[2]}'",
                kind="invalid",
                key="recipe",
            )
        if not isinstance(value, (str, int, float, bool)):
            raise ConfigError(
                f"recipe: {key} must be one number, text or truth value, got {value!r}",
                kind="type",
                key=f"recipe.{key}",
            )
    return dict(content)


def text_of(content: Any, what: str) -> str:
    """Return a text or a path as text."""
    if not isinstance(content, (str, Path)):
        raise ConfigError(f"must be {what}, got {content!r}", kind="type")
    return str(content)


def seed_of(content: Any) -> int:
    """Return the seed of a search."""
    return check_whole(content, "seed", 0)
