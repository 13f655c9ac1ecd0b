"""A journal as a study of Optuna: what is in it, importance, figures, and that writing it again replaces it."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import optuna
import pytest
from expecting import raises
from optuna.trial import TrialState

from nasforge.api.report import report
from nasforge.cli import app as cli
from nasforge.core.errors import SearchError, TrackingError
from nasforge.core.trial import Result
from nasforge.experiment.state import load_state
from nasforge.testing.toys import Planted, toy_config, toy_experiment
from nasforge.views import optuna_study
from nasforge.views.importance import importance_drawing
from nasforge.views.optuna_study import importances, study_of, write_figures, write_study


def searched(folder, *, trials=16, scripted=(), **settings):
    """A finished toy search; `scripted`: number -> how its trial ends."""
    config = toy_config(folder / "runs", budget={"trials": trials}, **settings)
    planted, scripted = Planted(), dict(scripted)
    check = {"check": lambda proposal: {"cost/flops": float(proposal.architecture.values["model.depth"])}}
    with toy_experiment(config, **check) as experiment:
        while (job := experiment.next()) is not None:
            values = job.proposal.architecture.values
            ending = scripted.get(job.number)
            if ending == "pruned":
                experiment.report(job.number, job.attempt, 1, planted.metrics_of(values, job.seed, 1))
                experiment.tell(job.number, job.attempt, Result.failed("diverged", "NaN"))
            elif ending is not None:
                experiment.tell(job.number, job.attempt, ending)
            else:
                for step in (1, 3):
                    experiment.report(job.number, job.attempt, step, planted.metrics_of(values, job.seed, step))
                metrics = planted.metrics_of(values, job.seed, 3)
                metrics.pop("cost/flops")
                experiment.tell(job.number, job.attempt, Result("finished", metrics, steps_done=3))
    return load_state(config.folder)


def test_many_trials_are_sampled_for_the_importance(tmp_path, monkeypatch):
    state = searched(tmp_path, trials=40)
    counts = []
    real = optuna.importance.get_param_importances

    def counted(study, **options):
        counts.append(len(study.trials))
        return real(study, **options)

    monkeypatch.setattr(optuna.importance, "get_param_importances", counted)
    all_ranked = importances(state)
    whole = all_ranked.shares["val/accuracy"]
    assert all_ranked.basis == "from all 40 finished trials"
    monkeypatch.setattr("nasforge.views.optuna_study.MOST_EXPLAINED", 30)
    ranked = importances(state)
    sampled = ranked.shares["val/accuracy"]
    assert counts == [40, 30] and whole.keys() == sampled.keys() and sampled != whole
    assert importances(state).shares["val/accuracy"] == sampled
    assert max(sampled, key=sampled.get) == max(whole, key=whole.get)


def test_the_report_the_dashboard_and_the_figures_say_of_which_sample_the_importance_is(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nasforge.views.optuna_study.MOST_EXPLAINED", 30)
    state = searched(tmp_path, trials=40)
    shares = importances(state).shares["val/accuracy"]
    sentence = "from a random sample of 30 of 40 finished trials"
    drawing = importance_drawing(state)
    assert f"explains (fANOVA), computed {sentence}." in drawing
    assert all(f">{key}</text>" in drawing for key in shares)
    assert drawing in report("toy").read_text()
    assert cli.main(["show", "toy", "--importance", "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed["importance_of"] == {"trials": 30, "finished": 40}
    assert printed["importance"] == {"val/accuracy": pytest.approx(shares)}
    assert sentence in (tmp_path / "runs/toy/figures/importance.html").read_text()
    assert cli.main(["show", "toy", "--importance"]) == 0
    assert f"It is computed {sentence}." in capfd.readouterr().out


def test_the_figure_of_optuna_shows_the_shares_that_are_printed(tmp_path, monkeypatch):
    state = searched(tmp_path, trials=12)
    ranked = importances(state)
    drawn = []
    real = optuna.visualization.plot_param_importances
    monkeypatch.setattr(
        optuna.visualization, "plot_param_importances", lambda *a, **k: drawn.append(real(*a, **k)) or drawn[-1]
    )
    monkeypatch.setattr(optuna.importance.FanovaImportanceEvaluator, "evaluate", None)  # it would take seconds again
    write_figures(state, ranked, tmp_path / "figures")
    (bars,) = drawn[0].data
    assert dict(zip(bars.y, bars.x, strict=True)) == pytest.approx(ranked.shares["val/accuracy"])
    assert drawn[0].layout.title.text == "Importance of decisions (fANOVA), from all 12 finished trials"


def test_the_study_says_what_the_journal_says(tmp_path):
    state = searched(tmp_path, scripted={2: Result.failed("diverged", "the loss became NaN")}, constraints=["flops<=6"])
    study = study_of(state)
    assert len(study.trials) == len(state.trials)
    assert study.metric_names == ["val/accuracy"] and study.direction.name == "MAXIMIZE"
    for ours, theirs in zip(state.trials.values(), study.trials, strict=True):
        open_ = dict(ours.architecture.values)
        assert theirs.params == open_ and theirs.user_attrs["nasforge.status"] == ours.status
        assert theirs.user_attrs["arch_id"] == ours.architecture.arch_id
        assert theirs.constraints["cost/flops"] == pytest.approx(max(0.0, ours.costs["cost/flops"] / 6 - 1))
        if ours.status == "finished":
            assert theirs.state == TrialState.COMPLETE and theirs.value == ours.metrics["val/accuracy"]
            assert set(theirs.intermediate_values) == {1, 3}
        else:
            assert theirs.state == TrialState.FAIL
    assert study.trials[2].user_attrs["cause"] == "diverged"
    assert {t.user_attrs["nasforge.status"] for t in study.trials} == {"finished", "failed", "rejected"}
    assert study.best_trial.user_attrs["nasforge.number"] == state.best.number
    assert study.trials[0].distributions["train.learning_rate"].log


def test_a_storage_is_written_again(tmp_path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    assert write_study(searched(tmp_path, trials=3), url) == 3
    assert write_study(searched(tmp_path, trials=5), url) == 5
    assert len(optuna.load_study(study_name="toy", storage=url).trials) == 5
    optuna.delete_study(study_name="toy", storage=url)
    optuna.create_study(study_name="toy", storage=url)
    with raises(TrackingError, "conflict", None, "'toy'"):
        write_study(load_state(tmp_path / "runs" / "toy"), url)
    with raises(TrackingError, "failed", None, "nonsense://x", "sqlite:///"):
        write_study(load_state(tmp_path / "runs" / "toy"), "nonsense://x")


def test_what_matters_is_found(tmp_path):
    shares = importances(searched(tmp_path, trials=40)).shares["val/accuracy"]
    assert set(list(shares)[:2]) == {"model.depth", "model.width"}  # the conditional kernel has none
    assert set(shares) == {"model.block", "model.depth", "model.width", "train.learning_rate"}
    assert math.isclose(sum(shares.values()), 1.0) and shares["train.learning_rate"] < 0.15
    two = importances(searched(tmp_path, name="two", objectives=["val/accuracy", "cost/flops"])).shares
    assert next(iter(two["cost/flops"])) == "model.depth"
    assert "train.learning_rate" in two["val/accuracy"] and "train.learning_rate" not in two["cost/flops"]


def test_too_little_to_say_anything(tmp_path):
    with raises(SearchError, "empty", None, 4, "'toy' has 2"):
        importances(searched(tmp_path, trials=2))


def test_an_objective_that_never_differs_is_explained_by_nothing(tmp_path):
    alike = {n: Result("finished", {"val/accuracy": 0.1}, steps_done=3) for n in range(6)}
    state = searched(tmp_path, trials=6, scripted=alike)
    with raises(SearchError, "empty", None, "all 6", "val/accuracy"):
        importances(state)
    two = searched(tmp_path, trials=6, scripted=alike, name="two", objectives=["val/accuracy", "cost/flops"])
    ranked = importances(two)
    shares = ranked.shares
    assert set(shares["val/accuracy"].values()) == {0.0} and sum(shares["cost/flops"].values()) == pytest.approx(1)
    drawing = importance_drawing(two)
    assert "All 6 of these trials have the same validation accuracy." in drawing and drawing.count("<figure") == 1
    alone = dataclasses.replace(ranked, shares={"val/accuracy": shares["val/accuracy"]})
    assert write_figures(two, alone, tmp_path / "figures") == []


def test_figures_are_pages_of_their_own(tmp_path, monkeypatch):
    state = searched(tmp_path, trials=8)
    ranked = importances(state)
    files = write_figures(state, ranked, tmp_path / "figures")
    assert [path.name for path in files] == [
        "importance.html",
        "slice.html",
        "parallel_coordinate.html",
        "contour.html",
    ]
    text = files[1].read_text()
    assert "model.depth" in text and "<script src=" not in text  # shown without a network
    monkeypatch.setattr(optuna_study.optuna.visualization, "is_available", lambda: False)
    with raises(SearchError, "missing", None, "plotly", "pip install 'nasforge[dashboard]'"):
        write_figures(state, ranked, tmp_path / "figures")


@pytest.mark.parametrize("objective", ["max:val/accuracy", "min:val/accuracy"])
def test_the_best_trials_stand_out_and_an_outlier_does_not_take_up_the_scale(tmp_path, objective):
    far = -1000.0 if objective.startswith("max") else 1000.0
    scores = [0.1, 0.9, 0.5, 0.3, far, 0.7, 0.6, 0.4]
    ends = {n: Result("finished", {"val/accuracy": score}, steps_done=3) for n, score in enumerate(scores)}
    state = searched(tmp_path, trials=8, scripted=ends, objectives=[objective])
    alone, label = optuna_study._of_one_objective(study_of(state), 0, "val/accuracy")
    assert "worse ones at" in label and max(abs(trial.value) for trial in alone.trials) < 5
    figure = optuna_study.optuna.visualization.plot_parallel_coordinate(alone, params=["model.depth"])
    lines = [trace for trace in figure.data if trace.mode == "lines"]

    def darkness(trace):
        return -sum(map(float, re.findall(r"[\d.]+", trace.line.color)))

    assert darkness(lines[-1]) == max(map(darkness, lines)) > darkness(lines[0])  # the best: darkest, on top
    assert alone.trials[-1].value == (0.9 if objective.startswith("max") else 0.1)


def test_commands(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    searched(tmp_path, trials=8)
    assert cli.main(["show", "toy", "--importance", "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert set(printed["importance"]) == {"val/accuracy"} and len(printed["figures"]) == 4
    assert cli.main(["show", "toy", "--importance"]) == 0
    out = capfd.readouterr().out
    assert "Importance (fANOVA)" in out and "model.depth" in out
    assert cli.main(["track", "toy", "--optuna", "sqlite:///views/optuna.db"]) == 0
    assert "8 trials of 'toy' written" in capfd.readouterr().out and (tmp_path / "views" / "optuna.db").is_file()
    assert cli.main(["track", "toy", "--optuna", "x", "--tracking-uri", "y"]) == 2
