"""The configuration of a fit's search: class weights are a decision where classes are of unequal size."""

import time
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nasforge.api import search as searching
from nasforge.api.fit.log import FitLog, Request
from nasforge.api.fit.search import candidates_of, config_of, search
from nasforge.api.fit.work import Work
from nasforge.api.starts import CLASS_WEIGHTS, with_starts
from nasforge.core.errors import StopNow
from nasforge.core.events import SCHEMA, Header
from nasforge.core.layout import JOURNAL, SEARCH
from nasforge.core.recipe import recipe_of
from nasforge.core.trial import Artifact, Measure, Result, Trial
from nasforge.experiment.journal import Journal
from nasforge.settings.experiment import resolve
from nasforge.training.artifacts import sha256_of
from nasforge.training.meter import Limits, Meter
from nasforge.views.mlflow.tracker import MlflowTracker


@pytest.fixture
def work_on(tmp_path):
    logs = []

    def make(counts, objective=None, **more):
        rng = np.random.default_rng(0)
        labels = np.repeat(np.arange(len(counts)), counts)
        np.savez(tmp_path / "few.npz", x_train=rng.integers(0, 256, (len(labels), 8, 8), np.uint8), y_train=labels)
        nothing = dict.fromkeys(("labels", "image_column", "label_column", "group_column"))
        request = Request(
            source=str(tmp_path / "few.npz"),
            **nothing,
            constraints=(),
            objective=objective,
            preset="balanced",
            seed=0,
            device="cpu",
            strict=False,
            **more,
        )
        logs.append(FitLog(tmp_path / "fit", {}, time.monotonic()))
        messages = []
        work = Work(logs[-1], request, 60.0, "none", messages.append)
        work.prepare()
        return work, messages

    yield make
    for log in logs:
        log.close()


def settings_of(config):
    starts = with_starts(config).start_from.points
    return [recipe_of(config.space, config.space.point(point), config.recipe).class_weights for point in starts]


def test_unequal_classes_make_weights_a_decision_and_candidates_with_and_without_are_tried(work_on):
    work, messages = work_on((320, 70, 60))
    config = config_of(work, epochs=1, folds=1)
    assert work.metric == "balanced_accuracy" and config.space.domains[CLASS_WEIGHTS].values == ("none", "balanced")
    weights = settings_of(config)
    assert weights[:3] == ["balanced", "balanced", "none"] and set(weights[3:]) == {"balanced"}
    assert sum(line.startswith("class weights: balanced, ") for line in messages) == 1
    assert "5.3 times" in work.log.last("decision", name="class_weights")["reason"]


def test_without_a_metric_that_weighs_classes_the_first_candidates_are_as_they_were(work_on):
    weights = settings_of(config_of(work_on((80, 20, 20))[0], epochs=1, folds=1))  # so few are ranked by log loss
    assert weights[:3] == ["none", "none", "balanced"]


@pytest.mark.parametrize(("objective", "weights"), [(None, "none"), ("val/f1_macro", "balanced")])
def test_the_header_of_classes_of_similar_size_is_as_it_was(work_on, objective, weights):
    work, _ = work_on((160, 150, 140), objective)
    config = config_of(work, epochs=1, folds=1)
    assert CLASS_WEIGHTS not in config.space.domains and work.log.last("decision", name="class_weights") is None
    assert set(settings_of(config)) == {weights}


@pytest.mark.parametrize("stop", [StopNow("stopped at once"), KeyboardInterrupt()])
def test_ctrl_c_at_the_moment_in_which_the_time_is_over_stops_the_fit(work_on, monkeypatch, stop):
    def stopped(config, trackers, **more):
        trackers[0].ended = True
        raise stop

    monkeypatch.setattr("nasforge.api.fit.work.fastest_threads", lambda *arguments: (1, 0.02))
    monkeypatch.setattr("nasforge.api.search.search", stopped)
    work, _ = work_on((80, 80))
    with pytest.raises(type(stop)):
        search(work)
    assert work.log.last("searched") is None


def test_a_larger_time_gives_trainings_a_later_deadline(work_on, monkeypatch):
    def stopped(config, **more):
        ends.append(Meter(Limits()).until)
        raise KeyboardInterrupt

    monkeypatch.setattr("nasforge.api.fit.work.fastest_threads", lambda *arguments: (1, 0.02))
    monkeypatch.setattr("nasforge.api.search.search", stopped)
    work, _ = work_on((80, 80))
    ends = []
    for seconds in (60.0, 120.0):
        work.seconds = seconds
        with pytest.raises(KeyboardInterrupt):
            search(work)
        work.log.write("last_training", network="a", until=work.until, deadline=seconds)
        with work.ends_by("a", work.until):
            assert Meter(Limits()).until == ends[-1] == work.until
    assert ends[0] < ends[1]


@pytest.mark.parametrize("patient", [True, False])
def test_ctrl_c_while_mlflow_gets_the_rest_stops_a_fit(tmp_path, monkeypatch, patient):
    def interrupted(tracker):
        tracker._thread.join()
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowTracker, "_wait", interrupted)
    settings = {"space": "tiny", "data": {"source": "digits", "images": 200}, "strategy": "random", "runner": "local"}
    more = {"epochs": 1, "budget": {"trials": 1}, "runs_dir": str(tmp_path), "name": "one"}
    config = resolve({**settings, **more})
    if patient:
        assert searching.search(config, say=lambda text: None).counts()["finished"] == 1
    else:
        with pytest.raises(KeyboardInterrupt):
            searching.search(config, say=lambda text: None, patient=False)


@pytest.mark.parametrize(("options", "expected"), [(None, [3]), ({"validate_at": [3]}, [3]), ({}, None)])
def test_trainings_on_one_split_validate_where_asha_looks_unless_an_older_version_began_the_search(
    work_on, options, expected
):
    work, _ = work_on((160, 150, 140))
    if options is not None:
        content = config_of(work, epochs=9, folds=1).to_json() | {"evaluator": {"name": "training", "options": options}}
        (work.folder / SEARCH).mkdir()
        with closing(Journal(work.folder / SEARCH)) as journal:
            journal.append(Header(SCHEMA, "fit", content, "0" * 16, 0, {}, ""))
    config = config_of(work, epochs=9, folds=1)
    assert config.evaluator.options.get("validate_at") == expected and config.pruner.options["at"] == [3]


def test_a_search_that_an_older_version_began_keeps_its_rule(work_on):
    work, _ = work_on((320, 70, 60))
    (work.folder / SEARCH).mkdir()
    (work.folder / SEARCH / JOURNAL).write_text('{"event": "header"}\n')
    config = config_of(work, epochs=1, folds=1)
    assert CLASS_WEIGHTS not in config.space.domains and config.recipe["class_weights"] == "balanced"


def test_trainings_of_one_epoch_are_not_pruned(work_on):
    work, _ = work_on((80, 70))
    config = config_of(work, epochs=1, folds=1)
    assert config.pruner.name == "none" and [rung.epochs for rung in config.ladder] == [1]
    assert config_of(work, epochs=2, folds=1).pruner.options["at"] == [1]


def test_a_plan_decides_class_weights_of_classes_of_similar_size_too(work_on):
    work, messages = work_on((80, 70), plan={"class_weights": "balanced"})
    assert config_of(work, epochs=1, folds=1).space.domains[CLASS_WEIGHTS].values == ("none", "balanced")
    assert sum(line.startswith("class weights: balanced") for line in messages) == 1


@pytest.mark.parametrize(
    ("late", "steps", "candidates"),
    [
        ((), (3, 3, 3), [0, 1, 2]),
        ((0,), (3, 3, 3), [1, 2]),  # on folds a late trial has as many steps
        ((), (2, 9, 9), [1, 2]),
        ((0,), (9, 3, 3), [1, 2]),
        ((0,), (2,), [0]),  # a late candidate is better than none
    ],
)
def test_a_late_candidate_is_compared_with_no_complete_one(work_on, late, steps, candidates):
    work, _ = work_on((160, 150, 140))
    (work.folder / SEARCH).mkdir()
    few = work.whole.validation
    work.places, work.truth = np.sort(few.index), few.labels.numpy()
    answers = {
        "images": torch.from_numpy(few.index.astype(np.int64)),
        "probabilities": torch.full((len(few), 3), 1 / 3),
    }
    save_file(answers, work.folder / SEARCH / "answers.safetensors")
    work.space = config_of(work, epochs=1, folds=1).space
    artifact = Artifact("answers.safetensors", sha256_of(work.folder / SEARCH / "answers.safetensors"), 0)
    trials = {}
    for number, done in enumerate(steps):
        result = Result("finished", {}, (0.5,), done, artifacts={"answers": artifact})
        trials[number] = Trial(number, Measure(work.space.default_point()), result=result)
    for number in late:
        work.log.write("late", trial=number)
    assert [answered.row.trial for answered in candidates_of(work, SimpleNamespace(trials=trials))] == candidates
