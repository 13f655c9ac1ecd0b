"""Journals made by hand for the tests of the views."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nasforge.core.architecture import Architecture
from nasforge.core.events import Asked, Checked, Event, Header, Reported, Started, Told
from nasforge.core.space import Choice, Decision, Float, SearchSpace
from nasforge.core.trial import Charge, Failure, Measure, Result
from nasforge.experiment.journal import Journal

SPACE = SearchSpace(
    "made",
    (
        Decision("model.width", Choice((8, 16, 32), ((), (), ()))),
        Decision("model.block", Choice(("residual", "inverted"), ((), ()))),
        Decision("train.learning_rate", Float(0.001, 1.0, log=True)),
    ),
)


def header(name: str = "made", **config: object) -> Header:
    content = {
        "space": SPACE.to_json(),
        "data": {"source": "digits", "validation": 0.1},
        "strategy": {"name": "evolution", "options": {"population": 4}},
        "evaluator": {"name": "training", "options": {}},
        "pruner": {"name": "asha", "options": {}},
        "runner": {"name": "local", "options": {}},
        "objectives": ["max:val/accuracy", "min:cost/flops"],
        "constraints": ["flops<=1e+06"],
        "targets": [],
        "budget": {"trials": 10},
        "ladder": [{"epochs": 1}, {"epochs": 3}],
        "recipe": {},
        "seed": 0,
        "tracking_uri": None,
        **config,
    }
    return Header(1, name, content, SPACE.fingerprint, 0, {"torch": "2.15"}, "abc")


def point(number: int) -> Architecture:
    values = {"model.width": (8, 16, 32)[number % 3], "model.block": ("residual", "inverted")[number // 3 % 2]}
    return SPACE.point({**values, "train.learning_rate": 0.01 * (1 + number % 99)})


def trial(number: int, status: str = "finished") -> list[Event]:
    """All events of one trial."""
    width = (8, 16, 32)[number % 3]
    costs = {"cost/params": 100.0 * width, "cost/flops": 1000.0 * width}
    asked = Asked(number, Measure(point(number)))
    if status == "rejected":
        result = Result("rejected", {**costs, "constraint/violation": 0.5})
        return [asked, Checked(number, costs, "rejected"), Told(number, result)]
    events: list[Event] = [asked, Checked(number, costs, "accepted"), Started(number, 1)]
    if status == "running":
        return events
    if status == "failed":
        failure = Failure("diverged", "the loss became NaN in epoch 1", "lower the learning rate")
        return [*events, Told(number, Result("failed", charged=Charge(0.5, 10), error=failure))]
    steps = (1,) if status == "pruned" else (1, 2, 3)
    metrics: dict[str, float] = {}
    for step in steps:
        accuracy = round(0.5 + 0.1 * step + 0.01 * number, 6)
        metrics = {
            "val/accuracy": accuracy,
            "val/loss": 1.0 / step,
            "train/loss": 1.1 / step,
            "time/worker_s": 2.0 * step,
        }
        decision = "stop" if status == "pruned" else "continue"
        events.append(Reported(number, 1, step, metrics, decision))
    result = Result(
        status,  # type: ignore[arg-type]
        {**costs, **metrics, "time/train_s": 2.0 * len(steps)},
        (metrics["val/accuracy"], -costs["cost/flops"]),
        len(steps),
        Charge(2.0 * len(steps), 1e6),
    )
    return [*events, Told(number, result)]


def mixed(trials: int = 8) -> list[Event]:
    """A header and trials of all kinds."""
    events: list[Event] = [header()]
    for number in range(trials):
        events += trial(number, {3: "failed", 4: "pruned", 5: "rejected"}.get(number, "finished"))
    return events


def write(folder: Path, events: Iterable[Event]) -> Path:
    """Append events to a journal; returns the folder."""
    journal = Journal(folder)
    for event in events:
        journal.append(event)
    journal.close()
    return folder
