"""ASHA and median with every registered strategy, one objective and two: pruned trials are told, the search goes on."""

import random

import pytest

from nasforge import registry
from nasforge.core.errors import ConfigError
from nasforge.core.trial import CHECKPOINT, Artifact, Charge, Result, Score, TrainShared
from nasforge.experiment.state import load_state
from nasforge.testing.scripted import MIXED, closeness, outcome
from nasforge.testing.toys import Planted, toy_config, toy_experiment

TRIALS = 25


def curves(proposal, report):
    """Nine epochs towards the closeness to a planted optimum."""
    if isinstance(proposal, Score | TrainShared):
        return outcome(MIXED, report.number, proposal)
    close, end = closeness(MIXED, proposal.architecture), (1, 3, 9)[proposal.rung]
    dear = 1 - close + random.Random(proposal.architecture.point_id).random() / 5
    metrics = {}
    for step in range(1, end + 1):
        metrics = {"val/accuracy": close * (1 - 0.5**step), "cost/flops": dear, "work/multiply_adds": float(step)}
        if not report(step, metrics):
            return Result("pruned")
    file = Artifact(f"artifacts/{report.number}/attempt-1/{CHECKPOINT}.pt", "0" * 64, 1)
    artifacts = {CHECKPOINT: file} if end < 9 else {}
    return Result("finished", metrics, steps_done=end, charged=Charge(0.0, float(end)), artifacts=artifacts)


@pytest.mark.parametrize(("pruner", "objectives"), [("asha", 1), ("median", 1), ("asha", 2), ("median", 2)])
@pytest.mark.parametrize("name", registry.names("strategy"))
def test_pruned_trials_are_part_of_the_search(tmp_path, name, pruner, objectives):
    try:
        config = toy_config(
            tmp_path,
            space=MIXED,
            strategy={"name": name, **({"measures": 10} if name in ("spos", "enas") else {})},
            pruner={"name": pruner, **({"warmup_trials": 3} if pruner == "median" else {})},
            objectives=["val/accuracy", "cost/flops"][:objectives],
            ladder=[{"epochs": 1}, {"epochs": 3}, {"epochs": 9}],
            budget={"trials": TRIALS},
        )
        experiment = toy_experiment(config)
    except ConfigError:
        # refused by name when it is made, not in the middle of the search
        assert objectives == 2 or (pruner == "median" and name in ("promotion", "pbt"))
        return
    with experiment:
        registry.make("runner", "local", {}, experiment, curves)
        state = experiment.state
    counts = state.counts()
    goes_on_itself = name in ("promotion", "pbt")
    assert counts["failed"] == 0 and counts["pruned"] + counts["finished"] == len(state.trials)
    shared = any(isinstance(trial.proposal, TrainShared) for trial in state.trials.values())
    assert len(state.trials) == TRIALS or goes_on_itself or shared
    assert counts["pruned"] > 0 or goes_on_itself or shared
    assert all(trial.result.status == "finished" for trial in state.ranking())
    steps = {trial.result.steps_done for trial in state.trials.values() if trial.status == "pruned"}
    assert steps <= ({1, 3} if pruner == "asha" else set(range(1, 9)))
    with toy_experiment(config) as again:  # replayed, pruned trials included, there is nothing left to do
        assert again.next() is None
    assert load_state(config.folder).counts() == counts


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_what_misses_a_target_stops_none_that_meets_it(tmp_path, pruner):
    def flops(proposal):
        values = proposal.architecture.values
        return {"cost/flops": float(values["model.depth"] * values["model.width"] ** 2)}

    config = toy_config(tmp_path, pruner=pruner, targets=["flops<=2k"], budget={"trials": 40}, seed=1)
    with toy_experiment(config, check=flops) as experiment:
        registry.make("runner", "local", {}, experiment, Planted())  # the wider and deeper, the better
        state = experiment.state
    meeting = [trial for trial in state.trials.values() if not state.missed(trial)]
    finished = [trial for trial in meeting if trial.status == "finished"]
    assert 10 <= len(meeting) <= 30 and len(finished) >= len(meeting) / 3
    assert state.counts()["pruned"] >= 10
    top = max(meeting, key=lambda trial: trial.steps[0].values)
    assert top in finished and state.best in finished
