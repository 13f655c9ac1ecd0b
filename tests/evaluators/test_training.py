import dataclasses
import itertools
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from expecting import raises

from nasforge.api.assembly import make_evaluator
from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError, NasforgeError, RecipeError
from nasforge.core.goals import Objective
from nasforge.core.ladder import Rung
from nasforge.core.protocols import Evaluator
from nasforge.core.space import Choice, Decision, Int, SearchSpace
from nasforge.core.trial import Measure, TrainShared
from nasforge.data import load_data, split
from nasforge.evaluators import training
from nasforge.evaluators.training import Training
from nasforge.models.network import build
from nasforge.settings.experiment import DataConfig, load_space, resolve
from nasforge.settings.space_file import load_recipe
from nasforge.settings.spec import SearchSpec
from nasforge.tasks.metrics import EXTRA
from nasforge.training import device as devices
from nasforge.training import state
from nasforge.training.artifacts import load_weights
from nasforge.training.scoring import score

DATA = DataConfig("digits", images=300, validation=0.2)
SPACE = load_space("tiny")
POINT = SPACE.default_point()


class Told:
    """A report that keeps what it is told."""

    number, attempt, seed = 0, 1, 3

    def __init__(self, experiment: Path, stop_after=99, costs=None):
        self.experiment = experiment
        self.checkpoint = experiment / "artifacts" / "0" / "checkpoint.pt"
        self.folder = experiment / "artifacts" / "0" / "attempt-1"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.costs = costs if costs is not None else {"cost/flops": 1e6, "cost/params": 5.0}
        self.stop_after = stop_after
        self.steps = []

    def __call__(self, step, metrics):
        self.steps.append((step, dict(metrics)))
        return step < self.stop_after


def evaluator(objectives=(), **settings):
    spec = SearchSpec(SPACE, DATA, (Rung(1), Rung(2)), {"precision": "fp32"}, objectives)
    return Training(spec, device="cpu", **settings)


def test_a_measure_is_trained_reported_and_kept(tmp_path):
    report = Told(tmp_path)
    measure: Evaluator = pickle.loads(pickle.dumps(evaluator()))
    result = measure(Measure(POINT), report)
    assert (result.status, result.steps_done) == ("finished", 2)
    assert [step for step, _ in report.steps] == [1, 2]
    assert set(report.steps[0][1]) == set(evaluator().metrics) - {f"val/{name}" for name in EXTRA}
    assert result.metrics == {**report.costs, **report.steps[-1][1]}
    assert result.charged.worker_seconds == result.metrics["time/worker_s"] > result.metrics["time/train_s"] > 0
    assert result.charged.multiply_adds == 2 * 3 * 192 * 1e6  # epochs, forward + backward, 3 batches of 64
    data = load_data(DATA)
    network = build(SPACE, POINT, in_channels=1, classes=10)
    network.load_state_dict(load_weights(tmp_path, result.artifacts["weights"]))
    assert score(network, data.validation)["accuracy"] == pytest.approx(result.metrics["val/accuracy"])


def test_what_objectives_need_is_measured_and_figures_by_class_are_written(tmp_path):
    report = Told(tmp_path)
    measuring = evaluator(
        objectives=[Objective("val/roc_auc", True)], extra_metrics=["val/recall_macro"], per_class=True
    )
    result = pickle.loads(pickle.dumps(measuring))(Measure(POINT, rung=0), report)
    assert {"val/roc_auc", "val/recall_macro"} < set(report.steps[0][1])
    assert "val/balanced_accuracy" not in report.steps[0][1]
    written = json.loads((tmp_path / result.artifacts["classes"].path).read_text())
    recalls = [row["recall"] for row in written["classes"]]
    assert sum(recalls) / 10 == pytest.approx(result.metrics["val/recall_macro"])
    assert sum(map(sum, written["confusion"])) == 60
    with raises(ConfigError, "unknown", "evaluator.extra_metrics", "extra_metrics", "val/precision_macro", "val/auc"):
        evaluator(extra_metrics=["val/auc"])
    with raises(ConfigError, "unknown", "evaluator.extra_metrics", "extra_metrics"):
        evaluator(extra_metrics=[3])


def test_one_class_may_be_an_objective():
    settings = {"space": SPACE, "data": {"source": "digits"}, "objectives": ["val/recall_of_3"]}
    made = make_evaluator(resolve(settings))
    assert made.extra == ("recall_of_3",) and made.about.data_hash
    with raises(ConfigError, "range", "val/recall_of_12", 10):
        _ = evaluator(objectives=[Objective("val/recall_of_12", True)]).about.data_hash
    with raises(ConfigError, "missing", "objectives", "val/recal_of_3", "val/recall_macro"):
        make_evaluator(resolve({**settings, "objectives": ["val/recal_of_3"]}))


def test_the_rung_says_how_long(tmp_path):
    assert evaluator()(Measure(POINT, rung=0), Told(tmp_path)).steps_done == 1


def test_the_trials_seed_repeats_it(tmp_path):
    losses = []
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        report = Told(tmp_path / folder)
        report.seed = seed
        torch.manual_seed(len(losses))
        losses.append(evaluator()(Measure(POINT, rung=0), report).metrics["val/loss"])
    assert losses[0] == losses[1] != losses[2]


def test_epochs_that_nothing_reads_are_not_validated_and_the_network_is_the_same(tmp_path):
    ladder, points = (Rung(3), Rung(5)), {}
    for name, settings in (("every", {}), ("some", {"validate_at": [2]})):
        report = Told(tmp_path / name)
        spec = SearchSpec(SPACE, DATA, ladder, {"precision": "fp32"}, ())
        result = Training(spec, device="cpu", **settings)(Measure(POINT), report)
        weights = load_weights(report.experiment, result.artifacts["weights"])
        scores = {step: {k: v for k, v in metrics.items() if "val/" in k} for step, metrics in report.steps}
        points[name] = (weights, scores, {step: metrics["train/loss"] for step, metrics in report.steps})
    every, some = points["every"], points["some"]
    assert every[0].keys() == some[0].keys() and all(torch.equal(every[0][key], some[0][key]) for key in every[0])
    assert [step for step, scores in some[1].items() if scores] == [2, 3, 5]  # 3 is a rung of the ladder
    assert all(some[1][step] == every[1][step] for step in (2, 3, 5)) and every[2] == some[2]


@pytest.mark.parametrize("validate_at", [3, "3", [0], [1.5], [True]])
def test_epochs_to_validate_after_are_a_list_of_numbers(validate_at):
    with raises(ConfigError, "type", "evaluator.validate_at", "validate_at", str(validate_at)):
        evaluator(validate_at=validate_at)


def test_false_stops_it(tmp_path):
    report = Told(tmp_path, stop_after=1)
    result = evaluator()(Measure(POINT), report)
    assert (result.status, result.steps_done, len(report.steps)) == ("pruned", 1, 1)


def test_weights_of_another_trial_are_the_start(tmp_path):
    first = Training(SearchSpec(SPACE, DATA, [Rung(8)]), device="cpu")(Measure(POINT), Told(tmp_path / "x"))
    fresh = Told(tmp_path / "x")
    fresh.checkpoint = tmp_path / "x" / "other.pt"
    fresh.folder = tmp_path / "x"
    warm = evaluator()(Measure(POINT, rung=0, weights=first.artifacts["weights"]), fresh)
    cold = evaluator()(Measure(POINT, rung=0), Told(tmp_path / "y"))
    assert warm.metrics["train/loss"] < cold.metrics["train/loss"] - 0.2
    wider = SPACE.point({**POINT.values, "model.stage0.width": 16})
    with raises(NasforgeError, "changed", None, "shared_weights"):
        evaluator()(Measure(wider, weights=first.artifacts["weights"]), Told(tmp_path / "x"))


def test_an_attempt_continues_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "EPOCH_CHECKPOINT_S", 0.0)
    report = Told(tmp_path)

    class Killed(Exception):
        pass

    class Dying(Told):
        def __call__(self, step, metrics):
            raise Killed

    with pytest.raises(Killed):
        evaluator()(Measure(POINT), Dying(tmp_path))
    assert report.checkpoint.exists()
    result = evaluator()(Measure(POINT), report)
    whole = evaluator()(Measure(POINT), Told(tmp_path / "whole"))
    assert [step for step, _ in report.steps] == [1, 2]
    assert result.metrics["val/loss"] == whole.metrics["val/loss"]
    report.checkpoint.write_bytes(b"torn")
    assert evaluator()(Measure(POINT), report).metrics["work/checkpoints_lost"] == 1.0


def test_short_trials_write_no_checkpoint_unless_another_trial_continues_them(tmp_path, monkeypatch):
    short, long, below = (Told(tmp_path / name) for name in ("short", "long", "below"))
    now = itertools.count()
    monkeypatch.setattr(state, "time", SimpleNamespace(monotonic=lambda: next(now) * 1e-3))
    assert evaluator()(Measure(POINT), short).status == "finished"
    assert not short.checkpoint.exists()
    assert evaluator()(Measure(POINT, rung=0), below).artifacts.keys() == {"weights", "checkpoint"}
    monkeypatch.setattr(state, "time", SimpleNamespace(monotonic=lambda: next(now) * 5.0))
    assert evaluator()(Measure(POINT), long).status == "finished"
    assert long.checkpoint.exists()


def test_memory_that_will_not_do_is_foreseen(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "load_data", lambda config: pytest.fail("data were loaded"))
    result = evaluator()(Measure(POINT), Told(tmp_path, costs={"cost/memory_mb": 1e9}))
    assert result.error and result.error.cause == "out_of_memory"
    assert "1000000000 MB" in result.error.message
    monkeypatch.undo()
    assert devices.free_memory_mb(torch.device("cpu")) > 100
    assert evaluator()(Measure(POINT, rung=0), Told(tmp_path, costs={"cost/memory_mb": 1.0})).status == "finished"


@pytest.mark.parametrize(
    ("bf16", "needed_mb", "refused"), [(False, 1500, True), (True, 1500, False), (True, 2500, True)]
)
def test_on_a_gpu_bf16_may_need_half_of_the_estimate(bf16, needed_mb, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(split.Split, "fits_on", lambda self, device: False)
    monkeypatch.setattr(training, "free_memory_mb", lambda device: 1000.0)
    monkeypatch.setattr(training, "free_share_mb", lambda device: None)
    monkeypatch.setattr(training, "uses_bf16", lambda recipe, device: bf16)
    monkeypatch.setattr(Training, "_network", lambda *arguments: pytest.fail("built"))
    report = Told(tmp_path, costs={"cost/memory_mb": float(needed_mb)})

    def measured():
        return evaluator()._measure(Measure(POINT), report, torch.device("cuda"), 0.0)

    if refused:
        assert measured().error.cause == "out_of_memory"
    else:
        with pytest.raises(pytest.fail.Exception, match="built"):
            measured()


def test_divergence_and_timeout_come_back_as_results(tmp_path):
    wild = dataclasses.replace(SPACE.fixed({}), decisions=tuple(d for d in SPACE.decisions if "learning" not in d.key))
    point = Architecture({k: v for k, v in POINT.values.items() if "learning" not in k})
    result = Training(SearchSpec(wild, DATA, [Rung(9)], {"learning_rate": 1e30, "precision": "fp32"}), device="cpu")(
        Measure(point), Told(tmp_path / "a")
    )
    assert result.status == "failed"
    assert result.error and result.error.cause == "diverged"
    assert "lower the learning rate" in result.error.advice
    assert result.charged.worker_seconds > 0
    result = evaluator(time_limit_s=1e-6)(Measure(POINT), Told(tmp_path / "b"))
    assert result.error and result.error.cause == "timeout"


def narrow(pick, *, in_channels, classes):
    """A builder whose network needs 28 x 28 pixels."""
    pick("size", {5: int})
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28 * in_channels, classes))


def broken(pick, *, in_channels, classes):
    pick("size", {5: int})
    raise ValueError("these widths do not fit")


@pytest.mark.parametrize(("builder", "message"), [("narrow", "do not go through"), ("broken", "widths do not fit")])
def test_shapes_that_do_not_fit_come_back_as_results(tmp_path, builder, message, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    space = SearchSpace("odd", (Decision("model.size", Choice((5,))),), f"{Path(__file__).stem}:{builder}")
    result = Training(SearchSpec(space, DATA, [Rung(1)]), device="cpu")(Measure(space.default_point()), Told(tmp_path))
    assert result.error and result.error.cause == "invalid_shape"
    assert message in result.error.message


def test_a_supernet_is_another_evaluators_job(tmp_path):
    with raises(NasforgeError, "unsupported", "evaluator", "shared_weights"):
        evaluator()(TrainShared(SPACE, "uniform", 1), Told(tmp_path))


def test_mistakes_are_found_before_anything_runs():
    with raises(ConfigError, "unknown", "train.optimiser", "optimizer"):
        Training(SearchSpec(SPACE, DATA, [Rung(1)], {"optimiser": "sgd"}))
    with raises(ConfigError, "missing", "data"):
        Training(SearchSpec(SPACE, None, [Rung(1)]))
    for bad in ({"threads": 0}, {"time_limit_s": 0}):
        with raises(ConfigError, "range", f"evaluator.{next(iter(bad))}"):
            evaluator(**bad)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({"frozen_stages": 9}, ("range", "train.frozen_stages", "frozen_stages", 9)),
        ({"crop_pixels": 9}, ("range", "train.crop_pixels", "crop_pixels", 9)),
    ],
)
def test_a_recipe_that_is_not_for_the_network_is_refused_before_the_first_trial(recipe, expected):
    with raises(RecipeError, *expected):
        Training(SearchSpec(SPACE, DATA, [Rung(1)], recipe)).preflight(Measure(POINT))
    fitting = {"frozen_stages": 1, "layer_decay": 0.9, "drop_path": 0.1, "manifold_mixup": 1.0, "crop_pixels": 1}
    Training(SearchSpec(SPACE, DATA, [Rung(1)], fitting)).preflight(Measure(POINT))


def test_recipes_that_the_only_network_does_not_take_are_refused_before_the_first_trial():
    backbone = Decision("model.backbone", Choice(("test_resnet",)))
    alone = SearchSpace("alone", (backbone,), "timm_backbone", {"backbones": ["test_resnet"]})
    ranges = {"train.frozen_stages": Int(0, 9), "train.crop_pixels": Int(0, 12), "train.batch_size": Int(32, 128)}
    too_far = SearchSpace("far", tuple(Decision(key, domain) for key, domain in ranges.items()))
    refused = alone.with_recipe(too_far)
    with raises(RecipeError, "range", None, "frozen_stages", 9) as caught:
        Training(SearchSpec(refused, DATA, [Rung(1)])).preflight(Measure(refused.default_point()))
    assert ("range", "train.crop_pixels") in [(problem.kind, problem.key) for problem in caught.value.problems]
    several = SPACE.with_recipe(too_far)  # what one network does not take another one may
    Training(SearchSpec(several, DATA, [Rung(1)])).preflight(Measure(several.default_point()))
    regularised = alone.with_recipe(load_recipe("regularisation"))
    Training(SearchSpec(regularised, DATA, [Rung(1)])).preflight(Measure(regularised.default_point()))


@pytest.mark.parametrize("name", ["training", "cross_validation", "repeated_seeds"])
def test_what_no_training_heeds_is_said_before_the_search(name):
    config = resolve(
        {"space": "tiny", "data": "digits", "evaluator": name, "recipe": {"focal_gamma": 3.0}, "epochs": 1}
    )
    unread, rising = make_evaluator(config).about.notes
    assert "train.focal_gamma is 3, but train.loss is cross_entropy" in unread
    assert "train.warmup_epochs is 1, no shorter than a training (epochs: 1)" in rising


def test_threads_are_set_while_an_evaluator_works_and_restored(tmp_path):
    class Counting(Told):
        def __call__(self, step, metrics):
            threads.append(torch.get_num_threads())
            return super().__call__(step, metrics)

    before, threads = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        asked = evaluator(threads=1)
        asked(Measure(POINT, rung=0), Counting(tmp_path))
        assert threads == [1] and torch.get_num_threads() == 2
        asked.latency_ms(POINT)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_data_hash_is_the_fingerprint_of_the_data():
    assert evaluator().about.data_hash == load_data(DATA).fingerprint
    assert (
        Training(SearchSpec(SPACE, DataConfig("digits", seed=1), [Rung(1)])).about.data_hash
        != evaluator().about.data_hash
    )


def test_light_to_pickle(tmp_path):
    used = evaluator()
    used(Measure(POINT, rung=0), Told(tmp_path))
    assert len(pickle.dumps(used)) < 20_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_memory_is_given_back(tmp_path):
    held = []
    for i in range(3):
        Training(SearchSpec(SPACE, DATA, [Rung(1)]), device="cuda")(Measure(POINT), Told(tmp_path / str(i)))
        held.append(torch.cuda.memory_allocated())
    assert held[0] == held[2]
