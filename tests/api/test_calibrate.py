"""`nasforge calibrate`: through the one loop, continued, and its figures against scipy and planted answers."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from expecting import raises

import nasforge
from nasforge import registry
from nasforge.cli import app as cli
from nasforge.cli import calibrate as cli_calibrate
from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.goals import Budget
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.core.trial import Charge, Measure, Result, Score
from nasforge.experiment.state import load_state
from nasforge.strategies.repeated import Repeated
from nasforge.testing.scripted import FLAT, closeness, drive, spec_of
from nasforge.testing.toys import nested_space, toy_config, toy_experiment
from nasforge.views.calibration import (
    KEPT_SHARE,
    Correlation,
    RungFacts,
    _first_kept,
    calibration,
    kendall,
    spearman,
)
from nasforge.views.plain import plain


def test_every_network_comes_once_per_seed_and_the_scores_last():
    strategy = Repeated(spec_of(FLAT, seed=0), networks=4, seeds=3, scored=True)
    asked = []
    for number in range(14):
        proposal = strategy.ask(number)
        if proposal is None:
            break
        asked.append(proposal)
        rejected = number == 1
        strategy.tell(number, Result("rejected") if rejected else Result("finished", values=(0.5,), steps_done=1))
    points = [proposal.architecture.point_id for proposal in asked[:13]]
    assert len(asked) == 14 and strategy.ask(14) is None
    first = [point for number, point in enumerate(points[:5]) if number != 1]  # a rejected one is replaced
    assert len(set(points[:5])) == 5 and points[5:13] == first * 2
    assert [point.point_id for point in asked[13].architectures] == first and asked[13].rung == 0


@pytest.mark.parametrize("cut", [0, 1, 7, 20])
def test_it_goes_on_after_a_replay(cut):
    whole = drive(Repeated(spec_of(FLAT, seed=1), networks=5, seeds=3), FLAT, asks=40, workers=1)
    again = Repeated(spec_of(FLAT, seed=1), networks=5, seeds=3)
    for number, content in whole[:cut]:
        (again.tell if isinstance(content, Result) else again.recall)(number, content)
    assert drive(again, FLAT, asks=40, workers=1, journal=whole[:cut]) == whole


def test_a_space_with_too_few_networks_is_said_to_have_too_few():
    space = SearchSpace("few", (Decision("model.x", Choice(("a", "b", "c", "d"))),))
    with raises(ConfigError, "range", "networks", 5, "few", 4):
        Repeated(spec_of(space, seed=0), networks=5)
    strategy = Repeated(spec_of(space, seed=0), networks=4)
    for number in range(4):
        strategy.ask(number)
        strategy.tell(number, Result("rejected" if number == 2 else "finished"))
    with raises(SearchError, "empty", None, "3 of the 4"):
        strategy.ask(4)


def test_correlations_are_those_of_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.integers(5, size=(20, 9)).astype(float), rng.normal(size=(20, 9))
    for row in range(20):
        assert spearman(x, y)[row] == pytest.approx(scipy.stats.spearmanr(x[row], y[row]).statistic)
        assert kendall(x, y)[row] == pytest.approx(scipy.stats.kendalltau(x[row], y[row]).statistic)
    assert math.isnan(spearman(np.ones(4), np.arange(4.0)))


class Curves:
    """Epoch 1 is noise, epoch 3 knows much, epoch 9 the truth but for a little noise."""

    def __init__(self, noise=0.01):
        self.noise = noise

    def __call__(self, proposal, report):
        rng = np.random.default_rng(report.seed)
        if isinstance(proposal, Score):
            points = proposal.architectures
            rows = [{"zc/good": closeness(nested_space(), point), "zc/bad": rng.normal()} for point in points]
            return Result("finished", scores=tuple(rows))
        truth = closeness(nested_space(), proposal.architecture)
        for step in range(1, 10):
            noise = 10.0 if step < 3 else self.noise
            metrics = {"val/accuracy": truth + noise * rng.normal(), "time/worker_s": 2.0 * step}
            report(step, {**metrics, "work/multiply_adds": 100.0 * step})
        return Result("finished", metrics, steps_done=9, charged=Charge(18.0, 900.0))


def state_of(tmp_path, evaluator, networks=8, seeds=2, proxies=False, trials=99):
    options = {"networks": networks, "seeds": seeds, "scored": proxies}
    config = toy_config(
        tmp_path,
        strategy={"name": "nasforge.strategies.repeated:Repeated", **options},
        ladder=[*([{"proxies": ["synflow"]}] if proxies else []), {"epochs": 1}, {"epochs": 3}, {"epochs": 9}],
        budget={"trials": trials},
    )
    with toy_experiment(config) as experiment:
        registry.make("runner", "local", {}, experiment, evaluator)
        return experiment.state


def test_planted_rungs_are_seen_for_what_they_are(tmp_path):
    calibrated = calibration(state_of(tmp_path, Curves(), proxies=True), trials=40)
    low, middle, top = calibrated.rungs
    assert (calibrated.networks, calibrated.seeds, calibrated.left_out) == (8, 2, 0)
    assert low.spearman.value < 0.6 < 0.9 < middle.spearman.value and top.spearman.value > 0.9
    assert low.noise > 5 and middle.noise < 0.03
    assert low.spearman.low < low.spearman.value < low.spearman.high
    assert (low.cost, middle.seconds) == (pytest.approx(1 / 9), pytest.approx(6.0))
    assert top.same_run == 1.0
    assert calibrated.ladder == ({"epochs": 3}, {"epochs": 9})
    assert middle.spearman.value >= KEPT_SHARE * top.spearman.value > low.spearman.value
    assert calibrated.seconds_without == 40 * 18 and 40 * 6 < calibrated.seconds_with < 40 * 18
    assert calibrated.share == pytest.approx(calibrated.seconds_with / calibrated.seconds_without)
    assert 0 <= calibrated.lost < 0.1
    assert calibrated.proxies["zc/good"].value > 0.9 and set(calibrated.proxies) == {"zc/good", "zc/bad"}


def test_noise_without_end_is_said(tmp_path):
    calibrated = calibration(state_of(tmp_path, Curves(noise=50.0), networks=12))
    assert any("hardly orders these networks" in text for text in calibrated.advice)


@pytest.mark.parametrize(("correlations", "first"), [((0.5, 0.7, 0.8), 1), ((-0.1, -0.2), 1), ((0.1, 0.0), 1)])
def test_no_rung_is_kept_of_an_order_that_is_none(correlations, first):
    facts = [Correlation(value, -1.0, 1.0) for value in correlations]
    assert _first_kept([RungFacts("", 1, 1.0, 1.0, 0.0, 0.0, fact, fact, 0.0) for fact in facts]) == first


class Alike(Curves):
    """A network that learns nothing scores like any other."""

    def __call__(self, proposal, report):
        for step in range(1, 10):
            report(step, {"val/accuracy": 0.1, "time/worker_s": 2.0 * step})
        return Result("finished", {"val/accuracy": 0.1}, steps_done=9, charged=Charge(18.0, 0.0))


@pytest.mark.parametrize("seeds", [1, 2])
def test_networks_that_score_alike_have_no_correlation(tmp_path, capfd, seeds):
    state = state_of(tmp_path, Alike(), seeds=seeds)
    calibrated = calibration(state)
    assert math.isnan(calibrated.rungs[0].spearman.value) and "all networks score alike" in calibrated.advice[0]
    assert calibrated.ladder == ({"epochs": 9},)
    cli_calibrate._reported(calibrated, tmp_path)
    assert "nan" not in capfd.readouterr().out.lower()


def test_one_seed_is_said_to_be_too_few_and_unfinished_networks_are_left_out(tmp_path):
    calibrated = calibration(state_of(tmp_path / "one", Curves(), seeds=1))
    assert math.isnan(calibrated.rungs[0].noise) and any("--seeds 2" in text for text in calibrated.advice)
    state = state_of(tmp_path / "cut", Curves(), trials=12)  # eight networks, four of them twice
    assert (calibration(state).networks, calibration(state).left_out) == (4, 4)
    few = state_of(tmp_path / "few", Curves(), trials=10)
    with raises(SearchError, "empty", None, "only 2", "under another --name"):
        calibration(few)  # its budget is spent: the same command would do nothing
    few.budget = Budget(trials=16)
    with raises(SearchError, "empty", None, "run the same command"):
        calibration(few)


def test_networks_are_calibrated_continued_and_shown(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PATH", "")  # without a Chromium there is no picture, and that is said
    words = ["calibrate", "tiny", "--data", "digits", "--images", "150", "--networks", "3", "--epochs", "3"]
    words += ["--runner", "local", "--tracking-uri", "none", "--runs-dir", str(tmp_path), "--trials", "10", "--json"]
    words += ["--set", "data.validation=0.3"]
    assert cli.main(words) == 0
    shown = capfd.readouterr()
    content = json.loads(shown.out)
    assert "no" in shown.err and "Chromium" in shown.err
    folder = tmp_path / "calibrate-tiny-digits-s0"
    assert content["experiment"] == folder.name and len(content["rungs"]) == 2
    assert json.loads((folder / "calibration.json").read_text())["rungs"] == content["rungs"]
    assert "Spearman" in (folder / "calibration.html").read_text()
    state = load_state(folder)
    assert len(state.trials) == 6 and state.header.config["pruner"]["name"] == "none"
    assert len({trial.architecture.point_id for trial in state.trials.values()}) == 3
    assert all(isinstance(trial.proposal, Measure) for trial in state.trials.values())
    again = nasforge.calibrate(
        space="tiny",
        data={"source": "digits", "images": 150, "validation": 0.3},
        **{"networks": 3, "epochs": 3, "runner": "local", "tracking_uri": "none", "runs_dir": str(tmp_path)},
        trials=10,
        say=lambda text: None,
    )
    assert plain(again.to_json())["rungs"] == content["rungs"]
    assert len(load_state(folder).trials) == 6  # nothing was trained again


@pytest.mark.parametrize(
    ("settings", "kind", "key"),
    [
        ({"networks": 2}, "range", "networks"),
        ({"networks": "12"}, "type", "networks"),
        ({"seeds": 0}, "range", "seeds"),
        ({"seeds": 2.5}, "range", "seeds"),
        ({"budget": {"trials": 3}}, "conflict", "budget"),
        ({"start_from": "portfolio"}, "conflict", "start_from"),
        ({"epochs": 1}, "missing", "epochs"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, kind, key):
    with raises(ConfigError, kind, key):
        nasforge.calibrate(space="tiny", data="digits", runs_dir=str(tmp_path), **settings)
