"""Retraining on Ray workers: side by side, and each network by several of them."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from expecting import raises

from nasforge.api.retrain import networks, retrain
from nasforge.api.retrain.work import Work
from nasforge.core.errors import ConfigError
from nasforge.core.events import TestOpened
from nasforge.core.layout import DESCRIPTION
from nasforge.experiment.journal import read_events
from nasforge.exporters.network_folder import load
from nasforge.testing.kills import command_line, descendants


def opened(folder):
    return [event.finalist for event in read_events(folder) if isinstance(event, TestOpened) and event.metrics]


def weights(folder, name):
    return load(folder / "finalists" / name).body.state_dict()


@pytest.fixture(scope="module")
def alone(searched, tmp_path_factory):
    folder = Path(shutil.copytree(searched, tmp_path_factory.mktemp("alone") / "small"))
    return folder, retrain(folder, seeds=2, epochs=2, device="cpu")


@pytest.mark.ray
@pytest.mark.slow
def test_workers_side_by_side_give_the_same_bits_and_one_journal(alone, folder):
    told = []
    runner = {"name": "ray_tune", "max_concurrent_trials": 2, "cpus": 2}
    finalists = retrain(folder, seeds=2, epochs=2, device="cpu", runner=runner, progress=lambda *a: told.append(a))
    assert finalists == alone[1]
    for name in (*finalists[0].retrained.networks, *finalists[0].reference.networks):
        a, b = weights(alone[0], name), weights(folder, name)
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert sorted(opened(folder)) == sorted(opened(alone[0]))
    assert sorted((name, epoch) for name, epoch, *_ in told) == sorted(
        (name, epoch) for name in opened(folder) for epoch in (1, 2)
    )
    again = retrain(folder, seeds=2, epochs=2, device="cpu", runner=runner)
    assert again == finalists and len(opened(folder)) == 4


@pytest.mark.ray
@pytest.mark.slow
def test_a_training_whose_worker_is_killed_goes_on_from_its_checkpoint(alone, folder):
    killed, told = [], []

    def kill_after_two_epochs(name, epoch, *_):
        told.append((name, epoch))
        if epoch == 2 and not killed:
            killed.extend(pid for pid in descendants(os.getpid()) if "ray::_do" in command_line(pid))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    runner = {"name": "ray_tune", "max_concurrent_trials": 1, "cpus": 1}
    finalists = retrain(folder, seeds=2, epochs=2, device="cpu", runner=runner, progress=kill_after_two_epochs)
    assert killed and finalists == alone[1]
    for name in (*finalists[0].retrained.networks, *finalists[0].reference.networks):
        a, b = weights(alone[0], name), weights(folder, name)
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert told.count(told[0]) == 1  # an epoch that lies in the checkpoint is not trained again


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_on_one_network_train_it_as_one_does(alone, folder):
    """Roughly: a ReLU at 0 turns the last bit into a step. tests/training/test_data_parallel.py compares without."""
    runner = {"name": "ray_tune", "workers_per_network": 2, "cpus": 2}
    (finalist,) = retrain(folder, seeds=1, epochs=2, device="cpu", runner=runner)
    for part in (finalist.retrained, finalist.reference):
        (name,) = part.networks
        losses = [load(place / "finalists" / name).description.metrics["train/loss"] for place in (alone[0], folder)]
        assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert sorted(opened(folder)) == sorted([*finalist.retrained.networks, *finalist.reference.networks])
    assert not list(folder.rglob("checkpoint.pt"))


def test_runners_are_checked_before_anything_is_trained(folder, monkeypatch):
    monkeypatch.setattr(networks, "train", lambda *args, **kwargs: pytest.fail("trained"))
    for runner, expected in (
        ("simulated", ("unknown", "runner", "simulated")),
        ({"name": "local", "cpus": 2}, ("unknown", "runner", "local", "cpus")),
        ({"name": "ray_tune", "workers": 2}, ("unknown", "workers")),
        ({"name": "ray_tune", "workers_per_network": 3}, ("conflict", "train.batch_size", 64, 3)),
    ):
        with raises(ConfigError, *expected):
            retrain(folder, seeds=1, epochs=1, device="cpu", runner=runner)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the driver has a GPU here")
def test_the_driver_of_ray_workers_needs_no_gpu(folder, monkeypatch):
    """It measures on what it has; `cuda` is for the workers."""

    class Planned(Exception):
        pass

    def plan(work, *arguments):
        raise Planned(work.place, work.device)

    monkeypatch.setattr(Work, "finalists", plan)
    with pytest.raises(Planned) as planned:
        retrain(folder, seeds=1, epochs=1, device="cuda", runner="ray_tune")
    assert planned.value.args == (torch.device("cpu"), "cuda")
    with raises(ConfigError, "failed", "device"):
        retrain(folder, seeds=1, epochs=1, device="cuda")


def test_a_network_that_a_killed_worker_has_saved_is_not_trained_again(tmp_path):
    folder = tmp_path / "finalists" / "one"
    folder.mkdir(parents=True)
    (folder / DESCRIPTION).touch()
    saved = networks.Retraining("one", folder, *[None] * 9)  # nothing else is looked at
    assert networks.train_network(saved, pytest.fail) == ""
