"""Population-based training through the one loop: who copies whom, what changes, what is kept, and on real networks."""

from dataclasses import replace
from random import Random

import pytest
from expecting import raises

from nasforge import registry
from nasforge.api.search import search
from nasforge.core.about import About
from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.ladder import Rung
from nasforge.core.space import Choice, Decision, Float, SearchSpace
from nasforge.core.trial import Artifact, Charge, Result
from nasforge.settings.experiment import DataConfig, resolve
from nasforge.strategies.pbt import PBT
from nasforge.strategies.starting import Starting
from nasforge.testing.scripted import FLAT, MIXED, spec_of
from nasforge.testing.toys import toy_config, toy_experiment
from nasforge.training.artifacts import sha256_of

LADDER = (Rung(2), Rung(4), Rung(6), Rung(8))
SPACE = SearchSpace(
    "rates",
    (
        Decision("model.width", Choice((8, 16))),
        Decision("train.batch_size", Choice((32, 64))),
        Decision("train.learning_rate", Float(1e-4, 1.0, log=True)),
        Decision("train.flip", Choice((True, False))),
    ),
)


class Learns:
    """Accuracy grows by the learning rate at each epoch: whoever copies the best weights keeps what they learnt."""

    about = About(instant=True)  # for virtual workers

    def __call__(self, proposal, report):
        value, begin = 0.0, 0
        if proposal.weights:
            file = report.experiment / proposal.weights.path
            assert sha256_of(file) == proposal.weights.sha256
            begin, value = (float(text) for text in file.read_text().split())
        end = LADDER[proposal.rung].epochs
        for step in range(int(begin) + 1, end + 1):
            value += proposal.architecture.values["train.learning_rate"]
            metrics = {"val/accuracy": value, "work/multiply_adds": step - begin}
            metrics["time/worker_s"] = (step - begin) * (1.0 + report.seed % 7)
            assert report(step, metrics)
        artifacts = {}
        if end < LADDER[-1].epochs:
            file = report.folder / "checkpoint.pt"
            file.write_text(f"{end} {value}")
            path = file.relative_to(report.experiment).as_posix()
            artifacts["checkpoint"] = Artifact(path, sha256_of(file), file.stat().st_size)
        return Result(
            "finished",
            metrics,
            steps_done=end,
            charged=Charge(metrics["time/worker_s"], end - begin),
            artifacts=artifacts,
        )


def config_of(tmp_path, trials=99, **options):
    ladder = [rung.to_json() for rung in LADDER]
    strategy = {"name": "pbt", "population": 8, **options}
    return toy_config(tmp_path, space=SPACE, strategy=strategy, ladder=ladder, budget={"trials": trials}, seed=2)


def run(config, workers=1):
    with toy_experiment(config) as experiment:
        registry.make("runner", "simulated", {"max_concurrent_trials": workers}, experiment, Learns())
    return experiment.state


def test_the_worst_quarter_goes_on_from_the_best_by_a_changed_recipe(tmp_path):
    state = run(config_of(tmp_path))
    trials = list(state.trials.values())
    assert [t.proposal.rung for t in trials] == [rung for rung in range(4) for _ in range(8)]
    assert state.counts()["finished"] == 32
    by_file = {t.result.artifacts["checkpoint"]: t for t in trials if t.result.artifacts}
    for rung in (1, 2, 3):
        below = sorted(trials[8 * rung - 8 : 8 * rung], key=lambda t: t.result.values, reverse=True)
        taken = [by_file[t.proposal.weights] for t in trials[8 * rung : 8 * rung + 8]]
        changed = [
            (source, t)
            for source, t in zip(taken, trials[8 * rung : 8 * rung + 8], strict=True)
            if t.architecture != source.architecture
        ]
        assert len(changed) == 2 and {source.number for source, _ in changed} <= {t.number for t in below[:2]}
        assert not {t.number for t in below[-2:]} & {source.number for source in taken}  # the worst two have no heirs
        for source, trial in changed:
            same = {key: value for key, value in source.architecture.values.items() if key in trial.architecture.values}
            assert trial.architecture.values["model.width"] == same["model.width"]
            assert trial.architecture.values["train.batch_size"] == same["train.batch_size"]
            assert trial.architecture.values["train.learning_rate"] != same["train.learning_rate"]


def test_a_population_beats_the_same_trainings_on_their_own(tmp_path):
    def mean(state):
        ended = [trial.result.values[0] for trial in state.ranking()]
        assert len(ended) == 8
        return sum(ended) / 8

    random = toy_config(tmp_path / "b", space=SPACE, budget={"trials": 8}, seed=2)
    alone = mean(run(replace(random, ladder=LADDER)))  # the same points, and nobody is replaced
    assert mean(run(config_of(tmp_path / "a"))) > alone


def test_only_new_epochs_are_charged_and_few_checkpoints_are_kept(tmp_path):
    kept = []
    for trials in range(6, 34, 3):
        state = run(config_of(tmp_path, trials=trials))
        kept.append(len(list(tmp_path.glob("toy/artifacts/*/*/checkpoint.pt"))))
    assert state.charged.multiply_adds == 8 * 8
    assert max(kept) <= 8 + 2 * 2 and kept[-1] == 0  # members, and the best two of the rungs that some have to pass


@pytest.mark.parametrize("workers", [3, 8])
def test_many_workers_find_every_checkpoint_that_is_named(tmp_path, workers):
    state = run(config_of(tmp_path), workers)
    assert state.counts()["finished"] == len(state.trials) == 32
    assert any(t.architecture not in {u.architecture for u in list(state.trials.values())[:8]} for t in state.ranking())


def test_a_search_that_was_stopped_goes_on_the_same(tmp_path):
    whole = run(config_of(tmp_path / "whole"))
    for trials in (5, 13, 99):
        parts = run(config_of(tmp_path / "parts", trials=trials))
    assert [t.proposal for t in parts.trials.values()] == [t.proposal for t in whole.trials.values()]


def test_who_may_yet_be_among_the_best_is_wanted():
    strategy = PBT(spec_of(SPACE, seed=0, ladder=LADDER), population=8)
    files = [Artifact(f"artifacts/{number}/attempt-1/checkpoint.pt", "0" * 64, 1) for number in range(16)]

    def tell(number, value):
        artifacts = {"checkpoint": files[number]}
        strategy.tell(number, Result("finished", values=(value,), steps_done=2, artifacts=artifacts))

    for number in range(8):
        strategy.ask(number)
    for number in range(4):
        tell(number, float(number))
    for number in range(8, 12):  # four go on, the first of them as an heir of the best
        assert strategy.ask(number).rung == 1
    for number in range(8, 12):
        tell(number, 0.5)
    assert {files[3], files[2]} <= set(strategy.wanted())  # when eight have come, two are the best quarter
    assert files[1] not in strategy.wanted() and files[0] not in strategy.wanted()


def test_with_several_objectives_no_checkpoint_that_is_named_is_gone():
    rng = Random(0)
    for seed in range(20):
        strategy = PBT(spec_of(SPACE, seed=seed, ladder=LADDER, objectives=2), population=12, share=0.5)
        kept, running, number = set(), {}, 0
        while (proposal := strategy.ask(number) if len(running) < 4 else None) is not None or running:
            if proposal is not None:
                assert proposal.weights is None or proposal.weights in kept
                running[number], number = proposal, number + 1
                continue
            ended = rng.choice(sorted(running))
            rung = running.pop(ended).rung
            files = {"checkpoint": Artifact(f"{ended}/checkpoint.pt", "", 1)} if rung < 3 else {}
            strategy.tell(ended, Result("finished", values=(rng.random(), rng.random()), artifacts=files))
            resumed = {waiting.weights for waiting in running.values()}
            kept = {file for file in {*kept, *files.values()} if file in resumed or file in strategy.wanted()}


def test_more_starting_points_than_members_are_members_too():
    points = [SPACE.sample(Random(number)) for number in range(6)]
    strategy = Starting(PBT(spec_of(SPACE, seed=0, ladder=LADDER), population=4), points, rung=0)
    rungs = []
    for number in range(12):
        proposal = strategy.ask(number)
        rungs.append(proposal.rung)
        if number < 6:
            assert proposal.architecture == points[number] and proposal.weights is None
        file = Artifact(f"{number}/checkpoint.pt", "", 1)
        strategy.tell(number, Result("finished", values=(float(number),), artifacts={"checkpoint": file}))
    assert rungs == [0] * 6 + [1] * 6


def test_a_member_that_breaks_is_replaced_and_in_the_end_given_up():
    strategy = PBT(spec_of(SPACE, seed=0, ladder=LADDER), population=2, share=0.5)
    for number in range(2):
        file = Artifact(f"artifacts/{number}/attempt-1/checkpoint.pt", "0" * 64, 1)
        strategy.ask(number)
        strategy.tell(number, Result("finished", values=(float(number),), steps_done=2, artifacts={"checkpoint": file}))
    asked = [strategy.ask(2), strategy.ask(3)]
    assert [proposal.rung for proposal in asked] == [1, 1] and strategy.ask(4) is None
    for number in (2, 4, 5):
        strategy.tell(number, Result.failed("diverged", "the loss became NaN"))
        again = strategy.ask({2: 4, 4: 5, 5: 6}[number])
        if number < 5:
            assert again.rung == 1 and again.weights.path.startswith("artifacts/1/")  # from the best
    assert again is None


@pytest.mark.parametrize(
    ("space", "options", "expected"),
    [
        (FLAT, {}, ("missing", "recipe")),
        (SPACE, {"change": ["batch_size"]}, ("unsupported", "strategy.change", "batch_size")),
        (SPACE, {"change": ["optimizer"]}, ("unsupported", "strategy.change", "optimizer")),
        (SPACE, {"change": ["momentum"]}, ("unknown", "strategy.change", "momentum", "batch_size, flip")),
        (SPACE, {"population": 1}, ("range", "strategy.population", 1)),
        (SPACE, {"share": 0.6}, ("range", "strategy.share", 0.6)),
        (SPACE, {"population": 3}, ("range", "strategy.share", 0.25, 3, 4)),
        (SPACE, {"ladder": (Rung(3),)}, ("conflict", "ladder")),
    ],
)
def test_wrong_options_are_refused(space, options, expected):
    with raises(ConfigError, *expected):
        PBT(spec_of(space, ladder=options.pop("ladder", LADDER)), **options)


def test_an_evaluator_without_checkpoints_is_named():
    strategy = PBT(spec_of(MIXED, seed=0, ladder=LADDER))
    strategy.ask(0)
    with raises(SearchError, "unsupported", "evaluator"):
        strategy.tell(0, Result("finished", values=(0.5,), steps_done=2))


def test_networks_are_trained_in_pieces(tmp_path):
    config = resolve(
        {
            "space": "tiny",
            "data": DataConfig("digits", images=200, validation=0.2),
            "strategy": {"name": "pbt", "population": 2, "share": 0.5},
            "evaluator": {"name": "training", "device": "cpu"},
            "ladder": [{"epochs": 1}, {"epochs": 2}],
            "runner": "local",
            "name": "population",
            "runs_dir": tmp_path,
            "tracking_uri": "none",
        }
    )
    state = search(config)
    assert [trial.status for trial in state.trials.values()] == ["finished"] * 4
    begun, ended = list(state.trials.values())[:2], list(state.trials.values())[2:]
    best = max(begun, key=lambda trial: trial.result.values)
    assert {t.proposal.weights for t in ended} == {best.result.artifacts["checkpoint"]}
    assert {t.architecture.arch_id for t in ended} == {best.architecture.arch_id}
    assert len({t.architecture.point_id for t in ended}) == 2
    assert [step.step for t in ended for step in t.steps] == [2, 2]
    assert state.best in ended and (tmp_path / "population" / "best").is_dir()
