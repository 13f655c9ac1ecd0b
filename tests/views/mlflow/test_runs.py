"""Events -> writes: the same whatever the batches, bounded keys, and a best that is the state's best."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from made_journal import header, mixed, point, trial

from nasforge.core.architecture import Architecture
from nasforge.core.events import Asked, Event, Told
from nasforge.core.trial import Measure, Origin
from nasforge.experiment.state import replay
from nasforge.views.mlflow.runs import PARENT, Runs, Writes, allowed_key


def _together(batches: list[dict[str, Writes]]) -> dict[str, Writes]:
    total: dict[str, Writes] = {}
    for batch in batches:
        for key, writes in batch.items():
            one = total.setdefault(key, Writes(writes.name, writes.identity))
            one.params.update(writes.params)
            one.tags.update(writes.tags)
            one.architecture = writes.architecture or one.architecture
            one.metrics.update(writes.metrics)
            one.status, one.done, one.seconds = writes.status or one.status, writes.done, writes.seconds
    return total


def test_any_batching_writes_the_same() -> None:
    events = mixed()
    whole = Runs().fold(events)
    runs = Runs()
    assert _together([runs.fold([event]) for event in events]) == whole


def test_what_is_delivered_is_not_written_again() -> None:
    events = mixed(3)
    runs = Runs()
    writes = runs.fold([*events, *trial(3)], skip=len(events))
    assert set(writes) == {PARENT, "trial/3"}
    assert runs.position == len(events) + len(trial(3))


@pytest.mark.parametrize("seed", range(5))
def test_the_best_is_the_first_of_the_ranking(seed: int) -> None:
    rng = random.Random(seed)
    events: list[Event] = [header(targets=["flops<=2e+04"])]
    runs = Runs()
    runs.fold(events)
    for number in range(20):
        told = trial(number, rng.choice(["finished", "finished", "pruned", "failed", "rejected"]))
        last = told[-1]
        assert isinstance(last, Told)
        if last.result.status == "finished":
            steps, accuracy = rng.choice([1, 3]), rng.choice([0.5, 0.6, 0.7])
            metrics = {**last.result.metrics, "val/accuracy": accuracy}
            values = (accuracy, -metrics["cost/flops"])
            told[-1] = Told(number, replace(last.result, metrics=metrics, values=values, steps_done=steps))
        events += told
        writes = runs.fold(told)
        best = replay(events).best
        assert writes[PARENT].tags.get("nasforge.best_trial") == (None if best is None else str(best.number))


def test_a_changing_budget_is_no_parameter() -> None:
    parent = Runs().fold([header()])[PARENT]
    assert not [key for key in parent.params if "budget" in key or "runner" in key]
    assert parent.tags["nasforge.budget.trials"] == "10"


def test_keys_and_values_that_mlflow_refuses_are_made_fit() -> None:
    assert allowed_key("model.block{0}+x") == "model.block_0__x"
    runs = Runs()
    runs.fold([header()])
    writes = runs.fold([Asked(0, Measure(Architecture({"model.a(b)": "x" * 2000})))])
    ((key, value),) = writes["trial/0"].params.items()
    assert key == "model.a_b_"
    assert len(value) == 500


def test_a_repeated_training_names_the_first_one() -> None:
    origin = Origin((3,), "repeated")
    writes = Runs().fold([header(), Asked(5, Measure(point(1), origin=origin)), Asked(6, Measure(point(2)))])
    assert writes["trial/5"].params["repeats"] == "#3"
    assert "repeats" not in writes["trial/6"].params
