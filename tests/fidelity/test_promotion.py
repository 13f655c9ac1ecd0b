"""Promotion through the one loop: who is promoted, from which checkpoint, at which charge, and what is kept."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from expecting import raises

from nasforge import registry
from nasforge.api.assembly import make_evaluator
from nasforge.api.search import search
from nasforge.core.about import About
from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.goals import Constraint
from nasforge.core.ladder import Rung
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.core.trial import Artifact, Charge, Measure, Result
from nasforge.experiment.experiment import reopen
from nasforge.experiment.job import Job, trial_seed
from nasforge.experiment.state import load_state
from nasforge.runners.work import perform
from nasforge.settings.experiment import DataConfig, Named, resolve
from nasforge.strategies.pbt import PBT
from nasforge.strategies.pieces import mean_piece
from nasforge.strategies.promotion import Promotion, _cycle
from nasforge.testing.scripted import FLAT, closeness, spec_of
from nasforge.testing.toys import nested_space, toy_config, toy_experiment
from nasforge.training.artifacts import sha256_of

LADDER = (Rung(1), Rung(3), Rung(9))


class Writes:
    """Leaves a checkpoint at every rung but the last; knows from which one it goes on."""

    about = About(instant=True)  # for virtual workers

    def __init__(self, space=None):
        self.space = space or nested_space()
        self.began_at = {}

    def __call__(self, proposal, report):
        begin = 0
        if proposal.weights:
            file = report.experiment / proposal.weights.path
            assert sha256_of(file) == proposal.weights.sha256
            begin = json.loads(file.read_text())["epochs"]
        self.began_at[report.number] = begin
        end = LADDER[proposal.rung].epochs
        score = closeness(self.space, proposal.architecture)
        for step in range(begin + 1, end + 1):
            seconds = (step - begin) * (1 + report.seed % 7)
            metrics = {"val/accuracy": score * (1 - 0.5**step), "work/multiply_adds": 10.0 * (step - begin)}
            metrics["time/worker_s"] = seconds
            assert report(step, metrics)
        artifacts = {}
        if end < LADDER[-1].epochs:
            file = report.folder / "checkpoint.pt"
            file.write_text(json.dumps({"epochs": end}))
            path = file.relative_to(report.experiment).as_posix()
            artifacts["checkpoint"] = Artifact(path, sha256_of(file), file.stat().st_size)
        charged = Charge(metrics["time/worker_s"], metrics["work/multiply_adds"])
        return Result("finished", metrics, steps_done=end, charged=charged, artifacts=artifacts)


def config_of(tmp_path, trials=40, **options):
    ladder = [rung.to_json() for rung in LADDER]
    strategy = {"name": "promotion", "of": "random", **options}
    return toy_config(tmp_path, strategy=strategy, ladder=ladder, budget={"trials": trials}, seed=1)


def run(config, evaluator, workers=1):
    with toy_experiment(config) as experiment:
        registry.make("runner", "simulated", {"max_concurrent_trials": workers}, experiment, evaluator)
    return experiment.state


def test_the_best_third_goes_on_from_its_checkpoint(tmp_path):
    evaluator = Writes()
    state = run(config_of(tmp_path), evaluator)
    by_rung = [[t for t in state.trials.values() if t.proposal.rung == rung] for rung in range(3)]
    sizes = [len(trials) for trials in by_rung]
    assert sum(sizes) == 40 and sizes[1] <= sizes[0] / 3 and 1 <= sizes[2] <= sizes[1] / 3
    for rung in (1, 2):
        assert {evaluator.began_at[t.number] for t in by_rung[rung]} <= {LADDER[rung - 1].epochs, 0}
        lower = {t.architecture.point_id: t for t in by_rung[rung - 1]}
        for trial in by_rung[rung]:
            source = lower[trial.architecture.point_id]
            better = [
                t for t in by_rung[rung - 1] if t.number < trial.number and t.result.values > source.result.values
            ]
            told = [t for t in by_rung[rung - 1] if t.number < trial.number]
            assert len(better) < len(told) / 3  # it was among the best third of those known then


def test_only_new_epochs_are_charged_and_the_leaderboard_shows_a_point_once(tmp_path):
    evaluator = Writes()
    state = run(config_of(tmp_path), evaluator)
    for trial in state.trials.values():
        epochs = LADDER[trial.proposal.rung].epochs - evaluator.began_at[trial.number]
        assert trial.result.charged.multiply_adds == 10 * epochs
        assert [step.step for step in trial.steps][-1] == LADDER[trial.proposal.rung].epochs
    ranking = state.ranking()
    assert {trial.result.steps_done for trial in ranking} == {9}
    assert len({trial.architecture.point_id for trial in ranking}) == len(ranking)


@pytest.mark.parametrize("checkpoints", [1, 3])
def test_what_is_kept_is_bounded(tmp_path, checkpoints):
    config = config_of(tmp_path, trials=10, checkpoints=checkpoints)
    seen, again = [], []
    for trials in range(10, 45, 5):  # the same search, continued with a larger budget
        evaluator = Writes()
        state = run(config_of(tmp_path, trials=trials, checkpoints=checkpoints), evaluator)
        assert state.counts()["failed"] == 0  # no checkpoint that is named is gone
        promoted = [n for n in evaluator.began_at if state.trials[n].proposal.rung > 0]
        again += [n for n in promoted if evaluator.began_at[n] == 0]
        seen.append(len(list(config.folder.glob("artifacts/*/*/checkpoint.pt"))))
    assert 1 <= max(seen) <= 2 * checkpoints
    assert len(list(config.folder.glob("artifacts/*/checkpoint.pt"))) == 0
    assert bool(again) == (checkpoints == 1)  # with a place for one only, some are trained anew


def test_many_workers_find_every_checkpoint_that_is_named(tmp_path):
    evaluator = Writes()
    state = run(config_of(tmp_path, trials=80, checkpoints=2), evaluator, workers=7)
    assert state.counts()["finished"] == 80
    assert {t.proposal.rung for t in state.trials.values()} == {0, 1, 2}
    assert len(list(tmp_path.glob("toy/artifacts/*/*/checkpoint.pt"))) <= 2 * 2


def test_a_search_that_was_stopped_goes_on_the_same(tmp_path):
    whole = run(config_of(tmp_path / "whole"), Writes())
    for trials in (7, 13, 40):
        state = run(config_of(tmp_path / "parts", trials=trials), Writes())
    assert [t.proposal for t in state.trials.values()] == [t.proposal for t in whole.trials.values()]
    assert [t.result for t in load_state(config_of(tmp_path / "parts").folder).trials.values()] == [
        t.result for t in whole.trials.values()
    ]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_small_space_begins_each_point_once_and_ends_after_its_promotions(tmp_path, workers):
    space = SearchSpace("four", (Decision("model.a", Choice(("w", "x", "y", "z"))),))
    config = replace(config_of(tmp_path, trials=30), space=space)
    state = run(config, Writes(space), workers)
    begun = Counter((t.proposal.rung, t.architecture.point_id) for t in state.trials.values())
    assert set(begun.values()) == {1} and Counter(rung for rung, _ in begun) == {0: 4, 1: 1}


def test_looking_at_finalists_deletes_no_checkpoint(tmp_path):
    config = config_of(tmp_path, trials=25)
    run(config, Writes())
    before = sorted(config.folder.glob("artifacts/*/*/checkpoint.pt"))
    with reopen(config.folder):
        pass
    assert before and sorted(config.folder.glob("artifacts/*/*/checkpoint.pt")) == before


def test_it_goes_around_a_joint_search(tmp_path):
    evaluator = Writes()
    state = run(config_of(tmp_path, of={"name": "joint", "recipe": "random"}), evaluator)
    assert state.counts()["finished"] == 40 and {t.proposal.rung for t in state.trials.values()} == {0, 1, 2}


def test_a_promotion_without_a_checkpoint_is_trained_anew():
    strategy = Promotion(spec_of(FLAT, seed=0, ladder=LADDER), of="random")
    for number in range(3):
        assert strategy.ask(number).rung == 0
        strategy.tell(number, Result("finished", values=(number / 3,), steps_done=1))
    promoted = strategy.ask(3)
    assert isinstance(promoted, Measure) and (promoted.rung, promoted.weights) == (1, None)


@pytest.mark.parametrize("objectives", [1, 2])
def test_what_meets_the_targets_is_promoted_first(objectives):
    target = Constraint("cost/flops", 10.0)
    strategy = Promotion(spec_of(FLAT, seed=0, objectives=objectives, targets=(target,), ladder=LADDER), of="random")
    points = [strategy.ask(number).architecture for number in range(6)]
    for number, flops in enumerate((20.0, 5.0, 5.0, 20.0, 20.0, 20.0)):  # the later the better
        values = (number / 10,) * objectives
        strategy.tell(number, Result("finished", {"cost/flops": flops}, values, steps_done=1))
    promoted = [strategy.ask(number) for number in (6, 7)]
    assert [proposal.rung for proposal in promoted] == [1, 1]
    assert [proposal.architecture for proposal in promoted] == [points[2], points[1]]


def test_brackets_share_the_new_points_as_in_hyperband():
    assert _cycle(3, 1, 3) == [0]
    cycle = _cycle(3, 3, 3)
    assert [cycle.count(rung) for rung in range(3)] == [9, 5, 3]  # Hyperband with R = 9, eta = 3
    strategy = Promotion(spec_of(FLAT, seed=0, ladder=LADDER), of="random", brackets=3)
    assert {strategy.ask(number).rung for number in range(17)} == {0, 1, 2}


@pytest.mark.parametrize("pruner", ["asha", {"name": "median", "warmup_trials": 1}])
def test_what_begins_at_a_higher_rung_is_not_stopped_below_it(tmp_path, pruner):
    config = config_of(tmp_path, trials=17, brackets=3)
    state = run(replace(config, pruner=Named.parse(pruner, "pruner")), Writes())
    begun = [t for t in state.trials.values() if t.proposal.rung > 0 and t.proposal.weights is None]
    assert len(begun) >= 5 and state.counts()["finished"] == 17  # nobody is pruned at the rungs below


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"eta": 1}, ("range", "strategy.eta", 1)),
        ({"eta": 1000, "brackets": 3, "of": "random"}, ("range", "strategy.eta", 1000)),
        ({"brackets": 4}, ("range", "strategy.brackets", 3)),
        ({"brackets": 2, "of": "optuna"}, ("conflict", None, "optuna", "random")),
        ({"checkpoints": 0}, ("range", "strategy.checkpoints", 0)),
        ({"of": "spos"}, ("unsupported", None, "spos")),
        ({"of": "promotion"}, ("unsupported", None, "promotion")),
        ({"of": "evolutoin"}, ("unknown", "strategy", "'evolution'")),
        ({"ladder": (Rung(3),)}, ("conflict", "ladder")),
        ({"ladder": (Rung(proxies=("synflow",)), Rung(3))}, ("conflict", "ladder")),
    ],
)
def test_wrong_options_are_refused(options, expected):
    with raises(ConfigError, *expected):
        Promotion(spec_of(FLAT, ladder=options.pop("ladder", LADDER)), **options)


@pytest.mark.parametrize("eta", [1e9, 1e300, 10**299])
def test_an_eta_beyond_every_search_only_never_promotes(eta):
    strategy = Promotion(spec_of(FLAT, seed=0, ladder=LADDER), of="random", eta=eta)
    assert strategy.ask(0).rung == 0


def test_a_strategy_that_screens_by_proxies_is_refused_when_it_asks():
    named = {"name": "predictor", "zero_cost": ["synflow"]}
    with raises(SearchError, "unsupported", "strategy.of"):
        Promotion(spec_of(FLAT, seed=0, ladder=LADDER), of=named).ask(0)


def test_networks_are_promoted_and_come_out_as_if_trained_at_once(tmp_path):
    config = resolve(
        {
            "space": "tiny",
            "data": DataConfig("digits", images=200, validation=0.2),
            "strategy": {"name": "promotion", "of": "random", "eta": 2},
            "evaluator": {"name": "training", "device": "cpu"},
            "recipe": {"precision": "fp32"},
            "ladder": [{"epochs": 1, "share": 0.5}, {"epochs": 2}],
            "budget": {"trials": 3},
            "runner": "local",
            "name": "promoted",
            "runs_dir": tmp_path,
            "tracking_uri": "none",
        }
    )
    state = search(config)
    top = state.best
    assert top.proposal.rung == 1 and top.proposal.weights.path.endswith("/checkpoint.pt")
    assert [step.step for step in top.steps] == [2]
    lower = next(t for t in state.trials.values() if t.proposal.rung == 0 and t.architecture == top.architecture)
    evaluator = make_evaluator(config)
    job = Job(lower.number, 1, Measure(top.architecture), trial_seed(0, lower.number), lower.costs, tmp_path / "again")
    again = perform(evaluator, job, lambda step, metrics: True)
    assert again.metrics["val/loss"] == top.result.metrics["val/loss"]
    assert again.charged.multiply_adds == top.result.charged.multiply_adds + lower.result.charged.multiply_adds
    assert (tmp_path / "promoted" / "best").is_dir()


def test_the_cost_of_pieces_is_foretold():
    told = {"objectives": 1, "costs": {}}
    promoted = Promotion(spec_of(nested_space(), seed=0, ladder=LADDER), of="random")
    share, trials = mean_piece(promoted, LADDER, trials=13, **told)
    assert trials == 13 and share == pytest.approx((9 * 1 + 3 * 2 + 1 * 6) / 13 / 9)  # epochs of 9, 3 and 1 networks
    anew = Promotion(spec_of(nested_space(), seed=0, ladder=LADDER), of="random")
    share, _ = mean_piece(anew, LADDER, trials=13, checkpoints=False, **told)
    assert share == pytest.approx((9 * 1 + 3 * 3 + 1 * 9) / 13 / 9)
    even = (Rung(3), Rung(6), Rung(9))
    population = PBT(spec_of(nested_space(), seed=0, ladder=even), population=4)
    share, trials = mean_piece(population, even, trials=40, **told)
    assert trials == 12 and share == pytest.approx(1 / 3)


def test_a_soft_target_whose_cost_nobody_knows_is_missed(tmp_path):
    config = config_of(tmp_path, trials=6)
    config = replace(config, targets=(Constraint("cost/flops", 1000.0),))
    with toy_experiment(config) as experiment:
        registry.make("runner", "local", {}, experiment, Writes())
        assert experiment.state.counts()["finished"] == 6
        assert experiment.state.missed(experiment.state.best) == list(config.targets)
