"""What a comparison reads out of a journal: charges, incumbents, reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nasforge.core.errors import BuildError
from nasforge.core.trial import Artifact, Charge, Measure, Proposal, Result, TrainShared
from nasforge.experiment.journal import read_events
from nasforge.runners.local import run
from nasforge.testing.one_shot import TwoPaths
from nasforge.testing.toys import Planted, nested_space, toy_config, toy_experiment
from nasforge.views.reader import Reader
from nasforge.views.trajectory import Trajectory, trajectory, trajectory_of


class Scripted:
    """Gives these values in turn; None is a failure, a Result is given as it is."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = list(values)

    def __call__(self, proposal: Proposal, report: Any) -> Result:
        value = self.values[report.number]
        charged = Charge(2.0, 100.0)
        if isinstance(value, Result):
            return value
        if value is None:
            return Result.failed("diverged", "planted", charged=charged)
        return Result("finished", {"val/accuracy": value}, steps_done=3, charged=charged)


def searched(folder: Path, evaluator: Any, check: Any = lambda proposal: {}, **settings: Any) -> Trajectory:
    config = toy_config(folder, **settings)
    with toy_experiment(config, check=check) as experiment:
        run(experiment, evaluator)
    return trajectory(read_events(config.folder))


def test_incumbent_after_every_charged_trial(tmp_path: Path) -> None:
    curve = searched(tmp_path, Scripted([0.3, None, 0.2, 0.5]), budget={"trials": 4}, seed=7)
    assert curve.signal == [0.3, 0.3, 0.3, 0.5]
    assert curve.charged["trials"] == [1, 2, 3, 4], "a failure is charged"
    assert curve.charged["worker_seconds"] == [2, 4, 6, 8] and curve.charged["multiply_adds"] == [100, 200, 300, 400]
    assert curve.counts["failed"] == 1 and curve.seed == 7 and curve.spent and not curve.running
    assert curve.reach["trials"] == 4 and curve.reach["worker_seconds"] == 8
    assert not curve.shared and not any(curve.inherited) and curve.kind[1:] == (3, False)


def test_a_journal_that_is_followed_has_the_same_trajectory(tmp_path: Path) -> None:
    values = [0.3, None, Result("finished", {"val/accuracy": 0.9}, steps_done=1), 0.2, 0.5, 0.5]
    whole = searched(tmp_path, Scripted(values), budget={"trials": 6}, targets=["params<=9"])
    reader = Reader(tmp_path / "toy")
    reader.refresh()
    assert reader.state is not None and reader.header is not None
    assert trajectory_of(reader.state, reader.header) == whole == trajectory(read_events(tmp_path / "toy"))


def test_nothing_is_the_best_before_the_first(tmp_path: Path) -> None:
    curve = searched(tmp_path, Scripted([None, 0.4]), budget={"trials": 2})
    assert math.isnan(curve.signal[0]) and curve.signal[1] == 0.4 and curve.steps == [-1, 3]


def test_less_is_better_where_it_is_said(tmp_path: Path) -> None:
    curve = searched(tmp_path, Scripted([0.3, 0.2, 0.5]), budget={"trials": 3}, objectives=["min:val/accuracy"])
    assert curve.signal == [0.3, 0.2, 0.2]


def test_greater_fidelity_goes_first(tmp_path: Path) -> None:
    shallow = Result("finished", {"val/accuracy": 0.9}, steps_done=1, charged=Charge(1.0, 1.0))
    curve = searched(tmp_path, Scripted([shallow, 0.4, 0.5]), budget={"trials": 3})
    assert curve.signal == [0.9, 0.4, 0.5] and curve.steps == [1, 3, 3] and curve.fidelity == 3
    assert curve.points[0] is None and curve.points[2] == (0.5,)


def test_rejected_and_unbuildable_ones_are_not_charged(tmp_path: Path) -> None:
    asked: list[Proposal] = []

    def check(proposal: Proposal) -> dict[str, float]:
        asked.append(proposal)
        if len(asked) == 2:
            raise BuildError("planted")
        return {"cost/flops": 100.0 if len(asked) == 3 else 1.0}

    curve = searched(tmp_path, Scripted([0.1, 0, 0, 0.2]), check, budget={"trials": 2}, constraints=["flops<=10"])
    assert curve.counts["rejected"] == 1 and curve.counts["failed"] == 1
    assert curve.charged["trials"] == [1, 2] and curve.signal == [0.1, 0.2]


def test_pruned_ones_are_charged(tmp_path: Path) -> None:
    curve = searched(tmp_path, Planted(epochs=3), pruner="asha", budget={"trials": 12}, name="pruned")
    assert curve.counts["pruned"] > 0
    assert curve.charged["trials"][-1] == 12
    whole = searched(tmp_path, Planted(epochs=3), budget={"trials": 12}, name="whole")
    assert 0.12 <= curve.charged["worker_seconds"][-1] < whole.charged["worker_seconds"][-1] == pytest.approx(0.36)


def test_shared_training_is_charged_on_every_axis(tmp_path: Path) -> None:
    def evaluator(proposal: Proposal, report: Any) -> Result:
        if isinstance(proposal, TrainShared):
            weights = {"weights": Artifact("artifacts/0/weights", "0" * 64, 1)}
            return Result("finished", steps_done=4, charged=Charge(600.0, 1e9), artifacts=weights)
        assert isinstance(proposal, Measure) and proposal.weights is not None
        return Result("finished", {"val/accuracy": 0.6}, charged=Charge(1.0, 1e6))

    config = toy_config(tmp_path, budget={"trials": 10})
    from nasforge.core.events import SCHEMA, Header
    from nasforge.experiment.experiment import Experiment

    header = Header(SCHEMA, config.name, config.to_json(), config.space.fingerprint, 0, {}, "")
    with Experiment(config.folder, header, TwoPaths(nested_space()), check=lambda proposal: {}) as experiment:
        run(experiment, evaluator)
    curve = trajectory(read_events(config.folder))
    assert curve.charged["trials"] == [1, 2, 3]
    assert curve.charged["worker_seconds"] == [600, 601, 602]
    assert curve.charged["multiply_adds"] == [1e9, 1e9 + 1e6, 1e9 + 2e6]
    assert math.isnan(curve.signal[0]), "a supernet is not a candidate"
    assert curve.signal[1:] == [0.6, 0.6] and curve.fidelity == 0
    assert not curve.spent and curve.reach["trials"] == 10, "it ended by itself"
    assert curve.shared and curve.inherited == [False, True, True] and curve.kind[1:] == (0, True)


def test_what_went_on_from_a_checkpoint_was_trained_from_an_initialisation(tmp_path: Path) -> None:
    def evaluator(proposal: Proposal, report: Any) -> Result:
        assert isinstance(proposal, Measure)
        kept = {"checkpoint": Artifact(f"artifacts/{report.number}/attempt-1/checkpoint.pt", "0" * 64, 1)}
        metrics = {"val/accuracy": 0.5 + report.number / 100}
        return Result(
            "finished", metrics, steps_done=(1, 3)[proposal.rung], artifacts=kept if not proposal.rung else {}
        )

    curve = searched(tmp_path, evaluator, strategy={"name": "promotion", "of": "random"}, budget={"trials": 4})
    assert curve.steps[-1] == 3 and curve.pieces
    assert not curve.shared and not any(curve.inherited) and curve.kind[1:] == (3, False)


def test_running_search_reaches_as_far_as_it_is(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 9})
    with toy_experiment(config) as experiment:
        for _ in range(3):
            job = experiment.next()
            assert job is not None
            result = Result("finished", {"val/accuracy": 0.5}, steps_done=3, charged=Charge(1.0, 1.0))
            experiment.tell(job.number, job.attempt, result)
        experiment.next()
        curve = trajectory(read_events(config.folder))
    assert curve.running and curve.reach["trials"] == 3


def test_final_figures_are_asked_once_for_each_incumbent(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 5})
    with toy_experiment(config) as experiment:
        run(experiment, Scripted([0.3, 0.2, 0.4, 0.1, 0.4]))
    asked = []

    def final(architecture: Any) -> float:
        asked.append(architecture)
        return float(len(asked))

    curve = trajectory(read_events(config.folder), final)
    assert curve.final == [1.0, 1.0, 2.0, 2.0, 2.0]
    assert curve.test is None


def test_retrained_finalists_give_the_test_figure(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 3})
    with toy_experiment(config) as experiment:
        run(experiment, Scripted([0.3, 0.4, 0.2]))
        best = experiment.state.best
        assert best is not None and best.architecture is not None
        name = best.architecture.short_id
        for seed, accuracy in ((0, 0.8), (1, 0.9)):
            experiment.open_test(f"{name}-seed{seed}-e9", lambda accuracy=accuracy: {"test/accuracy": accuracy})
            experiment.open_test(f"resnet8-for-{name}-seed{seed}-e9", lambda: {"test/accuracy": 0.1})
    curve = trajectory(read_events(config.folder))
    assert curve.test is not None and math.isnan(curve.test[0])
    assert curve.test[1:] == [pytest.approx(0.85), pytest.approx(0.85)]
