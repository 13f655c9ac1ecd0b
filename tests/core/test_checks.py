"""What plug-ins may say: plain numbers, whole steps, known words; scalars of numpy and torch are made plain."""

import dataclasses
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from expecting import raises

from nasforge.core import checks
from nasforge.core.architecture import Architecture
from nasforge.core.errors import EventError
from nasforge.core.events import (
    Asked,
    Checked,
    Ended,
    Extended,
    Header,
    Reported,
    Started,
    TestOpened,
    event_from_json,
    event_to_json,
)
from nasforge.core.image_counts import ImageCounts
from nasforge.core.trial import Artifact, Charge, Failure, Forecast, Measure, Origin, Result, Score

POINT = Architecture({"model.width": 8})
SHA = "0" * 64


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        1,
        True,
        np.float32(0.5),
        np.float16(0.5),
        np.int64(3),
        np.bool_(True),
        np.array(0.5),
        np.longdouble(0.5),
        torch.tensor(0.5),
        torch.tensor([3]),
        Decimal("0.5"),
        Fraction(1, 2),
        math.nan,
        -math.inf,
    ],
    ids=repr,
)
def test_numbers_become_plain(value: Any) -> None:
    number = checks.number(value, "x")
    assert type(number) in (float, int) and (number == float(value) or math.isnan(number))


@pytest.mark.parametrize(
    "value",
    [
        "0.5",
        None,
        1j,
        np.complex64(1),
        b"1",
        [1.0],
        np.array([1.0, 2.0]),
        torch.ones(2),
        {},
        10**400,
        10**5000,
        np.str_("1"),
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_number_is_refused(value: Any) -> None:
    with raises(EventError, "type", "x"):
        checks.number(value, "x")


@pytest.mark.parametrize("step", [0, 3, 3.0, np.int32(3), np.uint8(3), np.float64(3), torch.tensor(3)], ids=repr)
def test_steps_become_whole_numbers(step: Any) -> None:
    whole = checks.report(step, {})[0]
    assert type(whole) is int and whole == int(step)


@pytest.mark.parametrize("step", ["1", 1.5, True, np.bool_(True), -1, None, math.nan, math.inf, 2**60, [1]], ids=repr)
def test_other_steps_are_refused(step: Any) -> None:
    with raises(EventError, "range" if step in (-1, 2**60) else "type", "step", "a whole number"):
        checks.report(step, {})


@pytest.mark.parametrize("name", checks.CHARGES)
@pytest.mark.parametrize("amount", [math.nan, math.inf, -1.0])
def test_reported_charges_are_finite_and_not_negative(name: str, amount: float) -> None:
    with raises(EventError, "range", f"metrics.{name}"):
        checks.report(1, {name: amount})


@pytest.mark.parametrize(
    ("metrics", "key"),
    [
        ({1: 0.5}, "metrics"),
        ({None: 0.5}, "metrics"),
        ({"a": "high"}, "metrics.a"),
        ({"a": None}, "metrics.a"),
        ([("a", 0.5)], "metrics"),
        (None, "metrics"),
    ],
)
def test_metrics_map_texts_to_numbers(metrics: Any, key: str) -> None:
    with raises(EventError, "type", key):
        checks.report(1, metrics)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": "great"}, ("unknown", "status", "great", "finished")),
        ({"status": None}, ("unknown", "status", None)),
        ({"status": "failed"}, ("conflict", "error", "no error")),
        ({"error": Failure("error", "x")}, ("conflict", "error", "finished", "an error")),
        ({"status": "failed", "error": Failure("gremlins", "x")}, ("unknown", "error.cause", "gremlins")),  # type: ignore[arg-type]
        ({"status": "failed", "error": Failure("error", None)}, ("type", "error.message", None)),  # type: ignore[arg-type]
        ({"status": "failed", "error": "x"}, ("type", "error", "nasforge.core.trial.Failure")),
        ({"status": "rejected"}, ("missing", "metrics", "constraint/violation")),
        ({"charged": Charge(-1.0)}, ("range", "charged.worker_seconds", -1.0)),
        ({"charged": Charge(0.0, math.nan)}, ("range", "charged.multiply_adds", math.nan)),
        ({"charged": 3.0}, ("type", "charged", 3.0)),
        ({"metrics": {"a": "b"}}, ("type", "metrics.a", "'b'")),
        ({"values": 0.5}, ("type", "values", "a list")),
        ({"values": ("a",)}, ("type", "values", "a number")),
        ({"steps_done": 1.5}, ("type", "steps_done", 1.5)),
        ({"alphas": {"a": 1.0}}, ("type", "alphas.a", "a list")),
        ({"alphas": [1.0]}, ("type", "alphas", "a mapping")),
        ({"scores": ({"a": "b"},)}, ("type", "scores.a", "'b'")),
        ({"artifacts": {"weights": "w.pt"}}, ("type", "artifacts.weights", "w.pt")),
    ],
    ids=str,
)
def test_results_that_cannot_be(fields: dict[str, Any], expected: Any) -> None:
    with raises(EventError, *expected):
        checks.result(Result(**{"status": "finished", **fields}))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x",
        "artifacts/../../x",
        "artifacts/..",
        "artifacts/./x",
        "artifacts",
        "artifacts/",
        "best/x",
        "artifacts//x",
        "./artifacts/x",
        "artifacts/a\0b",
        "artifacts/" + "x" * 300,
        "artifacts/a/../../../x",
        "",
        3,
        "artifacts/x/..",
        "artifacts/x\n/../..",
        "Artifacts/x",
        None,
    ],
    ids=lambda path: repr(path)[:30],
)
def test_artifacts_lie_below_artifacts(path: Any) -> None:
    file = Artifact(path, SHA, 1)
    kind = "invalid" if isinstance(path, str) else "type"
    with raises(EventError, kind, "artifacts.weights.path"):
        checks.result(Result("finished", artifacts={"weights": file}))
    with raises(EventError, kind, "weights.path"):
        checks.proposal(Measure(POINT, weights=file))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"train": 1}, ("type", "image_counts")),
        (ImageCounts(-1, 2, 2, 0.5), ("range", "image_counts.train", -1)),
        (ImageCounts(1, 0, 2, 0.5), ("range", "image_counts.validated", 0)),
        (ImageCounts(1, 2, 0, 0.5), ("range", "image_counts.classes", 0)),
        (ImageCounts(1, 2, 2, 1.5), ("range", "image_counts.largest", 1.5)),
        (ImageCounts(1, 2, 2, math.nan), ("range", "image_counts.largest", "nan")),
    ],
    ids=str,
)
def test_image_counts_of_a_header(counts: Any, expected: tuple[Any, ...]) -> None:
    header = Header(2, "toy", {}, "", 0, {}, "", ImageCounts(3, 2, 2, 0.5))
    assert event_from_json(event_to_json(header)) == checks.event(header) == header
    of_numpy = dataclasses.replace(header, image_counts=ImageCounts(np.int64(3), np.int64(2), 2, np.float32(0.5)))  # type: ignore[arg-type]
    assert repr(checks.event(of_numpy)) == repr(header)
    with raises(EventError, *expected):
        checks.event(dataclasses.replace(header, image_counts=counts))


@pytest.mark.parametrize("path", ["artifacts/0/weights.safetensors", "artifacts/12/attempt-1/a..b.pt", "artifacts/.x"])
def test_paths_of_artifacts(path: str) -> None:
    file = Artifact(path, SHA, 1)
    assert checks.result(Result("finished", artifacts={"weights": file})).artifacts == {"weights": file}


@pytest.mark.parametrize(
    ("proposal", "expected"),
    [
        ("random", ("type", "proposal", "random")),
        (Measure({"model.width": 8}), ("type", "architecture", "nasforge.core.architecture.Architecture")),  # type: ignore[arg-type]
        (Measure(Architecture({"model.width": np.int64(8)})), ("type", "architecture.model.width")),  # type: ignore[dict-item]
        (Measure(Architecture({"model.width": math.nan})), ("type", "architecture.model.width")),
        (Measure(Architecture({3: 8})), ("type", "architecture", 3)),  # type: ignore[dict-item]
        (Measure(POINT, rung="last"), ("type", "rung", "last")),  # type: ignore[arg-type]
        (Score(("x",)), ("type", "architectures", "nasforge.core.architecture.Architecture")),  # type: ignore[arg-type]
        (Score(()), ("empty", "architectures")),
        (Score(POINT), ("type", "architectures", "a list")),  # type: ignore[arg-type]
        (Measure(POINT, origin=Origin(parents=(-1,))), ("range", "origin.parents", -1)),
        (Measure(POINT, origin="mutation"), ("type", "origin", "mutation")),  # type: ignore[arg-type]
        (Measure(POINT, origin=Origin(forecast=(1.0, 0.5))), ("type", "origin.forecast", 0.5)),  # type: ignore[arg-type]
        (Measure(POINT, origin=Origin(forecast=Forecast(math.nan, 0.5))), ("range", "origin.forecast.mean", math.nan)),
        (Measure(POINT, origin=Origin(forecast=Forecast(0.5, -1.0))), ("range", "origin.forecast.deviation", -1.0)),
        (
            Measure(POINT, origin=Origin(forecast=Forecast(0.5, 1.0, (0.5, -0.5)))),
            ("range", "origin.forecast.weights", -0.5),
        ),
        (Measure(POINT, origin=Origin(forecast=Forecast(0.5, 1.0, 0.5))), ("type", "origin.forecast.weights", 0.5)),  # type: ignore[arg-type]
        (Measure(POINT, origin=Origin(policy={"model.block": (0.5, 1.5)})), ("range", "origin.policy.model.block")),
        (Measure(POINT, origin=Origin(policy={"model.block": ()})), ("range", "origin.policy.model.block")),
        (Score((POINT,), origin=Origin(policy={3: (1.0,)})), ("type", "origin.policy", 3)),  # type: ignore[dict-item]
    ],
    ids=str,
)
def test_proposals_that_cannot_be(proposal: Any, expected: Any) -> None:
    with raises(EventError, *expected):
        checks.proposal(proposal)


def test_forecasts_and_policies_become_plain_numbers() -> None:
    forecast = Forecast(np.float32(0.5), np.float64(0.25))  # type: ignore[arg-type]
    origin = Origin(forecast=forecast, policy={"model.block": (np.float32(0.5), 1)})  # type: ignore[arg-type]
    checked = checks.proposal(Measure(POINT, origin=origin)).origin  # type: ignore[union-attr]
    assert checked == Origin(forecast=Forecast(0.5, 0.25), policy={"model.block": (0.5, 1.0)})
    assert checked and checked.forecast and checked.policy
    numbers = (checked.forecast.mean, checked.forecast.deviation, *checked.policy["model.block"])
    assert {type(value) for value in numbers} <= {float, int}


@pytest.mark.parametrize(
    "event",
    [
        Asked(-1, Measure(POINT)),
        Started(0, 0),
        Started(0, True),
        Checked(0, {}, "perhaps"),
        Checked(0, {"cost/params": "many"}, "accepted"),  # type: ignore[dict-item]
        Reported(0, 1, 1, {}, "go on"),
        Extended({"trials": -3}),
        Extended({"lunches": 3}),
        Ended("boredom"),
        *(TestOpened(name, {}) for name in ("", "..", "a/b", "a\0b", "a\nb", "\ud800")),
    ],
    ids=ascii,
)
def test_events_that_cannot_be(event: Any) -> None:
    with pytest.raises(EventError):
        checks.event(event)


def test_long_messages_are_cut_once() -> None:
    message = "begin " + "x" * 5_000_000 + " end"
    cut = checks.cut(message)
    assert len(cut) <= checks.MESSAGE_LENGTH and cut.startswith("begin") and cut.endswith(" end")
    assert "characters left out" in cut and checks.cut(cut) == cut
    failed = checks.result(Result.failed("error", message, message))
    assert failed.error and len(failed.error.message) == len(failed.error.advice) == len(cut)
