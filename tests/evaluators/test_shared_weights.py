import pickle
from pathlib import Path

import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.api.compare import compare
from nasforge.api.search import search
from nasforge.core.errors import BuildError, ConfigError, DataError
from nasforge.core.ladder import Rung
from nasforge.core.protocols import Evaluator
from nasforge.core.recipe import Recipe
from nasforge.core.trial import Artifact, Measure, TrainShared
from nasforge.data import load_data
from nasforge.evaluators.shared_weights import SharedWeights, _sound
from nasforge.evaluators.training import Training
from nasforge.models.network import build
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.settings.spec import SearchSpec
from nasforge.supernet.inheritance import inherited
from nasforge.supernet.network import build_supernet
from nasforge.training.artifacts import load_weights
from nasforge.training.scoring import score

DATA = DataConfig("digits", images=300, validation=0.2)
SPACE = load_space("tiny")
KEY = "model.stage1.layer1.block"
_POINT = SPACE.default_point().values
TWO = SPACE.fixed({key: value for key, value in _POINT.items() if key != KEY}).fixed({f"{KEY}.bottleneck.reduction": 4})
SHARED = SPACE.fixed(
    {key: value for key, value in _POINT.items() if key.startswith("train.")}
    | {key: domain.values[0] for key, domain in SPACE.domains.items() if ".block." in key}
)
A, B = (TWO.fixed({KEY: option}).default_point() for option in ("residual", "bottleneck"))


class Told:
    """A report of one trial that keeps what it is told."""

    attempt, seed = 1, 3

    def __init__(self, experiment: Path, number: int = 0, stop_after: int = 99):
        self.experiment, self.number, self.stop_after = experiment, number, stop_after
        self.checkpoint = experiment / "artifacts" / str(number) / "checkpoint.pt"
        self.folder = experiment / "artifacts" / str(number) / "attempt-1"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.costs: dict[str, float] = {}
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.alphas: list[dict[str, tuple[float, ...]]] = []

    def __call__(self, step, metrics, alphas=None):
        self.steps.append((step, dict(metrics)))
        self.alphas += [dict(alphas)] if alphas else []
        return step < self.stop_after


def evaluator(objectives=(), **settings) -> SharedWeights:
    spec = SearchSpec(SPACE, DATA, (Rung(1),), {"precision": "fp32"}, objectives)
    return SharedWeights(spec, device="cpu", **settings)


def job(epochs: int = 2, **settings) -> TrainShared:
    return TrainShared(TWO, "uniform", epochs, paths=(A, B), **settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    report = Told(folder)
    shared: Evaluator = pickle.loads(pickle.dumps(evaluator()))
    return folder, report, shared(job(12), report)


def test_a_supernet_is_trained_reported_and_kept(trained):
    folder, report, result = trained
    assert (result.status, result.steps_done, result.error) == ("finished", 12, None)
    assert [step for step, _ in report.steps] == list(range(1, 13))
    first, last = report.steps[0][1], report.steps[-1][1]
    assert {"train/loss", "time/worker_s", "work/multiply_adds"} <= set(first)
    assert last["train/loss"] < first["train/loss"] - 0.5
    assert result.charged.multiply_adds == last["work/multiply_adds"] > first["work/multiply_adds"] > 0
    artifact = result.artifacts["weights"]
    assert not Path(artifact.path).is_absolute()
    assert (folder / artifact.path).stat().st_size == artifact.size
    assert any("@stage1:layer1:block=bottleneck" in key for key in load_weights(folder, artifact))


def test_measures_on_inherited_weights_train_nothing(trained):
    folder, _, result = trained
    shared = evaluator()
    for number, point in enumerate((A, B), start=1):
        report = Told(folder, number)
        measured = shared(Measure(point, weights=result.artifacts["weights"]), report)
        assert (measured.status, measured.steps_done, report.steps) == ("finished", 0, [])
        assert measured.metrics["val/accuracy"] > 0.5  # a tenth is chance
        child = build(TWO, point, in_channels=1, classes=10)
        child.load_state_dict(load_weights(folder, measured.artifacts["weights"]))
        assert score(child, load_data(DATA).validation)["accuracy"] == pytest.approx(measured.metrics["val/accuracy"])
        taken = inherited(load_weights(folder, result.artifacts["weights"]), point)
        parameters = dict(child.named_parameters())
        assert all(torch.equal(taken[key], tensor) for key, tensor in parameters.items())
        norms = [key for key in taken if key.endswith("running_mean")]
        assert not any(torch.equal(taken[key], child.state_dict()[key]) for key in norms)  # recalibrated


def test_a_measure_says_the_same_twice(trained):
    folder, _, result = trained
    measure = Measure(A, weights=result.artifacts["weights"])
    first, second = (evaluator()(measure, Told(folder, number)).metrics for number in (11, 12))
    assert {key: first[key] for key in first if key.startswith("val/")} == {
        key: second[key] for key in second if key.startswith("val/")
    }


def test_recalibration_is_what_makes_inherited_weights_usable(trained):
    folder, _, result = trained
    state = inherited(load_weights(folder, result.artifacts["weights"]), B)
    child = build(TWO, B, in_channels=1, classes=10)
    child.load_state_dict(state)
    for norm in (m for m in child.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.reset_running_stats()
    stale = score(child, load_data(DATA).validation)["loss"]
    measured = evaluator()(Measure(B, weights=result.artifacts["weights"]), Told(folder, 13))
    assert measured.metrics["val/loss"] < stale


def test_an_interrupted_supernet_continues_to_the_same_bits(tmp_path):
    class Killed(Exception):
        pass

    class Dying(Told):
        def __call__(self, step, metrics, alphas=None):
            raise Killed

    whole = evaluator()(job(), Told(tmp_path / "a"))
    with pytest.raises(Killed):
        evaluator()(job(), Dying(tmp_path / "b"))
    report = Told(tmp_path / "b")
    assert report.checkpoint.exists()
    again = evaluator()(job(), report)
    assert again.artifacts["weights"].sha256 == whole.artifacts["weights"].sha256
    assert [step for step, _ in report.steps] == [1, 2]


def test_continuing_from_weights_of_an_earlier_supernet(trained):
    folder, report, result = trained
    fresh = Told(folder, 21)
    evaluator()(job(1, weights=result.artifacts["weights"]), fresh)
    assert fresh.steps[0][1]["train/loss"] < report.steps[0][1]["train/loss"] - 0.5


def test_false_stops_it(tmp_path):
    result = evaluator()(job(3), Told(tmp_path, stop_after=1))
    assert (result.status, result.steps_done, dict(result.artifacts)) == ("pruned", 1, {})


def test_a_measure_without_weights_is_trained(tmp_path):
    report, other = Told(tmp_path / "a"), Told(tmp_path / "b")
    ours = evaluator()(Measure(A), report)
    theirs = Training(SearchSpec(SPACE, DATA, [Rung(1)], {"precision": "fp32"}), device="cpu")(Measure(A), other)
    assert ours.steps_done == 1 and len(report.steps) == 1
    assert ours.metrics["val/loss"] == theirs.metrics["val/loss"]


def test_what_cannot_be_mixed_fails_by_name(tmp_path):
    mobile = load_space("mobile")
    point = mobile.default_point().values
    sizes = mobile.fixed({key: value for key, value in point.items() if key != "model.resolution"})
    result = evaluator()(TrainShared(sizes, "softmax", 1), Told(tmp_path))
    assert result.status == "failed" and result.error.cause == "invalid_shape"
    assert "'model.resolution' cannot be mixed softly" in result.error.message and "space.fixed" in result.error.message


def test_what_cannot_be_mixed_is_foreseen_without_training():
    mobile = load_space("mobile")
    point = mobile.default_point().values
    sizes = mobile.fixed({key: value for key, value in point.items() if key != "model.resolution"})
    before = torch.random.get_rng_state()
    with raises(BuildError, "unsupported", "model.resolution", "space.fixed"):
        evaluator().preflight(TrainShared(sizes, "softmax", 1))
    wide = SPACE.fixed({key: value for key, value in _POINT.items() if "stage0.width" not in key})
    with raises(ConfigError, "unsupported", "second_order"):
        evaluator().preflight(TrainShared(wide, "softmax", 1, settings={"second_order": True}))
    with raises(ConfigError, "unknown", "relaxation", "soft"):
        evaluator().preflight(TrainShared(TWO, "soft", 1))
    with raises(ConfigError, "empty", None, "tiny"):
        evaluator().preflight(TrainShared(SPACE.fixed(_POINT), "softmax", 1))
    evaluator().preflight(TrainShared(TWO, "softmax", 1, settings={"second_order": True}))
    evaluator().preflight(Measure(A))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_foreseen_leaves_no_journal(tmp_path):
    strategy = {"name": "darts", "second_order": True}
    place = {"runner": "local", "runs_dir": tmp_path, "name": "wide", "tracking_uri": "none"}
    with raises(ConfigError, "unsupported", "second_order"):
        search(space="tiny", data={"source": "digits", "images": 300}, strategy=strategy, **place)
    assert not (tmp_path / "wide").exists(), "the name is free for the search that is meant"
    common = {"space": "tiny", "data": {"source": "digits", "images": 300}, "budget": {"trials": 2}}
    with raises(ConfigError, "unsupported", "strategies", "darts(second_order=true)"):
        compare(strategies="darts(second_order=true)", seeds=1, runs_dir=tmp_path, tracking_uri="none", **common)
    assert not (tmp_path / "campaign").exists()


def test_a_supernet_with_open_widths_is_trained_and_measured_at_any(tmp_path):
    wide = SPACE.fixed({key: value for key, value in _POINT.items() if "width" not in key})
    shared, report = evaluator(), Told(tmp_path)
    result = shared(TrainShared(wide, "fair", 2), report)
    assert result.status == "finished" and result.alphas is None
    for width in (8, 16):
        point = wide.point({**_POINT, "model.stage0.width": width})
        measured = shared(Measure(point, weights=result.artifacts["weights"]), Told(tmp_path, width))
        assert measured.status == "finished" and measured.steps_done == 0
        child = load_weights(tmp_path, measured.artifacts["weights"])
        built = build(SPACE, point, in_channels=1, classes=10)
        assert {key: tensor.shape for key, tensor in child.items()} == {
            k: t.shape for k, t in built.state_dict().items()
        }


@pytest.mark.parametrize("space", [TWO, SHARED], ids=["fixed widths", "open widths"])
@pytest.mark.parametrize(("edge", "precision"), [(8, "bf16"), (2, "fp32")])
def test_a_supernet_whose_images_become_as_narrow_as_a_stride_is_trained_in_fp32(space, edge, precision):
    supernet = build_supernet(space, 1, 10)
    assert bool(supernet.widths) == (space is SHARED)
    sound = _sound(Recipe(precision="bf16"), torch.device("cpu"), supernet, (1, edge, edge))
    assert sound.precision == precision


def test_every_option_runs_in_a_covering_path():
    paths = list(build_supernet(SHARED, 1, 10).covering())
    for key, domain in SHARED.domains.items():
        if domain.size > 1:
            assert {path.values[key] for path in paths if key in path.values} == set(domain.values), key


@pytest.mark.parametrize("relaxation", ["softmax", "gumbel_hard", "dirichlet"])
def test_alphas_learn_and_their_diagnostics_are_reported(tmp_path, relaxation):
    report = Told(tmp_path)
    result = evaluator()(TrainShared(TWO, relaxation, 3), report)
    assert result.status == "finished" and set(result.alphas) == {KEY}
    assert len(result.alphas[KEY]) == len(TWO.domains[KEY].options)
    assert max(result.alphas[KEY]) - min(result.alphas[KEY]) > 0.05  # they began within thousandths of each other
    assert len(report.alphas) == 3 and report.alphas[-1] == result.alphas != report.alphas[0]
    told = report.steps[-1][1]
    assert {"alphas/skips", "alphas/entropy", "supernet/accuracy", "supernet/derived_accuracy"} <= set(told)
    assert 0 <= told["alphas/entropy"] <= 1 and told["supernet/derived_accuracy"] > 0.05


def test_a_killed_search_of_alphas_ends_with_the_same_bits(tmp_path):
    """Continued after any epoch: alphas, Adam's state and the samples are those of an uninterrupted search."""

    def searched(folder: Path, stop_after: int = 99):
        return evaluator()(
            TrainShared(TWO, "gumbel_hard", 3, cost_terms={"cost/flops": 0.1}), Told(folder, 0, stop_after)
        )

    whole = searched(tmp_path / "whole")
    searched(tmp_path / "cut", stop_after=2)  # leaves its checkpoint behind
    again = searched(tmp_path / "cut")
    assert again.status == "finished" and again.alphas == whole.alphas
    ours, theirs = (load_weights(tmp_path / n, r.artifacts["weights"]) for n, r in (("whole", whole), ("cut", again)))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_initial_alphas_and_settings_are_taken(tmp_path):
    options = TWO.domains[KEY].options
    alphas = {KEY: tuple(3.0 if option == "identity" else 0.0 for option in options)}
    settings = {"learning_rate": 1e-9, "stop_at_skips": 0.5}
    result = evaluator()(TrainShared(TWO, "softmax", 6, alphas=alphas, settings=settings), Told(tmp_path))
    assert result.alphas[KEY] == pytest.approx(alphas[KEY], abs=1e-4)
    # skips only: ended after two epochs of the second half
    assert result.steps_done == 5 and result.metrics["alphas/collapsed"] == 1
    with raises(ConfigError, "unknown", "temprature", "temperature"):
        evaluator()(TrainShared(TWO, "gumbel_hard", 1, settings={"temprature": 1.0}), Told(tmp_path / "b"))
    with raises(ConfigError, "conflict", "second_order"):
        evaluator()(TrainShared(TWO, "gumbel_hard", 1, settings={"second_order": True}), Told(tmp_path / "c"))


def test_a_worker_reads_a_supernet_once(trained, monkeypatch):
    folder, _, result = trained
    shared, weights = evaluator(), result.artifacts["weights"]
    first = shared(Measure(A, weights=weights), Told(folder, 40))
    monkeypatch.setattr("nasforge.evaluators.shared_weights.load_weights", None)
    assert shared(Measure(B, weights=weights), Told(folder, 41)).status == "finished"
    assert shared(Measure(A, weights=weights), Told(folder, 42)).metrics["val/loss"] == first.metrics["val/loss"]
    assert len(pickle.dumps(shared)) < 100_000  # what is kept stays with the worker


def test_weights_that_do_not_belong(trained, tmp_path):
    folder, _, result = trained
    other = TWO.fixed({KEY: "residual"}).default_point()
    wider = SPACE.point({**other.values, "model.stage0.width": 16})
    failed = evaluator()(Measure(wider, weights=result.artifacts["weights"]), Told(folder, 31))
    assert failed.error.cause == "invalid_shape" and "do not fit architecture" in failed.error.message
    refused = evaluator()(
        TrainShared(TWO.fixed({KEY: "residual"}), "uniform", 1, weights=result.artifacts["weights"]), Told(folder, 32)
    )
    assert refused.error.cause == "invalid_shape" and "not of a supernet of space 'tiny'" in refused.error.message
    with raises(DataError, "missing", None, "missing"):
        evaluator()(Measure(A, weights=Artifact("artifacts/9/weights.safetensors", "0", 1)), Told(tmp_path))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"relaxation": "gumbel"}, ("unknown", "relaxation", "gumbel")),
        ({"alphas": {KEY: (0.0, 1.0)}}, ("conflict", "alphas")),
        ({"cost_terms": {"cost/flops": 1.0}}, ("conflict", "cost_terms")),
    ],
)
def test_what_uniform_paths_cannot_do_is_refused(tmp_path, settings, expected):
    proposal = TrainShared(**{"space": TWO, "relaxation": "uniform", "epochs": 1} | settings)
    with raises(ConfigError, *expected):
        evaluator()(proposal, Told(tmp_path))


def test_an_open_recipe_is_refused(tmp_path):
    model = {key: value for key, value in _POINT.items() if not key.startswith("train.")}
    with raises(ConfigError, "conflict", "train.learning_rate"):
        evaluator()(TrainShared(SPACE.fixed(model), "uniform", 1), Told(tmp_path))


def test_settings_are_checked():
    with raises(ConfigError, "missing", "data"):
        SharedWeights(SearchSpec(SPACE, None, [Rung(1)]))
    with raises(ConfigError, "range", "evaluator.recalibration_batches", "recalibration_batches"):
        evaluator(recalibration_batches=0)


def test_what_the_cost_check_asks_for():
    shared = evaluator()
    assert (shared.about.shape, shared.about.classes) == ((1, 8, 8), 10)
    assert 0 < shared.latency_ms(A) < 1000
    assert shared.about.data_hash == load_data(DATA).fingerprint
