"""Measures of several architectures at a rung of proxies: journaled, charged as one trial, tracked, replayed."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from expecting import raises

from nasforge.api.rerun import rerun
from nasforge.core.errors import SearchError
from nasforge.core.events import SCHEMA, Asked, Header, Told
from nasforge.core.trial import Charge, Measure, Proposal, Result, Score
from nasforge.experiment.experiment import Experiment
from nasforge.experiment.journal import read_events
from nasforge.experiment.state import load_state
from nasforge.pruners.asha import ASHA
from nasforge.pruners.median import Median
from nasforge.runners.local import run
from nasforge.strategies.evolution import Evolution
from nasforge.strategies.local_search import LocalSearch
from nasforge.strategies.nsga2 import NSGA2
from nasforge.strategies.random import Random as RandomSearch
from nasforge.testing.scripted import spec_of
from nasforge.testing.toys import Planted, nested_space, toy_config, toy_experiment
from nasforge.views.mlflow.runs import Runs

LADDER = [{"proxies": ["planted"]}, {"epochs": 1}, {"epochs": 3}]
BATCH = 4


class Preselecting:
    """Scores batches of four, then trains the best of each."""

    def __init__(self) -> None:
        self.batch: Score | None = None
        self.scores: tuple[float, ...] = ()
        self.told: list[tuple[int, Result]] = []

    def ask(self, number: int) -> Proposal | None:
        if number % 2 == 0:
            points = [nested_space().sample(Random(f"{number}/{index}")) for index in range(BATCH)]
            proposal: Proposal = Score(tuple(points))
        elif self.batch is None:
            return None
        else:
            scored = zip(self.scores, self.batch.architectures, strict=True)
            proposal = Measure(max(scored, key=lambda pair: pair[0])[1])
        self.recall(number, proposal)
        return proposal

    def recall(self, number: int, proposal: Proposal) -> None:
        self.asked, self.batch = proposal, None

    def tell(self, number: int, result: Result) -> None:
        self.told.append((number, result))
        if number % 2 == 0 and result.error is None:
            assert isinstance(self.asked, Score)
            self.batch = self.asked
            self.scores = tuple(metrics["zc/planted"] for metrics in result.scores)


class Scoring(Planted):
    """`Planted`, and at the rung of proxies the planted score without noise of every architecture of the batch."""

    def __call__(self, proposal: Proposal, report: Any) -> Result:
        if not isinstance(proposal, Score):
            return super().__call__(proposal, report)
        if self.diary:
            with self.diary.open("a") as file:
                file.write(f"{report.number} {report.attempt}\n")
        if report.number in self.crash and report.attempt == 1:
            signal.raise_signal(signal.SIGKILL)
        scores = [self.metrics_of(point.values, 0, 3)["val/accuracy"] for point in proposal.architectures]
        rows = [{"zc/planted": score, "cost/params": 1000 * score} for score in scores]
        return Result("finished", charged=Charge(0.5, 200.0), scores=tuple(rows))


def experiment_in(folder: Path, strategy: Any = None, **settings: Any) -> Experiment:
    config = toy_config(folder, ladder=LADDER, **settings)
    header = Header(SCHEMA, config.name, config.to_json(), config.space.fingerprint, config.seed, {}, "")
    strategy = Preselecting() if strategy is None else strategy
    return Experiment(config.folder, header, strategy, check=lambda proposal: {"cost/flops": 9.0})


def test_a_batch_is_one_trial_with_all_its_metrics(tmp_path: Path) -> None:
    with experiment_in(tmp_path, budget={"trials": 6}) as experiment:
        run(experiment, Scoring())
        state = experiment.state
    assert state.accepted == 6 and state.counts()["finished"] == 6
    batches = [trial for trial in state.trials.values() if isinstance(trial.proposal, Score)]
    assert [trial.number for trial in batches] == [0, 2, 4]
    for trial in batches:
        assert isinstance(trial.proposal, Score) and trial.result is not None
        assert trial.result.values is None and trial.result.steps_done == 0
        assert trial.metrics["cost/flops"] == 9.0, "the costs that the check found"
        answers = [metrics["zc/planted"] for metrics in trial.result.scores]
        expected = [Planted().metrics_of(point.values, 0, 3)["val/accuracy"] for point in trial.proposal.architectures]
        assert answers == expected and len(set(answers)) > 1
        chosen = state.trials[trial.number + 1].architecture
        assert chosen == trial.proposal.architectures[answers.index(max(answers))]
    assert state.charged == Charge(3 * 0.5 + 3 * 0.03, 3 * 200.0 + 3 * 300.0)
    assert {trial.number for trial in state.ranking()} == {1, 3, 5}, "scores of proxies never rank with trained ones"


def test_a_repetition_that_answers_fewer_of_a_batch_differs(tmp_path: Path, monkeypatch: Any) -> None:
    class Fewer(Scoring):
        def __call__(self, proposal: Proposal, report: Any) -> Result:
            result = super().__call__(proposal, report)
            return replace(result, scores=result.scores[:-1])

    with experiment_in(tmp_path, budget={"trials": 1}) as experiment:
        run(experiment, Scoring())
        folder = experiment.folder
    for evaluator, missing in ((Scoring(), set()), (Fewer(), {"score 3/zc/planted", "score 3/cost/params"})):
        monkeypatch.setattr("nasforge.api.rerun.make_evaluator", lambda config, evaluator=evaluator: evaluator)
        assert {key for key in rerun(folder, 0).differing if key.startswith("score")} == missing


def test_a_killed_driver_continues_to_the_same_journal(tmp_path: Path) -> None:
    driver = (
        "import sys; from pathlib import Path; from test_batches import *\n"
        "folder, crash = Path(sys.argv[1]), tuple(map(int, sys.argv[2:]))\n"
        "with experiment_in(folder, budget={'trials': 6}) as experiment:\n"
        "    run(experiment, Scoring(diary=folder / 'diary.txt', crash=crash))\n"
    )
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", driver, str(tmp_path / "killed"), "4"]
    there = Path(__file__).parent
    assert subprocess.run(command, cwd=there, check=False).returncode == -signal.SIGKILL
    left = load_state(tmp_path / "killed" / "toy")
    assert left.counts()["running"] == 1 and left.trials[2].result is not None and left.trials[2].result.scores
    assert subprocess.run(command, cwd=there, check=True).returncode == 0
    with experiment_in(tmp_path / "whole", budget={"trials": 6}) as experiment:
        run(experiment, Scoring())
    ends = [
        [event for event in read_events(tmp_path / name / "toy") if isinstance(event, (Asked, Told))]
        for name in ("killed", "whole")
    ]
    assert ends[0] == ends[1]
    ran = [line.split()[0] for line in (tmp_path / "killed" / "diary.txt").read_text().splitlines()]
    assert ran == ["0", "1", "2", "3", "4", "4", "5"], "nothing finished ran again"


def test_replay_tells_what_was_told(tmp_path: Path) -> None:
    live, replayed = Preselecting(), Preselecting()
    with experiment_in(tmp_path, live, budget={"trials": 4}) as experiment:
        run(experiment, Scoring())
    with experiment_in(tmp_path, replayed, budget={"trials": 4}):
        assert replayed.told == live.told
        assert replayed.ask(4) == live.ask(4)


def test_constraints_are_not_checked_at_a_rung_of_proxies_but_said(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"constraints": ["flops<=3", "params<=500"], "budget": {"trials": 1}}

    class Costly(Scoring):
        def __call__(self, proposal: Proposal, report: Any) -> Result:
            result = super().__call__(proposal, report)
            costly = {**result.scores[1], "cost/flops": 9.0, "cost/params": 400.0}
            little = {**result.scores[1], "cost/flops": 3.0, "cost/params": 600.0}
            return replace(result, scores=(costly, little, {"zc/planted": 0.1}, result.scores[3]))

    with experiment_in(tmp_path, **settings) as experiment:
        run(experiment, Costly())
        trial = experiment.state.trials[0]
    assert trial.verdict == "accepted" and trial.result is not None
    costly, first, unknown, _ = trial.result.scores
    assert costly["constraint/violation"] == pytest.approx(2.0), "flops 9 for 3"
    assert first["constraint/violation"] == pytest.approx(0.2)
    assert "constraint/violation" not in unknown, "nothing is said of costs that are not known"
    rejected = toy_config(tmp_path, name="trained", ladder=LADDER, constraints=["flops<=3"], budget={"trials": 1})
    refusing = toy_experiment(rejected, check=lambda p: {"cost/flops": 9.0}, max_rejections_in_a_row=1)
    with refusing as experiment, raises(SearchError, "empty", "constraints", "flops<=3"):
        experiment.next()


def test_an_evaluator_that_answers_for_fewer_fails_the_trial(tmp_path: Path) -> None:
    def one(proposal: Proposal, report: Any) -> Result:
        return Result("finished", {"zc/planted": 1.0, "val/accuracy": 1.0})

    with experiment_in(tmp_path, budget={"trials": 1}) as experiment:
        run(experiment, one)
        error = experiment.state.failures()[0].result.error  # type: ignore[union-attr]
    assert error is not None and error.cause == "missing_metric"
    assert "answers 0 of the 4 architectures of a Score" in error.message


def test_a_rung_that_the_ladder_does_not_have(tmp_path: Path) -> None:
    class Wrong(Preselecting):
        def ask(self, number: int) -> Proposal:
            return Measure(nested_space().default_point(), rung=3)

    with experiment_in(tmp_path, Wrong()) as experiment, raises(SearchError, "invalid", "strategy", "rung 3"):
        experiment.next()


def test_trackers_see_a_batch_as_one_run(tmp_path: Path) -> None:
    with experiment_in(tmp_path, budget={"trials": 2}) as experiment:
        run(experiment, Scoring())
    events = read_events(tmp_path / "toy")
    writes = Runs().fold(events)
    assert writes["search"].params["ladder epochs"] == "planted, 1, 3"
    batch = writes["trial/0"]
    assert batch.tags["nasforge.batch"] == "4" and "nasforge.batch" not in writes["trial/1"].tags
    told = next(event.result for event in events if isinstance(event, Told))
    curve = {step: value for (key, step, _), value in batch.metrics.items() if key == "zc/planted"}
    assert curve == dict(enumerate(metrics["zc/planted"] for metrics in told.scores))


def test_pruners_know_the_rungs_with_epochs_only() -> None:
    spec = toy_config(Path("runs"), ladder=LADDER).spec
    history = {trial: {step: (trial / 10 + step / 100,) for step in range(3)} for trial in range(8)}
    asha, median = (
        ASHA(spec),
        Median(spec),
    )
    assert [asha.prune(history, 0, step) for step in range(3)] == [False, True, False]
    assert [median.prune(history, 0, step) for step in range(3)] == [False, True, True]


@pytest.mark.parametrize("strategy", [Evolution, LocalSearch, NSGA2, RandomSearch])
def test_strategies_survive_finished_results_without_values(strategy: Any) -> None:
    space = nested_space()
    asking = strategy(spec_of(space))
    for number in range(30):
        assert isinstance(asking.ask(number), Measure)
        asking.tell(number, Result("finished", {"zc/planted": 0.3}))
