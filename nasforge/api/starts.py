"""The points that a search begins with: the space's default, a shipped portfolio, a file, or an experiment's best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nasforge.core.architecture import MODEL, TRAIN, Architecture, Value
from nasforge.core.errors import ConfigError, SpaceError, did_you_mean
from nasforge.core.layout import JOURNAL
from nasforge.core.space import SearchSpace
from nasforge.experiment.journal import experiment_of, experiments_in, fits_in, has_begun, read_header
from nasforge.experiment.places import places_of
from nasforge.experiment.state import load_state
from nasforge.settings.experiment import ExperimentConfig, begins_with_default, suited_evaluator
from nasforge.settings.space_file import load_portfolio, shipped_portfolios
from nasforge.settings.values import AUTOMATIC, DEFAULT_POINT, PORTFOLIO, Starts
from nasforge.settings.yaml_file import read_yaml

BEST = 5
"""Number of the best trials that are taken from an experiment."""
CLASS_WEIGHTS = f"{TRAIN}class_weights"
_TWIN = 2
"""Place of the portfolio's first point with the other class weights, where these are a decision."""


def with_starts(config: ExperimentConfig) -> ExperimentConfig:
    """Return the configuration with the points that its search begins with.

    A search that is continued keeps those of its journal.

    Args:
        config: with its space resolved for the images.

    Raises:
        ConfigError: there are no such points, or they are no points of the space.
    """
    starts = config.start_from
    if starts is None or starts.points:
        return config
    if has_begun(config.folder):
        recorded = Starts.from_json(read_header(config.folder).config.get("start_from"))
        if starts.source == AUTOMATIC or (recorded is not None and recorded.source == starts.source):
            return replace(config, start_from=recorded if _fits(config.space, recorded) else None)
    if starts.source == AUTOMATIC:
        if not begins_with_default(config):
            return replace(config, start_from=None)
        starts = Starts(DEFAULT_POINT)
    _check_may_start(config)
    points = _points(starts.source, config)
    return replace(config, start_from=Starts(starts.source, tuple(point.to_json()["values"] for point in points)))


def _fits(space: SearchSpace, starts: Starts | None) -> bool:
    """Return whether recorded points lie in the space; otherwise the journal is refused with all that differs."""
    try:
        return starts is None or all(space.point(values) for values in starts.points)
    except SpaceError:
        return False


def portfolio_for(space: SearchSpace, images: int, channels: int = 3, *, limited: bool = False) -> list[Architecture]:
    """Return the points of a space's shipped portfolio, the most promising one first.

    The first one that mirrors images is before all others where these are in colour, and the first one that does not
    where they are grey: those are often writing, which a mirror makes wrong. Where class weights are a decision, the
    third point is the first one with the other setting.

    Args:
        space: resolved for its images; a narrowed space has those points that lie in it.
        images: how many are trained on.
        channels: of the images.
        limited: whether the search has constraints; small networks come last then.

    Raises:
        ConfigError: the space has no portfolio, or none of its points lies in the space.
    """
    shipped = shipped_portfolios()
    if space.name not in shipped:
        known = ", ".join(shipped)
        raise ConfigError(
            f"start_from: the space '{space.name}' has no portfolio; spaces with one: {known}",
            kind="missing",
            key="start_from",
        )
    by_point: dict[str, Architecture] = {}
    for values in load_portfolio(shipped[space.name], images, limited=limited):
        known_values = {key: value for key, value in values.items() if key in space.domains}
        try:
            point = space.point(known_values, with_defaults=True)
        except SpaceError:
            continue
        by_point.setdefault(point.point_id, point)
    if not by_point:
        raise ConfigError(
            f"start_from: no point of the portfolio lies in the space '{space.name}'; take default",
            kind="empty",
            key="start_from",
        )
    mirrors = [bool(point.values.get(f"{TRAIN}flip")) for point in by_point.values()]
    points = list(by_point.values())
    if (channels == 3) in mirrors:
        points.insert(0, points.pop(mirrors.index(channels == 3)))
    if CLASS_WEIGHTS in space.domains and space.domains[CLASS_WEIGHTS].size > 1:
        first = points[0].values
        other = next(value for value in space.domains[CLASS_WEIGHTS].values if value != first[CLASS_WEIGHTS])
        points.insert(_TWIN, space.point({**first, CLASS_WEIGHTS: other}))
    return points


def _check_may_start(config: ExperimentConfig) -> None:
    needed = suited_evaluator(config.strategy.name)
    if needed != "training":
        raise ConfigError(
            f"start_from: strategy '{config.strategy.name}' begins with a supernet, not with points. Leave start_from "
            "out, or take another strategy",
            kind="unsupported",
            key="start_from",
        )


def _points(source: str, config: ExperimentConfig) -> list[Architecture]:
    """Return the points that a source names."""
    if source == DEFAULT_POINT:
        return [config.space.default_point()]
    if source == PORTFOLIO:
        if config.data is None:
            raise ConfigError(
                "start_from: a portfolio is for networks that are trained on images; name --data",
                kind="missing",
                key="data",
            )
        from nasforge.data import load_data

        data = load_data(config.data)
        return portfolio_for(config.space, len(data.train), data.shape[0], limited=bool(config.constraints))
    path = Path(source)
    by_point: dict[str, Architecture] = {}
    for place, values in _values_in(path, config.runs_dir):
        try:
            point = config.space.point(values, with_defaults=True)
        except SpaceError as error:
            raise ConfigError(f"start_from: {place}: {error}", kind=error.kind, key="start_from") from None
        by_point.setdefault(point.point_id, point)
    return list(by_point.values())


def _values_in(path: Path, runs_dir: Path) -> list[tuple[str, Mapping[str, Value]]]:
    """Return the decisions of every point in a file or of an experiment's best trials, and where each stands."""
    if path.is_file():
        content = read_yaml(path).content
        if not isinstance(content, list) or not content:
            raise ConfigError(
                f"start_from: {path} must hold a list of points, got {type(content).__name__}",
                kind="type",
                key="start_from",
            )
        return [
            (f"{path}, point {number}", _flat(item, f"{path}, point {number}")) for number, item in enumerate(content)
        ]
    places = (experiment_of(place) for place in places_of(path, runs_dir))
    folder = next((place for place in places if (place / JOURNAL).is_file()), None)
    if folder is None:
        known = [DEFAULT_POINT, PORTFOLIO, *(place.name for place in (*experiments_in(runs_dir), *fits_in(runs_dir)))]
        raise ConfigError(
            f"start_from: '{path}' is no file and no experiment; {did_you_mean(str(path), known)}",
            kind="unknown",
            key="start_from",
        )
    best = [trial for trial in load_state(folder).ranking()[:BEST] if trial.architecture is not None]
    if not best:
        raise ConfigError(
            f"start_from: no trial of {folder} has finished; name another experiment", kind="empty", key="start_from"
        )
    return [(f"{folder}, trial {t.number}", t.architecture.values) for t in best if t.architecture is not None]


def _flat(content: Any, place: str) -> dict[str, Value]:
    """Return the decisions of a point, written as `{model: {...}, train: {...}}` or with whole keys."""
    if isinstance(content, Mapping) and isinstance(content.get("values"), Mapping):
        content = content["values"]
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(
            f"start_from: {place} must be a mapping of decisions, got {content!r}", kind="type", key="start_from"
        )
    values: dict[str, Value] = {}
    for key, value in content.items():
        section = f"{key}." if f"{key}." in (MODEL, TRAIN) else ""
        nested = value if section and isinstance(value, Mapping) else {str(key): value}
        for name, option in nested.items():
            if not isinstance(option, (str, int, float, bool)):
                raise ConfigError(
                    f"start_from: {place}: '{name}' needs one value, got {option!r}", kind="type", key=name
                )
            values[f"{section}{name}"] = option
    return values
