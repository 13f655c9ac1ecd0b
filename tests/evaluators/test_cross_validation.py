import json
import pickle
import statistics
from pathlib import Path

import pytest
import torch
from expecting import raises

import nasforge
from nasforge.api.assembly import make_evaluator
from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError, DataError, NasforgeError
from nasforge.core.ladder import Rung
from nasforge.core.trial import ENSEMBLE, Measure, TrainShared
from nasforge.data import Split, load_data
from nasforge.evaluators.cross_validation import cross_validation, in_folds, repeated_seeds
from nasforge.experiment.state import load_state
from nasforge.exporters.network_folder import load
from nasforge.models.ensemble import ensemble_space
from nasforge.models.network import build
from nasforge.settings.experiment import DataConfig, load_space, resolve
from nasforge.settings.spec import SearchSpec
from nasforge.training.artifacts import load_weights
from nasforge.training.loop import train
from nasforge.training.scoring import score
from nasforge.views.tables import leaderboard

DATA = DataConfig("digits", images=240, validation=0.2)
SPACE = load_space("tiny")
POINT = SPACE.default_point()
LADDER = [Rung(1), Rung(2), Rung(3)]


class Told:
    """A report that keeps what it is told."""

    number, attempt, seed = 0, 1, 3

    def __init__(self, experiment: Path, stop_after=99):
        self.experiment = experiment
        self.checkpoint = experiment / "artifacts" / "0" / "checkpoint.pt"
        self.folder = experiment / "artifacts" / "0" / "attempt-1"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.costs = {"cost/flops": 1e6}
        self.stop_after = stop_after
        self.steps = []

    def __call__(self, step, metrics):
        self.steps.append((step, dict(metrics)))
        return step < self.stop_after


def folds(objectives=(), **settings):
    spec = SearchSpec(SPACE, DATA, LADDER, {"precision": "fp32"}, objectives)
    return cross_validation(spec, device="cpu", folds=3, epochs=1, **settings)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    report = Told(tmp_path_factory.mktemp("cv"))
    evaluator = folds(extra_metrics=["val/recall_macro"])
    return report, pickle.loads(pickle.dumps(evaluator))(Measure(POINT), report)


def test_the_counts_of_images_are_those_of_a_fold():
    counts = folds().about.image_counts
    assert (counts.train, counts.validated, counts.classes) == (160, 240, 10)
    repeated = repeated_seeds(SearchSpec(SPACE, DATA, LADDER, {}, ()), device="cpu", repeats=3, epochs=1)
    data = load_data(DATA)
    assert repeated.about.image_counts == data.counts(data.validation)


def test_images_of_a_fold_do_not_stay_on_the_device(tmp_path, monkeypatch):
    released = []
    monkeypatch.setattr(Split, "release", lambda split: released.append(len(split)))
    folds()(Measure(POINT), Told(tmp_path, stop_after=2))
    whole = len(load_data(DATA).train_and_validation())
    assert sum(released) == 2 * whole, "both splits of two folds"
    released.clear()
    spec = SearchSpec(SPACE, DATA, LADDER[:2], {"precision": "fp32"})
    repeated_seeds(spec, device="cpu", repeats=2, epochs=1)(Measure(POINT), Told(tmp_path / "seeds", stop_after=1))
    assert released == [], "other trials train on the same splits"


def test_a_step_is_a_fold_and_its_value_the_mean_so_far(measured):
    report, result = measured
    assert (result.status, result.steps_done) == ("finished", 3)
    assert [step for step, _ in report.steps] == [1, 2, 3]
    means = [metrics["val/accuracy"] for _, metrics in report.steps]
    single = [means[0], 2 * means[1] - means[0], 3 * means[2] - 2 * means[1]]
    assert result.metrics["val/accuracy"] == pytest.approx(statistics.fmean(single))
    assert result.metrics["val/accuracy_std"] == pytest.approx(statistics.stdev(single))
    assert "val/accuracy_std" not in report.steps[0][1]
    assert all(0 < metrics["val/recall_macro"] < 1 for _, metrics in report.steps)


def test_all_folds_are_charged(measured):
    report, result = measured
    spent = [metrics["time/worker_s"] for _, metrics in report.steps]
    assert 0 < spent[0] < spent[1] < spent[2] == result.charged.worker_seconds
    assert result.charged.multiply_adds == 3 * 3 * 128 * 1e6  # folds, forward + backward, two batches of 64 of 160


def test_folds_are_stratified_disjoint_the_same_for_all_and_leave_the_test_split_alone():
    data = load_data(DATA)
    splits, again = in_folds(data, 3, DATA), in_folds(data, 3, DATA)
    held = [set(validation.index.tolist()) for _, validation in splits]
    pool = set(data.train.index.tolist()) | set(data.validation.index.tolist())
    assert set.union(*held) == pool and sum(map(len, held)) == len(pool) == 240
    assert not pool & set(data.open_test().index.tolist())
    for (split, validation), (_, other) in zip(splits, again, strict=True):
        assert set(split.index.tolist()) == pool - set(validation.index.tolist())
        assert validation.index.tolist() == other.index.tolist()
        counts = validation.labels.bincount(minlength=10)
        assert counts.max() - counts.min() <= 3
        assert (split.mean, split.std) == (data.train.mean, data.train.std)


def test_the_models_are_kept_as_an_ensemble(measured):
    report, result = measured
    tensors = load_weights(report.experiment, result.artifacts[ENSEMBLE])
    whole = build(ensemble_space([(SPACE, POINT)] * 3), Architecture({}), in_channels=1, classes=10)
    whole.load_state_dict(tensors)
    _, validation = in_folds(load_data(DATA), 3, DATA)[0]
    member = whole.eval().members[0]
    assert score(member, validation)["accuracy"] == pytest.approx(report.steps[0][1]["val/accuracy"])
    assert not torch.equal(member.state_dict()["classifier.weight"], whole.members[1].state_dict()["classifier.weight"])


@pytest.mark.parametrize("moment", ["inside a fold", "between folds"])
def test_an_attempt_continues_the_one_before_with_the_same_bits(measured, tmp_path, monkeypatch, moment):
    class Killed(Exception):
        pass

    def dying(network, *args, **kwargs):
        if kwargs["checkpoint"].file.name.endswith(".2"):

            def killed(epoch, metrics):
                raise Killed

            if moment == "inside a fold":
                return train(network, *args, **{**kwargs, "on_epoch": killed})
            raise Killed
        return train(network, *args, **kwargs)

    monkeypatch.setattr("nasforge.evaluators.cross_validation.train", dying)
    with pytest.raises(Killed):
        folds()(Measure(POINT), Told(tmp_path))
    monkeypatch.undo()
    report = Told(tmp_path)
    result = folds()(Measure(POINT), report)
    assert [step for step, _ in report.steps] == [1, 2, 3]
    for key in ("val/accuracy", "val/loss", "train/loss"):
        assert result.metrics[key] == measured[1].metrics[key]
    assert result.artifacts[ENSEMBLE].sha256 == measured[1].artifacts[ENSEMBLE].sha256


def test_false_stops_it_after_a_fold(tmp_path):
    report = Told(tmp_path, stop_after=1)
    result = folds()(Measure(POINT), report)
    assert (result.status, result.steps_done, result.artifacts) == ("pruned", 1, {})


def test_a_failure_says_in_which_fold_and_charges_those_before(tmp_path):
    result = folds(time_limit_s=1e-6)(Measure(POINT), Told(tmp_path))
    assert result.error and result.error.cause == "timeout"
    assert "training 1 of 3" in result.error.message
    assert result.charged.worker_seconds > 0


def test_repeats_differ_in_their_seed_alone(tmp_path):
    evaluator = repeated_seeds(
        SearchSpec(SPACE, DATA, LADDER[:2], {"precision": "fp32"}), device="cpu", repeats=2, epochs=1
    )
    report = Told(tmp_path)
    result = evaluator(Measure(POINT), report)
    assert (result.status, result.steps_done) == ("finished", 2)
    first, both = (metrics["val/loss"] for _, metrics in report.steps)
    assert first != both
    assert evaluator.about.data_hash == load_data(DATA).fingerprint


def test_mistakes():
    with raises(ConfigError, "range", "evaluator.folds", 2):
        cross_validation(SearchSpec(SPACE, DATA, [Rung(1)]), folds=1)
    with raises(ConfigError, "conflict", "ladder", 5):
        cross_validation(SearchSpec(SPACE, DATA, [Rung(1), Rung(3)]))
    with raises(ConfigError, "missing", "data", "cross_validation"):
        cross_validation(SearchSpec(SPACE, None, LADDER), folds=3)
    scarce = cross_validation(SearchSpec(SPACE, DATA, [Rung(n) for n in range(1, 101)]), folds=100)
    with raises(DataError, "empty", None, 100):
        _ = scarce.about.data_hash


def test_a_supernet_is_another_evaluators_job(tmp_path):
    with raises(NasforgeError, "unsupported", "evaluator", "cross_validation"):
        folds()(TrainShared(SPACE, "uniform", 1), Told(tmp_path))


# --- in a search ------------------------------------------------------------------------------------------------------


def test_settings_make_the_ladder_of_folds():
    config = resolve(
        {"space": "tiny", "data": "digits", "evaluator": {"name": "cross_validation", "folds": 4}, "epochs": 6}
    )
    assert [rung.to_json() for rung in config.ladder] == [{"folds": count} for count in (1, 2, 3, 4)]
    assert (config.epochs, config.trainings, config.evaluator.options["epochs"]) == (6, 4, 6)
    assert config.single.evaluator.name == "training" and config.single.ladder == (Rung(6),)
    seeds = resolve({"space": "tiny", "data": "digits", "evaluator": "repeated_seeds"})
    assert (seeds.trainings, seeds.epochs, seeds.ladder[-1].unit) == (3, 3, "repeats")
    with raises(ConfigError, "conflict", "evaluator", "ladder", "epochs"):
        resolve({"space": "tiny", "data": "digits", "evaluator": "cross_validation", "ladder": [{"epochs": 2}]})
    with raises(ConfigError, "type", "evaluator", 2):
        resolve({"space": "tiny", "data": "digits", "evaluator": {"name": "cross_validation", "folds": "x"}})


@pytest.mark.parametrize("name", ["cross_validation", "repeated_seeds"])
def test_what_an_objective_needs_is_measured_in_every_training(name):
    objectives = ["val/roc_auc", "val/recall_of_3", "min:val/accuracy_std"]
    config = resolve({"space": "tiny", "data": "digits", "evaluator": name, "objectives": objectives})
    assert make_evaluator(config).training.extra == ("roc_auc", "recall_of_3")


def test_a_search_by_folds_prunes_between_them_and_leaves_an_ensemble(tmp_path):
    state = nasforge.search(
        space=SPACE,
        data={"source": "digits", "images": 200},
        strategy="random",
        evaluator={"name": "cross_validation", "folds": 2},
        pruner="asha",
        objectives=["min:val/loss"],
        runner="local",
        epochs=1,
        budget={"trials": 6},
        recipe={"precision": "fp32"},
        tracking_uri="none",
        name="cv",
        runs_dir=str(tmp_path),
    )
    assert state.counts()["pruned"] >= 1
    assert state.best.result.steps_done == 2
    assert state.header.config["ladder"] == [{"folds": 1}, {"folds": 2}] and leaderboard(state)[0]["folds"] == 2
    best = load(tmp_path / "cv" / "best")
    assert best.description.space.name == "ensemble-of-2"
    assert best.description.trained["epochs"] == 1 and best.saw_validation
    assert best(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    assert not list((tmp_path / "cv").rglob("checkpoint.pt*"))
    assert not load_state(tmp_path / "cv").tests
    json.dumps(state.best.result.to_json())
