"""The one place that checks what plug-ins and journals say: before an event is written, and as it is read.

Every check returns the value in plain Python types, or raises EventError with the field, the value and what is
expected. Scalars of numpy and torch become plain numbers; texts, None, complex numbers and arrays do not.
"""

from __future__ import annotations

import math
import numbers as abc
import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar, get_args

from nasforge.core.architecture import Architecture
from nasforge.core.errors import EventError, NasforgeError
from nasforge.core.events import (
    ENDS,
    INTERRUPTIONS,
    SCHEMAS,
    Asked,
    Checked,
    Ended,
    Event,
    Extended,
    Header,
    Interrupted,
    Moved,
    Reported,
    Started,
    TestOpened,
    Told,
)
from nasforge.core.goals import Budget
from nasforge.core.image_counts import ImageCounts
from nasforge.core.ranges import shown
from nasforge.core.space import SearchSpace
from nasforge.core.trial import (
    CAUSES,
    CHARGES,
    VIOLATION,
    Artifact,
    Charge,
    Failure,
    Forecast,
    Measure,
    Origin,
    Proposal,
    Result,
    Score,
    Status,
    TrainShared,
    made,
)

MESSAGE_LENGTH = 4000
"""Longest message or advice of a failure, in characters."""

_Checked = TypeVar("_Checked")

_STATUSES: tuple[str, ...] = get_args(Status)
_VERDICTS = ("accepted", "rejected", "failed")
_DECISIONS = ("continue", "stop")
_PLAIN = frozenset({str, int, bool})
_LARGEST_INT = 2**53
_HUGE = 2**1000
# Relative, without `..` and without a drive or root; a component's length is what file systems allow.
_ARTIFACT_PATH = re.compile(r"artifacts(?:/(?!\.{1,2}(?:/|\Z))[^/\0]{1,200}){1,20}\Z")


def event(content: Event) -> Event:
    """Check an event.

    Raises:
        EventError: a field is invalid.
    """
    checked: dict[str, Any] = {}
    match content:
        case Reported():
            step, metrics, alphas = report(content.step, content.metrics, content.alphas)
            _one_of(content.decision, _DECISIONS, "decision")
            checked = {"step": step, "metrics": metrics, "alphas": alphas, "attempt": _attempt(content.attempt)}
        case Told():
            checked = {"result": result(content.result)}
        case Asked():
            checked = {"proposal": proposal(content.proposal)}
        case Checked():
            _one_of(content.verdict, _VERDICTS, "verdict")
            checked = {"costs": numbers(content.costs, "costs")}
        case Started():
            checked = {"attempt": _attempt(content.attempt)}
        case Interrupted():
            _one_of(content.cause, INTERRUPTIONS, "cause")
            checked = {"attempt": _attempt(content.attempt)}
        case Header():
            return _header(content)
        case Extended():
            return Extended(_budget(content.budget))
        case Moved():
            return Moved(_places(content.config))
        case Ended():
            _one_of(content.cause, ENDS, "cause")
            return content
        case TestOpened():
            return TestOpened(_folder_name(content.finalist, "finalist"), numbers(content.metrics, "metrics"))
    checked["number"] = whole(content.number, "number")
    return _with(content, checked)


def report(
    step: Any, metrics: Any, alphas: Any = None
) -> tuple[int, dict[str, float], dict[str, tuple[float, ...]] | None]:
    """Check what an evaluator reports.

    Args:
        step: a whole number of at least 0.
        metrics: text -> number; the charges among them are finite and not negative.
        alphas: architecture parameters, text -> numbers; None or empty for none.

    Raises:
        EventError: something else was reported.
    """
    plain = numbers(metrics, "metrics")
    for name in CHARGES:
        if name in plain:
            _amount(plain[name], f"metrics.{name}")
    return whole(step, "step"), plain, rows(alphas, "alphas") or None


def result(content: Any) -> Result:
    """Check an evaluator's result; long messages are cut.

    Raises:
        EventError: it is not a Result, or a field is invalid.
    """
    if not isinstance(content, Result):
        raise EventError(
            f"the result must be a nasforge.core.trial.Result, got {type(content).__name__}", kind="type", key="result"
        )
    _one_of(content.status, _STATUSES, "status")
    if (content.error is not None) != (content.status == "failed"):
        has = f"'{content.status}' with {'no error' if content.error is None else 'an error'}"
        raise EventError(
            f"a result has an error exactly when its status is 'failed', got {has}", kind="conflict", key="error"
        )
    metrics = numbers(content.metrics, "metrics")
    if content.status == "rejected" and math.isnan(metrics.get(VIOLATION, math.nan)):
        raise EventError(f"a rejected result needs the metric {VIOLATION}", kind="missing", key="metrics")
    checked: dict[str, Any] = {
        "metrics": metrics,
        "values": None if content.values is None else _row(content.values, "values"),
        "steps_done": whole(content.steps_done, "steps_done"),
        "charged": charge(content.charged),
        "artifacts": _artifacts(content.artifacts),
        "alphas": rows(content.alphas, "alphas"),
        "error": None if content.error is None else _failure(content.error),
        "violations": numbers(content.violations, "violations"),
    }
    if content.scores != ():
        checked["scores"] = tuple(numbers(member, "scores") for member in _sequence(content.scores, "scores"))
    return _with(content, checked)


def proposal(content: Any) -> Proposal:
    """Check a strategy's proposal.

    Raises:
        EventError: it is not a Measure, Score or TrainShared, or a field is invalid.
    """
    if isinstance(content, Measure):
        _architecture(content.architecture, "architecture")
        rung = _integer(content.rung, "rung")
        if content.weights is not None:
            _artifact(content.weights, "weights")
        origin = _origin(content.origin)
        if rung is content.rung and origin is content.origin:
            return content
        return replace(content, rung=rung, origin=origin)
    if isinstance(content, Score):
        for member in _sequence(content.architectures, "architectures"):
            _architecture(member, "architectures")
        if not content.architectures:
            raise EventError("architectures of a Score must name at least one", kind="empty", key="architectures")
        scored, rung = tuple(content.architectures), _integer(content.rung, "rung")
        return replace(content, architectures=scored, rung=rung, origin=_origin(content.origin))
    if not isinstance(content, TrainShared):
        raise EventError(
            f"a proposal must be a Measure, a Score or a TrainShared, got {shown(content)}", kind="type", key="proposal"
        )
    if not isinstance(content.space, SearchSpace):
        raise EventError(f"space must be a SearchSpace, got {shown(content.space)}", kind="type", key="space")
    text(content.relaxation, "relaxation")
    if content.weights is not None:
        _artifact(content.weights, "weights")
    for path in _sequence(content.paths, "paths"):
        _architecture(path, "paths")
    for key, value in _mapping(content.settings, "settings").items():
        _value(key, value, "settings")
    return replace(
        content,
        epochs=whole(content.epochs, "epochs"),
        alphas=rows(content.alphas, "alphas"),
        cost_terms=numbers(content.cost_terms, "cost_terms"),
    )


def charge(content: Any) -> Charge:
    """Check what a piece of work cost: finite numbers that are not negative.

    Raises:
        EventError: it cost something else.
    """
    if not isinstance(content, Charge):
        raise EventError(
            f"charged must be a nasforge.core.trial.Charge, got {shown(content)}", kind="type", key="charged"
        )
    seconds = _amount(content.worker_seconds, "charged.worker_seconds")
    operations = _amount(content.multiply_adds, "charged.multiply_adds")
    if seconds is content.worker_seconds and operations is content.multiply_adds:
        return content
    return Charge(seconds, operations)


def numbers(content: Any, what: str) -> dict[str, float]:
    """Check a mapping from texts to numbers; NaN and infinities are numbers.

    Raises:
        EventError: it is not a mapping, a key is not a text, or a value is not a number.
    """
    if type(content) is dict:
        for key, value in content.items():
            if type(value) is not float or type(key) is not str:
                break
        else:
            return content
    return {text(key, what): number(value, f"{what}.{key}") for key, value in _mapping(content, what).items()}


def number(value: Any, what: str) -> float:
    """Check a number; scalars of numpy and torch become plain ones, truth values 0.0 and 1.0.

    Raises:
        EventError: it is not a number.
    """
    if type(value) is float:
        return value
    plain = _scalar(value)
    if type(plain) is int and -_HUGE < plain < _HUGE:
        return plain
    if isinstance(plain, (abc.Real, Decimal)):
        try:
            return float(plain)
        except (OverflowError, ValueError):
            pass
    raise EventError(f"{what} must be a number, got {shown(value)}", kind="type", key=what)


def finite(value: Any, what: str) -> float:
    """Check a number that is neither NaN nor infinite.

    Raises:
        EventError: it is.
    """
    plain = number(value, what)
    if not math.isfinite(plain):
        raise EventError(f"{what} must be a finite number, got {shown(plain)}", kind="range", key=what)
    return plain


def whole(value: Any, what: str, least: int = 0) -> int:
    """Check a whole number.

    Raises:
        EventError: it is not a number, a fraction, a truth value, or below `least`.
    """
    if type(value) is not int:
        value = _integer(value, what)
    if not least <= value <= _LARGEST_INT:
        raise EventError(
            f"{what} must be a whole number of at least {least}, got {shown(value)}", kind="range", key=what
        )
    return value  # type: ignore[no-any-return]


def text(value: Any, what: str) -> str:
    """Check a text.

    Raises:
        EventError: it is none.
    """
    if type(value) is str:
        return value
    if isinstance(value, str):
        return str(value)
    raise EventError(f"{what} needs texts, got {shown(value)}", kind="type", key=what)


def rows(content: Any, what: str) -> dict[str, tuple[float, ...]] | None:
    """Check a mapping from texts to sequences of numbers; None stays None.

    Raises:
        EventError: it is none.
    """
    if content is None:
        return None
    return {text(key, what): _row(row, f"{what}.{key}") for key, row in _mapping(content, what).items()}


def cut(message: str) -> str:
    """Shorten a message to `MESSAGE_LENGTH` characters: its beginning and its end; a short one stays as it is."""
    if len(message) <= MESSAGE_LENGTH:
        return message
    begin, end = MESSAGE_LENGTH - 700, 600
    return f"{message[:begin]} ... [{len(message) - begin - end:,} characters left out] ... {message[-end:]}"


def config(content: Mapping[str, Any]) -> None:
    """Check the configuration in a header, as far as the state and its views read it without a check of their own.

    Raises:
        EventError: a setting is missing or has another form.
    """
    for name in ("space", "strategy", "evaluator", "pruner", "runner"):
        if not isinstance(_mapping(content.get(name), name).get("name"), str):
            raise EventError(f"{name} needs a name that is a text", kind="missing", key=name)
        part = "defaults" if name == "space" else "options"
        _mapping(content[name].get(part, {}), f"{name}.{part}")
    for name in ("recipe", "start_from"):
        _mapping(content.get(name) or {}, name)
    if type(content.get("seed", 0)) is not int:
        raise EventError(f"seed must be a whole number, got {shown(content['seed'])}", kind="type", key="seed")
    try:
        SearchSpace.from_json(content["space"])
    except Exception as error:
        raise EventError(
            f"the space is invalid ({type(error).__name__}: {error})", kind="invalid", key="space"
        ) from None
    for name in ("objectives", "constraints", "targets"):
        if not all(isinstance(goal, str) for goal in _sequence(content.get(name), name)):
            raise EventError(f"{name} must be a list of texts, got {shown(content.get(name))}", kind="type", key=name)
    if not content["objectives"]:
        raise EventError("objectives is empty, expected at least one", kind="empty", key="objectives")
    for rung in _sequence(content.get("ladder"), "ladder"):
        _mapping(rung, "ladder")
    if not content["ladder"]:
        raise EventError("ladder is empty, expected at least one rung", kind="empty", key="ladder")
    _budget(content.get("budget"))
    if content.get("data") is not None:
        _mapping(content["data"], "data")
    if content.get("tracking_uri") is not None:
        text(content["tracking_uri"], "tracking_uri")


def _with(content: _Checked, checked: Mapping[str, Any]) -> _Checked:
    """Return the object with its checked fields; the object itself if none changed, as in every journal of our own."""
    fields = vars(content)
    for name, value in checked.items():
        if fields[name] is not value:
            return made(type(content), {**fields, **checked})
    return content


# --- fields ----------------------------------------------------------------------------------------------------------


def _header(content: Header) -> Header:
    if type(content.schema) is not int or content.schema not in SCHEMAS:
        raise EventError(
            f"schema must be one of {', '.join(map(str, SCHEMAS))}, got {shown(content.schema)}",
            kind="unsupported",
            key="schema",
        )
    for name in ("experiment", "space_hash", "data_hash"):
        text(getattr(content, name), name)
    if type(content.seed) is not int:
        raise EventError(f"seed must be a whole number, got {shown(content.seed)}", kind="type", key="seed")
    _mapping(content.config, "config")
    for package, version in _mapping(content.versions, "versions").items():
        text(package, "versions")
        text(version, "versions")
    return _with(content, {"image_counts": _image_counts(content.image_counts)})


def _image_counts(content: Any) -> ImageCounts | None:
    if content is None:
        return None
    if not isinstance(content, ImageCounts):
        raise EventError(
            f"image_counts must be a nasforge.core.image_counts.ImageCounts, got {shown(content)}",
            kind="type",
            key="image_counts",
        )
    checked: dict[str, Any] = {
        name: whole(getattr(content, name), f"image_counts.{name}", least)
        for name, least in (("train", 0), ("validated", 1), ("classes", 1))
    }
    key = "image_counts.largest"
    checked["largest"] = number(content.largest, key)
    if not 0 <= checked["largest"] <= 1:
        raise EventError(f"{key} must be from 0 to 1, got {shown(content.largest)}", kind="range", key=key)
    return _with(content, checked)


def _places(content: Any) -> Mapping[str, Any]:
    for key, value in _mapping(content, "config").items():
        if key not in ("data", "evaluator"):
            raise EventError(
                f"config of a move holds data or evaluator, got {shown(key)}", kind="unknown", key="config"
            )
        _mapping(value, key)
    return content  # type: ignore[no-any-return]


def _budget(content: Any) -> Mapping[str, Any]:
    limits = _mapping(content, "budget")
    until = {"until": limits["until"]} if "until" in limits else {}
    plain = {**numbers({key: value for key, value in limits.items() if key != "until"}, "budget"), **until}
    try:
        _ = Budget(**plain).goals
    except (NasforgeError, TypeError) as error:
        kind, key = (error.kind, error.key) if isinstance(error, NasforgeError) else ("type", "budget")
        raise EventError(str(error), kind=kind, key=key) from None
    return plain


def _failure(content: Any) -> Failure:
    if not isinstance(content, Failure):
        raise EventError(f"error must be a nasforge.core.trial.Failure, got {shown(content)}", kind="type", key="error")
    _one_of(content.cause, CAUSES, "error.cause")
    message, advice = text(content.message, "error.message"), text(content.advice, "error.advice")
    return Failure(content.cause, cut(message), cut(advice))


def _artifacts(content: Any) -> dict[str, Artifact]:
    if content == {}:
        return content  # type: ignore[no-any-return]
    artifacts = {}
    for name, artifact in _mapping(content, "artifacts").items():
        artifacts[text(name, "artifacts")] = _artifact(artifact, f"artifacts.{name}")
    return artifacts


def _artifact(content: Any, what: str) -> Artifact:
    if not isinstance(content, Artifact):
        raise EventError(f"{what} must be a nasforge.core.trial.Artifact, got {shown(content)}", kind="type", key=what)
    if not _ARTIFACT_PATH.match(text(content.path, f"{what}.path")):
        raise EventError(
            f"{what}.path must be relative to the experiment's folder, below artifacts/ and without '..', "
            f"got {shown(content.path)}",
            kind="invalid",
            key=f"{what}.path",
        )
    text(content.sha256, f"{what}.sha256")
    whole(content.size, f"{what}.size")
    return content


def _folder_name(content: Any, what: str) -> str:
    name = text(content, what)
    if not name.isprintable() or name in ("", ".", "..") or "/" in name:
        raise EventError(f"{what} must be the printable name of a folder, got {shown(name)}", kind="invalid", key=what)
    return name


def _architecture(content: Any, what: str) -> None:
    if not isinstance(content, Architecture):
        raise EventError(
            f"{what} must be a nasforge.core.architecture.Architecture, got {shown(content)}", kind="type", key=what
        )
    for key, value in content.values.items():
        if type(key) is not str or type(value) not in _PLAIN:
            _value(key, value, what)
    if content.canonical is not None:
        text(content.canonical, f"{what}.canonical")


def _origin(content: Any) -> Origin | None:
    if content is None:
        return None
    if not isinstance(content, Origin):
        raise EventError(
            f"origin must be a nasforge.core.trial.Origin, got {shown(content)}", kind="type", key="origin"
        )
    for parent in _sequence(content.parents, "origin.parents"):
        whole(parent, "origin.parents")
    text(content.operator, "origin.operator")
    text(content.strategy, "origin.strategy")
    if content.start is not None:
        whole(content.start, "origin.start")
    if content.forecast is None and content.policy is None:
        return content
    return _with(content, {"forecast": _forecast(content.forecast), "policy": _policy(content.policy)})


def _forecast(content: Any) -> Forecast | None:
    if content is None:
        return None
    if not isinstance(content, Forecast):
        raise EventError(
            f"origin.forecast must be a nasforge.core.trial.Forecast, got {shown(content)}",
            kind="type",
            key="origin.forecast",
        )
    mean = finite(content.mean, "origin.forecast.mean")
    deviation = _amount(content.deviation, "origin.forecast.deviation")
    return _with(content, {"mean": mean, "deviation": deviation, "weights": _weights(content.weights)})


def _weights(content: Any) -> tuple[float, ...]:
    weights = _sequence(content, "origin.forecast.weights")
    checked = tuple(_amount(weight, "origin.forecast.weights") for weight in weights)
    same = isinstance(content, tuple) and all(one is other for one, other in zip(checked, content, strict=True))
    return content if same else checked


def _policy(content: Any) -> Mapping[str, tuple[float, ...]] | None:
    policy = rows(content, "origin.policy")
    for key, chances in (policy or {}).items():
        if not chances or not all(0 <= chance <= 1 for chance in chances):
            raise EventError(
                f"origin.policy.{key} must be a list of probabilities from 0 to 1, got {shown(list(chances))}",
                kind="range",
                key=f"origin.policy.{key}",
            )
    return policy


def _value(key: Any, value: Any, what: str) -> None:
    """Check a decision: JSON gives it back as it is."""
    if type(key) is not str:
        raise EventError(f"{what}: keys must be texts, got {shown(key)}", kind="type", key=what)
    if type(value) not in _PLAIN and not (type(value) is float and math.isfinite(value)):
        raise EventError(
            f"{what}.{key} must be a text, a finite number or true or false, got {shown(value)}",
            kind="type",
            key=f"{what}.{key}",
        )


def _row(content: Any, what: str) -> tuple[float, ...]:
    if type(content) is tuple and all(type(value) is float for value in content):
        return content
    return tuple(number(value, what) for value in _sequence(content, what))


def _amount(value: Any, what: str) -> float:
    plain = number(value, what)
    if not 0 <= plain < math.inf:
        raise EventError(f"{what} must be a finite number of at least 0, got {shown(plain)}", kind="range", key=what)
    return plain


def _attempt(value: Any) -> int:
    return whole(value, "attempt", 1)


def _integer(value: Any, what: str) -> int:
    """Check a whole number of either sign; 3.0 is one."""
    if type(value) is int and -_LARGEST_INT <= value <= _LARGEST_INT:
        return value
    plain = value if isinstance(value, bool) else _scalar(value)
    if type(plain) is float and plain.is_integer() and abs(plain) <= _LARGEST_INT:
        return int(plain)
    if type(plain) is int and abs(plain) <= _LARGEST_INT:
        return plain
    raise EventError(f"{what} must be a whole number, got {shown(value)}", kind="type", key=what)


def _scalar(value: Any) -> Any:
    """Return the plain number of a scalar of numpy or torch; any other value unchanged."""
    item = getattr(value, "item", None)
    if not callable(item):
        return value
    try:
        return item()
    except Exception:  # an array of several numbers, or anything else of a plug-in's
        return value


def _one_of(value: Any, allowed: tuple[str, ...], what: str) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise EventError(f"{what} must be one of {', '.join(allowed)}, got {shown(value)}", kind="unknown", key=what)


def _mapping(content: Any, what: str) -> Mapping[Any, Any]:
    if not isinstance(content, (dict, Mapping)):
        raise EventError(f"{what} must be a mapping, got {shown(content)}", kind="type", key=what)
    return content


def _sequence(content: Any, what: str) -> tuple[Any, ...] | list[Any]:
    if not isinstance(content, (tuple, list)):
        raise EventError(f"{what} must be a list, got {shown(content)}", kind="type", key=what)
    return content
