"""The evaluator that trains nothing: alone, as the first rung of a ladder, in batches, charged, and searched with."""

import math
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from expecting import raises
from torch import nn

import nasforge
from nasforge import registry
from nasforge.api.assembly import make_check, make_evaluator, make_header, make_pruner
from nasforge.api.forecast import forecast
from nasforge.api.rerun import rerun
from nasforge.core.errors import ConfigError, DeviceLost, SearchError
from nasforge.core.goals import Objective
from nasforge.core.ladder import Rung, proxy_metric
from nasforge.core.protocols import Evaluator
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.core.trial import Artifact, Measure, Proposal, Result, Score, TrainShared
from nasforge.data import load_data
from nasforge.data.augment import normalise
from nasforge.evaluators.proxies import synflow
from nasforge.evaluators.shared_weights import SharedWeights
from nasforge.evaluators.table.lookup import LookupTable
from nasforge.evaluators.training import Training
from nasforge.evaluators.zero_cost import ZeroCost
from nasforge.experiment.experiment import Experiment
from nasforge.experiment.state import load_state
from nasforge.models.costs import costs_of
from nasforge.models.network import build
from nasforge.runners.local import run
from nasforge.settings.experiment import DataConfig, ExperimentConfig, load_space, resolve
from nasforge.settings.spec import SearchSpec

DATA = DataConfig("digits", images=400)
SPACE = load_space("tiny")
LADDER = (Rung(proxies=("synflow", "naswot")), Rung(1))
POINTS = tuple(
    SPACE.point({**SPACE.default_point().values, "model.stage0.layer1.block": block, "model.activation": activation})
    for block, activation in (("residual", "relu"), ("identity", "relu"), ("separable_3", "silu"))
)


class Report:
    """A job's report to nobody."""

    number, attempt = 0, 1

    def __init__(self, experiment: Path = Path("nowhere"), seed: int = 3, **costs: float):
        self.experiment, self.seed, self.costs = experiment, seed, costs
        self.checkpoint = experiment / "checkpoint.pt"
        self.folder = experiment

    def __call__(self, step: int, metrics: Any) -> bool:
        raise AssertionError("nothing is reported on the way")


def evaluator(objectives: tuple[Objective, ...] = (), **settings: Any) -> ZeroCost:
    return ZeroCost(SearchSpec(SPACE, DATA, LADDER, objectives=objectives), device="cpu", **settings)


def scores(metrics: Any) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if key.startswith("zc/")}


def only_zero(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """A user's proxy: how many images it was given, and the seed that it was given them with."""
    return len(images) + torch.rand(()).item()


def no_number(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """A user's proxy that has a number for narrow networks only."""
    width = next(module for module in network.modules() if isinstance(module, nn.Linear)).in_features
    return math.inf if width > 12 else 1.0


def broken(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """A user's proxy that never works."""
    raise ZeroDivisionError("nothing to divide by")


def test_scores_are_the_proxies_on_the_builders_network_and_a_batch_of_training_images() -> None:
    made: Evaluator = pickle.loads(pickle.dumps(evaluator(images=50)))
    result = made(Measure(POINTS[0], rung=0), Report(seed=7))
    assert (result.status, result.steps_done, result.values, result.scores) == ("finished", 0, None, ())
    data = load_data(DATA)
    torch.manual_seed(7)
    network = build(SPACE, POINTS[0], in_channels=1, classes=10)
    images = normalise(data.train.images[:2], data.train.mean, data.train.std)
    assert result.metrics["zc/synflow"] == synflow(network, images, data.train.labels[:2])
    costs = costs_of(lambda: build(SPACE, POINTS[0], in_channels=1, classes=10), data.shape)
    assert {key: result.metrics[key] for key in ("cost/params", "cost/flops")} == {
        key: costs[key] for key in ("cost/params", "cost/flops")
    }


def test_the_seed_makes_the_network_and_nothing_else_the_score() -> None:
    first, again, other = (evaluator()(Measure(POINTS[0], rung=0), Report(seed=seed)) for seed in (1, 1, 2))
    assert scores(first.metrics) == scores(again.metrics)
    assert all(scores(other.metrics)[key] != value for key, value in scores(first.metrics).items())


def test_a_batch_gives_what_its_members_give_alone() -> None:
    batch = evaluator()(Score(POINTS), Report())
    alone = [evaluator()(Measure(point, rung=0), Report()) for point in POINTS]
    assert [scores(metrics) for metrics in batch.scores] == [scores(one.metrics) for one in alone]
    assert [member["cost/flops"] for member in batch.scores] == [one.metrics["cost/flops"] for one in alone]
    assert batch.metrics.keys() == {"time/worker_s", "work/multiply_adds"}
    assert batch.charged.multiply_adds == sum(one.charged.multiply_adds for one in alone)
    assert len({metrics["zc/synflow"] for metrics in batch.scores}) == 3


def test_what_is_computed_is_charged() -> None:
    made = evaluator(proxies=["snip"], images=32)
    result = made(Measure(POINTS[0]), Report())
    flops = result.metrics["cost/flops"]
    assert 2.8 * 32 * flops < result.charged.multiply_adds < 3.0 * 32 * flops, "forward and twice as much backward"
    assert result.metrics["work/multiply_adds"] == result.charged.multiply_adds
    assert 0 < result.charged.worker_seconds == result.metrics["time/worker_s"]


def test_costs_that_the_check_found_are_kept() -> None:
    result = evaluator()(Measure(POINTS[0], rung=0), Report(**{"cost/latency_ms": 5.0}))
    assert result.metrics["cost/latency_ms"] == 5.0


@pytest.mark.parametrize("kind", [Training, SharedWeights])
def test_other_evaluators_delegate_at_a_rung_of_proxies(kind: Any) -> None:
    made = kind(SearchSpec(SPACE, DATA, LADDER), device="cpu")
    result, expected = made(Score(POINTS), Report()), evaluator()(Score(POINTS), Report())
    assert list(map(scores, result.scores)) == list(map(scores, expected.scores)) and len(result.scores) == 3
    with raises(SearchError, "unsupported", "evaluator"):
        made(Score(POINTS, rung=-1), Report())


def test_a_users_own_proxy_and_one_without_a_number() -> None:
    mine = [f"{__name__}:only_zero", f"{__name__}:no_number", "synflow"]
    made = evaluator(proxies=mine, images=30)
    assert made.about.metrics[:3] == ("zc/only_zero", "zc/no_number", "zc/synflow")
    narrow = SPACE.point({**POINTS[0].values, "model.stage1.width": 12})
    first, second = made(Score((narrow, POINTS[0])), Report()).scores
    assert 30 < first["zc/only_zero"] < 31 and first["zc/no_number"] == 1.0
    assert math.isnan(second["zc/no_number"]), "infinity is no number either"
    assert math.isfinite(second["zc/synflow"])
    assert proxy_metric("a.b:c") == "zc/c"


def test_a_trial_fails_only_when_no_proxy_has_a_number() -> None:
    bad = f"{__name__}:broken"
    result = evaluator(proxies=[bad, "synflow"])(Measure(POINTS[0]), Report())
    assert result.status == "finished" and math.isnan(result.metrics["zc/broken"])
    failed = evaluator(proxies=[bad])(Measure(POINTS[0]), Report())
    assert failed.error is not None and failed.error.cause == "diverged"
    assert "no proxy has a number for this network: " in failed.error.message
    assert f"{bad}: ZeroDivisionError: nothing to divide by" in failed.error.message
    assert failed.charged.worker_seconds > 0


def test_an_objective_without_a_number_fails_with_the_reason() -> None:
    bad = f"{__name__}:broken"
    objectives = [Objective.parse("zc/synflow"), Objective.parse("zc/broken")]
    failed = ZeroCost(SearchSpec(SPACE, DATA, LADDER, objectives=objectives), proxies=[bad, "synflow"])(
        Measure(POINTS[0]), Report()
    )
    assert failed.error is not None
    message = f"no number for the objective zc/broken: {bad}: ZeroDivisionError: nothing to divide by"
    assert failed.error.message == message


def test_scores_without_a_rung_for_them_are_foreseen() -> None:
    for made in (Training(SearchSpec(SPACE, DATA, [Rung(1)])), SharedWeights(SearchSpec(SPACE, DATA, [Rung(1)]))):
        with raises(ConfigError, "missing", "ladder"):
            made.preflight(Score(POINTS))
    Training(SearchSpec(SPACE, DATA, LADDER)).preflight(Score(POINTS))


def test_a_network_without_what_a_proxy_looks_at_is_a_mistake_in_the_settings(monkeypatch: Any) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    monkeypatch.setattr("nasforge.evaluators.zero_cost.fresh", lambda *network, **shape: linear)
    failed = evaluator(proxies=["naswot"])(Measure(POINTS[0]), Report())
    assert failed.error is not None and failed.error.cause == "error", "six of these in a row end the search"
    assert "naswot: it has no activation" in failed.error.message


def test_what_it_cannot_measure_is_refused() -> None:
    weights = Artifact("artifacts/0/weights.safetensors", "0", 1)
    for proposal in (Measure(POINTS[0], weights=weights), TrainShared(SPACE, "uniform", 1)):
        with raises(SearchError, "unsupported", "evaluator"):
            evaluator()(proposal, Report())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"proxies": ["synfow"]}, ("unknown", "proxy", "synfow", "synflow")),
        ({"proxies": []}, ("empty", "evaluator.proxies")),
        ({"images": 1}, ("range", "evaluator.images", 2)),
        ({"threads": 0}, ("range", "evaluator.threads")),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], expected: str) -> None:
    with raises(ConfigError, *expected):
        evaluator(**settings)


def test_unknown_proxies_of_a_ladder_and_missing_data_are_found_before_the_search() -> None:
    with raises(ConfigError, "unknown", "proxy", "synfow"):
        Training(SearchSpec(SPACE, DATA, (Rung(proxies=("synfow",)), Rung(1))))
    with raises(ConfigError, "missing", "data"):
        ZeroCost(SearchSpec(SPACE, None, LADDER))


def test_the_proxies_are_the_ladders_and_the_objectives_or_all() -> None:
    goals = (Objective.parse("zc/snip"), Objective.parse("cost/flops"))
    assert evaluator(objectives=goals).proxies == ("synflow", "naswot", "snip")
    assert ZeroCost(SearchSpec(SPACE, DATA, (Rung(3),), objectives=goals)).proxies == ("snip",)
    assert set(ZeroCost(SearchSpec(SPACE, DATA, (Rung(3),))).proxies) == {*registry.names("proxy")} - {
        "swap_regularised"
    }


def test_a_proxy_takes_options_and_is_reported_without_them() -> None:
    named = "swap_regularised(params=9000, spread=3e3)"
    made: ZeroCost = pickle.loads(pickle.dumps(evaluator(proxies=["swap", "log_params", named])))
    assert made.about.metrics[:3] == ("zc/swap", "zc/log_params", "zc/swap_regularised")
    result = made(Measure(POINTS[0]), Report())
    distance = (result.metrics["cost/params"] - 9000) / 3000
    expected = result.metrics["zc/swap"] * math.exp(-(distance**2))
    assert result.metrics["zc/swap_regularised"] == pytest.approx(expected)
    assert result.metrics["zc/log_params"] == math.log(result.metrics["cost/params"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("swap_regularised", ("missing", "params", "swap_regularised(params=")),
        ("swap_regularised(spread=2)", ("missing", "params")),
        ("swap_regularised(parms=2)", ("unknown", "parms", "params")),
        ("synflow(params=2)", ("unknown", "params", "synflow")),
        ("swap_regularised(2)", ("invalid", "proxy", "swap_regularised(2)")),
        ("swap_regularised(params=many)", ("invalid", "proxy")),
        ("swap_regularised(params=2", ("invalid", "proxy")),
        ("swap_regularised(params=2), swap(params=1)", ("invalid", "proxy")),
        ("swap_regularised()(params=2)", ("invalid", "proxy")),
        ("synflow()()", ("invalid", "proxy")),
        ("swap_regularised(params=1, params=2)", ("invalid", "proxy")),
        ("swap_regularised(**{'params': 2})", ("invalid", "proxy")),
    ],
)
def test_options_of_a_proxy_are_checked_before_the_search(name: str, expected: tuple[str, ...]) -> None:
    with raises(ConfigError, *expected):
        evaluator(proxies=[name])


def test_an_objective_names_a_proxy_of_the_ladder_without_its_options() -> None:
    ladder = (Rung(proxies=("swap", "swap_regularised(params=9000)")), Rung(1))
    made = ZeroCost(SearchSpec(SPACE, DATA, ladder, objectives=(Objective.parse("max:zc/swap_regularised"),)))
    assert made.proxies == ladder[0].proxies


def test_two_proxies_that_are_reported_under_one_name_are_refused() -> None:
    with raises(ConfigError, "duplicate", "evaluator.proxies", "zc/swap_regularised"):
        evaluator(proxies=["swap_regularised(params=9000)", "swap_regularised(params=90)"])


def test_an_option_out_of_range_ends_the_search_instead_of_leaving_a_gap() -> None:
    with raises(ConfigError, "range", None, "swap_regularised", "params"):
        evaluator(proxies=["swap", "swap_regularised(params=-1)"])(Measure(POINTS[0]), Report())


def test_counting_flops_is_the_work_of_one_image() -> None:
    result = evaluator(proxies=["log_flops", "log_params"])(Measure(POINTS[0]), Report())
    assert result.charged.multiply_adds == result.metrics["cost/flops"]
    assert result.metrics["zc/log_flops"] == math.log(result.metrics["cost/flops"])


def test_a_table_answers_a_batch_and_what_it_lacks_is_no_number(tmp_path: Path) -> None:
    space = SearchSpace("made_up", (Decision("model.width", Choice((8, 16, 32))),))
    path = tmp_path / "table.csv"
    path.write_text("width,accuracy,flow,size\n8,0.5,11.5,100\n16,0.6,12.5,200\n")
    options = {"signal": "accuracy", "proxies": {"synflow": "flow"}, "costs": {"params": "size"}, "partial": True}
    ladder = (Rung(proxies=("synflow",)), Rung(1))
    table = LookupTable(SearchSpec(space, None, ladder), path=str(path), **options)
    points = [space.point({"model.width": width}) for width in (8, 32, 16)]
    result = table(Score(tuple(points)), Report())
    assert table(Measure(points[0], rung=0), Report()).metrics == result.scores[0]
    first, missing, last = result.scores
    assert first == {"zc/synflow": 11.5, "cost/params": 100.0} and result.steps_done == 0
    assert math.isnan(missing["zc/synflow"]) and last == {"zc/synflow": 12.5, "cost/params": 200.0}
    with raises(ConfigError, "missing", "evaluator.proxies"):
        LookupTable(SearchSpec(space, None, (Rung(proxies=("synflow", "naswot")), Rung(1))), path=str(path), **options)


# --- searches -------------------------------------------------------------------------------------------------------


def free_search(folder: Path, **settings: Any) -> ExperimentConfig:
    return resolve(
        {
            "space": "tiny",
            "data": {"source": "digits", "images": 400},
            "evaluator": {"name": "zero_cost", "device": "cpu", "images": 32},
            "objectives": ["zc/synflow"],
            "strategy": "evolution",
            "budget": {"trials": 30},
            "runner": "local",
            "runs_dir": folder,
            "tracking_uri": "none",
            **settings,
        }
    )


def test_a_search_without_any_training(tmp_path: Path) -> None:
    config = free_search(tmp_path, constraints=["params<=15k"])
    state = nasforge.search(config)
    assert state.counts()["finished"] == 30 and state.counts()["rejected"] > 0
    best = state.best
    assert best is not None and best.result is not None
    assert best.result.values == (best.metrics["zc/synflow"],) and best.result.steps_done == 0
    assert best.metrics["cost/params"] <= 15_000
    measured = [trial for trial in state.trials.values() if trial.status == "finished"]
    assert all("zc/snip" not in trial.metrics for trial in measured), "only what the objective asks for is computed"
    first = [trial.metrics["zc/synflow"] for trial in measured[:10]]
    assert best.metrics["zc/synflow"] > max(first), "evolution found better than its random start"
    assert rerun(config.folder, best.number).equal


def test_what_a_search_without_training_would_cost(tmp_path: Path) -> None:
    estimate = forecast(free_search(tmp_path, budget={"multiply_adds": 1e9}), samples=10)
    assert 0 < estimate.seconds_per_trial < 5 and estimate.epochs == 0
    assert estimate.seconds < math.inf


def test_objectives_that_are_no_proxies_are_refused(tmp_path: Path) -> None:
    with raises(ConfigError, "unknown", "val/accuracy", "zc/synflow"):
        make_evaluator(free_search(tmp_path, objectives=["val/accuracy"]))
    with raises(ConfigError, "unknown", "proxy", "synfow", "synflow"):
        make_evaluator(free_search(tmp_path, objectives=["zc/synfow"]))


class Preselecting:
    """Scores a batch of eight at the first rung, then trains the best by naswot."""

    def __init__(self) -> None:
        self.told: list[Result] = []
        self.asked = 0

    def ask(self, number: int) -> Proposal | None:
        if number == 0:
            self.recall(0, Score(POINTS))
            return Score(POINTS)
        if not self.told or number > 1:
            return None
        rows = self.told[0].scores
        best = max(range(len(rows)), key=lambda index: rows[index]["zc/naswot"])
        self.recall(1, Measure(POINTS[best]))
        return Measure(POINTS[best])

    def recall(self, number: int, proposal: Proposal) -> None:
        self.asked += 1

    def tell(self, number: int, result: Result) -> None:
        self.told.append(result)


def test_proxies_choose_what_is_trained_and_never_rank_with_it(tmp_path: Path) -> None:
    ladder = [{"proxies": ["naswot", "synflow"]}, {"epochs": 1}]
    config = free_search(
        tmp_path, evaluator={"name": "training", "device": "cpu"}, objectives=["val/accuracy"], ladder=ladder
    )
    for sitting in range(2):  # the second one replays the first
        trained = make_evaluator(config)
        with Experiment(
            config.folder,
            make_header(config, trained.about),
            strategy := Preselecting(),
            check=make_check(config, trained),
            pruner=make_pruner(config),
        ) as experiment:
            run(experiment, trained)
        assert strategy.asked == 2 and len(strategy.told) == 2, f"sitting {sitting}"
    state = load_state(config.folder)
    batch, network = state.trials[0], state.trials[1]
    assert batch.result is not None and network.result is not None
    assert [trial.number for trial in state.ranking()] == [1]
    assert batch.result.values is None and network.result.values == (network.metrics["val/accuracy"],)
    assert state.charged == batch.result.charged + network.result.charged
    assert rerun(config.folder, 0).equal


def precision(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """A user's proxy: 1 where convolutions keep all bits of their inputs."""
    return float(torch.backends.cudnn.conv.fp32_precision == "ieee")


def test_scores_are_of_all_bits_on_a_gpu_too() -> None:
    result = evaluator(proxies=[f"{__name__}:precision"])(Score(POINTS[:1]), Report())
    assert result.scores[0]["zc/precision"] == 1.0
    assert torch.backends.cudnn.conv.fp32_precision != "ieee" and torch.backends.cudnn.rnn.fp32_precision != "ieee"


def test_a_gpu_that_fails_during_a_score_is_no_missing_number(monkeypatch: Any) -> None:
    def fails(*_: Any) -> float:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(sys.modules[__name__], "only_zero", fails)
    with raises(DeviceLost, "failed", "device", "device-side assert"):
        evaluator(proxies=[f"{__name__}:only_zero"])(Score(POINTS[:1]), Report())


@pytest.mark.parametrize("name", ["synflow", "snip", "grad_norm", "grasp", "fisher", "zen"])
def test_a_proxy_takes_its_numbers_from_the_device_at_once(name: str, monkeypatch: Any) -> None:
    network = build(SPACE, POINTS[0], in_channels=1, classes=10)
    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8)
    reads: list[int] = []
    really_listed, really_read = torch.Tensor.tolist, torch.Tensor.item

    def listed(tensor: torch.Tensor) -> Any:
        reads.append(len(tensor))
        return really_listed(tensor)

    def read(tensor: torch.Tensor) -> Any:
        reads.append(1)
        return really_read(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", listed)
    monkeypatch.setattr(torch.Tensor, "item", read)
    registry.get("proxy", name)(network, images, labels)
    assert len(reads) <= 2, "layers do not wait one by one"
