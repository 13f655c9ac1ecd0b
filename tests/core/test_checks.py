"""What plug-ins may say: plain numbers, whole steps, known words; scalars of numpy and torch are made plain."""

import dataclasses
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from nasforge.core import checks
from nasforge.core.architecture import Architecture
from nasforge.core.errors import EventError
from nasforge.core.events import Asked, Checked, Extended, Header, Reported, Started, event_from_json, event_to_json
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
    with pytest.raises(EventError, match="x must be a number, got"):
        checks.number(value, "x")


@pytest.mark.parametrize("step", [0, 3, 3.0, np.int32(3), np.uint8(3), np.float64(3), torch.tensor(3)], ids=repr)
def test_steps_become_whole_numbers(step: Any) -> None:
    whole = checks.report(step, {})[0]
    assert type(whole) is int and whole == int(step)


@pytest.mark.parametrize("step", ["1", 1.5, True, np.bool_(True), -1, None, math.nan, math.inf, 2**60, [1]], ids=repr)
def test_other_steps_are_refused(step: Any) -> None:
    with pytest.raises(EventError, match="step must be a whole number"):
        checks.report(step, {})


@pytest.mark.parametrize("name", checks.CHARGES)
@pytest.mark.parametrize("amount", [math.nan, math.inf, -1.0])
def test_reported_charges_are_finite_and_not_negative(name: str, amount: float) -> None:
    with pytest.raises(EventError, match=f"{name} must be a finite number"):
        checks.report(1, {name: amount})


@pytest.mark.parametrize("metrics", [{1: 0.5}, {None: 0.5}, {"a": "high"}, {"a": None}, [("a", 0.5)], None])
def test_metrics_map_texts_to_numbers(metrics: Any) -> None:
    with pytest.raises(EventError, match="metrics"):
        checks.report(1, metrics)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"status": "great"}, "status must be one of finished"),
        ({"status": None}, "status must be one of"),
        ({"status": "failed"}, "exactly when its status is 'failed', got 'failed' with no error"),
        ({"error": Failure("error", "x")}, "got 'finished' with an error"),
        ({"status": "failed", "error": Failure("gremlins", "x")}, "cause must be one of"),  # type: ignore[arg-type]
        ({"status": "failed", "error": Failure("error", None)}, "message needs texts"),  # type: ignore[arg-type]
        ({"status": "failed", "error": "x"}, "error must be a nasforge.core.trial.Failure"),
        ({"status": "rejected"}, "needs the metric constraint/violation"),
        ({"charged": Charge(-1.0)}, "worker_seconds must be a finite number"),
        ({"charged": Charge(0.0, math.nan)}, "multiply_adds must be a finite number"),
        ({"charged": 3.0}, "charged must be"),
        ({"metrics": {"a": "b"}}, "metrics 'a' must be a number"),
        ({"values": 0.5}, "values must be a list"),
        ({"values": ("a",)}, "values must be a number"),
        ({"steps_done": 1.5}, "steps_done must be a whole number"),
        ({"alphas": {"a": 1.0}}, "alphas 'a' must be a list"),
        ({"alphas": [1.0]}, "alphas must be a mapping"),
        ({"scores": ({"a": "b"},)}, "scores 'a' must be a number"),
        ({"artifacts": {"weights": "w.pt"}}, "artifact 'weights' must be"),
    ],
    ids=str,
)
def test_results_that_cannot_be(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(EventError, match=says):
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
    with pytest.raises(EventError, match="path"):
        checks.result(Result("finished", artifacts={"weights": file}))
    with pytest.raises(EventError, match="path"):
        checks.proposal(Measure(POINT, weights=file))


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({"train": 1}, "image_counts must be"),
        (ImageCounts(-1, 2, 2, 0.5), "image_counts: train must be a whole number"),
        (ImageCounts(1, 0, 2, 0.5), "image_counts: validated must be a whole number of at least 1"),
        (ImageCounts(1, 2, 0, 0.5), "image_counts: classes must be a whole number of at least 1"),
        (ImageCounts(1, 2, 2, 1.5), "image_counts: largest must be from 0 to 1"),
        (ImageCounts(1, 2, 2, math.nan), "image_counts: largest must be from 0 to 1"),
    ],
    ids=str,
)
def test_image_counts_of_a_header(counts: Any, says: str) -> None:
    header = Header(2, "toy", {}, "", 0, {}, "", ImageCounts(3, 2, 2, 0.5))
    assert event_from_json(event_to_json(header)) == checks.event(header) == header
    with pytest.raises(EventError, match=says):
        checks.event(dataclasses.replace(header, image_counts=counts))


@pytest.mark.parametrize("path", ["artifacts/0/weights.safetensors", "artifacts/12/attempt-1/a..b.pt", "artifacts/.x"])
def test_paths_of_artifacts(path: str) -> None:
    file = Artifact(path, SHA, 1)
    assert checks.result(Result("finished", artifacts={"weights": file})).artifacts == {"weights": file}


@pytest.mark.parametrize(
    ("proposal", "says"),
    [
        ("random", "must be a Measure, a Score or a TrainShared"),
        (Measure({"model.width": 8}), "must be a nasforge.core.architecture.Architecture"),  # type: ignore[arg-type]
        (Measure(Architecture({"model.width": np.int64(8)})), "'model.width' must be a text"),  # type: ignore[dict-item]
        (Measure(Architecture({"model.width": math.nan})), "'model.width' must be a text"),
        (Measure(Architecture({3: 8})), "keys must be texts"),  # type: ignore[dict-item]
        (Measure(POINT, rung="last"), "rung must be a whole number"),  # type: ignore[arg-type]
        (Score(("x",)), "architectures must be"),  # type: ignore[arg-type]
        (Score(()), "at least one"),
        (Score(POINT), "architectures must be a list"),  # type: ignore[arg-type]
        (Measure(POINT, origin=Origin(parents=(-1,))), "parents must be a whole number"),
        (Measure(POINT, origin="mutation"), "origin must be"),  # type: ignore[arg-type]
        (Measure(POINT, origin=Origin(forecast=(1.0, 0.5))), "forecast must be"),  # type: ignore[arg-type]
        (Measure(POINT, origin=Origin(forecast=Forecast(math.nan, 0.5))), "mean must be a finite number"),
        (Measure(POINT, origin=Origin(forecast=Forecast(0.5, -1.0))), "deviation must be a finite number"),
        (Measure(POINT, origin=Origin(forecast=Forecast(0.5, 1.0, (0.5, -0.5)))), "weights must be a finite number"),
        (Measure(POINT, origin=Origin(forecast=Forecast(0.5, 1.0, 0.5))), "weights must be a list"),  # type: ignore[arg-type]
        (Measure(POINT, origin=Origin(policy={"model.block": (0.5, 1.5)})), "'model.block' must be a list of prob"),
        (Measure(POINT, origin=Origin(policy={"model.block": ()})), "'model.block' must be a list of prob"),
        (Score((POINT,), origin=Origin(policy={3: (1.0,)})), "policy needs texts"),  # type: ignore[dict-item]
    ],
    ids=str,
)
def test_proposals_that_cannot_be(proposal: Any, says: str) -> None:
    with pytest.raises(EventError, match=says):
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
    ],
    ids=str,
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
