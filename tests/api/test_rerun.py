"""Repetitions."""

from __future__ import annotations

from dataclasses import replace

import cli_toys
import pytest
import torch
from cli_toys import config_at
from expecting import raises

from nasforge import search
from nasforge.api.assembly import worker_threads
from nasforge.api.rerun import _check_again, _device, rerun
from nasforge.core.errors import BuildError, ConfigError, JournalError, TrustError
from nasforge.core.ladder import Rung
from nasforge.core.trial import Measure, Result, TrainShared
from nasforge.evaluators.cross_validation import repeated_seeds
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.settings.spec import SearchSpec
from nasforge.testing.toys import nested_space, toy_config


def test_every_kind_of_trial_comes_out_again_the_same(tmp_path):
    evaluator = {"name": "cli_toys:planted", "options": {"fail": [3]}}
    state = search(config_at(tmp_path, evaluator=evaluator, epochs=9, strategy="random", budget={"trials": 12}))
    statuses = {trial.status for trial in state.trials.values()}
    assert statuses == {"finished", "pruned", "failed"}
    for number, trial in state.trials.items():
        repeated = rerun(tmp_path / "runs/toy", number)
        assert repeated.equal, (number, repeated)
        assert repeated.compared or trial.status == "failed"


def test_a_difference_is_found_wherever_it_is(tmp_path, monkeypatch):
    search(config_at(tmp_path, evaluator="cli_toys:shifting", epochs=3, pruner="none", budget={"trials": 1}))
    assert rerun(tmp_path / "runs/toy", 0).equal  # times differ, and are not compared
    monkeypatch.setattr(cli_toys, "SHIFT", 1e-12)
    repeated = rerun(tmp_path / "runs/toy", 0)
    assert not repeated.equal
    assert set(repeated.differing) == {"1/val/accuracy", "2/val/accuracy", "3/val/accuracy", "val/accuracy"}


def test_a_trial_that_never_started_is_checked_again(tmp_path):
    def answering(answer):
        def check(proposal):
            if isinstance(answer, Exception):
                raise answer
            return answer

        return check

    state = search(config_at(tmp_path, budget={"trials": 1}))
    refused = replace(state.trials[0], costs={}, verdict="failed", result=Result.failed("invalid_shape", "no"))
    again = _check_again(refused, answering(BuildError("no")), state)
    assert again.equal and again.status == ("failed", "failed")
    mended = _check_again(refused, answering({"cost/flops": 1.0}), state)
    assert not mended.equal and mended.status == ("failed", "accepted")
    for error in (TrustError("you have not agreed"), ConfigError("no module of this name")):
        with pytest.raises(type(error)):
            _check_again(refused, answering(error), state)


def test_there_must_be_such_a_trial(tmp_path):
    search(config_at(tmp_path, budget={"trials": 1}))
    with raises(JournalError, "unknown", "trial", 5):
        rerun(tmp_path / "runs/toy", 5)
    journal = tmp_path / "runs/toy/journal.jsonl"
    journal.write_text(journal.read_text().partition("\n")[0] + "\n")
    with raises(JournalError, "empty", "trial", "toy"):
        rerun(tmp_path / "runs/toy", 0)


def test_the_device_is_named_of_evaluators_that_hand_trainings_on_too(monkeypatch):
    monkeypatch.setattr("nasforge.training.device._try", lambda device: None)  # it need not be there
    ladder = [Rung(1), Rung(2)]
    evaluator = repeated_seeds(SearchSpec(load_space("tiny"), DataConfig("digits"), ladder), device="cuda:7", repeats=2)
    assert _device(evaluator.about) == _device(evaluator.training.about) == "cuda:7"


def test_a_trial_is_repeated_with_the_threads_of_its_worker(tmp_path):
    shared, single = TrainShared(nested_space(), "uniform", 1), Measure(nested_space().default_point())
    threads = torch.get_num_threads()
    for resources, proposal, expected in (
        ({"train_shared": {"cpu": 3}}, shared, 3),
        ({"train_shared": {"cpu": 3}}, single, 3),
        ({"train_shared": {"cpu": 3}, "measure": {"cpu": 2}}, shared, 3),
        ({"train_shared": {"cpu": 3}, "measure": {"cpu": 2}}, single, 2),
        (None, single, 1),
    ):
        config = toy_config(tmp_path, runner={"name": "ray_tune", "resources": resources})
        with worker_threads(config, proposal):
            assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == threads
