"""Forecasts."""

from __future__ import annotations

import json

import pytest
from cli_toys import config_at
from expecting import raises

import nasforge.api.forecast
from nasforge.api.forecast import count_workers, forecast
from nasforge.cli import app as cli
from nasforge.core.errors import BuildError, ConfigError, SearchError
from nasforge.settings.experiment import load_space, resolve


def test_a_forecast_scales_the_probe_and_writes_nothing(tmp_path, clock):
    evaluator = {"name": "cli_toys:planted", "options": {"seconds": 0.05}}
    config = config_at(tmp_path, evaluator=evaluator, epochs=40, budget={"trials": 10})
    estimate = forecast(config, samples=20)
    assert clock.passed == pytest.approx(2 * 0.05)  # two epochs, not forty
    assert estimate.seconds_per_trial == pytest.approx(40 * 0.05)
    assert estimate.seconds == pytest.approx(10 * estimate.seconds_per_trial) and estimate.workers == 1
    assert estimate.sampled == estimate.feasible == 20 and estimate.unbuildable == 0
    assert not (tmp_path / "runs").exists()


def test_a_space_without_a_network_that_can_be_built_says_the_reason(tmp_path, monkeypatch):
    def check(proposal):
        raise BuildError("kernel 9 on 8 pixels")

    monkeypatch.setattr(nasforge.api.forecast, "make_check", lambda config, evaluator: check)
    with raises(SearchError, "failed", None, 12, "kernel 9 on 8 pixels"):
        forecast(config_at(tmp_path), samples=12)


def test_a_forecast_counts_the_training_of_supernets(tmp_path):
    data = {"source": "digits", "images": 200}
    tiny = load_space("tiny")
    point = tiny.default_point().values
    space = tiny.fixed({key: value for key, value in point.items() if key != "model.stage0.width"})
    place = {"runner": "local", "tracking_uri": "none", "runs_dir": tmp_path / "runs", "epochs": 1}
    strategy = {"name": "gdas", "epochs": 500, "runs": 2, "warmup_epochs": 100}
    config = resolve({"space": space, "data": data, "strategy": strategy, "budget": {"trials": 3}, **place})
    estimate = forecast(config, samples=2)
    assert estimate.supernets == 2 and estimate.supernet_seconds > 100 * estimate.seconds_per_trial
    assert estimate.seconds == pytest.approx(2 * estimate.supernet_seconds + estimate.seconds_per_trial)
    ahead = resolve({"space": space, "data": data, "strategy": {"name": "darts", "second_order": True}, **place})
    with raises(ConfigError, "unsupported", "second_order", "stage0.width"):
        forecast(ahead)
    assert not (tmp_path / "runs").exists()


def test_a_forecast_stops_at_the_budget_of_worker_seconds(tmp_path):
    evaluator = {"name": "cli_toys:planted", "options": {"seconds": 0.02}}
    config = config_at(tmp_path, evaluator=evaluator, epochs=50, budget={"trials": 1000, "worker_seconds": 7.0})
    assert forecast(config, samples=10).seconds == 7.0


@pytest.mark.slow
def test_the_feasible_share_of_real_networks(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["search", "tiny", "--data", "digits", "--images", "200", "--dry-run", "--json", "--runner", "local"]
    assert cli.main([*words, "--constraint", "params<=12k"]) == 0
    printed = json.loads(capfd.readouterr().out)
    low, high = printed["feasible_share_interval"]
    assert 0 < low < printed["feasible_share"] < high < 1
    assert printed["probe_costs"]["cost/params"] <= 12_000 and printed["seconds_per_trial"] > 0
    assert cli.main([*words, "--constraint", "params<=100"]) == 2
    message = json.loads(capfd.readouterr().out)["error"]
    assert "none of" in message and "params" in message and "Relax" in message
    assert not (tmp_path / "runs").exists()


def test_workers_are_counted_from_cpus_gpus_and_the_limit(tmp_path):
    def count(**options):
        return count_workers(config_at(tmp_path, runner={"name": "ray_tune", **options}))

    assert count(cpus=4, logical_gpus=0) == 4
    assert count(cpus=4, logical_gpus=0, max_concurrent_trials=3) == 3
    assert count(cpus=4, logical_gpus=2) == 2
    assert count(cpus=8, logical_gpus=1, resources={"measure": {"cpu": 1, "gpu": 0.25}}) == 4
    assert count(cpus=8, logical_gpus=2, resources={"measure": {"cpu": 1, "gpu": 0.6}}) == 2
    assert count(cpus=4, logical_gpus=0, resources={"measure": {"cpu": 2}}) == 2
    assert count(cpus=4, logical_gpus=1, resources={"train_shared": {"cpu": 2}}) == 2
    assert count_workers(config_at(tmp_path)) == 1
