"""`plan.yaml`: the decisions of a fit, which `--plan FILE` repeats with other images or on another machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasforge.api.fit.log import FitLog
from nasforge.core.errors import ConfigError, JournalError, Problem, did_you_mean
from nasforge.core.ranges import Range, shown
from nasforge.settings.yaml_file import Document, read_yaml

PLAN = "plan.yaml"
SCHEMA = 1
WEIGHTS = ("none", "balanced")
METRICS = ("accuracy", "balanced_accuracy", "f1_macro", "loss")
_HEAD = """\
# The decisions of a fit. Repeat them with: nasforge fit DATA --plan plan.yaml
# Delete a line, or all of trainings, to let the next fit decide it again.
"""

_ABOVE_0 = Range(over=0)


def _whole(low: int, high: int) -> Range:
    return Range(whole=True, least=low, most=high)


_TRAININGS: Mapping[str, tuple[Range | tuple[str, ...], str]] = {
    "folds": (_whole(1, 100), "; 1 is one validation split"),
    "epochs": (_whole(1, 100_000), ""),
    "steps": (_whole(1, 10**9), ": optimizer steps of a training"),
    "training": (_ABOVE_0, ": seconds of a training"),
    "threads": (_whole(1, 4096), ": threads of torch"),
    "second_per_step": (_ABOVE_0, ": seconds of an optimizer step"),
}
"""Keys of `trainings`, each with its allowed values and a remark on them."""
_OF_PLAN = ("folds", "epochs", "steps", "training")
_SHARE: Mapping[str, tuple[Range | tuple[str, ...], str]] = {
    "images": (_whole(1, 10**9), ": images of the share that the search uses"),
}
"""What `trainings` holds where the search uses a share of the images."""
_DECISIONS: Mapping[str, tuple[Range | tuple[str, ...], str]] = {
    "resolution": (_whole(8, 1024), ": pixels of an image's side"),
    "metric": (METRICS, ""),
    "class_weights": (WEIGHTS, ""),
}


def write_plan(folder: Path, log: FitLog) -> None:
    """Write the decisions of a fit into `plan.yaml` in its folder.

    Raises:
        JournalError: the file cannot be written.
    """
    decided = {entry["name"]: entry["value"] for entry in log.entries if entry["kind"] == "decision"}
    lines = [f"schema: {SCHEMA}"]
    lines += [f"{name}: {json.dumps(decided[name])}" for name in _DECISIONS if name in decided]
    if "trainings" in decided:
        value = decided["trainings"]
        flat = {**value["plan"], "threads": value["threads"], "second_per_step": value["second_per_step"]}
        lines += ["trainings:", *(f"  {key}: {json.dumps(flat[key])}" for key in _TRAININGS)]
        lines += [f"  {key}: {json.dumps(flat[key])}" for key in _SHARE if flat.get(key) is not None]
    temporary = folder / f".{PLAN}"
    try:
        temporary.write_text(_HEAD + "\n".join(lines) + "\n", encoding="utf-8")
        temporary.replace(folder / PLAN)
    except OSError as error:
        raise JournalError(
            f"{folder / PLAN}: cannot be written: {error.strerror}. Make room, then continue", kind="failed"
        ) from None


def read_plan(path: Path) -> dict[str, Any]:
    """Return the decisions of a plan: name -> value, as the log of a fit has them.

    Raises:
        ConfigError: the file is missing or is no plan; the message has every problem with its line.
    """
    document = read_yaml(path)
    content = document.content
    if not isinstance(content, Mapping):
        message = f"a plan is a mapping of schema, {', '.join(_known())}. Use the {PLAN} that a fit has written"
        raise ConfigError([Problem(message, str(path), 1, kind="type")])
    problems: list[Problem] = []
    if content.get("schema") != SCHEMA:
        message = f"got {content.get('schema')!r}, expected {SCHEMA}. Use the {PLAN} that a fit has written"
        problems.append(document.problem(message, ("schema",), "unsupported" if "schema" in content else "missing"))
    for key in content:
        if key != "schema" and key not in _known():
            problems.append(
                document.problem(f"no decision of a fit; {did_you_mean(str(key), _known())}", (key,), "unknown")
            )
    problems += _problems(document, content, _DECISIONS, ())
    trainings = content.get("trainings")
    if "trainings" in content and not isinstance(trainings, Mapping):
        expected = f"expected a mapping of {', '.join(_TRAININGS)}"
        problems.append(document.problem(f"got {trainings!r}, {expected}", ("trainings",), "type"))
    elif isinstance(trainings, Mapping):
        for key in trainings:
            if key not in (*_TRAININGS, *_SHARE):
                message = f"unknown; {did_you_mean(str(key), (*_TRAININGS, *_SHARE))}"
                problems.append(document.problem(message, ("trainings", key), "unknown"))
        missing = [key for key in _TRAININGS if key not in trainings]
        if missing:
            message = f"{', '.join(missing)}: missing. Add them, or delete all of trainings"
            problems.append(document.problem(message, ("trainings",), "missing"))
        problems += _problems(document, trainings, {**_TRAININGS, **_SHARE}, ("trainings",))
    if problems:
        raise ConfigError(problems)
    decisions = {name: content[name] for name in _DECISIONS if name in content}
    if isinstance(trainings, Mapping):
        plan = {key: trainings[key] for key in (*_OF_PLAN, *_SHARE) if key in trainings}
        decisions["trainings"] = {"plan": plan, "threads": trainings["threads"]}
        decisions["trainings"]["second_per_step"] = trainings["second_per_step"]
    return decisions


def _known() -> tuple[str, ...]:
    return (*_DECISIONS, "trainings")


def _problems(
    document: Document,
    content: Mapping[str, Any],
    expected: Mapping[str, tuple[Range | tuple[str, ...], str]],
    above: tuple[str, ...],
) -> list[Problem]:
    """Return one problem for each value that is not among the expected ones."""
    problems = []
    for key, (allowed, remark) in expected.items():
        if key in content and content[key] not in allowed:
            words = str(allowed) if isinstance(allowed, Range) else f"one of {', '.join(allowed)}"
            kind = allowed.kind_of(content[key]) if isinstance(allowed, Range) else "unknown"
            message = f"got {shown(content[key])}, expected {words}{remark}"
            problems.append(document.problem(message, (*above, key), kind))
    return problems
