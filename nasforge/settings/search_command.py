"""The command that begins the same search again, from the configuration in its journal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from nasforge.core.errors import NasforgeError
from nasforge.core.goals import DEFAULT_METRIC
from nasforge.settings.experiment import DEFAULTS, begins_with_default, resolve, suited_evaluator
from nasforge.settings.space_file import load_space
from nasforge.settings.values import AUTOMATIC, DEFAULT_POINT, NO_STARTS, DataConfig
from nasforge.settings.yaml_file import parse_value

_PLACES = ("tracking_uri", "start_from")
"""What does not belong to the search itself, or is completed after the settings are read."""


def search_words(config: Mapping[str, Any]) -> list[str] | None:
    """Return the words of `nasforge search` for a configuration; None where a command cannot say all of it.

    The words are checked: read back, they give the same configuration.

    Args:
        config: of a journal's header.

    Example:
        >>> search_words(nasforge.load_state("runs/first").header.config)
        ["search", "tiny", "--data", "digits", "--strategy", "evolution", "--max-trials", "12"]
    """
    try:
        settings: dict[str, Any] = {"space": config["space"]["name"]}
        if load_space(settings["space"]).to_json() != config["space"]:
            return None  # the space is a file of the user's, or a recipe has opened more decisions
        words = ["search", settings["space"], *_options(config, settings)]
        resolved = resolve(settings)
        again = resolved.to_json()
    except (NasforgeError, _Unwritable):
        return None
    if config.get("start_from") is None and begins_with_default(resolved):
        words += ["--start-from", NO_STARTS]
    same = all(again.get(key) == config.get(key) for key in {*again, *config} - {*_PLACES})
    return words if same else None


class _Unwritable(Exception):
    """A value has no form on the command line."""


def _options(config: Mapping[str, Any], settings: dict[str, Any]) -> Iterator[str]:
    """Yield the options, and note in `settings` what they say."""
    data = config.get("data")
    if data is not None:
        plain = {field.name: field.default for field in fields(DataConfig)}
        settings["data"] = {key: value for key, value in data.items() if value is not None}
        yield from ("--data", str(data["source"]))
        for key, value in settings["data"].items():
            if key != "source" and plain.get(key) != value:
                yield from _assigned(f"data.{key}", value)
    for kind in ("strategy", "evaluator", "pruner", "runner"):
        named = settings[kind] = config[kind]
        usual = suited_evaluator(config["strategy"]["name"]) if kind == "evaluator" else DEFAULTS.get(kind)
        if kind == "strategy" or named["name"] != usual:
            yield from (f"--{kind}", str(named["name"]))
        for key, value in named["options"].items():
            yield from _assigned(f"{kind}.{key}", value)
    for kind, option in (("objectives", "objective"), ("constraints", "constraint"), ("targets", "target")):
        if kind == "objectives" and config[kind] == [f"max:{DEFAULT_METRIC}"]:
            continue
        settings[kind] = list(config[kind])
        for text in config[kind]:
            yield from (f"--{option}", str(text))
    if "epochs" in config["ladder"][-1]:  # else the evaluator counts folds, and its option names the epochs
        settings["epochs"] = config["ladder"][-1]["epochs"]
        yield from ("--epochs", str(settings["epochs"]))
    settings["budget"] = dict(config["budget"])
    for key, value in config["budget"].items():
        if key == "until":
            for metric, goal in value.items():
                yield from ("--until", f"{metric}={json.dumps(goal)}")
        elif key in ("trials", "worker_seconds"):
            yield from (f"--max-{key.replace('_', '-')}", json.dumps(value))
        else:
            yield from _assigned(f"budget.{key}", value)
    settings["recipe"] = dict(config["recipe"])
    for key, value in config["recipe"].items():
        yield from _assigned(f"recipe.{key}", value)
    if config["seed"]:
        settings["seed"] = config["seed"]
        yield from ("--seed", str(config["seed"]))
    if "task" in config:
        settings["task"] = config["task"]
        yield from ("--task", str(config["task"]))
    starts = config.get("start_from") or {}
    if starts.get("source", AUTOMATIC) not in (AUTOMATIC, DEFAULT_POINT):
        yield from ("--start-from", str(starts["source"]))


def _assigned(key: str, value: Any) -> tuple[str, str]:
    text = value if isinstance(value, str) else json.dumps(value)
    if parse_value(text) != value:
        raise _Unwritable(key)
    return "--set", f"{key}={text}"
