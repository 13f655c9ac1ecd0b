"""From the options of a command to settings for `nasforge.resolve`; the keys are those of the YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasforge.core.errors import ConfigError, did_you_mean
from nasforge.core.goals import OPTIMUM
from nasforge.settings.experiment import DEFAULTS, Named, load_settings, suited_evaluator
from nasforge.settings.values import data_of
from nasforge.settings.yaml_file import Document, parse_value

WHICH_DATA = "no data. Set --data to a name such as digits, a .npz file or a folder of images"
PLUGIN_SETTINGS = ("strategy", "tune", "pruner", "evaluator", "runner")
_NOTHING: Mapping[str, Any] = {}
_MAPPINGS = ("recipe", "data", "budget")
_SHORT = {"data": "source", "recipe": "open"}
"""What a text stands for where a mapping is expected."""


def settings_of(
    *,
    space: str | None,
    file: Path | None = None,
    data: Mapping[str, Any] = _NOTHING,
    budget: Mapping[str, Any] = _NOTHING,
    recipe: Mapping[str, Any] = _NOTHING,
    runner_options: Mapping[str, Any] = _NOTHING,
    assignments: Sequence[str] = (),
    defaults: Mapping[str, str] = DEFAULTS,
    **settings: Any,
) -> tuple[dict[str, Any], Document | None]:
    """Settings for `resolve` from an experiment's file and options, which go over it; and the file.

    Args:
        space: a YAML file or a shipped name.
        file: an experiment's YAML file.
        data: options that are fields of DataConfig, see `data_options`; None where not given.
        budget: options that are fields of Budget.
        recipe: options of the recipe.
        runner_options: options of the runner.
        assignments: texts such as `strategy.population=20`.
        defaults: whose options are given where no name is.
        settings: the other settings, as in `resolve`; None where not given.

    Raises:
        ConfigError: with every problem found.
    """
    document: Document | None = None
    merged: dict[str, Any] = {}
    if file is not None:
        merged, document = load_settings(file)
    if space is None and "space" not in merged:
        raise ConfigError(
            "no search space. Name a YAML file or a shipped space: nasforge search tiny --data digits",
            kind="missing",
            key="space",
        )
    options = {**settings, "space": space}
    merged.update({key: value for key, value in options.items() if value is not None and value != []})
    if settings.get("epochs") is not None and settings.get("ladder") is None:
        merged.pop("ladder", None)
    nested = {"data": data, "budget": budget, "recipe": recipe, "runner": runner_options}
    for key, values in nested.items():
        _over(merged, key, values, defaults)
    for text in assignments:
        _assign(merged, text, defaults)
    if isinstance(merged.get("data"), Mapping) and "source" not in merged["data"]:
        raise ConfigError(WHICH_DATA, kind="missing", key="data")
    return merged, document


def data_options(
    source: str | None, folder: Path | None, images: int | None, resolution: int | None = None
) -> dict[str, Any]:
    """Return the options of a command's data as fields of DataConfig; None where not given."""
    place = None if folder is None else str(folder)
    return {"source": source, "folder": place, "images": images, "resolution": resolution}


def check_data(source: str) -> None:
    """Raise ConfigError for data that are neither a registered name nor a path; this imports no framework."""
    try:
        data_of(source)
    except ConfigError as error:
        raise ConfigError(f"data: {error}", kind=error.kind, key="data") from None


def moved_data(source: str | None, folder: Path | None) -> dict[str, str]:
    """Return the new place of data from the options of a command; empty if none is given."""
    return {key: str(place) for key, place in (("source", source), ("folder", folder)) if place is not None}


def until_of(texts: Sequence[str] | None) -> dict[str, Any] | str | None:
    """`--until val/accuracy=0.95`, again for more, or `--until optimum`; None where it is not given."""
    if not texts:
        return None
    if [text.strip() for text in texts] == [OPTIMUM]:
        return OPTIMUM
    goals: dict[str, Any] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.rpartition("="))
        if not equals or not key or key in goals:
            twice = " (given twice)" if key in goals else ""
            raise ConfigError(
                f"--until '{text}'{twice} must look like val/accuracy=0.95, or be {OPTIMUM} alone",
                kind="type",
                key="until",
            )
        goals[key] = parse_value(value)
    return goals


def runner_and_recipe(
    name: str, options: Mapping[str, Any], assignments: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a runner with its options and settings of a recipe, from a command's options and its --set texts.

    Args:
        name: of the runner.
        options: of the runner; None where not given.
        assignments: texts such as `runner.resources.measure.gpu=0.5` and `recipe.cutout_pixels=8`.
    """
    merged: dict[str, Any] = {"runner": name, "recipe": {}}
    for text in assignments:
        if not text.startswith(("runner.", "recipe.")):
            raise ConfigError(
                f"--set '{text}': only the runner and the recipe have options here, as in "
                "runner.resources.measure.gpu=1 or recipe.cutout_pixels=8",
                kind="unknown",
                key="set",
            )
        _assign(merged, text)
    _over(merged, "runner", options)
    return Named.parse(merged["runner"], "runner").to_json(), merged["recipe"]


def _over(merged: dict[str, Any], key: str, options: Mapping[str, Any], defaults: Mapping[str, str] = DEFAULTS) -> None:
    """Lay options (None where not given) over one nested setting, which a file may have given in its short form."""
    values = {name: value for name, value in options.items() if value is not None}
    if not values:
        return
    content = merged.get(key)
    if key in PLUGIN_SETTINGS:
        named = Named.parse(content if content is not None else defaults[key], key)
        merged[key] = {"name": named.name, "options": {**named.options, **values}}
    elif key in _SHORT and isinstance(content, str):
        merged[key] = {_SHORT[key]: content, **values}
    else:
        if content is not None and not isinstance(content, Mapping):
            raise ConfigError(f"{key} must be a mapping, got {content!r}", kind="type", key=key)
        merged[key] = {**(content or {}), **values}


def _assign(merged: dict[str, Any], text: str, defaults: Mapping[str, str] = DEFAULTS) -> None:
    """`strategy.population=20`, `recipe.mixup=0.2`, `runner.resources.measure.gpu=0.25`."""
    path, equals, value = text.partition("=")
    part, *keys = path.strip().split(".")
    allowed = (*PLUGIN_SETTINGS, *_MAPPINGS)
    if not equals or not keys or not all(keys):
        raise ConfigError(
            f"--set '{text}' must look like strategy.population=20 or recipe.mixup=0.2", kind="type", key="set"
        )
    if part not in allowed:
        raise ConfigError(
            f"--set '{text}': '{part}' has no options; {did_you_mean(part, allowed)}", kind="unknown", key=part
        )
    if part in PLUGIN_SETTINGS:
        if part == "tune" and merged.get(part) is None:
            raise ConfigError(
                f"--set '{text}': no strategy searches the recipe. Name it: --tune optuna", kind="missing", key="tune"
            )
        strategy = Named.parse(merged.get("strategy", defaults["strategy"]), "strategy").name
        default = suited_evaluator(strategy) if part == "evaluator" else defaults.get(part)
        named = Named.parse(merged.get(part, default), part)
        top = {"name": named.name, "options": dict(named.options)}
        place: dict[str, Any] = top["options"]  # type: ignore[assignment]
    else:
        content = merged.get(part)
        if part in _SHORT and isinstance(content, str):
            content = {_SHORT[part]: content}
        if content is not None and not isinstance(content, Mapping):
            raise ConfigError(f"{part} must be a mapping, got {content!r}", kind="type", key=part)
        top = dict(content or {})
        place = top
    for key in keys[:-1]:
        if place.get(key) is not None and not isinstance(place[key], Mapping):
            raise ConfigError(
                f"--set '{text}': '{key}' is {place[key]!r}, it has no options of its own", kind="type", key=key
            )
        place[key] = dict(place.get(key) or {})
        place = place[key]
    place[keys[-1]] = parse_value(value.strip())
    merged[part] = top
