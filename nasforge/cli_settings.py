"""From the options of `nasforge search` to settings for `nasforge.config.resolve`; the keys are those of the YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasforge.config import ExperimentConfig, Named, check_name, load_settings, resolve, suited_evaluator
from nasforge.core.errors import ConfigError, JournalError, did_you_mean
from nasforge.journal import JOURNAL
from nasforge.yaml_document import Document, parse_value

PARTS = ("strategy", "tune", "pruner", "evaluator", "runner")
_MAPPINGS = ("recipe", "data", "budget")
_SHORT = {"data": "source", "recipe": "open"}
"""What a text stands for where a mapping is expected."""


def config_of(
    *,
    space: str | None,
    file: Path | None,
    data: Mapping[str, Any],
    budget: Mapping[str, Any],
    recipe: Mapping[str, Any],
    runner: Mapping[str, Any],
    assignments: Sequence[str],
    settings: Mapping[str, Any],
) -> ExperimentConfig:
    """The configuration of a search from an experiment file and options, which go over it; see `settings_of`."""
    merged, document = settings_of(
        space=space,
        file=file,
        data=data,
        budget=budget,
        recipe=recipe,
        runner=runner,
        assignments=assignments,
        settings=settings,
    )
    return resolve(merged, document)


def settings_of(
    *,
    space: str | None,
    file: Path | None,
    data: Mapping[str, Any],
    budget: Mapping[str, Any],
    recipe: Mapping[str, Any],
    runner: Mapping[str, Any],
    assignments: Sequence[str],
    settings: Mapping[str, Any],
) -> tuple[dict[str, Any], Document | None]:
    """Settings for `resolve`, and the file that some of them came from.

    Args:
        space: a YAML file or a shipped name.
        file: an experiment's YAML file.
        data: options that are fields of DataConfig; None where not given.
        budget: options that are fields of Budget.
        recipe: options of the recipe.
        runner: options of the runner.
        assignments: texts such as `strategy.population=20`.
        settings: the other settings, as in `resolve`; None where not given.

    Raises:
        ConfigError: with every problem found.
    """
    document: Document | None = None
    merged: dict[str, Any] = {}
    if file is not None:
        merged, document = load_settings(file)
    if space is None and "space" not in merged:
        raise ConfigError("which search space? Give a YAML file or a shipped name: nasforge search tiny --data digits")
    options = {**settings, "space": space}
    merged.update({key: value for key, value in options.items() if value is not None and value != []})
    if settings.get("epochs") is not None and settings.get("ladder") is None:
        merged.pop("ladder", None)
    _over(merged, "data", {key: value for key, value in data.items() if value is not None})
    _over(merged, "budget", {key: value for key, value in budget.items() if value is not None})
    _over(merged, "recipe", {key: value for key, value in recipe.items() if value is not None})
    _over(merged, "runner", {key: value for key, value in runner.items() if value is not None})
    for text in assignments:
        _assign(merged, text)
    if isinstance(merged.get("data"), Mapping) and "source" not in merged["data"]:
        raise ConfigError("which data? Give --data: a name such as digits, a .npz file or a folder of images")
    return merged, document


def runner_of(name: str, options: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A runner with its options, from those of a command and texts such as `runner.resources.measure.gpu=0.5`."""
    merged: dict[str, Any] = {"runner": name}
    for text in assignments:
        if not text.startswith("runner."):
            raise ConfigError(f"--set '{text}': only the runner has options here, as in runner.resources.measure.gpu=1")
        _assign(merged, text)
    _over(merged, "runner", {key: value for key, value in options.items() if value is not None})
    return Named.parse(merged["runner"], "runner").to_json()


def _over(merged: dict[str, Any], key: str, given: Mapping[str, Any]) -> None:
    """Lay options over one nested setting, which a file may have given in its short form."""
    if not given:
        return
    content = merged.get(key)
    if key in PARTS:
        named = Named.parse(content if content is not None else {"runner": "ray_tune"}.get(key), key)
        merged[key] = {"name": named.name, "options": {**named.options, **given}}
    elif key in _SHORT and isinstance(content, str):
        merged[key] = {_SHORT[key]: content, **given}
    else:
        if content is not None and not isinstance(content, Mapping):
            raise ConfigError(f"{key} must be a mapping, got {content!r}")
        merged[key] = {**(content or {}), **given}


def _assign(merged: dict[str, Any], text: str) -> None:
    """`strategy.population=20`, `recipe.optimizer=adamw`, `runner.resources.measure.gpu=0.25`."""
    path, equals, value = text.partition("=")
    part, *keys = path.strip().split(".")
    allowed = (*PARTS, *_MAPPINGS)
    if not equals or not keys or not all(keys):
        raise ConfigError(f"--set '{text}' must look like strategy.population=20 or recipe.optimizer=adamw")
    if part not in allowed:
        raise ConfigError(f"--set '{text}': there are no options of '{part}'; {did_you_mean(part, allowed)}")
    if part in PARTS:
        if part == "tune" and merged.get(part) is None:
            raise ConfigError(f"--set '{text}': say which strategy searches the recipe: --tune optuna")
        strategy = Named.parse(merged.get("strategy", "evolution"), "strategy").name
        suited = suited_evaluator(strategy)
        defaults = {"strategy": "evolution", "pruner": "asha", "evaluator": suited, "runner": "ray_tune"}
        named = Named.parse(merged.get(part, defaults.get(part)), part)
        top = {"name": named.name, "options": dict(named.options)}
        place: dict[str, Any] = top["options"]  # type: ignore[assignment]
    else:
        content = merged.get(part)
        if part in _SHORT and isinstance(content, str):
            content = {_SHORT[part]: content}
        if content is not None and not isinstance(content, Mapping):
            raise ConfigError(f"{part} must be a mapping, got {content!r}")
        top = dict(content or {})
        place = top
    for key in keys[:-1]:
        if place.get(key) is not None and not isinstance(place[key], Mapping):
            raise ConfigError(f"--set '{text}': '{key}' is {place[key]!r}, it has no options of its own")
        place[key] = dict(place.get(key) or {})
        place = place[key]
    place[keys[-1]] = parse_value(value.strip())
    merged[part] = top


def folder_of(name: str, runs_dir: Path) -> Path:
    """The folder of an existing experiment.

    Raises:
        ConfigError: not a name.
        JournalError: there is no such experiment.
    """
    folder = runs_dir.expanduser().absolute() / check_name(name)
    if not (folder / JOURNAL).is_file():
        known = experiments(runs_dir)
        raise JournalError(f"no experiment '{name}' in {runs_dir}/; {did_you_mean(name, known)}")
    return folder


def experiments(runs_dir: Path) -> list[str]:
    """Names of all experiments in a runs folder."""
    return sorted(path.parent.name for path in runs_dir.expanduser().glob(f"*/{JOURNAL}"))
